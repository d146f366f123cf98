package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// deleter is a DeleteClient.
type deleter func(ctx context.Context, p tinkex.TinkerPath) error

func (d deleter) DeleteCheckpoint(ctx context.Context, p tinkex.TinkerPath) error { return d(ctx, p) }

func paths(n int) []tinkex.TinkerPath {
	var out []tinkex.TinkerPath
	for i := range n {
		out = append(out, tinkex.TinkerPath{RunID: "run", Type: tinkex.Training, Name: fmt.Sprint(i)})
	}
	return out
}

func TestDelete(t *testing.T) {
	cut := errors.New("cut")
	client := deleter(func(_ context.Context, p tinkex.TinkerPath) error {
		switch p.Name {
		case "3":
			return cut
		case "5":
			return tinkex.ErrNotFound
		}
		return nil
	})
	list := append(paths(100), paths(10)...)
	var last checkpoint.DeleteProgress
	opts := checkpoint.DeleteOptions{Progress: func(p checkpoint.DeleteProgress) { last = p }}
	d, err := checkpoint.Delete(t.Context(), client, list, opts)
	var partial *checkpoint.PartialError
	if !errors.As(err, &partial) || !errors.Is(err, cut) || !errors.Is(err, tinkex.ErrNotFound) || !strings.Contains(err.Error(), "2 of 100") {
		t.Errorf("error %v", err)
	}
	if len(d.Deleted) != 98 || len(d.Gone) != 0 || len(d.Failed) != 2 || d.Failed[0].Path.Name != "3" || d.Failed[1].Path.Name != "5" {
		t.Errorf("%d deleted, gone %v, failed %v", len(d.Deleted), d.Gone, d.Failed)
	}
	if last != (checkpoint.DeleteProgress{Done: 98, Failed: 2, Total: 100}) {
		t.Errorf("progress ended at %+v", last)
	}
	opts.GoneIsDone = true
	d, err = checkpoint.Delete(t.Context(), client, list, opts)
	if len(d.Gone) != 1 || len(d.Failed) != 1 || err == nil || last != (checkpoint.DeleteProgress{Done: 99, Failed: 1, Total: 100}) {
		t.Errorf("gone %v, failed %v, %v, progress %+v", d.Gone, d.Failed, err, last)
	}
	if d, err := checkpoint.Delete(t.Context(), client, nil, opts); err != nil || len(d.Deleted) != 0 {
		t.Errorf("of nothing: %+v, %v", d, err)
	}
}

func TestDeleteManyAtOnce(t *testing.T) {
	for _, jobs := range []int{0, 3} {
		want := jobs
		if want == 0 {
			want = checkpoint.DefaultDeleteJobs
		}
		var now, most atomic.Int64
		var all sync.WaitGroup
		all.Add(want)
		client := deleter(func(_ context.Context, p tinkex.TinkerPath) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				continue
			}
			var index int
			if _, err := fmt.Sscan(p.Name, &index); err == nil && index < want {
				all.Done()
				all.Wait() // the first ones meet
			}
			now.Add(-1)
			return nil
		})
		if _, err := checkpoint.Delete(t.Context(), client, paths(200), checkpoint.DeleteOptions{Jobs: jobs}); err != nil {
			t.Fatal(err)
		}
		if most.Load() != int64(want) {
			t.Errorf("%d jobs: %d at once", jobs, most.Load())
		}
	}
	if _, err := checkpoint.Delete(t.Context(), nil, nil, checkpoint.DeleteOptions{Jobs: -1}); err == nil {
		t.Error("-1 jobs were accepted")
	}
}

func TestDeleteRefusesBadPathsFirst(t *testing.T) {
	client := deleter(func(context.Context, tinkex.TinkerPath) error {
		t.Error("something was deleted")
		return nil
	})
	if _, err := checkpoint.Delete(t.Context(), client, append(paths(3), tinkex.TinkerPath{}), checkpoint.DeleteOptions{}); !errors.Is(err, tinkex.ErrInvalidPath) {
		t.Error(err)
	}
}

func TestDeleteGivesUpWhenNothingSucceeds(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		most int64
	}{
		"server out of reach": {errors.New("cut"), 3 * checkpoint.DefaultDeleteJobs},
		"bad key":             {tinkex.ErrUnauthorized, checkpoint.DefaultDeleteJobs},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			client := deleter(func(context.Context, tinkex.TinkerPath) error {
				calls.Add(1)
				return tc.err
			})
			d, err := checkpoint.Delete(t.Context(), client, paths(1000), checkpoint.DeleteOptions{})
			if !errors.Is(err, tc.err) || !errors.Is(err, checkpoint.ErrNotTried) || len(d.Failed) != 1000 || calls.Load() > tc.most {
				t.Errorf("%d failed in %d calls: %v", len(d.Failed), calls.Load(), err)
			}
		})
	}
	// That something is not there says nothing about the others.
	gone := deleter(func(context.Context, tinkex.TinkerPath) error { return tinkex.ErrNotFound })
	if _, err := checkpoint.Delete(t.Context(), gone, paths(1000), checkpoint.DeleteOptions{}); errors.Is(err, checkpoint.ErrNotTried) {
		t.Error("gave up on checkpoints that are gone")
	}
}

func TestDeleteThatIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	client := deleter(func(ctx context.Context, _ tinkex.TinkerPath) error {
		if calls.Add(1) == 10 {
			cancel()
		}
		return ctx.Err()
	})
	d, err := checkpoint.Delete(ctx, client, paths(100), checkpoint.DeleteOptions{Jobs: 1})
	if !errors.Is(err, context.Canceled) || len(d.Deleted) != 9 || len(d.Failed) != 0 || len(d.Left) != 91 || d.Total() != 100 || calls.Load() != 10 {
		t.Errorf("%+v after %d calls, %v", d, calls.Load(), err)
	}
}
