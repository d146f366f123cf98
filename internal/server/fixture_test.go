package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/testproc"
	"github.com/tinkex/tinkex/internal/wire"
)

const (
	alice = "tml-alice"
	bob   = "tml-bob"
)

// clock is a clock that tests turn.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.at = c.at.Add(d)
	c.mu.Unlock()
}

// fixture is a server on a registry whose stores are in memory.
type fixture struct {
	*Server
	t    *testing.T
	url  string
	http *httptest.Server
	// instead answers at this server's address.
	instead atomic.Pointer[Server]
	meta    metastore.Store
	clock   *clock
	log     *testproc.Output

	session string
	model   string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	meta, err := metastore.OpenSQLite(t.Context(), ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return newFixtureOn(t, meta, blobstore.NewMemory(), false)
}

// newFixtureOn is newFixture on stores that there are already; they may be
// shared with others.
func newFixtureOn(t *testing.T, meta metastore.Store, blobs blobstore.Store, shared bool) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, log: &testproc.Output{}, meta: meta}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	eng, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = eng.Close() })
	f.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if other := f.instead.Load(); other != nil {
			other.ServeHTTP(w, r)
			return
		}
		f.ServeHTTP(w, r)
	}))
	f.url = "http://" + f.http.Listener.Addr().String()
	reg, err := registry.New(t.Context(), registry.Options{
		Meta: meta, Blobs: blobs, Engine: eng, Logger: log, Now: f.clock.now, GCInterval: -1,
		Shared: shared, URL: f.url, Lease: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Close(context.Background()) })
	f.Server, err = New(t.Context(), Options{Registry: reg, Meta: meta, Version: "test", Logger: log, Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	f.http.Start()
	t.Cleanup(f.http.Close)
	return f
}

// answer is a response that was read.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// send sends a request with no headers but those given, in pairs.
func (f *fixture) send(method, path string, body io.Reader, header ...string) answer {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{f.t, method + " " + path, resp.StatusCode, resp.Header, b}
}

func (f *fixture) get(path string) answer {
	f.t.Helper()
	return f.send(http.MethodGet, wire.APIPrefix+path, nil, wire.HeaderAPIKey, alice)
}

func (f *fixture) post(path, body string, header ...string) answer {
	f.t.Helper()
	header = append([]string{wire.HeaderAPIKey, alice, "Content-Type", wire.ContentTypeJSON}, header...)
	return f.send(http.MethodPost, wire.APIPrefix+path, strings.NewReader(body), header...)
}

// want checks a status and that the answer says the words.
func (a answer) want(status int, words ...string) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %.300s", a.what, a.status, status, a.body)
	}
	for _, w := range words {
		if !strings.Contains(string(a.body), w) {
			a.t.Errorf("%s: %.300s does not say %q", a.what, a.body, w)
		}
	}
	return a
}

// detail checks that the answer is the protocol's error and returns what it
// says.
func (a answer) detail() string {
	a.t.Helper()
	var e map[string]string
	if err := json.Unmarshal(a.body, &e); err != nil || len(e) != 1 || e["detail"] == "" {
		a.t.Errorf(`%s: %.300s is not {"detail": "..."}`, a.what, a.body)
	}
	if ct := a.header.Get("Content-Type"); ct != wire.ContentTypeJSON {
		a.t.Errorf("%s: an error of type %q", a.what, ct)
	}
	return e["detail"]
}

// str returns a field of a JSON answer.
func (a answer) str(field string) string {
	a.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		a.t.Fatalf("%s: %v: %.300s", a.what, err, a.body)
	}
	s, ok := m[field].(string)
	if !ok {
		a.t.Fatalf("%s: no %s in %.300s", a.what, field, a.body)
	}
	return s
}

// await returns what an accepted request becomes.
func (f *fixture) await(a answer) answer {
	f.t.Helper()
	return f.post("/retrieve_future", fmt.Sprintf(`{"request_id":%q}`, a.want(http.StatusOK).str("request_id"))).want(http.StatusOK)
}

// train opens a session with a model of alice's.
func (f *fixture) train() {
	f.t.Helper()
	f.session = f.post("/create_session", `{"tags":[]}`).want(http.StatusOK).str("session_id")
	f.model = f.await(f.post("/create_model", fmt.Sprintf(
		`{"session_id":%q,"model_seq_id":0,"base_model":"tinkex/tiny","lora_config":{"rank":2}}`, f.session))).str("model_id")
}

// save saves a training checkpoint as the model's request seq.
func (f *fixture) save(name string, seq int, extra string) answer {
	f.t.Helper()
	return f.await(f.post("/save_weights", fmt.Sprintf(`{"model_id":%q,"path":%q,"seq_id":%d%s}`, f.model, name, seq, extra)))
}
