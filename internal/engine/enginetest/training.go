package enginetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
)

func testBaseModels(t *testing.T, s *suite) {
	again := s.eng.BaseModels()
	for i, m := range s.eng.BaseModels() {
		if again[i] != m {
			t.Errorf("the list changes: %+v, then %+v", m, again[i])
		}
		if m.Name == "" || m.Arch == "" || m.MaxContextLength < 64 || m.VocabSize < 2 {
			t.Errorf("model %+v lacks something", m)
		}
	}
	ctx := t.Context()
	cfg := s.config()
	cfg.BaseModel = "nobody/nothing"
	if err := s.eng.CheckConfig(cfg); !errors.Is(err, engine.ErrUnknownModel) {
		t.Errorf("CheckConfig of an unknown model: %v", err)
	}
	if _, err := s.eng.NewModel(ctx, cfg); !errors.Is(err, engine.ErrUnknownModel) {
		t.Errorf("NewModel of an unknown model: %v", err)
	}
	_, err := s.eng.NewSampler(ctx, cfg.BaseModel, nil)
	if !errors.Is(err, engine.ErrUnknownModel) {
		t.Errorf("NewSampler of an unknown model: %v", err)
	} else if !strings.Contains(err.Error(), cfg.BaseModel) || !strings.Contains(err.Error(), s.base.Name) {
		t.Errorf("the error %q does not name both what was asked and what is on offer", err)
	}
}

func testConfig(t *testing.T, s *suite) {
	for name, edit := range map[string]func(*engine.ModelConfig){
		"rank 0":        func(c *engine.ModelConfig) { c.Rank = 0 },
		"rank -1":       func(c *engine.ModelConfig) { c.Rank = -1 },
		"rank 1e9":      func(c *engine.ModelConfig) { c.Rank = 1e9 },
		"nothing to do": func(c *engine.ModelConfig) { c.TrainAttn, c.TrainMLP, c.TrainUnembed = false, false, false },
	} {
		cfg := s.config()
		edit(&cfg)
		check := s.eng.CheckConfig(cfg)
		_, err := s.eng.NewModel(t.Context(), cfg)
		if !isInput(check) || !isInput(err) || check.Error() != err.Error() {
			t.Errorf("%s: CheckConfig says %v, NewModel says %v", name, check, err)
		}
	}
	for _, flags := range [][3]bool{{true, false, false}, {false, true, false}, {false, false, true}, {true, true, true}} {
		want := s.config()
		want.TrainAttn, want.TrainMLP, want.TrainUnembed = flags[0], flags[1], flags[2]
		if err := s.eng.CheckConfig(want); err != nil {
			t.Errorf("CheckConfig: %v", err)
		}
		m, err := s.eng.NewModel(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got := m.Config()
		if got.Seed == nil || *got.Seed != *want.Seed {
			t.Errorf("Config().Seed is %v, want %d", got.Seed, *want.Seed)
		}
		got.Seed = want.Seed
		if got != want {
			t.Errorf("Config() is %+v, want %+v", got, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testSeeds(t *testing.T, s *suite) {
	seeded := func(seed int64) files {
		return s.save(s.model(func(c *engine.ModelConfig) { c.Seed = &seed }), false)
	}
	if !seeded(1).equal(seeded(1)) {
		t.Error("two models of one seed differ")
	}
	if seeded(1).equal(seeded(2)) {
		t.Error("models of different seeds are equal")
	}
	unseeded := func() files {
		return s.save(s.model(func(c *engine.ModelConfig) { c.Seed = nil }), false)
	}
	if !unseeded().equal(unseeded()) {
		t.Error("two models without a seed differ: only unseeded samples may")
	}
}

func testFreshAdapter(t *testing.T, s *suite) {
	d := s.datum(3, 20)
	out := s.forwardBackward(s.model(), &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{d}, ForwardOnly: true})
	prompt := append(slices.Clone(d.Tokens), int32(d.Inputs["target_tokens"].I[19]))
	base := s.sample(s.sampler(nil), &engine.SampleRequest{Prompt: prompt, NumSamples: 1, MaxTokens: 1, TopP: 1, PromptLogprobs: true})
	for i, lp := range out.Outputs[0]["logprobs"].F {
		if want := base.PromptLogprobs[i+1]; !near(float64(lp), float64(want), logprobTolerance) {
			t.Errorf("position %d: the fresh adapter gives %v, the base model %v", i, lp, want)
		}
	}
}

func testTraining(t *testing.T, s *suite) {
	m := s.model()
	b := s.batch(5, 2)
	p := adam
	p.LearningRate = 5e-3
	first := s.forwardBackward(m, b).Metrics["loss:sum"]
	for range 12 {
		s.step(m, p)
		s.forwardBackward(m, b)
	}
	last := s.forwardBackward(m, b).Metrics["loss:sum"]
	if !(last < 0.9*first) {
		t.Errorf("the loss went from %v to %v in 12 steps", first, last)
	}
}

// policy gives d the inputs of the policy-gradient losses.
func policy(d engine.Datum, logprobs, advantages []float32) engine.Datum {
	return engine.Datum{Tokens: d.Tokens, Inputs: map[string]engine.Tensor{
		"target_tokens": d.Inputs["target_tokens"],
		"logprobs":      floats(logprobs...),
		"advantages":    floats(advantages...),
	}}
}

func testLosses(t *testing.T, s *suite) {
	const n = 10
	m := s.model()
	d := s.datum(7, n)
	out := s.forwardBackward(m, &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{d}, ForwardOnly: true})
	lps := out.Outputs[0]["logprobs"].F
	var want float64
	for i, lp := range lps {
		want -= float64(lp) * float64(d.Inputs["weights"].F[i])
	}
	if got := out.Metrics["loss:sum"]; !relative(got, want, sumTolerance) {
		t.Errorf("cross_entropy is %v, want %v", got, want)
	}

	// Sampled a little off the policy: the ratios are e^shift.
	adv, old := make([]float32, n), make([]float32, n)
	shifts := []float64{0, 0.1, -0.1, 0.5, -0.5}
	for i := range n {
		adv[i] = float32(i%3) - 0.8
		old[i] = lps[i] - float32(shifts[i%len(shifts)])
	}
	pd := policy(d, old, adv)
	sum := func(f func(lp, ratio, adv float64) float64) float64 {
		var total float64
		for i := range n {
			total -= f(float64(lps[i]), math.Exp(float64(lps[i])-float64(old[i])), float64(adv[i]))
		}
		return total
	}
	clip := func(r, low, high float64) float64 { return math.Min(math.Max(r, low), high) }
	for _, tc := range []struct {
		loss   string
		config map[string]float64
		want   float64
	}{
		{"importance_sampling", nil, sum(func(_, r, a float64) float64 { return r * a })},
		{"ppo", nil, sum(func(_, r, a float64) float64 { return math.Min(r*a, clip(r, 0.8, 1.2)*a) })},
		{"ppo", map[string]float64{"clip_low_threshold": 0.95, "clip_high_threshold": 1.05},
			sum(func(_, r, a float64) float64 { return math.Min(r*a, clip(r, 0.95, 1.05)*a) })},
		{"cispo", map[string]float64{"clip_low_threshold": 0.7, "clip_high_threshold": 1.3},
			sum(func(lp, r, a float64) float64 { return clip(r, 0.7, 1.3) * lp * a })},
	} {
		b := &engine.Batch{Loss: tc.loss, LossConfig: tc.config, Data: []engine.Datum{pd}}
		if err := m.Check(b); err != nil {
			t.Errorf("%s: Check: %v", tc.loss, err)
			continue
		}
		out := s.forwardBackward(m, b)
		if got := out.Metrics["loss:sum"]; !relative(got, tc.want, 1e-3) {
			t.Errorf("%s %v is %v, want %v", tc.loss, tc.config, got, tc.want)
		}
	}

	// A step up the advantage makes the favoured tokens likelier.
	m = s.model()
	for i := range adv {
		adv[i], old[i] = 1, lps[i]
	}
	b := &engine.Batch{Loss: "importance_sampling", Data: []engine.Datum{policy(d, old, adv)}}
	s.forwardBackward(m, b)
	s.step(m, adam)
	after := s.forwardBackward(m, b).Outputs[0]["logprobs"].F
	if before, now := total(lps), total(after); !(now > before) {
		t.Errorf("log probability went from %v to %v under a positive advantage", before, now)
	}
}

func total(v []float32) (sum float64) {
	for _, x := range v {
		sum += float64(x)
	}
	return sum
}

func testOutputShapes(t *testing.T, s *suite) {
	m := s.model()
	b := s.batch(9, 3)
	n := len(b.Data[1].Tokens)
	two := engine.Datum{Tokens: b.Data[1].Tokens, Inputs: map[string]engine.Tensor{
		"target_tokens": {DType: engine.Int64, Shape: []int{n, 2}, I: make([]int64, 2*n)},
		"weights":       {DType: engine.Float32, Shape: []int{n, 2}, F: make([]float32, 2*n)},
	}}
	for i := range two.Inputs["target_tokens"].I {
		two.Inputs["target_tokens"].I[i] = int64(i % 7)
		two.Inputs["weights"].F[i] = 0.5
	}
	b.Data[1] = two
	out := s.forwardBackward(m, b)
	if len(out.Outputs) != len(b.Data) {
		t.Fatalf("%d outputs for %d datums", len(out.Outputs), len(b.Data))
	}
	for i, o := range out.Outputs {
		lp := o["logprobs"]
		want := b.Data[i].Inputs["target_tokens"].Shape
		if !slices.Equal(lp.Shape, want) || lp.DType != engine.Float32 {
			t.Errorf("datum %d: logprobs have shape %v and type %v, target_tokens %v", i, lp.Shape, lp.DType, want)
		}
		for _, v := range lp.F {
			if !(v <= 0) {
				t.Errorf("datum %d: logprob %v", i, v)
			}
		}
	}
	for k := range out.Metrics {
		if strings.Count(k, ":") != 1 {
			t.Errorf("metric %q is not name:reduction", k)
		}
	}
	if out.OutputType == "" {
		t.Error("OutputType is empty")
	}
	// A tensor without a shape is a vector.
	d := s.datum(10, 6)
	for name, in := range d.Inputs {
		in.Shape = nil
		d.Inputs[name] = in
	}
	out = s.forwardBackward(m, &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{d}})
	if got := out.Outputs[0]["logprobs"].Shape; !slices.Equal(got, []int{6}) {
		t.Errorf("logprobs of a vector have shape %v", got)
	}
}

func testForwardOnly(t *testing.T, s *suite) {
	m, n := s.model(), s.model()
	b := s.batch(1, 2)
	want := s.forwardBackward(m, b)
	only := *b
	only.ForwardOnly = true
	s.forwardBackward(n, &only)
	if got := s.forwardBackward(n, b); !same(got, want) {
		t.Error("a forward pass changed the one after it")
	}
	s.forwardBackward(n, &only)
	s.step(m, adam)
	s.step(n, adam)
	if !s.save(m, true).equal(s.save(n, true)) {
		t.Error("a forward pass left gradients behind")
	}
}

func testAccumulation(t *testing.T, s *suite) {
	first, second := s.batch(1, 2), s.batch(2, 1)
	both := &engine.Batch{Loss: first.Loss, Data: append(slices.Clone(first.Data), second.Data...)}
	parts := func() (engine.Model, float64) {
		m := s.model()
		loss := s.forwardBackward(m, first).Metrics["loss:sum"] + s.forwardBackward(m, second).Metrics["loss:sum"]
		s.step(m, adam)
		return m, loss
	}
	a, lossA := parts()
	b, _ := parts()
	if !s.save(a, true).equal(s.save(b, true)) {
		t.Error("the same two batches gave different steps")
	}
	c := s.model()
	lossC := s.forwardBackward(c, both).Metrics["loss:sum"]
	s.step(c, adam)
	if !relative(lossA, lossC, sumTolerance) {
		t.Errorf("the losses of two batches add up to %v, as one batch %v", lossA, lossC)
	}
	probe := s.batch(3, 1)
	pa, pc := s.forwardBackward(a, probe).Metrics["loss:sum"], s.forwardBackward(c, probe).Metrics["loss:sum"]
	if !relative(pa, pc, 1e-3) {
		t.Errorf("after a step, a loss is %v by parts and %v as one batch", pa, pc)
	}
}

func testDeterminism(t *testing.T, s *suite) {
	run := func() (files, []*engine.ForwardBackwardOutput) {
		m := s.model()
		var outs []*engine.ForwardBackwardOutput
		for i := range 4 {
			outs = append(outs, s.forwardBackward(m, s.batch(uint64(i), 4)))
			s.step(m, adam)
		}
		return s.save(m, true), outs
	}
	wantFiles, wantOuts := run()

	// The same again while other models and samplers are at work.
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 3 {
		m, smp := s.model(), s.sampler(nil)
		wg.Go(func() {
			for ctx.Err() == nil {
				// Cancelled in the end, so their errors mean nothing.
				_, _ = m.ForwardBackward(ctx, s.batch(uint64(i), 3))
				_, _ = smp.Sample(ctx, &engine.SampleRequest{Prompt: s.tokens(1, 5), NumSamples: 2, MaxTokens: 4, Temperature: 1, TopP: 1})
			}
		})
	}
	gotFiles, gotOuts := run()
	stop()
	wg.Wait()
	if !same(gotOuts, wantOuts) {
		t.Error("losses depend on what else the engine is doing")
	}
	if !gotFiles.equal(wantFiles) {
		t.Error("weights depend on what else the engine is doing")
	}
}

func testBadBatches(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 1)
	s.forwardBackward(m, s.batch(2, 1)) // gradients that must survive
	const n = 8
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	vocab := int64(s.base.VocabSize)
	with := func(name string, v engine.Tensor) func(*engine.Batch) {
		return func(b *engine.Batch) { b.Data[1].Inputs[name] = v }
	}
	without := func(name string) func(*engine.Batch) {
		return func(b *engine.Batch) { delete(b.Data[1].Inputs, name) }
	}
	spoil := func(v []float32, i int, x float32) engine.Tensor {
		v = slices.Clone(v)
		v[i] = x
		return floats(v...)
	}
	spoilInt := func(i int, x int64) engine.Tensor {
		v := make([]int64, n)
		v[i] = x
		return ints(v...)
	}
	ones := slices.Repeat([]float32{1}, n)
	asPolicy := func(edit func(*engine.Batch)) func(*engine.Batch) {
		return func(b *engine.Batch) {
			b.Loss = "ppo"
			for i := range b.Data {
				k := len(b.Data[i].Tokens)
				b.Data[i] = policy(b.Data[i], make([]float32, k), make([]float32, k))
			}
			edit(b)
		}
	}
	for _, tc := range []struct {
		name  string
		field string // that the error must name
		edit  func(*engine.Batch)
	}{
		{"no data", "data", func(b *engine.Batch) { b.Data = nil }},
		{"unknown loss", "loss_fn", func(b *engine.Batch) { b.Loss = "hinge" }},
		{"unknown setting", "loss_fn_config.temperature", func(b *engine.Batch) { b.LossConfig = map[string]float64{"temperature": 1} }},
		{"setting of another loss", "loss_fn_config.clip_low_threshold", func(b *engine.Batch) { b.LossConfig = map[string]float64{"clip_low_threshold": 0.5} }},
		{"NaN setting", "loss_fn_config.clip_low_threshold", asPolicy(func(b *engine.Batch) { b.LossConfig = map[string]float64{"clip_low_threshold": math.NaN()} })},
		{"crossed settings", "loss_fn_config.clip_low_threshold", asPolicy(func(b *engine.Batch) {
			b.LossConfig = map[string]float64{"clip_low_threshold": 2, "clip_high_threshold": 1}
		})},
		{"no tokens", "data[1].model_input", func(b *engine.Batch) { b.Data[1].Tokens = nil }},
		{"token too large", "data[1].model_input", func(b *engine.Batch) { b.Data[1].Tokens[3] = int32(vocab) }},
		{"negative token", "data[1].model_input", func(b *engine.Batch) { b.Data[1].Tokens[0] = -1 }},
		{"longer than the context", "data[1].model_input", func(b *engine.Batch) { b.Data[1] = s.datum(1, s.base.MaxContextLength+1) }},
		{"no targets", "data[1].loss_fn_inputs.target_tokens", without("target_tokens")},
		{"targets of another type", "data[1].loss_fn_inputs.target_tokens", with("target_tokens", floats(ones...))},
		{"too few targets", "data[1].loss_fn_inputs.target_tokens", with("target_tokens", ints(1, 2, 3))},
		{"targets of three dimensions", "data[1].loss_fn_inputs.target_tokens", with("target_tokens", engine.Tensor{DType: engine.Int64, Shape: []int{n, 1, 1}, I: make([]int64, n)})},
		{"shape that lies", "data[1].loss_fn_inputs.target_tokens", with("target_tokens", engine.Tensor{DType: engine.Int64, Shape: []int{n}, I: make([]int64, n-1)})},
		{"negative shape", "data[1].loss_fn_inputs.target_tokens", with("target_tokens", engine.Tensor{DType: engine.Int64, Shape: []int{-1, -n}, I: make([]int64, n)})},
		{"huge shape", "data[1].loss_fn_inputs.weights", with("weights", engine.Tensor{Shape: []int{1 << 30, 1 << 30, 1 << 30}, F: ones})},
		{"target too large", "data[1].loss_fn_inputs.target_tokens[5]", with("target_tokens", spoilInt(5, vocab))},
		{"negative target", "data[1].loss_fn_inputs.target_tokens[2]", with("target_tokens", spoilInt(2, -100))},
		{"no weights", "data[1].loss_fn_inputs.weights", without("weights")},
		{"too many weights", "data[1].loss_fn_inputs.weights", with("weights", floats(make([]float32, n+1)...))},
		{"weights of another type", "data[1].loss_fn_inputs.weights", with("weights", ints(make([]int64, n)...))},
		{"NaN weight", "data[1].loss_fn_inputs.weights[7]", with("weights", spoil(ones, 7, nan))},
		{"infinite weight", "data[1].loss_fn_inputs.weights[0]", with("weights", spoil(ones, 0, inf))},
		{"unknown input", "data[1].loss_fn_inputs.weight", with("weight", floats(ones...))},
		{"no advantages", "data[1].loss_fn_inputs.advantages", asPolicy(without("advantages"))},
		{"no logprobs", "data[1].loss_fn_inputs.logprobs", asPolicy(without("logprobs"))},
		{"NaN advantage", "data[1].loss_fn_inputs.advantages[3]", asPolicy(with("advantages", spoil(ones, 3, nan)))},
		{"infinite logprob", "data[1].loss_fn_inputs.logprobs[4]", asPolicy(with("logprobs", spoil(ones, 4, -inf)))},
		{"two targets for a policy", "data[1].loss_fn_inputs.target_tokens", asPolicy(with("target_tokens", engine.Tensor{DType: engine.Int64, Shape: []int{n, 2}, I: make([]int64, 2*n)}))},
	} {
		b := &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{s.datum(1, 5), s.datum(2, n)}}
		tc.edit(b)
		check := m.Check(b)
		err := s.unchanged(m, tc.name, func() error {
			_, err := m.ForwardBackward(t.Context(), b)
			return err
		})
		var bad *engine.InputError
		switch {
		case !errors.As(err, &bad):
			t.Errorf("%s: ForwardBackward: %v is no InputError", tc.name, err)
		case bad.Field != tc.field:
			t.Errorf("%s: %v, expected it to name %s", tc.name, err, tc.field)
		case check == nil || check.Error() != err.Error():
			t.Errorf("%s: Check says %v, ForwardBackward %v", tc.name, check, err)
		}
	}
	if err := m.Check(s.batch(1, 2)); err != nil {
		t.Errorf("Check of a good batch: %v", err)
	}
}

func testBadSteps(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 1)
	s.forwardBackward(m, s.batch(2, 1))
	for name, edit := range map[string]func(*engine.AdamParams){
		"adam_params.learning_rate":  func(p *engine.AdamParams) { p.LearningRate = math.NaN() },
		"adam_params.beta1":          func(p *engine.AdamParams) { p.Beta1 = 1 },
		"adam_params.beta2":          func(p *engine.AdamParams) { p.Beta2 = -0.1 },
		"adam_params.eps":            func(p *engine.AdamParams) { p.Eps = math.Inf(1) },
		"adam_params.weight_decay":   func(p *engine.AdamParams) { p.WeightDecay = -1 },
		"adam_params.grad_clip_norm": func(p *engine.AdamParams) { p.GradClipNorm = -1 },
	} {
		p := adam
		edit(&p)
		err := s.unchanged(m, name, func() error {
			_, err := m.OptimStep(t.Context(), p)
			return err
		})
		var bad *engine.InputError
		if !errors.As(err, &bad) || bad.Field != name {
			t.Errorf("%v, expected an InputError that names %s", err, name)
		}
	}
	for k := range s.step(m, adam) {
		if strings.Count(k, ":") != 1 {
			t.Errorf("metric %q is not name:reduction", k)
		}
	}
	// Zero is a number like any other.
	s.step(m, engine.AdamParams{})
}

func testStepWithoutGradients(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 1)
	before := s.save(m, true)
	still := engine.AdamParams{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	s.step(m, still)
	after := s.save(m, true)
	if !slices.Equal(before[engine.AdapterWeightsFile], after[engine.AdapterWeightsFile]) {
		t.Error("a step of learning rate 0 changed the weights")
	}
	if slices.Equal(before[engine.OptimizerFile], after[engine.OptimizerFile]) {
		t.Error("a step without gradients did not advance the optimizer")
	}
	decay := engine.AdamParams{LearningRate: 0.1, Beta1: 0.9, Beta2: 0.95, Eps: 1e30, WeightDecay: 0.5}
	s.step(m, decay) // eps leaves nothing but the decay: w becomes 0.95·w
	now := tensors(t, s.save(m, false))
	for name, was := range tensors(t, after) {
		for i, v := range was {
			if got, want := float64(now[name][i]), 0.95*float64(v); !relative(got, want, 1e-6) {
				t.Fatalf("%s[%d] decayed from %v to %v, want %v", name, i, v, got, want)
			}
		}
	}
}

func testCancellation(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 1)
	s.forwardBackward(m, s.batch(2, 1))
	for name, f := range map[string]func(context.Context) error{
		"ForwardBackward": func(ctx context.Context) error { _, err := m.ForwardBackward(ctx, s.batch(3, 3)); return err },
		"OptimStep":       func(ctx context.Context) error { _, err := m.OptimStep(ctx, adam); return err },
		"Save":            func(ctx context.Context) error { return m.Save(ctx, files{}, true) },
		"Load":            func(ctx context.Context) error { return m.Load(ctx, s.save(m, true).fs(), false) },
		"NewModel":        func(ctx context.Context) error { _, err := s.eng.NewModel(ctx, s.config()); return err },
		"NewSampler":      func(ctx context.Context) error { _, err := s.eng.NewSampler(ctx, s.base.Name, nil); return err },
		"Sample": func(ctx context.Context) error {
			_, err := s.sampler(nil).Sample(ctx, &engine.SampleRequest{Prompt: s.tokens(1, 4), NumSamples: 1, MaxTokens: 4, TopP: 1})
			return err
		},
	} {
		err := s.unchanged(m, name, func() error { return f(cancelled()) })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	// In the middle of a batch.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	err := s.unchanged(m, "ForwardBackward", func() error {
		for {
			before := s.save(m, true)
			if _, err := m.ForwardBackward(ctx, s.batch(3, 8)); err != nil {
				s.load(m, before, true) // drops nothing if the call changed nothing
				return err
			}
			s.load(m, before, true)
		}
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ForwardBackward past its deadline: %v", err)
	}
}

func testClose(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 1)
	smp := s.sampler(s.save(m, false))
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Model.Close: %v", err)
		}
	}
	if _, err := m.ForwardBackward(t.Context(), s.batch(1, 1)); err == nil {
		t.Error("a closed model trains")
	}
	// The sampler has its own copy.
	s.sample(smp, &engine.SampleRequest{Prompt: s.tokens(1, 3), NumSamples: 1, MaxTokens: 2, TopP: 1})
	for range 2 {
		if err := smp.Close(); err != nil {
			t.Errorf("Sampler.Close: %v", err)
		}
	}
}
