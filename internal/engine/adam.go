package engine

import "math"

// Check reports whether a step may be taken with p: every number finite and in
// its range.
func (p AdamParams) Check() error {
	for _, f := range []struct {
		name    string
		value   float64
		below   float64 // exclusive upper bound
		expects string
	}{
		{"learning_rate", p.LearningRate, math.Inf(1), "a finite number of at least 0"},
		{"beta1", p.Beta1, 1, "at least 0 and below 1"},
		{"beta2", p.Beta2, 1, "at least 0 and below 1"},
		{"eps", p.Eps, math.Inf(1), "a finite number of at least 0"},
		{"weight_decay", p.WeightDecay, math.Inf(1), "a finite number of at least 0"},
		{"grad_clip_norm", p.GradClipNorm, math.Inf(1), "a finite number of at least 0"},
	} {
		if !(f.value >= 0 && f.value < f.below) {
			return Invalid("adam_params."+f.name, "%v: expected %s", f.value, f.expects)
		}
	}
	return nil
}
