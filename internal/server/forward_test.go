package server

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// newPair starts two servers on the same stores, with a model on the first.
func newPair(t *testing.T) (holder, other *fixture) {
	t.Helper()
	meta, err := metastore.OpenSQLite(t.Context(), ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	blobs := blobstore.NewMemory()
	holder, other = newFixtureOn(t, meta, blobs, true), newFixtureOn(t, meta, blobs, true)
	holder.train()
	other.session, other.model = holder.session, holder.model
	return holder, other
}

func TestForward(t *testing.T) {
	holder, other := newPair(t)
	saved := other.save("through-the-other", 1, "")
	if path := saved.str("path"); path != "tinker://"+holder.model+"/weights/through-the-other" {
		t.Errorf("saved %s", path)
	}
	if ids := saved.header.Values(wire.HeaderRequestID); len(ids) != 1 {
		t.Errorf("request ids %q", ids)
	}
	for _, f := range []*fixture{holder, other} {
		f.get("/training_runs/"+f.model+"/checkpoints").want(http.StatusOK, "through-the-other")
	}
	// A body that came compressed is passed on.
	var body strings.Builder
	w, _ := zstd.NewWriter(&body)
	fmt.Fprintf(w, `{"model_id":%q,"path":"compressed","seq_id":2}`, other.model)
	_ = w.Close()
	other.await(other.post("/save_weights", body.String(), "Content-Encoding", "zstd"))
	// Refusals are the holder's, word for word.
	other.post("/save_weights", fmt.Sprintf(`{"model_id":%q,"path":"../x","seq_id":3}`, other.model)).want(http.StatusBadRequest, "path")
	other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, other.model)).want(http.StatusConflict, "already used by another request")
	other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, other.model), wire.HeaderOfficialSDK, "0.38.0").
		want(http.StatusBadRequest, "already used by another request")
	// The holder asks who the caller is.
	other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":4}`, other.model), wire.HeaderAPIKey, bob).
		want(http.StatusNotFound, "not found").detail()
}

// madeUp are the ids of requests that came without one.
var madeUp = regexp.MustCompile(`^[0-9a-f]{16}$`)

func TestForwardKeepsTheRequestID(t *testing.T) {
	holder, other := newPair(t)
	a := other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, other.model)).want(http.StatusOK)
	id := a.header.Get(wire.HeaderRequestID)
	if got := a.header.Values(wire.HeaderRequestID); len(got) != 1 || !madeUp.MatchString(id) {
		t.Fatalf("request ids %q", got)
	}
	direct := holder.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":2}`, other.model),
		headerForwarded, holder.reg.ServerID(), wire.HeaderRequestID, "0123456789abcdef").want(http.StatusOK)
	if got := direct.header.Get(wire.HeaderRequestID); got != "0123456789abcdef" {
		t.Errorf("request id %q", got)
	}
	strange := holder.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":3}`, other.model),
		headerForwarded, holder.reg.ServerID(), wire.HeaderRequestID, "a\\tb").want(http.StatusOK)
	if got := strange.header.Get(wire.HeaderRequestID); !madeUp.MatchString(got) {
		t.Errorf("request id %q", got)
	}
}

// A request is passed on once, and to the server that it is for.
func TestForwardGoesOneStep(t *testing.T) {
	holder, other := newPair(t)
	body := fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, holder.model)
	other.post("/optim_step", body, headerForwarded, other.reg.ServerID()).
		want(http.StatusServiceUnavailable, "held by another server").detail()
	other.post("/optim_step", body, headerForwarded, holder.reg.ServerID()).
		want(http.StatusMisdirectedRequest, "not the server").detail()

	// Somebody else's server is where the holder says it is: the client is told
	// to come again, and the log why.
	stranger := newFixture(t)
	holder.instead.Store(stranger.Server)
	a := other.post("/optim_step", body).want(http.StatusServiceUnavailable, "does not answer")
	if a.detail(); a.header.Get("Retry-After") != quarter {
		t.Errorf("Retry-After %q, want a quarter of the lease, %s s", a.header.Get("Retry-After"), quarter)
	}
	if !strings.Contains(other.log.String(), "are the URLs right") {
		t.Errorf("log %s", other.log)
	}
}

// quarter of the servers' lease, in seconds: ten tries outlast it.
const quarter = "900"

func TestForwardToADeadServer(t *testing.T) {
	holder, other := newPair(t)
	holder.http.Close()
	a := other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, holder.model)).
		want(http.StatusServiceUnavailable, "ask again in a moment")
	if a.detail(); a.header.Get("Retry-After") != quarter {
		t.Errorf("Retry-After %q, want a quarter of the lease, %s s", a.header.Get("Retry-After"), quarter)
	}
	other.get("/training_runs/" + other.model).want(http.StatusOK)

	// Known to be dead, but not for how long.
	if err := other.meta.RenewLease(t.Context(), holder.reg.ServerID(), -time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := other.reg.Others(t.Context()); err != nil { // it asks who is there
		t.Fatal(err)
	}
	a = other.post("/optim_step", fmt.Sprintf(`{"model_id":%q,"seq_id":1}`, holder.model)).
		want(http.StatusServiceUnavailable, "any more; ask again in a moment")
	if a.detail(); a.header.Get("Retry-After") != quarter {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
}
