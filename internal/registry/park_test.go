package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// restart stops the server as its operator would, and starts another.
func (f *fixture) restart() {
	f.t.Helper()
	if err := f.Close(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.start()
}

func (f *fixture) forwardBackward(model string, seq int64) (*Future, error) {
	return f.ForwardBackward(f.t.Context(), alice, model, &seq, "forward", batch("parked between its passes"))
}

func (f *fixture) optim(model string, seq int64) (*Future, error) {
	return f.OptimStep(f.t.Context(), alice, model, &seq, "optim", engine.AdamParams{LearningRate: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12})
}

func loss(t *testing.T, fut *Future, err error) float64 {
	t.Helper()
	return must[*engine.ForwardBackwardOutput](t, fut, err).Metrics["loss:sum"]
}

// A model goes on over any number of restarts as if there had been none, even
// between the two passes that one step accumulates.
func TestParkedModelGoesOn(t *testing.T) {
	train := func(restart func(*fixture)) (losses []float64) {
		f := newFixture(t)
		id := f.run(alice, f.session(alice))
		for i := int64(0); i < 4; i++ {
			fut, err := f.forwardBackward(id, 3*i+1)
			losses = append(losses, loss(t, fut, err))
			restart(f)
			fut, err = f.forwardBackward(id, 3*i+2)
			losses = append(losses, loss(t, fut, err))
			fut, err = f.optim(id, 3*i+3)
			must[wire.OptimStepResult](t, fut, err)
			if i%2 == 0 {
				restart(f)
			}
		}
		return losses
	}
	want := train(func(*fixture) {})
	got := train((*fixture).restart)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("loss %d is %v over restarts and %v without", i, got[i], want[i])
		}
	}
}

// What was carried out before a restart is not carried out again: its result
// is still there, by its id and for whoever sends the request again.
func TestParkedResultsAreKept(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.run(alice, f.session(alice))
	fut, err := f.forwardBackward(id, 1)
	want := loss(t, fut, err)
	bad := int64(2)
	refused, err := f.submit(ctx, alice, id, submission{typ: "Bad", hash: "bad", seq: &bad, op: funcOp(func(context.Context, *model, *Future) (any, error) {
		return nil, newError(Invalid, "it cannot be done")
	})})
	if err != nil {
		t.Fatal(err)
	}
	<-refused.Done()
	f.restart()
	run, err := f.Run(ctx, alice, id)
	if err != nil || run.State != metastore.RunParked {
		t.Errorf("the run is %q (%v)", run.State, err)
	}
	if _, err := f.Retrieve(ctx, bob, requestID(id, 1)); CodeOf(err) != NotFound {
		t.Errorf("another owner's result: %v", err)
	}
	kept, err := f.Retrieve(ctx, alice, requestID(id, 1))
	if got := loss(t, kept, err); got != want {
		t.Errorf("the result is %v after the restart and %v before", got, want)
	}
	again, err := f.forwardBackward(id, 1)
	if got := loss(t, again, err); got != want {
		t.Errorf("sent again, the request gives %v instead of %v", got, want)
	}
	one := int64(1)
	_, err = f.ForwardBackward(ctx, alice, id, &one, "another", batch("another request"))
	wantCode(t, err, Conflict, "seq_id: 1 was already used")
	failed, err := f.Retrieve(ctx, alice, requestID(id, 2))
	if _, err = wait(failed, err); CodeOf(err) != Invalid || err.Error() != "it cannot be done" {
		t.Errorf("the failure is %v after the restart", err)
	}
	if run, err := f.Run(ctx, alice, id); err != nil || run.State != metastore.RunLive {
		t.Errorf("the run is %q (%v)", run.State, err)
	}
	if _, err := f.meta.Checkpoint(ctx, id, parkedKind, parkedName); CodeOf(err) != NotFound {
		t.Errorf("what was parked is still there: %v", err)
	}
}

// Requests that were promised and had not had their turn have it after the
// restart, every kind of them.
func TestQueuedRequestsAreKept(t *testing.T) {
	ctx := t.Context()
	train := func(restart func(*fixture)) (losses []float64, saved string) {
		f := newFixture(t)
		id := f.run(alice, f.session(alice))
		// All of it waits for request 1.
		for _, err := range []error{
			second(f.forwardBackward(id, 2)), second(f.optim(id, 3)), second(f.forwardBackward(id, 4)),
			second(f.Save(ctx, alice, id, ptr(int64(5)), "save", SaveRequest{Kind: metastore.KindTraining, Name: "queued", TTL: ptr(time.Hour)})),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := f.Reject(ctx, alice, id, ptr(int64(6)), "Load", "load", errors.New("path: empty"))
		wantCode(t, err, Invalid, "path: empty")
		restart(f)
		restart(f)
		if _, err := f.Retrieve(ctx, alice, requestID(id, 2)); err != nil {
			t.Fatal(err)
		}
		first, err := f.forwardBackward(id, 1)
		losses = append(losses, loss(t, first, err))
		for _, seq := range []int64{2, 4} {
			fut, err := f.Retrieve(ctx, alice, requestID(id, seq))
			losses = append(losses, loss(t, fut, err))
		}
		fut, err := f.Retrieve(ctx, alice, requestID(id, 5))
		result := must[wire.SaveWeightsResult](t, fut, err)
		c, err := f.meta.Checkpoint(ctx, id, metastore.KindTraining, "queued")
		if err != nil || c.ExpiresAt == nil {
			t.Errorf("saved %+v, %v", c, err)
		}
		fut, err = f.Retrieve(ctx, alice, requestID(id, 6))
		_, err = wait(fut, err)
		wantCode(t, err, Invalid, "path: empty")
		return losses, strings.TrimPrefix(result.Path, "tinker://"+id)
	}
	want, path := train(func(*fixture) {})
	got, after := train((*fixture).restart)
	if !slices.Equal(got, want) || after != path {
		t.Errorf("losses %v and %s over restarts, %v and %s without", got, after, want, path)
	}
}

func second[T any](_ T, err error) error { return err }

func TestParkedModelsEnd(t *testing.T) {
	ctx := t.Context()
	t.Run("with their session", func(t *testing.T) {
		f := newFixture(t)
		session := f.session(alice)
		id := f.run(alice, session)
		f.step(alice, id, 1)
		f.restart()
		if err := f.FinishSession(ctx, alice, session, "success", ""); err != nil {
			t.Fatal(err)
		}
		_, err := f.forwardBackward(id, 3)
		wantCode(t, err, Gone, "no longer loaded")
		if _, err := f.meta.Checkpoint(ctx, id, parkedKind, parkedName); CodeOf(err) != NotFound {
			t.Errorf("what was parked is still there: %v", err)
		}
	})
	t.Run("after a day", func(t *testing.T) {
		f := newFixture(t)
		id := f.run(alice, f.session(alice))
		f.step(alice, id, 1)
		f.restart()
		f.clock.advance(parkedTTL - time.Second)
		if err := f.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := f.meta.Checkpoint(ctx, id, parkedKind, parkedName); err != nil {
			t.Fatalf("within the day: %v", err)
		}
		f.clock.advance(time.Second)
		_, err := f.forwardBackward(id, 3)
		wantCode(t, err, Gone, "no longer loaded")
		if run, err := f.Run(ctx, alice, id); err != nil || run.State != metastore.RunCorrupted {
			t.Errorf("the run is %q (%v), though steps were lost", run.State, err)
		}
	})
	t.Run("by unloading", func(t *testing.T) {
		f := newFixture(t)
		id := f.run(alice, f.session(alice))
		f.restart()
		fut, err := f.Unload(ctx, alice, id)
		must[wire.UnloadModelResult](t, fut, err)
		if run, err := f.Run(ctx, alice, id); err != nil || run.State != metastore.RunEnded {
			t.Errorf("the run is %q (%v)", run.State, err)
		}
	})
}

// revival is a store that has something happen just before and just after a
// server makes a parked run its own.
type revival struct {
	metastore.Store
	before, after func()
}

func (r *revival) MoveRun(ctx context.Context, id string, from, to metastore.Holding) (bool, error) {
	revives := from.State == metastore.RunParked && to.State == metastore.RunLive
	if revives && r.before != nil {
		r.before()
	}
	moved, err := r.Store.MoveRun(ctx, id, from, to)
	if revives && r.after != nil {
		r.after()
	}
	return moved, err
}

// trainAndPark has a run with one step that no checkpoint holds, parked by a
// server that has stopped. Another one is there.
func trainAndPark(t *testing.T) (b *fixture, session, id string) {
	t.Helper()
	a, b := together(t)
	session = a.session(alice)
	id = a.run(alice, session)
	a.step(alice, id, 1)
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, session, id
}

// afterOneStep is the loss of request 3 without any interruption.
func afterOneStep(t *testing.T) float64 {
	t.Helper()
	f := newFixture(t)
	id := f.run(alice, f.session(alice))
	f.step(alice, id, 1)
	fut, err := f.forwardBackward(id, 3)
	return loss(t, fut, err)
}

// wantParked checks whether there is what a parked model is brought back from,
// and the state of its run.
func (f *fixture) wantParked(id string, there bool, state metastore.RunState) {
	f.t.Helper()
	run, err := f.meta.Run(f.t.Context(), id)
	if err != nil || run.State != state {
		f.t.Errorf("the run is %q (%v), want %q", run.State, err, state)
	}
	_, err = f.meta.Checkpoint(f.t.Context(), id, parkedKind, parkedName)
	if err != nil && CodeOf(err) != NotFound {
		f.t.Error(err)
	}
	if (err == nil) != there {
		f.t.Errorf("what was parked is there: %v", err == nil)
	}
}

func (f *fixture) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.models[id] != nil
}

// Of two servers that are asked for a parked model at the same time one has it,
// and the other leads to that one.
func TestParkedModelIsTakenOnce(t *testing.T) {
	want := afterOneStep(t)
	for round := range 8 {
		b, _, id := trainAndPark(t)
		store := &revival{Store: b.meta}
		if round%2 == 0 { // both have loaded it before either takes it; else as it happens
			var ready atomic.Int32
			both := make(chan struct{})
			store.before = func() {
				if ready.Add(1) == 2 {
					close(both)
				}
				select {
				case <-both:
				case <-time.After(time.Minute):
					t.Error("one of them does not even try")
				}
			}
		}
		urls := []string{"http://c", "http://d"}
		b.meta = store
		servers := []*fixture{b.beside(urls[0]), b.beside(urls[1])}
		futs, errs := make([]*Future, 2), make([]error, 2)
		var asking sync.WaitGroup
		for i, f := range servers {
			asking.Go(func() { futs[i], errs[i] = f.forwardBackward(id, 3) })
		}
		asking.Wait()
		winner := slices.Index(errs, nil)
		if winner < 0 || errs[1-winner] == nil {
			t.Fatalf("round %d: the servers answer %v", round, errs)
		}
		at, other := servers[winner], servers[1-winner]
		wantElsewhere(t, errs[1-winner], at, urls[winner])
		if got := loss(t, futs[winner], nil); got != want {
			t.Errorf("round %d: the loss is %v, want %v", round, got, want)
		}
		_, err := other.forwardBackward(id, 4)
		wantElsewhere(t, err, at, urls[winner])
		if run, err := b.meta.Run(t.Context(), id); err != nil || run.Server != at.ServerID() {
			t.Errorf("round %d: the run is %+v, %v", round, run, err)
		}
		if !at.has(id) || other.has(id) {
			t.Errorf("round %d: the model is there %v, and at the other one %v", round, at.has(id), other.has(id))
		}
		at.wantParked(id, false, metastore.RunLive)
	}
}

// What a parked model belongs to may end while it is on its way back.
func TestParkedModelComesBackTooLate(t *testing.T) {
	ctx := t.Context()
	want := afterOneStep(t)
	// onTheWay returns a server c beside b, and what it answers to the request
	// that brings a model back, while something happens.
	onTheWay := func(t *testing.T, happens func(b, c *fixture, session string, store *revival)) (b, c *fixture, id string, fut *Future, err error) {
		t.Helper()
		b, session, id := trainAndPark(t)
		store := &revival{Store: b.meta}
		c = (&fixture{t: t, meta: store, blobs: b.blobs, eng: b.eng, clock: b.clock}).beside("http://c")
		happens(b, c, session, store)
		fut, err = c.forwardBackward(id, 3)
		return b, c, id, fut, err
	}
	finish := func(b *fixture, session string) func() {
		return func() {
			if err := b.FinishSession(ctx, alice, session, "success", ""); err != nil {
				b.t.Error(err)
			}
		}
	}
	// stop has a server stop, up to where it waits for what is on its way.
	stop := func(c *fixture) func() {
		return func() {
			var closing sync.WaitGroup
			closing.Go(func() {
				if err := c.Close(context.Background()); err != nil {
					c.t.Error(err)
				}
			})
			c.t.Cleanup(closing.Wait)
			<-c.ctx.Done()
		}
	}
	// goesOn checks that nothing was lost.
	goesOn := func(t *testing.T, b *fixture, id string) {
		t.Helper()
		b.wantParked(id, true, metastore.RunParked)
		fut, err := b.Retrieve(ctx, alice, requestID(id, 2))
		must[wire.OptimStepResult](t, fut, err)
		fut, err = b.forwardBackward(id, 3)
		if got := loss(t, fut, err); got != want {
			t.Errorf("the loss is %v, want %v", got, want)
		}
	}

	t.Run("its session ends before it is live", func(t *testing.T) {
		b, c, id, _, err := onTheWay(t, func(b, _ *fixture, session string, store *revival) { store.before = finish(b, session) })
		wantCode(t, err, Gone, "no longer loaded")
		b.wantParked(id, false, metastore.RunEnded)
		if c.has(id) {
			t.Error("the model is there")
		}
	})
	t.Run("its session ends when it is live", func(t *testing.T) {
		b, c, id, fut, err := onTheWay(t, func(b, _ *fixture, session string, store *revival) { store.after = finish(b, session) })
		if got := loss(t, fut, err); got != want { // it was accepted
			t.Errorf("the loss is %v, want %v", got, want)
		}
		b.wantParked(id, false, metastore.RunLive)
		if err := c.renew(); err != nil {
			t.Fatal(err)
		}
		for run, err := b.meta.Run(ctx, id); err == nil && run.State == metastore.RunLive; run, err = b.meta.Run(ctx, id) {
			time.Sleep(time.Millisecond)
		}
		b.wantParked(id, false, metastore.RunEnded)
		if c.has(id) {
			t.Error("the model is still there")
		}
		_, err = c.forwardBackward(id, 4)
		wantCode(t, err, Gone, "no longer loaded")
	})
	t.Run("its server is taken for dead before it is live", func(t *testing.T) {
		b, c, id, _, err := onTheWay(t, func(_, c *fixture, _ string, store *revival) { store.before = c.expire })
		wantCode(t, err, Unavailable, "out of touch")
		if c.has(id) {
			t.Error("the model is there")
		}
		goesOn(t, b, id)
		_, err = c.forwardBackward(id, 4)
		wantElsewhere(t, err, b, "http://b")
	})
	t.Run("its server is taken for dead when it is live", func(t *testing.T) {
		b, c, id, _, err := onTheWay(t, func(_, c *fixture, _ string, store *revival) { store.after = c.expire })
		if err != nil { // it has not noticed
			t.Fatal(err)
		}
		b.wantParked(id, false, metastore.RunCorrupted)
		_, err = b.forwardBackward(id, 4)
		wantCode(t, err, Gone, "no longer loaded")
		if err := c.renew(); err != nil {
			t.Fatal(err)
		}
		for c.has(id) {
			time.Sleep(time.Millisecond)
		}
		_, err = c.forwardBackward(id, 4)
		wantCode(t, err, Gone, "no longer loaded")
		b.wantParked(id, false, metastore.RunCorrupted)
	})
	t.Run("its server stops before it is live", func(t *testing.T) {
		b, _, id, _, err := onTheWay(t, func(_, c *fixture, _ string, store *revival) { store.before = stop(c) })
		if CodeOf(err) != Unavailable {
			t.Errorf("error %v", err)
		}
		goesOn(t, b, id)
	})
	t.Run("its server stops when it is live", func(t *testing.T) {
		b, _, id, _, err := onTheWay(t, func(_, c *fixture, _ string, store *revival) { store.after = stop(c) })
		wantCode(t, err, Unavailable, "shutting down")
		goesOn(t, b, id)
	})
}
