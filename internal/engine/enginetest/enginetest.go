// Package enginetest holds every engine to the contract of package engine.
//
// An engine's own tests call [Run]; what it checks is what the layers above
// rely on, so that one engine can take another's place.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/tinkex/tinkex/internal/engine"
)

// Run runs the whole suite. open returns a fresh engine that offers at least
// one base model; the suite closes it. The first model on offer is used; it
// should be small, as dozens of steps are taken.
func Run(t *testing.T, open func(t *testing.T) engine.Engine) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"BaseModels", testBaseModels},
		{"Config", testConfig},
		{"Seeds", testSeeds},
		{"FreshAdapterIsNeutral", testFreshAdapter},
		{"TrainingLowersLoss", testTraining},
		{"Losses", testLosses},
		{"OutputShapes", testOutputShapes},
		{"ForwardOnly", testForwardOnly},
		{"Accumulation", testAccumulation},
		{"Determinism", testDeterminism},
		{"BadBatches", testBadBatches},
		{"BadSteps", testBadSteps},
		{"StepWithoutGradients", testStepWithoutGradients},
		{"Cancellation", testCancellation},
		{"Close", testClose},
		{"CheckpointFiles", testCheckpointFiles},
		{"SaveFailures", testSaveFailures},
		{"ExactResume", testExactResume},
		{"ResumeWithGradients", testResumeWithGradients},
		{"LoadFailures", testLoadFailures},
		{"Describe", testDescribe},
		{"SamplerSeeds", testSamplerSeeds},
		{"SamplerGreedy", testSamplerGreedy},
		{"SamplerTruncation", testSamplerTruncation},
		{"SamplerLengths", testSamplerLengths},
		{"SamplerStops", testSamplerStops},
		{"SamplerLogprobs", testSamplerLogprobs},
		{"SamplerPromptLogprobs", testSamplerPromptLogprobs},
		{"SamplerAdapter", testSamplerAdapter},
		{"SamplerConcurrency", testSamplerConcurrency},
		{"SamplerBadRequests", testSamplerBadRequests},
	} {
		t.Run(part.name, func(t *testing.T) {
			eng := open(t)
			t.Cleanup(func() {
				if err := eng.Close(); err != nil {
					t.Errorf("Engine.Close: %v", err)
				}
			})
			models := eng.BaseModels()
			if len(models) == 0 {
				t.Fatal("the engine offers no base model")
			}
			part.run(t, &suite{t: t, eng: eng, base: models[0]})
		})
	}
}

// Tolerances for what may be computed in different orders.
const (
	logprobTolerance = 1e-3 // between sampling, scoring and training, absolute
	sumTolerance     = 1e-4 // between one batch and its parts, relative
)

type suite struct {
	t    *testing.T
	eng  engine.Engine
	base engine.BaseModel
}

// config is the one most tests train.
func (s *suite) config() engine.ModelConfig {
	seed := int64(11)
	return engine.ModelConfig{BaseModel: s.base.Name, Rank: 4, Seed: &seed, TrainAttn: true, TrainMLP: true, TrainUnembed: true}
}

func (s *suite) model(edit ...func(*engine.ModelConfig)) engine.Model {
	s.t.Helper()
	cfg := s.config()
	for _, e := range edit {
		e(&cfg)
	}
	m, err := s.eng.NewModel(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatalf("NewModel: %v", err)
	}
	s.t.Cleanup(func() { m.Close() })
	return m
}

func (s *suite) sampler(files files) engine.Sampler {
	s.t.Helper()
	var err error
	var smp engine.Sampler
	if files == nil {
		smp, err = s.eng.NewSampler(s.t.Context(), s.base.Name, nil)
	} else {
		smp, err = s.eng.NewSampler(s.t.Context(), s.base.Name, files.fs())
	}
	if err != nil {
		s.t.Fatalf("NewSampler: %v", err)
	}
	s.t.Cleanup(func() { smp.Close() })
	return smp
}

// tokens are n pseudo-random ordinary tokens.
func (s *suite) tokens(seed uint64, n int) []int32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	ts := make([]int32, n)
	for i := range ts {
		ts[i] = int32(rng.IntN(min(s.base.VocabSize, 200)))
	}
	return ts
}

// datum is a next-token example of n positions, the first of which have no
// weight.
func (s *suite) datum(seed uint64, n int) engine.Datum {
	ts := s.tokens(seed, n+1)
	targets, weights := make([]int64, n), make([]float32, n)
	for i := range n {
		targets[i] = int64(ts[i+1])
		if i >= n/4 {
			weights[i] = 1
		}
	}
	return engine.Datum{Tokens: ts[:n], Inputs: map[string]engine.Tensor{
		"target_tokens": ints(targets...),
		"weights":       floats(weights...),
	}}
}

func ints(v ...int64) engine.Tensor {
	return engine.Tensor{DType: engine.Int64, Shape: []int{len(v)}, I: v}
}

func floats(v ...float32) engine.Tensor {
	return engine.Tensor{DType: engine.Float32, Shape: []int{len(v)}, F: v}
}

// batch has n cross-entropy datums of different lengths.
func (s *suite) batch(seed uint64, n int) *engine.Batch {
	b := &engine.Batch{Loss: "cross_entropy"}
	for i := range n {
		b.Data = append(b.Data, s.datum(seed+uint64(1000*i), 8+5*i))
	}
	return b
}

var adam = engine.AdamParams{LearningRate: 2e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12, WeightDecay: 0.01, GradClipNorm: 1}

func (s *suite) forwardBackward(m engine.Model, b *engine.Batch) *engine.ForwardBackwardOutput {
	s.t.Helper()
	out, err := m.ForwardBackward(s.t.Context(), b)
	if err != nil {
		s.t.Fatalf("ForwardBackward: %v", err)
	}
	return out
}

func (s *suite) step(m engine.Model, p engine.AdamParams) map[string]float64 {
	s.t.Helper()
	metrics, err := m.OptimStep(s.t.Context(), p)
	if err != nil {
		s.t.Fatalf("OptimStep: %v", err)
	}
	return metrics
}

// train takes n steps, each on a batch of its own.
func (s *suite) train(m engine.Model, from, n int) {
	s.t.Helper()
	for i := from; i < from+n; i++ {
		s.forwardBackward(m, s.batch(uint64(i), 2))
		s.step(m, adam)
	}
}

func (s *suite) save(m engine.Model, optimizer bool) files {
	s.t.Helper()
	f := files{}
	if err := m.Save(s.t.Context(), f, optimizer); err != nil {
		s.t.Fatalf("Save: %v", err)
	}
	return f
}

func (s *suite) load(m engine.Model, f files, optimizer bool) {
	s.t.Helper()
	if err := m.Load(s.t.Context(), f.fs(), optimizer); err != nil {
		s.t.Fatalf("Load: %v", err)
	}
}

// unchanged runs f, which must fail, and checks that nothing of m has changed:
// not its weights, its optimizer or its accumulated gradients. It returns f's
// error.
func (s *suite) unchanged(m engine.Model, what string, f func() error) error {
	s.t.Helper()
	before := s.save(m, true)
	err := f()
	if err == nil {
		s.t.Fatalf("%s: no error", what)
	}
	if !before.equal(s.save(m, true)) {
		s.t.Errorf("%s failed (%v), but changed the model", what, err)
	}
	return err
}

// files is a checkpoint in memory.
type files map[string][]byte

// Create implements engine.FileWriter.
func (f files) Create(name string) (io.WriteCloser, error) {
	if _, ok := f[name]; ok {
		return nil, fmt.Errorf("%s is created twice", name)
	}
	f[name] = nil
	return &file{dst: f, name: name}, nil
}

type file struct {
	bytes.Buffer
	dst  files
	name string
}

func (f *file) Close() error {
	f.dst[f.name] = bytes.Clone(f.Bytes())
	return nil
}

func (f files) fs() fstest.MapFS {
	m := fstest.MapFS{}
	for name, data := range f {
		m[name] = &fstest.MapFile{Data: data}
	}
	return m
}

func (f files) equal(g files) bool { return maps.EqualFunc(f, g, bytes.Equal) }

func (f files) names() []string { return slices.Sorted(maps.Keys(f)) }

func (f files) clone() files { return maps.Clone(f) }

func isInput(err error) bool {
	var bad *engine.InputError
	return errors.As(err, &bad)
}

// same compares results bit for bit, NaN equal to NaN.
func same(a, b any) bool {
	return reflect.DeepEqual(nanless(a), nanless(b))
}

// nanless makes two equal results DeepEqual: NaN is not equal to itself.
func nanless(v any) any {
	if out, ok := v.(*engine.SampleOutput); ok {
		c := *out
		c.PromptLogprobs = slices.Clone(out.PromptLogprobs)
		for i, x := range c.PromptLogprobs {
			if x != x {
				c.PromptLogprobs[i] = float32(math.Inf(1))
			}
		}
		return c
	}
	return v
}

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance }

func relative(a, b, tolerance float64) bool {
	return math.Abs(a-b) <= tolerance*(1+math.Abs(a)+math.Abs(b))
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
