package telemetry

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tinkex/tinkex/internal/engine"
)

// Engine measures what an engine does.
func (t *Telemetry) Engine(next engine.Engine) engine.Engine { return &tracedEngine{next, t} }

func (t *Telemetry) beginEngine(ctx context.Context, label, method string, attrs ...attribute.KeyValue) (context.Context, *operation) {
	ctx, span := t.child(ctx, "engine."+method, attrs...)
	return ctx, &operation{
		began: time.Now(), span: span, time: t.engineTime.WithLabelValues(label),
		errors: t.engineErrors, labels: [2]string{label}, answers: isEngineAnswer,
	}
}

// isEngineAnswer reports whether an error is about what the engine was given.
func isEngineAnswer(err error) bool {
	var input *engine.InputError
	return errors.As(err, &input) || errors.Is(err, engine.ErrUnknownModel) ||
		errors.Is(err, engine.ErrIncompatible) || errors.Is(err, engine.ErrNoOptimizer)
}

type tracedEngine struct {
	engine.Engine
	t *Telemetry
}

func (e *tracedEngine) NewModel(ctx context.Context, cfg engine.ModelConfig) (_ engine.Model, err error) {
	ctx, op := e.t.beginEngine(ctx, "new_model", "NewModel",
		attribute.String("tinkex.base_model", cfg.BaseModel), attribute.Int("tinkex.lora_rank", cfg.Rank))
	defer op.end(&err)
	m, err := e.Engine.NewModel(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &tracedModel{m, e.t}, nil
}

func (e *tracedEngine) NewSampler(ctx context.Context, baseModel string, files fs.FS) (_ engine.Sampler, err error) {
	ctx, op := e.t.beginEngine(ctx, "new_sampler", "NewSampler", attribute.String("tinkex.base_model", baseModel))
	defer op.end(&err)
	s, err := e.Engine.NewSampler(ctx, baseModel, files)
	if err != nil {
		return nil, err
	}
	return &tracedSampler{s, e.t}, nil
}

type tracedModel struct {
	engine.Model
	t *Telemetry
}

func (m *tracedModel) ForwardBackward(ctx context.Context, batch *engine.Batch) (_ *engine.ForwardBackwardOutput, err error) {
	label := "forward_backward"
	if batch.ForwardOnly {
		label = "forward"
	}
	tokens := 0
	for i := range batch.Data {
		tokens += len(batch.Data[i].Tokens)
	}
	ctx, op := m.t.beginEngine(ctx, label, "ForwardBackward", attribute.Bool("tinkex.forward_only", batch.ForwardOnly),
		attribute.Int("tinkex.data", len(batch.Data)), attribute.Int("tinkex.tokens", tokens))
	defer op.end(&err)
	out, err := m.Model.ForwardBackward(ctx, batch)
	if err == nil {
		m.t.engineTokens.WithLabelValues(label).Add(float64(tokens))
	}
	return out, err
}

func (m *tracedModel) OptimStep(ctx context.Context, p engine.AdamParams) (_ map[string]float64, err error) {
	ctx, op := m.t.beginEngine(ctx, "optim_step", "OptimStep")
	defer op.end(&err)
	metrics, err := m.Model.OptimStep(ctx, p)
	if err == nil {
		m.t.engineSteps.Inc()
	}
	return metrics, err
}

func (m *tracedModel) Save(ctx context.Context, dst engine.FileWriter, optimizer bool) (err error) {
	ctx, op := m.t.beginEngine(ctx, "save", "Save", attribute.Bool("tinkex.optimizer", optimizer))
	defer op.end(&err)
	return m.Model.Save(ctx, dst, optimizer)
}

func (m *tracedModel) Load(ctx context.Context, files fs.FS, optimizer bool) (err error) {
	ctx, op := m.t.beginEngine(ctx, "load", "Load", attribute.Bool("tinkex.optimizer", optimizer))
	defer op.end(&err)
	return m.Model.Load(ctx, files, optimizer)
}

type tracedSampler struct {
	engine.Sampler
	t *Telemetry
}

func (s *tracedSampler) Sample(ctx context.Context, req *engine.SampleRequest) (_ *engine.SampleOutput, err error) {
	ctx, op := s.t.beginEngine(ctx, "sample", "Sample", attribute.Int("tinkex.prompt_tokens", len(req.Prompt)),
		attribute.Int("tinkex.samples", req.NumSamples), attribute.Int("tinkex.max_tokens", req.MaxTokens))
	defer op.end(&err)
	out, err := s.Sampler.Sample(ctx, req)
	if err == nil {
		generated := 0
		for i := range out.Sequences {
			generated += len(out.Sequences[i].Tokens)
		}
		s.t.engineTokens.WithLabelValues("prompt").Add(float64(len(req.Prompt)))
		s.t.engineTokens.WithLabelValues("sample").Add(float64(generated))
	}
	return out, err
}
