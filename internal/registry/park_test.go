package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
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
