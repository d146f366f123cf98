package cpu

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
)

// textDatum is a next-token example over text's bytes.
func textDatum(text string) engine.Datum {
	b := []byte(text)
	n := len(b) - 1
	d := engine.Datum{Tokens: make([]int32, n)}
	targets, weights := make([]int64, n), make([]float32, n)
	for i := range n {
		d.Tokens[i], targets[i], weights[i] = int32(b[i]), int64(b[i+1]), 1
	}
	d.Inputs = map[string]engine.Tensor{
		inTargets: {DType: engine.Int64, Shape: []int{n}, I: targets},
		inWeights: {DType: engine.Float32, Shape: []int{n}, F: weights},
	}
	return d
}

func newTestEngine(t testing.TB) *Engine {
	t.Helper()
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func tinyModel(t testing.TB, rank int) engine.Model {
	t.Helper()
	m, err := newTestEngine(t).NewModel(context.Background(), engine.ModelConfig{
		BaseModel: TinyModel, Rank: rank, TrainAttn: true, TrainMLP: true, TrainUnembed: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// randomBatch is a cross-entropy batch of n datums of length tokens.
func randomBatch(seed uint64, n, length, vocab int) *engine.Batch {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := &engine.Batch{Loss: "cross_entropy"}
	for range n {
		d := engine.Datum{Tokens: make([]int32, length)}
		targets, weights := make([]int64, length), make([]float32, length)
		for i := range length {
			d.Tokens[i] = int32(rng.IntN(vocab))
			targets[i] = int64(rng.IntN(vocab))
			weights[i] = rng.Float32()
		}
		d.Inputs = map[string]engine.Tensor{
			inTargets: {DType: engine.Int64, Shape: []int{length}, I: targets},
			inWeights: {DType: engine.Float32, Shape: []int{length}, F: weights},
		}
		b.Data = append(b.Data, d)
	}
	return b
}

var defaultAdam = engine.AdamParams{LearningRate: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12}

func TestTrainingLowersLoss(t *testing.T) {
	ctx := context.Background()
	m := tinyModel(t, 8)
	b := &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{textDatum("the quick brown fox jumps over the lazy dog")}}
	var first, last float64
	for i := range 30 {
		out, err := m.ForwardBackward(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		last = out.Metrics["loss:sum"] / float64(len(b.Data[0].Tokens))
		if i == 0 {
			first = last
		}
		if _, err := m.OptimStep(ctx, engine.AdamParams{LearningRate: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("loss per token: %.3f, after 30 steps %.3f", first, last)
	if last > first/2 {
		t.Errorf("loss per token went from %.3f to %.3f in 30 steps, expected less than half", first, last)
	}
}

func BenchmarkTrainStep(b *testing.B) {
	ctx := context.Background()
	m := tinyModel(b, 8)
	batch := randomBatch(1, 8, 64, 256)
	for b.Loop() {
		if _, err := m.ForwardBackward(ctx, batch); err != nil {
			b.Fatal(err)
		}
		if _, err := m.OptimStep(ctx, defaultAdam); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*8*64)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkSample(b *testing.B) {
	ctx := context.Background()
	s, err := newTestEngine(b).NewSampler(ctx, TinyModel, nil)
	if err != nil {
		b.Fatal(err)
	}
	seed := uint64(1)
	req := &engine.SampleRequest{
		Prompt: randomBatch(1, 1, 64, 256).Data[0].Tokens, NumSamples: 1, MaxTokens: 64,
		Seed: &seed, Temperature: 1, TopP: 1, NoStop: true,
	}
	for b.Loop() {
		if _, err := s.Sample(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "tokens/s")
}
