package registry

import (
	"context"
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
	refused, err := f.submit(ctx, alice, id, submission{typ: "Bad", hash: "bad", seq: &bad, run: func(context.Context, *model, *Future) (any, error) {
		return nil, newError(Invalid, "it cannot be done")
	}})
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

// Requests in the queue are given up, and can be sent again.
func TestQueuedRequestsAreSentAgain(t *testing.T) {
	f := newFixture(t)
	id := f.run(alice, f.session(alice))
	if _, err := f.forwardBackward(id, 2); err != nil { // waits for 1
		t.Fatal(err)
	}
	f.restart()
	_, err := f.Retrieve(t.Context(), alice, requestID(id, 2))
	wantCode(t, err, Gone, "make the request again")
	one, err := f.forwardBackward(id, 1)
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.forwardBackward(id, 2)
	if a, b := loss(t, one, nil), loss(t, two, err); a != b {
		t.Errorf("the same pass twice gives %v and %v", a, b)
	}
}

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
