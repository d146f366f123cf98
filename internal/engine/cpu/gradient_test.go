package cpu

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
)

// smallConfig is a model small enough for finite differences, with sizes that
// are no multiples of anything a product likes.
func smallConfig(arch string) config {
	c := config{
		arch: arch, hidden: 12, inter: 18, layers: 2, heads: 4, kvHeads: 2, headDim: 6,
		vocab: 21, context: 256, normEps: 1e-5,
		rope: ropeConfig{kind: "default", theta: 100},
		eos:  []int32{0},
	}
	switch arch {
	case archQwen3:
		c.qkNorm = true
	case archLlama:
		c.tied = true
		c.kvHeads = 1
		c.rope = ropeConfig{kind: "llama3", theta: 100, factor: 4, low: 1, high: 4, origCtx: 32}
	}
	return c
}

// newBase wraps weights as a base model.
func newTestBase(e *Engine, name string, c config, w *weights) *base {
	b := &base{
		info: engine.BaseModel{Name: name, Arch: c.arch, MaxContextLength: c.context, VocabSize: c.vocab},
		cfg:  c, weights: w,
	}
	e.bases, e.byName[name] = append(e.bases, b), b
	return b
}

// smallModel has norms that are not all one, and an adapter whose B is not
// zero, so that nothing hides behind a neutral element.
func smallModel(t testing.TB, c config, flags engine.ModelConfig) *Model {
	t.Helper()
	e := newTestEngine(t)
	w := randomWeights(&c, 7)
	rng := rand.New(rand.NewPCG(8, 9))
	for i, spec := range c.specs() {
		if len(spec.shape) == 1 {
			for j := range w.slices(&c)[i] {
				w.slices(&c)[i][j] = float32(1 + 0.3*rng.NormFloat64())
			}
		}
	}
	newTestBase(e, "small", c, w)
	flags.BaseModel = "small"
	m, err := e.NewModel(context.Background(), flags)
	if err != nil {
		t.Fatal(err)
	}
	ad := m.(*Model).ad
	for i := range ad.params {
		ad.params[i] = float32(0.2 * rng.NormFloat64())
	}
	ad.alpha = 5
	return m.(*Model)
}

var allModules = engine.ModelConfig{Rank: 3, TrainAttn: true, TrainMLP: true, TrainUnembed: true}

func TestForwardAgainstReference(t *testing.T) {
	for _, arch := range []string{archQwen3, archLlama} {
		for _, n := range []int{1, 5, 150} {
			m := smallModel(t, smallConfig(arch), allModules)
			b := randomBatch(1, 1, n, m.base.cfg.vocab)
			b.ForwardOnly = true
			out, err := m.ForwardBackward(context.Background(), b)
			if err != nil {
				t.Fatal(err)
			}
			want := newReference(&m.base.cfg, m.base.weights, m.ad).logprobs(b.Data[0].Tokens)
			for i, target := range b.Data[0].Inputs[inTargets].I {
				got := float64(out.Outputs[0]["logprobs"].F[i])
				if math.Abs(got-want[i][target]) > 2e-5 {
					t.Fatalf("%s, %d tokens: logprob %d is %v, want %v", arch, n, i, got, want[i][target])
				}
			}
		}
	}
}

// lossCases is a batch for each loss over sequences of n tokens.
func lossCases(n, vocab int) map[string]*engine.Batch {
	cases := map[string]*engine.Batch{"cross_entropy": randomBatch(2, 2, n, vocab)}
	many := randomBatch(3, 1, n, vocab)
	rng := rand.New(rand.NewPCG(4, 4))
	targets, weights := make([]int64, 2*n), make([]float32, 2*n)
	for i := range targets {
		targets[i], weights[i] = int64(rng.IntN(vocab)), rng.Float32()-0.3
	}
	many.Data[0].Inputs[inTargets] = engine.Tensor{DType: engine.Int64, Shape: []int{n, 2}, I: targets}
	many.Data[0].Inputs[inWeights] = engine.Tensor{Shape: []int{n, 2}, F: weights}
	cases["cross_entropy, two targets"] = many
	for _, name := range []string{"importance_sampling", "ppo", "cispo", "dro"} {
		b := randomBatch(5, 2, n, vocab)
		b.Loss = name
		for i := range b.Data {
			lp, adv := make([]float32, n), make([]float32, n)
			for j := range n {
				lp[j], adv[j] = float32(-3+rng.NormFloat64()), float32(rng.NormFloat64())
			}
			b.Data[i].Inputs[inLogprobs] = engine.Tensor{Shape: []int{n}, F: lp}
			b.Data[i].Inputs[inAdvantage] = engine.Tensor{Shape: []int{n}, F: adv}
			if i == 0 {
				delete(b.Data[i].Inputs, inWeights)
			}
		}
		cases[name] = b
	}
	low := make([]float32, n)
	for i := range low {
		low[i] = 0.1 * float32(i%5)
	}
	own := *cases["ppo"]
	own.Data = append([]engine.Datum(nil), own.Data[:1]...)
	own.Data[0].Inputs = map[string]engine.Tensor{
		inTargets: own.Data[0].Inputs[inTargets], inLogprobs: own.Data[0].Inputs[inLogprobs], inAdvantage: own.Data[0].Inputs[inAdvantage],
		inClipLow: {Shape: []int{n}, F: low}, inClipHigh: {F: []float32{3}},
	}
	own.LossConfig = map[string]float64{inClipLow: 0.3}
	cases["ppo, own thresholds"] = &own
	cases["ppo, config"] = &engine.Batch{Loss: "ppo", Data: cases["ppo"].Data, LossConfig: map[string]float64{inClipLow: 0.5, inClipHigh: 1.6}}
	return cases
}

// referenceLoss is the loss of a batch by its definition. cispo's ratios are
// constants to its gradient, so they are computed once, by frozen.
func referenceLoss(r *reference, b *engine.Batch, frozen map[int][][]float64) float64 {
	var sum float64
	for i, d := range b.Data {
		lps := r.logprobs(d.Tokens)
		targets := d.Inputs[inTargets].I
		k := len(targets) / len(d.Tokens)
		for j, target := range targets {
			lp := lps[j/k][target]
			weight := 1.0
			if w := d.Inputs[inWeights].F; w != nil {
				weight = float64(w[j])
			}
			if b.Loss == "cross_entropy" {
				sum -= lp * weight
				continue
			}
			old, adv := float64(d.Inputs[inLogprobs].F[j]), float64(d.Inputs[inAdvantage].F[j])
			ratio := math.Exp(lp - old)
			low, high := 0.8, 1.2
			if b.Loss == "cispo" {
				low, high = 0, 4
				ratio = math.Exp(frozen[i][j/k][target] - old)
			}
			if v, ok := b.LossConfig[inClipLow]; ok {
				low = v
			}
			if v, ok := b.LossConfig[inClipHigh]; ok {
				high = v
			}
			if v := d.Inputs[inClipLow].F; v != nil {
				low = float64(v[j])
			}
			if v := d.Inputs[inClipHigh].F; v != nil {
				high = float64(v[0])
			}
			clipped := math.Min(math.Max(ratio, low), high)
			switch b.Loss {
			case "importance_sampling":
				sum -= weight * ratio * adv
			case "ppo":
				sum -= weight * math.Min(ratio*adv, clipped*adv)
			case "cispo":
				sum -= weight * clipped * lp * adv
			case "dro":
				sum -= weight * (lp*adv - 0.025*(lp-old)*(lp-old))
			}
		}
	}
	return sum
}

// TestGradients compares the gradient of the adapter's parameters, of every
// kind and under every loss, with central differences of the float64 reference.
func TestGradients(t *testing.T) {
	for _, arch := range []string{archQwen3, archLlama} {
		c := smallConfig(arch)
		for name, b := range lossCases(5, c.vocab) {
			t.Run(arch+"/"+name, func(t *testing.T) { checkGradients(t, smallModel(t, c, allModules), b, 37) })
		}
	}
}

// TestGradientsOfLongSequences crosses the blocks of attention.
func TestGradientsOfLongSequences(t *testing.T) {
	c := smallConfig(archQwen3)
	checkGradients(t, smallModel(t, c, allModules), randomBatch(6, 1, attentionBlock+9, c.vocab), 211)
}

// TestGradientsOfSomeModules covers the shortcuts that leave out gradients
// nobody needs.
func TestGradientsOfSomeModules(t *testing.T) {
	for _, flags := range []engine.ModelConfig{
		{TrainAttn: true}, {TrainMLP: true}, {TrainUnembed: true}, {TrainAttn: true, TrainUnembed: true}, {TrainMLP: true, TrainAttn: true},
	} {
		flags.Rank = 2
		t.Run(fmt.Sprintf("attn=%v,mlp=%v,unembed=%v", flags.TrainAttn, flags.TrainMLP, flags.TrainUnembed), func(t *testing.T) {
			c := smallConfig(archQwen3)
			checkGradients(t, smallModel(t, c, flags), randomBatch(7, 1, 5, c.vocab), 7)
		})
	}
}

// TestGradientsOfPartOfTheModules is of adapters from elsewhere.
func TestGradientsOfPartOfTheModules(t *testing.T) {
	c := smallConfig(archQwen3)
	for name, has := range map[string]func(layer int, m module) bool{
		"q and v":           func(_ int, m module) bool { return m == qProj || m == vProj },
		"o of the last":     func(layer int, m module) bool { return m == oProj && layer == 1 },
		"down and the head": func(_ int, m module) bool { return m == downProj || m == lmHead },
		"k over up":         func(layer int, m module) bool { return m == kProj && layer == 1 || m == upProj && layer == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			m := smallModel(t, c, allModules)
			part := newAdapter(newLayout(&c, 2, has), 3)
			for i := range part.params {
				part.params[i] += 0.1
			}
			m.ad = part
			checkGradients(t, m, randomBatch(7, 1, 5, c.vocab), 3)
		})
	}
}

func checkGradients(t *testing.T, m *Model, b *engine.Batch, every int) {
	t.Helper()
	out, err := m.ForwardBackward(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	r := newReference(&m.base.cfg, m.base.weights, m.ad)
	frozen := map[int][][]float64{}
	for i, d := range b.Data {
		frozen[i] = r.logprobs(d.Tokens)
	}
	if got, want := out.Metrics["loss:sum"], referenceLoss(r, b, frozen); math.Abs(got-want) > 1e-4*(1+math.Abs(want)) {
		t.Errorf("loss is %v, want %v", got, want)
	}
	var elementwise float64
	for _, o := range out.Outputs {
		for _, l := range o["elementwise_loss"].F {
			elementwise += float64(l)
		}
	}
	if math.Abs(elementwise-out.Metrics["loss:sum"]) > 1e-4*(1+math.Abs(elementwise)) {
		t.Errorf("elementwise losses add up to %v, the loss is %v", elementwise, out.Metrics["loss:sum"])
	}
	norm := l2Norm(m.grad) / math.Sqrt(float64(len(m.grad)))
	for _, s := range m.ad.slots {
		for _, part := range []struct {
			name    string
			from, n int
		}{{s.tensorA(), s.a, m.ad.rank * s.in}, {s.tensorB(), s.b, s.out * m.ad.rank}} {
			worst := 0.0
			for i := part.from; i < part.from+part.n; i += every {
				const h = 1e-4
				v := r.params[i]
				r.params[i] = v + h
				up := referenceLoss(r, b, frozen)
				r.params[i] = v - h
				down := referenceLoss(r, b, frozen)
				r.params[i] = v
				want := (up - down) / (2 * h)
				diff := math.Abs(float64(m.grad[i])-want) / (norm + math.Abs(want))
				worst = max(worst, diff)
			}
			if !(worst < 1e-3) {
				t.Errorf("%s: gradient is off by %.2g of its size", part.name, worst)
			}
		}
	}
}

// TestRecomputedActivations: forgetting the activations changes no bit.
func TestRecomputedActivations(t *testing.T) {
	c := smallConfig(archQwen3)
	c.layers = 4
	m := smallModel(t, c, allModules)
	d := randomBatch(8, 1, 70, c.vocab).Data[0]
	grads := map[bool][]float32{}
	for _, keep := range []bool{true, false} {
		ws := &workspace{}
		p := &pass{c: &m.base.cfg, w: m.base.weights, ad: m.ad, ws: ws}
		res := datumResult{logprobs: make([]float32, 70), losses: make([]float32, 70), grad: make([]float32, m.ad.size)}
		p.forward(d.Tokens, keep)
		if !p.unembed(newTarget(losses["cross_entropy"], nil, &d), &res) {
			t.Fatal("there is no gradient")
		}
		p.backward(keep, res.grad)
		grads[keep] = res.grad
		if got := len(ws.layers); keep != (got == c.layers) {
			t.Errorf("keep %v has %d layer caches", keep, got)
		}
	}
	for i, v := range grads[true] {
		if v != grads[false][i] {
			t.Fatalf("gradient %d is %v kept and %v recomputed", i, v, grads[false][i])
		}
	}
}
