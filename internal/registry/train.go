package registry

import (
	"context"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/wire"
)

// ForwardBackward queues a forward, or forward and backward, pass. Its
// future's result is an *engine.ForwardBackwardOutput.
func (r *Registry) ForwardBackward(ctx context.Context, owner, modelID string, seq *int64, hash string, batch *engine.Batch) (*Future, error) {
	typ := "ForwardBackward"
	if batch.ForwardOnly {
		typ = "Forward"
	}
	return r.submit(ctx, owner, modelID, submission{
		typ: typ, hash: hash, seq: seq,
		check: func(m *model) error {
			if m.em == nil {
				return nil // not created yet; ForwardBackward itself will check
			}
			return m.em.Check(batch)
		},
		op: forwardBackwardOp{batch},
	})
}

type forwardBackwardOp struct{ Batch *engine.Batch }

func (op forwardBackwardOp) run(ctx context.Context, m *model, _ *Future) (any, error) {
	return m.em.ForwardBackward(ctx, op.Batch)
}

// OptimStep queues an optimizer step. Its future's result is a
// wire.OptimStepResult.
func (r *Registry) OptimStep(ctx context.Context, owner, modelID string, seq *int64, hash string, p engine.AdamParams) (*Future, error) {
	return r.submit(ctx, owner, modelID, submission{
		typ: "OptimStep", hash: hash, seq: seq,
		check: func(*model) error { return p.Check() },
		op:    optimStepOp{p},
	})
}

type optimStepOp struct{ Params engine.AdamParams }

func (op optimStepOp) run(ctx context.Context, m *model, _ *Future) (any, error) {
	if err := m.markUnsaved(ctx); err != nil {
		return nil, err
	}
	metrics, err := m.em.OptimStep(ctx, op.Params)
	if err != nil {
		return nil, err
	}
	return wire.OptimStepResult{Metrics: metrics}, nil
}

// Reject refuses a request of a live model that was found wrong before it
// reached the model, and takes its number nevertheless: the requests after it
// are already on their way. It returns the refusal, or why there is no such
// model.
func (r *Registry) Reject(ctx context.Context, owner, modelID string, seq *int64, typ, hash string, reason error) error {
	refusal := newError(Invalid, "%w", reason)
	f, err := r.submit(ctx, owner, modelID, submission{
		typ: typ, hash: hash, seq: seq,
		check: func(*model) error { return refusal },
	})
	if err != nil {
		return err
	}
	<-f.Done()
	_, err = f.Result()
	return err
}
