// Package bench measures what the protocol and the server add to the engine,
// one forward_backward and optim_step of tinkex/tiny at a time.
//
//	go test -bench . -count 5 ./bench
//
// BenchmarkStepOverLoopback minus BenchmarkStepInEngine, from the same run, is
// what a step pays for being remote. `go run ./bench/step` sets the published
// Python SDK beside the two, and `go run ./bench/transfer` measures downloads.
package bench

import (
	"context"
	"errors"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/cpu"
)

// The batch of a step: one datum of that many tokens.
const (
	Tokens = 32
	Rank   = 8
)

// Step is one forward_backward and optim_step.
type Step func(context.Context) error

// EngineStep takes steps on a model of the engine itself.
func EngineStep(ctx context.Context) (step Step, end func() error, err error) {
	eng, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, nil, err
	}
	m, err := eng.NewModel(ctx, engine.ModelConfig{BaseModel: cpu.TinyModel, Rank: Rank, TrainAttn: true, TrainMLP: true, TrainUnembed: true})
	if err != nil {
		return nil, nil, errors.Join(err, eng.Close())
	}
	in, targets, weights := make([]int32, Tokens), make([]int64, Tokens), make([]float32, Tokens)
	for i := range in {
		in[i], targets[i], weights[i] = int32(i), int64(i+1), 1
	}
	shape := []int{Tokens}
	batch := &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{{Tokens: in, Inputs: map[string]engine.Tensor{
		"target_tokens": {DType: engine.Int64, Shape: shape, I: targets}, "weights": {Shape: shape, F: weights},
	}}}}
	return func(ctx context.Context) error {
		if _, err := m.ForwardBackward(ctx, batch); err != nil {
			return err
		}
		_, err := m.OptimStep(ctx, engine.AdamParams{LearningRate: 1e-4, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12})
		return err
	}, eng.Close, nil
}

// SDKStep takes the same steps on a server, both requests on their way before
// either is awaited.
func SDKStep(ctx context.Context, opts tinkex.Options) (step Step, end func() error, err error) {
	svc, err := tinkex.NewServiceClient(opts)
	if err != nil {
		return nil, nil, err
	}
	tc, err := svc.CreateLoRATrainingClient(ctx, cpu.TinyModel, tinkex.LoRAOptions{Rank: Rank})
	if err != nil {
		return nil, nil, errors.Join(err, svc.Close())
	}
	in, targets, weights := make([]int, Tokens), make([]int, Tokens), make([]float32, Tokens)
	for i := range in {
		in[i], targets[i], weights[i] = i, i+1, 1
	}
	data := []tinkex.Datum{{ModelInput: tinkex.Tokens(in...), LossFnInputs: map[string]tinkex.TensorData{
		"target_tokens": tinkex.Ints(targets), "weights": tinkex.Floats(weights),
	}}}
	return func(ctx context.Context) error {
		pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
		step := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-4})
		if _, err := pass.Await(ctx); err != nil {
			return err
		}
		_, err := step.Await(ctx)
		return err
	}, svc.Close, nil
}
