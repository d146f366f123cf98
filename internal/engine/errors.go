package engine

import (
	"errors"
	"fmt"
)

var (
	// ErrUnknownModel: the base model is not on offer.
	ErrUnknownModel = errors.New("unknown base model")
	// ErrIncompatible: a checkpoint does not fit the model it is loaded onto.
	ErrIncompatible = errors.New("incompatible checkpoint")
	// ErrNoOptimizer: optimizer state was asked of a checkpoint without any.
	ErrNoOptimizer = errors.New("checkpoint has no optimizer state")
)

// InputError is bad input: it names the field as the caller wrote it, and what
// was expected there.
type InputError struct {
	Field  string // e.g. "data[3].loss_fn_inputs.weights"
	Reason string
}

func (e *InputError) Error() string { return e.Field + ": " + e.Reason }

// Invalid builds an *InputError.
func Invalid(field, format string, args ...any) error {
	return &InputError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
