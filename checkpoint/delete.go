package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
)

// DefaultDeleteJobs is how many deletions are under way at once.
const DefaultDeleteJobs = 32

// hopeless is how many deletions in a row have to fail, for another reason
// than not being there, for the others not to be tried any more.
const hopeless = 2 * DefaultDeleteJobs

// ErrNotTried: too many before it had failed.
var ErrNotTried = errors.New("not tried, because too many others had failed")

// DeleteClient is what Delete needs of a *tinkex.RestClient.
type DeleteClient interface {
	DeleteCheckpoint(ctx context.Context, path tinkex.TinkerPath) error
}

// DeleteOptions configures Delete. The zero value works.
type DeleteOptions struct {
	// Jobs is how many deletions are under way at once; 0 is
	// DefaultDeleteJobs.
	Jobs int
	// GoneIsDone makes a checkpoint that is not there no failure: somebody
	// else was faster, or it has expired.
	GoneIsDone bool
	// Progress, if not nil, is told of every checkpoint that has been dealt
	// with, in one call at a time.
	Progress func(DeleteProgress)
}

// DeleteProgress says how far a deletion is.
type DeleteProgress struct{ Done, Failed, Total int }

// Deleted is what came of a deletion, in the order of the paths. Each path is
// in one of the lists.
type Deleted struct {
	Deleted []tinkex.TinkerPath
	Gone    []tinkex.TinkerPath // with GoneIsDone: those that were not there
	Failed  []DeleteFailure
	Left    []tinkex.TinkerPath // not come to, or not known to be done, when ctx ended
}

// Total is how many checkpoints there were to delete.
func (d Deleted) Total() int { return len(d.Deleted) + len(d.Gone) + len(d.Failed) + len(d.Left) }

// DeleteFailure is a checkpoint that could not be deleted.
type DeleteFailure struct {
	Path tinkex.TinkerPath
	Err  error
}

// PartialError says that some of several checkpoints failed. It wraps the
// failures' errors.
type PartialError struct {
	Op    string
	Total int
	Errs  []error // at least one
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("%s: %d of %d failed, the first with: %v", e.Op, len(e.Errs), e.Total, e.Errs[0])
}

// Unwrap returns the failures' errors.
func (e *PartialError) Unwrap() []error { return e.Errs }

// Delete deletes checkpoints, many at once; one that is named twice is deleted
// once. One failure does not keep the others from being deleted, unless the
// server refuses the credential or nothing succeeds any more. The error is nil,
// a *PartialError or, if ctx ended, ctx's; what was done is in the result
// either way.
func Delete(ctx context.Context, client DeleteClient, paths []tinkex.TinkerPath, opts DeleteOptions) (Deleted, error) {
	var out Deleted
	if opts.Jobs < 0 {
		return out, fmt.Errorf("delete: %d jobs: expected at least 1", opts.Jobs)
	}
	for _, p := range paths {
		if err := p.Validate(); err != nil {
			return out, fmt.Errorf("delete: %w", err)
		}
	}
	paths = unique(paths)
	d := deletion{opts: opts, client: client, results: make([]error, len(paths)), progress: DeleteProgress{Total: len(paths)}}
	var g errgroup.Group
	if g.SetLimit(DefaultDeleteJobs); opts.Jobs > 0 {
		g.SetLimit(opts.Jobs)
	}
	for i, p := range paths {
		g.Go(func() error {
			d.one(ctx, i, p)
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	var errs []error
	for i, err := range d.results {
		switch {
		case err == nil:
			out.Deleted = append(out.Deleted, paths[i])
		case errors.Is(err, tinkex.ErrNotFound) && opts.GoneIsDone:
			out.Gone = append(out.Gone, paths[i])
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			out.Left = append(out.Left, paths[i])
		default:
			out.Failed = append(out.Failed, DeleteFailure{paths[i], err})
			errs = append(errs, err)
		}
	}
	switch {
	case len(out.Left) > 0:
		return out, ctx.Err()
	case len(errs) > 0:
		return out, &PartialError{Op: "delete", Total: len(paths), Errs: errs}
	}
	return out, nil
}

type deletion struct {
	opts    DeleteOptions
	client  DeleteClient
	results []error // each written by one goroutine

	mu       sync.Mutex
	progress DeleteProgress
	inARow   int   // failures since the last success
	stop     error // why no more are tried
}

func (d *deletion) one(ctx context.Context, i int, p tinkex.TinkerPath) {
	d.mu.Lock()
	stop := d.stop
	d.mu.Unlock()
	var err error
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case stop != nil:
		err = fmt.Errorf("delete %s: %w", p, stop)
	default:
		err = d.client.DeleteCheckpoint(ctx, p)
	}
	d.results[i] = err
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil || d.opts.GoneIsDone && errors.Is(err, tinkex.ErrNotFound):
		d.inARow = 0
		d.progress.Done++
	case ctx.Err() != nil:
		return
	default:
		d.progress.Failed++
		if !errors.Is(err, tinkex.ErrNotFound) {
			d.inARow++
		}
		if d.stop == nil && (d.inARow >= hopeless || errors.Is(err, tinkex.ErrUnauthorized)) {
			d.stop = ErrNotTried
		}
	}
	if d.opts.Progress != nil {
		d.opts.Progress(d.progress)
	}
}

func unique(paths []tinkex.TinkerPath) []tinkex.TinkerPath {
	seen := make(map[tinkex.TinkerPath]bool, len(paths))
	out := make([]tinkex.TinkerPath, 0, len(paths))
	for _, p := range paths {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}
