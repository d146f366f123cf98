// Package bench measures what the protocol and the server add to the engine.
//
//	go test -bench . -count 5 ./bench
//
// BenchmarkStepOverLoopback minus BenchmarkStepInEngine, from the same run, is
// what one forward_backward and optim_step pays for being remote.
package bench

import (
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/tinkextest"
)

const (
	tokens = 32
	rank   = 8
)

func BenchmarkStepInEngine(b *testing.B) {
	eng, err := cpu.New(cpu.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer eng.Close()
	m, err := eng.NewModel(b.Context(), engine.ModelConfig{BaseModel: cpu.TinyModel, Rank: rank, TrainAttn: true, TrainMLP: true, TrainUnembed: true})
	if err != nil {
		b.Fatal(err)
	}
	in, targets, weights := make([]int32, tokens), make([]int64, tokens), make([]float32, tokens)
	for i := range in {
		in[i], targets[i], weights[i] = int32(i), int64(i+1), 1
	}
	shape := []int{tokens}
	batch := &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{{Tokens: in, Inputs: map[string]engine.Tensor{
		"target_tokens": {DType: engine.Int64, Shape: shape, I: targets}, "weights": {Shape: shape, F: weights},
	}}}}
	for b.Loop() {
		if _, err := m.ForwardBackward(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		if _, err := m.OptimStep(b.Context(), engine.AdamParams{LearningRate: 1e-4, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStepOverLoopback(b *testing.B) {
	svc, err := tinkex.NewServiceClient(tinkextest.NewServer(b).Options())
	if err != nil {
		b.Fatal(err)
	}
	defer svc.Close()
	tc, err := svc.CreateLoRATrainingClient(b.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: rank})
	if err != nil {
		b.Fatal(err)
	}
	in, targets, weights := make([]int, tokens), make([]int, tokens), make([]float32, tokens)
	for i := range in {
		in[i], targets[i], weights[i] = i, i+1, 1
	}
	data := []tinkex.Datum{{ModelInput: tinkex.Tokens(in...), LossFnInputs: map[string]tinkex.TensorData{
		"target_tokens": tinkex.Ints(targets), "weights": tinkex.Floats(weights),
	}}}
	for b.Loop() {
		pass := tc.ForwardBackward(b.Context(), data, tinkex.CrossEntropy, nil)
		step := tc.OptimStep(b.Context(), tinkex.AdamParams{LearningRate: 1e-4})
		if _, err := pass.Await(b.Context()); err != nil {
			b.Fatal(err)
		}
		if _, err := step.Await(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
