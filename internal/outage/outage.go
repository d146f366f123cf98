// Package outage is how a store says that it cannot work for now, as opposed to
// that it does not have something or that it was asked for nonsense: a database
// that is down, a bucket that does not answer, a disk that is full. Whoever asked
// may ask again, and will succeed once the operator has seen to it.
package outage

import (
	"errors"
	"time"
)

// AnswerTime is how long a store may take to answer before it is taken for
// unavailable. It does not bound what takes longer by its nature: moving bytes,
// and reading all there is.
const AnswerTime = 15 * time.Second

// Error is an outage of a store.
type Error struct {
	Store  string // "metadata database", "blob store"
	Reason string // what follows it: "cannot be reached"
	Err    error  // the whole story, for the operator
}

// Error tells the operator, who knows what the store is and where.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Public is what anybody may be told.
func (e *Error) Public() string { return "the server's " + e.Store + " " + e.Reason + "; try again" }

// Of finds the outage that an error is due to.
func Of(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Slow is the cause of a context that ended because a store did not answer.
type Slow struct{ After time.Duration }

func (e *Slow) Error() string { return "the store did not answer within " + e.After.String() }

// Timeout makes it known as one.
func (e *Slow) Timeout() bool { return true }
