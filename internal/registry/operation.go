package registry

import (
	"context"
	"encoding/gob"
)

// operation is what a request asks of a model, carried out when it is the
// request's turn. Operations are data: a parked model keeps those in its queue.
type operation interface {
	run(ctx context.Context, m *model, f *Future) (any, error)
}

func init() {
	for _, op := range []operation{forwardBackwardOp{}, optimStepOp{}, saveOp{}, loadOp{}, refusedOp{}} {
		gob.Register(op)
	}
}

// refusedOp is a request that was found wrong when it came and takes its
// number nevertheless.
type refusedOp struct {
	Code    Code
	Message string
}

func refused(err error) refusedOp { return refusedOp{CodeOf(err), err.Error()} }

func (op refusedOp) run(context.Context, *model, *Future) (any, error) {
	return nil, &Error{Code: op.Code, Message: op.Message}
}

// funcOp is an operation that is never in the queue of a model that is parked.
type funcOp func(ctx context.Context, m *model, f *Future) (any, error)

func (op funcOp) run(ctx context.Context, m *model, f *Future) (any, error) { return op(ctx, m, f) }
