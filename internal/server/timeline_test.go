package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tinkex/tinkex/internal/blobstore"
)

// fields lists a protobuf message's fields of one number, as they are.
func fields(t *testing.T, b []byte, number protowire.Number) (values [][]byte) {
	t.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		if value := b[:n]; num == number {
			if typ == protowire.BytesType {
				value, _ = protowire.ConsumeBytes(value)
			}
			values = append(values, value)
		}
		b = b[n:]
	}
	return values
}

// timelineURL asks for the URL of the session's timeline, as a path on any of
// the servers.
func (f *fixture) timelineURL() string {
	f.t.Helper()
	u, err := url.Parse(f.get("/sessions/" + f.session + "/trace_export").want(http.StatusOK).str("url"))
	if err != nil {
		f.t.Fatal(err)
	}
	return u.RequestURI()
}

// timeline returns the ids of the requests that a timeline shows, in order.
func (f *fixture) timeline(path string) (requests []string) {
	f.t.Helper()
	for _, packet := range fields(f.t, f.send(http.MethodGet, path, nil).want(http.StatusOK).body, tracePacket) {
		for _, event := range fields(f.t, packet, packetTrackEvent) {
			for _, name := range fields(f.t, event, eventName) {
				requests = append(requests, string(name))
			}
		}
	}
	return requests
}

// asked is how many requests for timelines a server had.
func (f *fixture) asked() int {
	return strings.Count(f.log.String(), "route="+traceRoute+" ")
}

// newTimeline is newPair with requests of one session that both carried out by
// turns.
func newTimeline(t *testing.T) (a, b *fixture, requests []string) {
	t.Helper()
	a, b = newPair(t)
	requests = []string{a.model + ":req:0"}
	send := func(path, body string) {
		t.Helper()
		a.clock.advance(time.Second)
		b.clock.advance(time.Second)
		accepted := b.post(path, body)
		b.await(accepted)
		requests = append(requests, accepted.str("request_id"))
	}
	sampler := b.post("/create_sampling_session", fmt.Sprintf(
		`{"session_id":%q,"sampling_session_seq_id":0,"base_model":"tinkex/tiny"}`, b.session)).want(http.StatusOK).str("sampling_session_id")
	for i := range 3 {
		send("/asample", fmt.Sprintf(
			`{"sampling_session_id":%q,"seq_id":%d,"prompt":{"chunks":[{"type":"encoded_text","tokens":[1,2]}]},"sampling_params":{"max_tokens":1}}`, sampler, i))
		send("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":%d}`, b.model, i+1)) // passed on to a
	}
	return a, b, requests
}

func TestTimelineOfManyServers(t *testing.T) {
	a, b, want := newTimeline(t)
	path := a.timelineURL()
	if len(a.reg.Trace(a.session)) != 4 || len(b.reg.Trace(b.session)) != 3 {
		t.Fatalf("the servers did %v and %v", a.reg.Trace(a.session), b.reg.Trace(b.session))
	}
	for i, f := range []*fixture{a, b} {
		if got := f.timeline(path); !slices.Equal(got, want) {
			t.Errorf("the timeline is %q, want %q", got, want)
		}
		// Whoever is asked asks the other, which asks nobody.
		if a.asked() != i+1 || b.asked() != i+1 {
			t.Errorf("after %d requests the servers were asked %d and %d times", i+1, a.asked(), b.asked())
		}
	}
	for _, f := range []*fixture{a, b} {
		if log := f.log.String(); strings.Contains(log, "lack") {
			t.Errorf("nothing is missing, but the log says\n%s", log)
		}
	}

	// What is between the servers is for nobody without the signed URL.
	part := "&" + partOf + "=" + b.reg.ServerID()
	b.send(http.MethodGet, path+part, nil).want(http.StatusOK, `"request_id"`)
	unsigned, _, _ := strings.Cut(path, "?")
	b.send(http.MethodGet, unsigned+"?"+part, nil).want(http.StatusForbidden).detail()
	a.send(http.MethodGet, path+part, nil).want(http.StatusMisdirectedRequest).detail()
	b.clock.advance(2 * time.Hour)
	b.send(http.MethodGet, path+part, nil).want(http.StatusForbidden, "expired").detail()
	// The other's refusal does not keep this one from answering.
	if got := a.timeline(path); len(got) != 4 || !strings.Contains(a.log.String(), "403 Forbidden") {
		t.Errorf("the timeline is %q, the log %s", got, a.log)
	}
}

// Whatever the others answer, or if they answer nothing, the timeline has what
// the rest of the servers did, and soon.
func TestTimelineWithoutSomeServers(t *testing.T) {
	a, b, want := newTimeline(t)
	path := a.timelineURL()
	if err := a.meta.Join(t.Context(), "dead", "http://127.0.0.1:1", time.Hour, false); err != nil {
		t.Fatal(err)
	}
	moved := newFixtureOn(t, a.meta, blobstore.NewMemory(), true)
	moved.instead.Store(b.Server)
	strange := newFixtureOn(t, a.meta, blobstore.NewMemory(), true)
	strange.instead.Store(newFixture(t).Server)

	const event = `{"request_id":"r","type":"T","created":"2026-01-02T03:04:05Z","started":"2026-01-02T03:04:05Z","finished":"2026-01-02T03:04:05Z"}`
	for name, answer := range map[string]http.HandlerFunc{
		"a page":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") },
		"null":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "null") },
		"an error":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"detail":"rubbish"}`) },
		"an object": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"no event":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "["+event+",{}]") },
		"no instant": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Replace("["+event+"]", "2026", "last year", 1))
		},
		"half a list": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "["+event) },
		"another status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, "["+event+"]")
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("elsewhere") {
				fmt.Fprint(w, "["+event+"]")
				return
			}
			http.Redirect(w, r, r.URL.String()+"&elsewhere=1", http.StatusFound)
		},
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "[")
			for range 2 * maxPart / len(event) {
				if _, err := fmt.Fprint(w, event+","); err != nil {
					return
				}
			}
			fmt.Fprint(w, event+"]")
		},
		"no end": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "["+event+",")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"nothing": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		peer := httptest.NewServer(answer)
		t.Cleanup(peer.Close)
		if err := a.meta.Join(t.Context(), name, peer.URL, time.Hour, false); err != nil {
			t.Fatal(err)
		}
	}
	for name, url := range map[string]string{"nowhere": "", "no URL": "http://[", "no scheme": "10.0.0.7:8484"} {
		if err := a.meta.Join(t.Context(), name, url, time.Hour, false); err != nil {
			t.Fatal(err)
		}
	}

	words := []string{"dial tcp", "are the URLs right", "exceeds", "302 Found", "403 Forbidden", "deadline exceeded", "--advertise", "event 1 is not complete"}
	var log string
	for patience := 3 * time.Second; ; patience *= 3 {
		a.patience, b.patience = patience, patience
		before, began := len(a.log.String()), time.Now()
		got := a.timeline(path)
		if took := time.Since(began); took > patience+time.Minute {
			t.Errorf("it took %v", took)
		}
		log = a.log.String()[before:]
		missing := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.Contains(log, w) })
		if slices.Equal(got, want) && len(missing) == 0 {
			break
		}
		if patience > 20*time.Second { // a busy machine may need as long for those that answer
			t.Errorf("the timeline is %q, want %q; the log does not say %q", got, want, missing)
			break
		}
	}
	others, err := a.reg.Others(t.Context())
	if err != nil || len(others) != 19 {
		t.Fatalf("others %v, %v", others, err)
	}
	for _, other := range others {
		missed := strings.Contains(log, fmt.Sprintf("server=%s ", other.Server)) || strings.Contains(log, fmt.Sprintf("server=%q ", other.Server))
		if missed != (other.Server != b.reg.ServerID()) {
			t.Errorf("the log says of server %q that it is missing: %v", other.Server, missed)
		}
	}
	if _, signature, _ := strings.Cut(path, "signature="); strings.Contains(log, signature) {
		t.Error("the log has the URL's signature")
	}
}

// Without its database a server asks those that it heard of last.
func TestTimelineWithoutTheDatabase(t *testing.T) {
	a, b, want := newTimeline(t)
	path := a.timelineURL()
	if got := a.timeline(path); !slices.Equal(got, want) {
		t.Errorf("the timeline is %q, want %q", got, want)
	}
	if err := a.meta.Close(); err != nil {
		t.Fatal(err)
	}
	if got := a.timeline(path); !slices.Equal(got, want) || b.asked() != 2 {
		t.Errorf("the timeline is %q, want %q; the other was asked %d times", got, want, b.asked())
	}
	if !strings.Contains(a.log.String(), "may lack") {
		t.Errorf("the log does not say that the database failed:\n%s", a.log)
	}
}

// A server that is alone asks nobody.
func TestTimelineOfOneServer(t *testing.T) {
	f := newFixture(t)
	f.train()
	if err := f.meta.Join(t.Context(), "stranger", "http://127.0.0.1:1", time.Hour, false); err != nil {
		t.Fatal(err)
	}
	if got := f.timeline(f.timelineURL()); !slices.Equal(got, []string{f.model + ":req:0"}) || strings.Contains(f.log.String(), "lack") {
		t.Errorf("the timeline is %q, the log %s", got, f.log)
	}
}
