package tinkex

import (
	"context"
	"errors"
	"sync"
)

// lifecycle owns a client's background goroutines: none starts after close,
// and close returns when the last one has ended.
type lifecycle struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newLifecycle() *lifecycle {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &lifecycle{ctx: ctx, cancel: cancel}
}

// start runs fn in the background; it reports whether the client is open.
func (l *lifecycle) start(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Go(fn)
	return true
}

// close ends what runs and waits for it as long as ctx allows. It reports
// whether this is the call that closed the client.
func (l *lifecycle) close(ctx context.Context) (first bool, err error) {
	l.mu.Lock()
	first = !l.closed
	l.closed = true
	l.mu.Unlock()
	l.cancel(ErrClosed)
	ended := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return first, nil
	case <-ctx.Done():
		return first, ctx.Err()
	}
}

// bind returns a context that ends with ctx or with the client, whichever is
// first.
func (l *lifecycle) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if l.ctx.Err() != nil {
		cancel(ErrClosed) // at once: AfterFunc would take its time
	}
	stop := context.AfterFunc(l.ctx, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// detach returns a context with ctx's values that ends only with the client:
// for what must not be torn when its caller stops waiting.
func (l *lifecycle) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return l.bind(context.WithoutCancel(ctx))
}

// interrupted is the error of an operation whose context ended.
func interrupted(ctx context.Context, op string) *Error {
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return closedError(op)
	}
	return &Error{Op: op, Category: CategoryUnknown, Err: ctx.Err()}
}

func closedError(op string) *Error {
	return &Error{Op: op, Category: CategoryUser, Err: ErrClosed}
}

// lazy computes a value at the first request for it, once for all who ask at
// the same time. A failure is not kept: the next request tries again.
type lazy[T any] struct {
	mu  sync.Mutex
	run *lazyRun[T]
}

type lazyRun[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// get waits for the value. The computation belongs to the client, not to the
// caller that happened to be first.
func (l *lazy[T]) get(ctx context.Context, life *lifecycle, op string, compute func(context.Context) (T, error)) (T, error) {
	var zero T
	r, ok := l.begin(ctx, life, compute)
	if !ok {
		return zero, closedError(op)
	}
	select {
	case <-r.done:
		return r.value, r.err
	default:
	}
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		return zero, interrupted(ctx, op)
	}
}

func (l *lazy[T]) begin(ctx context.Context, life *lifecycle, compute func(context.Context) (T, error)) (*lazyRun[T], bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.run; r != nil {
		select {
		case <-r.done:
			if r.err == nil {
				return r, true
			}
		default:
			return r, true
		}
	}
	r := &lazyRun[T]{done: make(chan struct{})}
	ok := life.start(func() {
		ctx, cancel := life.detach(ctx)
		defer cancel()
		r.value, r.err = compute(ctx)
		close(r.done)
	})
	if ok {
		l.run = r
	}
	return r, ok
}

// peek returns the value if it is there.
func (l *lazy[T]) peek() (T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != nil {
		select {
		case <-l.run.done:
			return l.run.value, l.run.err == nil
		default:
		}
	}
	var zero T
	return zero, false
}
