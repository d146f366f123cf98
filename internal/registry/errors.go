package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
)

// Code classifies an error by what the caller can do about it.
type Code int

// The codes. Internal is the zero value: whatever is not classified is ours.
const (
	Internal    Code = iota
	Invalid          // the request is wrong
	NotFound         // no such thing, or not the caller's
	Conflict         // the state is not what the request assumes
	Gone             // it was there and is no longer
	Unavailable      // not now; trying again later may help
)

// Error is an error with a code; its message is meant for the caller.
type Error struct {
	Code    Code
	Message string
	Err     error
	// RetryAfter is when trying again may help, if it is known to take a while.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func newError(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// classify gives errors from the floors below their code.
func classify(err error) error {
	var coded *Error
	var input *engine.InputError
	down, isDown := outage.Of(err)
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case isDown:
		return &Error{Code: Unavailable, Message: down.Public(), Err: err}
	case errors.As(err, &input), errors.Is(err, engine.ErrUnknownModel),
		errors.Is(err, engine.ErrIncompatible), errors.Is(err, engine.ErrNoOptimizer):
		return &Error{Code: Invalid, Message: err.Error(), Err: err}
	case errors.Is(err, metastore.ErrNotFound):
		return &Error{Code: NotFound, Message: err.Error(), Err: err}
	case errors.Is(err, metastore.ErrNoServer):
		return &Error{Code: Unavailable, Message: "this server was out of touch with its metadata for too long; ask again in a moment", Err: err}
	case errors.Is(err, metastore.ErrExists):
		return &Error{Code: Conflict, Message: err.Error(), Err: err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Unavailable, Message: "the request was cancelled", Err: err}
	}
	return &Error{Code: Internal, Message: err.Error(), Err: err}
}

// CodeOf returns an error's code.
func CodeOf(err error) Code {
	var coded *Error
	if errors.As(classify(err), &coded) {
		return coded.Code
	}
	return Internal
}
