package registry

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

func TestCopy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	from := f.mustSave(alice, model, 3, SaveRequest{
		Kind: metastore.KindTraining, Name: "a", TTL: ptr(time.Hour), UserMetadata: map[string]string{"epoch": "3"},
	})
	src, err := f.Readable(ctx, alice, from)
	if err != nil {
		t.Fatal(err)
	}
	blobs := f.stored()

	// A private one of somebody else's is not there.
	_, err = f.Copy(ctx, bob, CopyRequest{From: from, ProjectID: "p", Hash: "h"})
	wantCode(t, err, NotFound, from.String())
	if err := f.SetPublic(ctx, alice, from, true); err != nil {
		t.Fatal(err)
	}
	req := CopyRequest{From: from, ProjectID: "p", TTL: ptr(3 * time.Hour), Key: "once", Hash: "h"}
	to, err := f.Copy(ctx, bob, req)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Readable(ctx, bob, to)
	if err != nil {
		t.Fatal(err)
	}
	if to.Kind != from.Kind || to.Name != from.Name || c.Public || !c.Listed || !c.HasOptimizer || c.LoRA != src.LoRA ||
		c.UserMetadata["epoch"] != "3" || c.SizeBytes != src.SizeBytes || !c.ExpiresAt.Equal(f.clock.now().Add(3*time.Hour)) {
		t.Errorf("the copy of\n%+v\nis\n%+v", src, c)
	}
	if ManifestDigest(c.Files) != ManifestDigest(src.Files) || f.stored() != blobs {
		t.Errorf("bytes moved: %d blobs, %d before", f.stored(), blobs)
	}
	run, err := f.Run(ctx, bob, to.RunID)
	if err != nil || run.State != metastore.RunEnded || run.LoRA != src.LoRA {
		t.Errorf("run %+v, %v", run, err)
	}
	session, err := f.Session(ctx, bob, run.SessionID)
	if err != nil || session.ProjectID != "p" || session.FinishedAt == nil {
		t.Errorf("session %+v, %v", session, err)
	}
	if _, n, err := f.Runs(ctx, bob, "p", metastore.Page{}); err != nil || n != 1 {
		t.Errorf("the project has %d runs, %v", n, err)
	}
	// It is a checkpoint to go on from, not a model to go on with.
	_, err = f.Save(ctx, bob, to.RunID, ptr(int64(1)), "x", SaveRequest{Kind: metastore.KindTraining, Name: "b"})
	wantCode(t, err, Gone, "no longer loaded")

	// Sent again, it is the same copy; the key is its owner's and its request's.
	if again, err := f.Copy(ctx, bob, req); err != nil || again != to {
		t.Errorf("the repeated request made %v, %v", again, err)
	}
	if other, err := f.Copy(ctx, alice, req); err != nil || other == to {
		t.Errorf("another owner's request made %v, %v", other, err)
	}
	req.Hash = "other"
	_, err = f.Copy(ctx, bob, req)
	wantCode(t, err, Conflict, "X-Idempotency-Key")

	// The source's end is not the copy's.
	if err := f.DeleteCheckpoint(ctx, alice, from); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(2 * time.Hour)
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	f.collect()
	bobs := f.session(bob)
	fut, err := f.CreateRunFrom(ctx, bob, NewRun{SessionID: bobs, RequestHash: "l"}, "", LoadRequest{From: to, Optimizer: true})
	must[wire.LoadWeightsResult](t, fut, err)
	f.clock.advance(time.Hour)
	_, err = f.Copy(ctx, bob, CopyRequest{From: to, ProjectID: "p", Hash: "late"})
	wantCode(t, err, NotFound)
}

func TestCopyIntoASession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	session := f.session(alice)
	model := f.run(alice, session) // number 0
	from := f.mustSave(alice, model, 1, SaveRequest{Kind: metastore.KindSampler, Name: "a"})
	to, err := f.Copy(ctx, alice, CopyRequest{From: from, SessionID: session, Seq: 7, Hash: "h"})
	if err != nil || to.RunID != runID(session, 7) || to.Kind != metastore.KindSampler {
		t.Fatalf("copied to %v, %v", to, err)
	}
	if c, err := f.Readable(ctx, alice, to); err != nil || c.ExpiresAt != nil {
		t.Errorf("the copy is %+v, %v", c, err)
	}
	again, err := f.Copy(ctx, alice, CopyRequest{From: from, SessionID: session, Seq: 7, Hash: "h"})
	if err != nil || again != to {
		t.Errorf("the repeated request made %v, %v", again, err)
	}
	_, err = f.Copy(ctx, alice, CopyRequest{From: from, SessionID: session, Seq: 7, Hash: "other"})
	wantCode(t, err, Conflict, "model_seq_id")
	_, err = f.Copy(ctx, alice, CopyRequest{From: from, SessionID: session, Seq: 0, Hash: "h"})
	wantCode(t, err, Conflict, "model_seq_id")
	_, err = f.CreateRun(ctx, alice, NewRun{SessionID: session, Seq: 7, LoRA: tinyLoRA, RequestHash: "create"})
	wantCode(t, err, Conflict, "model_seq_id")

	_, err = f.Copy(ctx, alice, CopyRequest{From: from, SessionID: f.session(bob), Hash: "h"})
	wantCode(t, err, NotFound, "session")
	if err := f.FinishSession(ctx, alice, session, "success", ""); err != nil {
		t.Fatal(err)
	}
	_, err = f.Copy(ctx, alice, CopyRequest{From: from, SessionID: session, Seq: 8, Hash: "h"})
	wantCode(t, err, Gone, "finished")
}

// refusing is a store whose imports do not come through.
type refusing struct {
	metastore.Store
	refuse atomic.Bool
}

func (r *refusing) CommitImport(ctx context.Context, i metastore.Import) ([]metastore.Checkpoint, error) {
	if r.refuse.Load() {
		return nil, errors.New("disk full")
	}
	return r.Store.CommitImport(ctx, i)
}

// Of a copy that cannot be committed nothing can be seen, and it may be tried
// again.
func TestCopyIsAllOrNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	model := f.run(alice, f.session(alice))
	from := f.mustSave(alice, model, 1, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	_, before, err := f.Sessions(ctx, alice, metastore.Page{})
	if err != nil {
		t.Fatal(err)
	}
	store := &refusing{Store: f.meta}
	f.meta = store
	f.start()
	store.refuse.Store(true)
	if _, err := f.Copy(ctx, alice, CopyRequest{From: from, ProjectID: "p", Key: "k", Hash: "h"}); err == nil {
		t.Fatal("the copy was committed")
	}
	store.refuse.Store(false)
	if _, n, err := f.Sessions(ctx, alice, metastore.Page{}); err != nil || n != before {
		t.Errorf("there are %d sessions, %d before, %v", n, before, err)
	}
	if _, err := f.Copy(ctx, alice, CopyRequest{From: from, ProjectID: "p", Key: "k", Hash: "h"}); err != nil {
		t.Error(err)
	}
}
