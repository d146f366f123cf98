package cpu

import (
	"math"
	"slices"
)

func exp32(x float32) float32 { return float32(math.Exp(float64(x))) }

// sigmoid writes 1/(1+e^-x) to y.
func sigmoid(x, y []float32) {
	y = y[:len(x)]
	for i, v := range x {
		y[i] = 1 / (1 + exp32(-v))
	}
}

// expSum replaces x by exp(x - max x) and returns the maximum and the sum.
func expSum(x []float32) (top float32, sum float64) {
	top = slices.Max(x)
	for i, v := range x {
		x[i] = exp32(v - top)
		sum += float64(x[i])
	}
	return top, sum
}

// softmax turns scores into probabilities and returns the logarithm of the
// denominator.
func softmax(s []float32) float32 {
	top, sum := expSum(s)
	inv := float32(1 / sum)
	for i := range s {
		s[i] *= inv
	}
	return top + float32(math.Log(sum))
}
