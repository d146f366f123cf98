package registry

import (
	"context"
	"fmt"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// LoadRequest says which checkpoint to load, and whether with its optimizer.
type LoadRequest struct {
	From      Ref
	Optimizer bool
}

// Load queues the loading of a checkpoint onto a model just created, which
// must not have done anything else yet. Its future's result is a
// wire.LoadWeightsResult.
func (r *Registry) Load(ctx context.Context, owner, modelID string, seq *int64, hash string, l LoadRequest) (*Future, error) {
	c, err := r.loadable(ctx, owner, l)
	return r.submit(ctx, owner, modelID, submission{
		typ: "LoadWeights", hash: hash, seq: seq,
		check: func(m *model) error {
			n := m.top
			if seq != nil {
				n = *seq
			}
			if m.viaLoad || n != 1 {
				return newError(Invalid, "LoadWeights is not permitted with seq_id %d: a checkpoint is loaded before anything else is done with a model; create a new one from it", n)
			}
			return err
		},
		op: loadOp{l, c.Files},
	})
}

// loadOp loads the files that the checkpoint had when it was asked for.
type loadOp struct {
	Request LoadRequest
	Files   []metastore.File
}

func (op loadOp) run(ctx context.Context, m *model, _ *Future) (any, error) {
	from := op.Request.From
	if err := m.em.Load(ctx, m.r.files(ctx, op.Files), op.Request.Optimizer); err != nil {
		return nil, fmt.Errorf("load %s: %w", from, err)
	}
	return wire.LoadWeightsResult{Path: from.String(), ModelID: m.id, Type: "load_weights"}, nil
}

// CreateRunFrom starts a run from a checkpoint: base model, rank and trained
// modules are the checkpoint's. baseModel, if not empty, must agree. Its
// future's result is a wire.LoadWeightsResult.
func (r *Registry) CreateRunFrom(ctx context.Context, owner string, n NewRun, baseModel string, l LoadRequest) (*Future, error) {
	c, err := r.loadable(ctx, owner, l)
	if err != nil {
		return nil, err
	}
	n.LoRA = c.LoRA
	if baseModel != "" && baseModel != c.LoRA.BaseModel {
		return nil, newError(Invalid, "base_model: %q is not %q, which %s was trained on", baseModel, c.LoRA.BaseModel, l.From)
	}
	cfg := engineConfig(c.LoRA, nil)
	if err := r.engine.CheckConfig(cfg); err != nil {
		return nil, classify(err)
	}
	return r.startRun(ctx, owner, n, l.From.String(), "LoadWeights", func(ctx context.Context, m *model) (any, error) {
		em, err := r.engine.NewModel(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if err := em.Load(ctx, r.files(ctx, c.Files), l.Optimizer); err != nil {
			_ = em.Close()
			return nil, fmt.Errorf("load %s: %w", l.From, err)
		}
		m.adopt(em)
		return wire.LoadWeightsResult{Path: l.From.String(), ModelID: m.id, Type: "load_weights"}, nil
	})
}

// loadable finds a checkpoint that training may go on from.
func (r *Registry) loadable(ctx context.Context, owner string, l LoadRequest) (metastore.Checkpoint, error) {
	if l.From.Kind != metastore.KindTraining {
		return metastore.Checkpoint{}, newError(Invalid, "path: %s is not a training checkpoint; training resumes from tinker://<run-id>/weights/<name>", l.From)
	}
	c, err := r.Readable(ctx, owner, l.From)
	if err != nil {
		return c, err
	}
	if l.Optimizer && !c.HasOptimizer {
		return c, newError(Invalid, "optimizer: %s has no optimizer state; load it without", l.From)
	}
	return c, nil
}
