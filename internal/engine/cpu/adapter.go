package cpu

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas/blas32"

	"github.com/tinkex/tinkex/internal/engine"
)

const (
	// defaultAlpha is lora_alpha of every adapter created here; an adapter
	// loaded from elsewhere keeps its own.
	defaultAlpha = 32

	// maxRank is far beyond what LoRA is used with; it bounds what one request
	// can allocate.
	maxRank = 512
)

// layout places an adapter's matrices in one vector of parameters: for each
// adapted module A [rank, in] and then B [out, rank]. Gradients and AdamW's
// moments are vectors of the same layout.
type layout struct {
	rank    int
	slots   []slot
	byLayer [][layerModules]int // index into slots, or -1
	head    int                 // index into slots, or -1
	size    int                 // parameters in total
}

// slot is one adapted module's place in the vector.
type slot struct {
	layer   int // of the module; 0 for lmHead
	mod     module
	out, in int
	a, b    int // offsets of A and B
}

// newLayout places the modules that has accepts, by layer and then by module.
func newLayout(c *config, rank int, has func(layer int, m module) bool) *layout {
	l := &layout{rank: rank, byLayer: make([][layerModules]int, c.layers), head: -1}
	add := func(layer int, m module) int {
		if !has(layer, m) {
			return -1
		}
		out, in := c.dims(m)
		l.slots = append(l.slots, slot{layer: layer, mod: m, out: out, in: in, a: l.size, b: l.size + rank*in})
		l.size += rank * (in + out)
		return len(l.slots) - 1
	}
	for layer := range c.layers {
		for m := range module(layerModules) {
			l.byLayer[layer][m] = add(layer, m)
		}
	}
	l.head = add(0, lmHead)
	return l
}

// trained reports whether the flags of cfg cover module m.
func trained(cfg *engine.ModelConfig, m module) bool {
	switch {
	case m.attention():
		return cfg.TrainAttn
	case m.mlp():
		return cfg.TrainMLP
	}
	return cfg.TrainUnembed
}

// train sets the flag that covers module m.
func train(cfg *engine.ModelConfig, m module) {
	switch {
	case m.attention():
		cfg.TrainAttn = true
	case m.mlp():
		cfg.TrainMLP = true
	default:
		cfg.TrainUnembed = true
	}
}

// matrixA and matrixB view a slot's matrices in a vector of this layout.
func (l *layout) matrixA(s *slot, vec []float32) blas32.General {
	return matrix(vec[s.a:s.a+l.rank*s.in], l.rank, s.in)
}

func (l *layout) matrixB(s *slot, vec []float32) blas32.General {
	return matrix(vec[s.b:s.b+s.out*l.rank], s.out, l.rank)
}

// adapter is a LoRA adapter: each adapted module adds
// alpha/rank · B·A·x to its output. The zero of an adapter is a nil pointer.
type adapter struct {
	*layout
	alpha  float64
	params []float32
}

func (a *adapter) scale() float32 { return float32(a.alpha / float64(a.rank)) }

// newAdapter initialises A uniformly as PEFT does (Kaiming with a = √5, which
// is ±1/√in) and B to zero, so that a fresh adapter changes nothing.
func newAdapter(l *layout, seed int64) *adapter {
	a := &adapter{layout: l, alpha: defaultAlpha, params: make([]float32, l.size)}
	for i := range l.slots {
		s := &l.slots[i]
		// A stream of its own for each matrix: what a module starts from does
		// not depend on which others are trained.
		rng := newRand(uint64(seed), s.mod.path(s.layer))
		fillUniform(l.matrixA(s, a.params).Data, rng, 1/math.Sqrt(float64(s.in)))
	}
	return a
}

// newRand is the generator for one named use of a seed.
func newRand(seed uint64, use string) *rand.PCG {
	h := fnv.New64a()
	h.Write([]byte(use))
	return rand.NewPCG(seed, h.Sum64())
}

// fillUniform fills dst uniformly from (-bound, bound). It draws 24 bits for
// each value and multiplies once, so that every platform gets the same bits.
func fillUniform(dst []float32, rng *rand.PCG, bound float64) {
	b := float32(bound)
	for i := range dst {
		u := float32(int32(rng.Uint64()>>40)*2+1-1<<24) / (1 << 24) // odd multiples of 2^-24
		dst[i] = u * b
	}
}

// lora is one module's adapter at work; a nil *lora is a module without one.
type lora struct {
	a, b  blas32.General // [rank, in], [out, rank]
	scale float32
}

// lora returns slot i's matrices, nil for -1 or a nil adapter.
func (a *adapter) lora(i int, dst *lora) *lora {
	if i < 0 {
		return nil
	}
	s := &a.slots[i]
	dst.a, dst.b, dst.scale = a.matrixA(s, a.params), a.matrixB(s, a.params), a.scale()
	return dst
}

func (a *adapter) slotOf(layer int, m module) int {
	switch {
	case a == nil:
		return -1
	case m == lmHead:
		return a.head
	}
	return a.byLayer[layer][m]
}
