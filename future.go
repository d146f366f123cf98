package tinkex

import (
	"context"
	"fmt"
)

// Future is the result of a request that runs in the background, started by
// the call that returned the Future. Any number of goroutines may await it,
// any number of times; all get the same value, which none of them may change.
type Future[T any] struct {
	op    string
	done  chan struct{}
	value T
	err   error
}

func newFuture[T any](op string) *Future[T] {
	return &Future[T]{op: op, done: make(chan struct{})}
}

// failedFuture is one that failed before it began.
func failedFuture[T any](op string, err error) *Future[T] {
	f := newFuture[T](op)
	var zero T
	f.settle(zero, err)
	return f
}

// background settles a Future with what fn returns.
func background[T any](life *lifecycle, op string, fn func() (T, error)) *Future[T] {
	f := newFuture[T](op)
	if !life.start(func() { f.settle(fn()) }) {
		return failedFuture[T](op, closedError(op))
	}
	return f
}

func (f *Future[T]) settle(v T, err error) {
	f.value, f.err = v, err
	close(f.done)
}

// Await waits for the result. If ctx ends first, Await returns an error that
// wraps ctx.Err(), and the request goes on: await it again for its result.
func (f *Future[T]) Await(ctx context.Context) (T, error) {
	select {
	case <-f.done:
		return f.value, f.err
	default:
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero T
		return zero, &Error{Op: f.op, Category: CategoryUnknown, Err: ctx.Err(), Message: fmt.Sprintf("%v while waiting for the result", ctx.Err())}
	}
}

// Done is closed when the result is there and Await returns at once.
func (f *Future[T]) Done() <-chan struct{} { return f.done }
