package cpu

import (
	"math"
	"sync"
)

// ropeConfig is how rotary position embeddings turn positions into angles.
type ropeConfig struct {
	theta   float64
	kind    string  // "default", "linear" or "llama3"
	factor  float64 // linear, llama3
	low     float64 // llama3: low_freq_factor
	high    float64 // llama3: high_freq_factor
	origCtx float64 // llama3: original_max_position_embeddings
}

// frequencies are the rotation speeds of the headDim/2 pairs, in radians per
// position.
func (r ropeConfig) frequencies(headDim int) []float64 {
	f := make([]float64, headDim/2)
	for i := range f {
		f[i] = math.Pow(r.theta, -2*float64(i)/float64(headDim))
		switch r.kind {
		case "linear":
			f[i] /= r.factor
		case "llama3":
			f[i] = r.llama3(f[i])
		}
	}
	return f
}

// llama3 stretches the slow rotations by factor, leaves the fast ones, and
// blends in between.
func (r ropeConfig) llama3(freq float64) float64 {
	wavelength := 2 * math.Pi / freq
	switch {
	case wavelength < r.origCtx/r.high:
		return freq
	case wavelength > r.origCtx/r.low:
		return freq / r.factor
	}
	smooth := (r.origCtx/wavelength - r.low) / (r.high - r.low)
	return (1-smooth)*freq/r.factor + smooth*freq
}

// ropeTable holds the sines and cosines of the positions used so far. It grows
// on demand: a model's whole context can be far longer than what it is used
// with.
type ropeTable struct {
	freq []float64
	max  int // positions

	mu       sync.Mutex
	cos, sin []float32 // [positions, headDim/2]
}

func newRopeTable(c *config) *ropeTable {
	return &ropeTable{freq: c.rope.frequencies(c.headDim), max: c.context}
}

// upTo returns tables of at least n positions, [n, headDim/2] each.
func (r *ropeTable) upTo(n int) (cos, sin []float32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	half := len(r.freq)
	have := len(r.cos) / half
	if have >= n {
		return r.cos, r.sin
	}
	want := max(n, min(r.max, max(256, 2*have)))
	// Earlier callers go on reading the old slices, so these are new ones.
	cos, sin = make([]float32, want*half), make([]float32, want*half)
	copy(cos, r.cos)
	copy(sin, r.sin)
	for p := have; p < want; p++ {
		for i, f := range r.freq {
			s, c := math.Sincos(float64(p) * f)
			cos[p*half+i], sin[p*half+i] = float32(c), float32(s)
		}
	}
	r.cos, r.sin = cos, sin
	return cos, sin
}

// rotate turns head vector x [headDim] by the angles of one position. The
// pairs are (i, i+headDim/2), Hugging Face's order.
func rotate(x, cos, sin []float32) {
	half := len(x) / 2
	lo, hi := x[:half], x[half:][:half]
	cos, sin = cos[:half], sin[:half]
	for i := range lo {
		a, b := lo[i], hi[i]
		lo[i] = a*cos[i] - b*sin[i]
		hi[i] = b*cos[i] + a*sin[i]
	}
}

// rotateBack is rotate's inverse, and therefore its gradient.
func rotateBack(x, cos, sin []float32) {
	half := len(x) / 2
	lo, hi := x[:half], x[half:][:half]
	cos, sin = cos[:half], sin[:half]
	for i := range lo {
		a, b := lo[i], hi[i]
		lo[i] = a*cos[i] + b*sin[i]
		hi[i] = b*cos[i] - a*sin[i]
	}
}
