package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/telemetry"
	"github.com/tinkex/tinkex/internal/wire"
)

// collections is how often the runtime was told to collect garbage.
func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

var kept []byte

// A client that only keeps its session alive does not have the server collect
// garbage again and again; work is worth a collection.
func TestHeartbeatsAreNotWorthACollection(t *testing.T) {
	begun := time.Now()
	var passed atomic.Int64 // since then
	n, err := Open(t.Context(), Options{
		Stores: Stores{DataDir: t.TempDir()}, Telemetry: telemetry.New(telemetry.Options{}),
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return begun.Add(time.Duration(passed.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	post := func(path, body string) []byte {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, wire.APIPrefix+path, strings.NewReader(body))
		r.Header.Set(wire.HeaderAPIKey, "tml-test")
		r.Header.Set("Content-Type", wire.ContentTypeJSON)
		w := httptest.NewRecorder()
		n.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w.Body.Bytes()
	}
	var session wire.CreateSessionResponse
	if err := json.Unmarshal(post("/create_session", `{"tags":[]}`), &session); err != nil {
		t.Fatal(err)
	}
	n.idle.begin() // it is never idle: the timer leaves this to the test
	giveBack := func() (collected bool) {
		before := collections()
		n.idle.giveBack()
		return collections() != before
	}

	kept = make([]byte, worthReturning)
	if !giveBack() {
		t.Error("nothing was given back after work")
	}
	for i := range 30 { // of five minutes: some are written down
		passed.Add(int64(10 * time.Second))
		post("/session_heartbeat", fmt.Sprintf(`{"session_id":%q}`, session.SessionID))
		if giveBack() {
			t.Fatalf("memory was given back after %d heartbeats", i+1)
		}
	}
	kept = make([]byte, worthReturning)
	if !giveBack() {
		t.Error("nothing was given back after more work")
	}
	kept = nil
}
