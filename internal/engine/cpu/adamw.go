package cpu

import (
	"math"

	"github.com/tinkex/tinkex/internal/engine"
)

// adamW is the optimizer's state. Its hyperparameters come with each step.
type adamW struct {
	step int64     // steps taken
	m, v []float32 // first and second moments; nil before the first step
}

// apply takes one step: w -= lr·(m̂/(√v̂+eps) + decay·w), with the gradient's
// global norm clipped. grad is nil if there is none. It returns the norm before
// clipping.
func (o *adamW) apply(p engine.AdamParams, w, grad []float32) (norm float64) {
	if o.m == nil {
		o.m, o.v = make([]float32, len(w)), make([]float32, len(w))
	}
	o.step++
	clip := 1.0
	if grad != nil {
		norm = l2Norm(grad)
		if p.GradClipNorm > 0 && norm > p.GradClipNorm {
			clip = p.GradClipNorm / norm
		}
	}
	correct1 := 1 - math.Pow(p.Beta1, float64(o.step))
	correct2 := 1 - math.Pow(p.Beta2, float64(o.step))
	rate := p.LearningRate / correct1
	keep := 1 - p.LearningRate*p.WeightDecay
	for i := range w {
		var g float64
		if grad != nil {
			g = float64(grad[i]) * clip
		}
		m := p.Beta1*float64(o.m[i]) + (1-p.Beta1)*g
		v := p.Beta2*float64(o.v[i]) + (1-p.Beta2)*g*g
		o.m[i], o.v[i] = float32(m), float32(v)
		denom := math.Sqrt(v/correct2) + p.Eps
		if m != 0 || denom != 0 { // with eps 0, a weight without gradient stays
			w[i] = float32(float64(w[i])*keep - rate*m/denom)
		} else {
			w[i] = float32(float64(w[i]) * keep)
		}
	}
	return norm
}

func l2Norm(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}
