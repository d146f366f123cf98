package cpu

import (
	"context"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
)

// TestProcessorsChangeNothing trains and samples with one, two and more
// goroutines at a time, with sequences long enough to be spread.
func TestProcessorsChangeNothing(t *testing.T) {
	type result struct {
		params []float32
		losses []float64
		seqs   []engine.Sequence
	}
	run := func(procs int) result {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		ctx := context.Background()
		m := tinyModel(t, 4).(*Model)
		var r result
		for _, b := range []*engine.Batch{randomBatch(1, 5, 20, 256), randomBatch(2, 1, 200, 256)} {
			out, err := m.ForwardBackward(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			r.losses = append(r.losses, out.Metrics["loss:sum"])
			if _, err := m.OptimStep(ctx, defaultAdam); err != nil {
				t.Fatal(err)
			}
		}
		r.params = slices.Clone(m.ad.params)
		s, err := m.eng.NewSampler(ctx, TinyModel, nil)
		if err != nil {
			t.Fatal(err)
		}
		seed := uint64(5)
		out, err := s.Sample(ctx, &engine.SampleRequest{
			Prompt: randomBatch(3, 1, 150, 256).Data[0].Tokens, NumSamples: 5, MaxTokens: 6, Seed: &seed, Temperature: 1, TopP: 1, NoStop: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.seqs = out.Sequences
		return r
	}
	want := run(1)
	for _, procs := range []int{2, 3, 8} {
		if got := run(procs); !reflect.DeepEqual(got, want) {
			t.Errorf("%d goroutines at a time give other results than one", procs)
		}
	}
}

// A sample does not depend on how many others are drawn with it.
func TestSamplesAreIndependent(t *testing.T) {
	ctx := context.Background()
	s, err := newTestEngine(t).NewSampler(ctx, TinyModel, nil)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(5)
	draw := func(n int) []engine.Sequence {
		out, err := s.Sample(ctx, &engine.SampleRequest{Prompt: []int32{1, 2, 3}, NumSamples: n, MaxTokens: 8, Seed: &seed, Temperature: 1, TopP: 1, NoStop: true})
		if err != nil {
			t.Fatal(err)
		}
		return out.Sequences
	}
	if one, many := draw(2), draw(7); !reflect.DeepEqual(one, many[:2]) {
		t.Error("the first two of seven samples are not the two of two")
	}
}

// What a sample is drawn from, token by token over cached keys and values, has
// the bits of a pass over the whole sequence.
func TestSamplesScoreTheSame(t *testing.T) {
	ctx := context.Background()
	for _, arch := range []string{archQwen3, archLlama} {
		m := smallModel(t, smallConfig(arch), allModules)
		s := &Sampler{eng: m.eng, base: m.base, ad: m.ad}
		seed := uint64(5)
		req := engine.SampleRequest{Prompt: randomBatch(3, 1, prefillTokens+9, m.base.cfg.vocab).Data[0].Tokens, NumSamples: 3, MaxTokens: 12, Seed: &seed, Temperature: 1, TopP: 1, NoStop: true}
		out, err := s.Sample(ctx, &req)
		if err != nil {
			t.Fatal(err)
		}
		for i, seq := range out.Sequences {
			again := engine.SampleRequest{Prompt: slices.Concat(req.Prompt, seq.Tokens), NumSamples: 1, MaxTokens: 1, TopP: 1, PromptLogprobs: true}
			scored, err := s.Sample(ctx, &again)
			if err != nil {
				t.Fatal(err)
			}
			if want := scored.PromptLogprobs[len(req.Prompt):]; !slices.Equal(seq.Logprobs, want) {
				t.Errorf("%s: sample %d has logprobs %v when drawn and %v when scored", arch, i, seq.Logprobs, want)
			}
		}
	}
}

// While one long datum is computed, the gradients of the short ones after it
// must not pile up.
func TestGradientsDoNotPileUp(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	m := tinyModel(t, 2).(*Model)
	b := &engine.Batch{Loss: "cross_entropy", Data: randomBatch(1, 1, 600, 256).Data}
	b.Data = append(b.Data, randomBatch(2, 40, 2, 256).Data...)
	run := &batchRun{m: m, b: b, results: make([]datumResult, len(b.Data))}
	run.w, _ = m.base.load()
	held := 0
	done := make(chan error)
	go func() { done <- run.do(context.Background()) }()
	for {
		select {
		case err := <-done:
			if err != nil || run.summed != len(b.Data) {
				t.Errorf("%d of %d datums, %v", run.summed, len(b.Data), err)
			}
			if held > 6 {
				t.Errorf("%d datums were ahead of the one in work", held)
			}
			return
		default:
			run.mu.Lock()
			held = max(held, run.next-run.summed)
			run.mu.Unlock()
			runtime.Gosched()
		}
	}
}
