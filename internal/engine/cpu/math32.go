package cpu

import (
	"math"
	"slices"
)

// exp32 is e^x in float32, within a few units in the last place. math.Exp
// works in float64 and takes several times as long, and exponentials are the
// dearest part of a small model besides its matrix products. Every product is
// rounded by itself, as in expVector.
func exp32(x float32) float32 {
	const (
		log2e   = 1.44269504088896340736
		ln2Hi   = 0.693359375 // exact in few bits, so n·ln2Hi is exact
		ln2Lo   = -2.12194440e-4
		highest = 89        // its exponential is infinite
		lowest  = -87.33654 // below it the results would be subnormal: zero
		round   = 3 << 22   // what is added to it is rounded to an integer
	)
	switch {
	case x != x:
		return x
	case x < lowest:
		return 0
	}
	x = min(x, highest)
	f := float32(x*log2e) + round - round
	n := int32(f)
	r := x - float32(f*ln2Hi)
	r -= float32(f * ln2Lo)
	// Minimax polynomial of (e^r - 1 - r)/r² on [-ln2/2, ln2/2].
	y := float32(1.9875691500e-4)
	y = float32(y*r) + 1.3981999507e-3
	y = float32(y*r) + 8.3334519073e-3
	y = float32(y*r) + 4.1665795894e-2
	y = float32(y*r) + 1.6666665459e-1
	y = float32(y*r) + 5.0000001201e-1
	y = float32(y*float32(r*r)) + r + 1
	// 2^n can be out of range where y·2^n is not, so it is applied in halves.
	h := n >> 1
	return y * pow2(h) * pow2(n-h)
}

// pow2 is 2^n for n in float32's normal range.
func pow2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

// expInto writes exp(scale·x - shift) to dst, which may be x itself.
func expInto(dst, x []float32, scale, shift float32) {
	if useKernels && len(x) > 0 {
		expKernel(dst, x, scale, shift)
		return
	}
	expPortable(dst, x, scale, shift)
}

// sigmoid writes 1/(1+e^-x) to y.
func sigmoid(x, y []float32) {
	y = y[:len(x)]
	expInto(y, x, -1, 0)
	for i, e := range y {
		y[i] = 1 / (1 + e)
	}
}

// expSum replaces x by exp(x - max x) and returns the maximum and the sum.
func expSum(x []float32) (top float32, sum float64) {
	top = slices.Max(x)
	expInto(x, x, 1, top)
	for _, e := range x {
		sum += float64(e)
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
