package cpu

import (
	"strconv"

	"gonum.org/v1/gonum/blas/blas32"
)

// weights are a base model's parameters. They are never written after loading.
// Linear weights are [out, in], row-major, as Hugging Face stores them.
type weights struct {
	embed  blas32.General // [vocab, hidden]
	head   blas32.General // [vocab, hidden]; embed's data when tied
	norm   []float32      // [hidden]
	layers []layerWeights
	rope   *ropeTable
}

type layerWeights struct {
	inNorm, postNorm []float32 // [hidden]
	qNorm, kNorm     []float32 // [headDim], only with config.qkNorm
	linear           [layerModules]blas32.General
}

func layerPath(layer int) string { return "model.layers." + strconv.Itoa(layer) }

// newWeights allocates a model's weights, for visit to fill.
func newWeights(c *config) *weights {
	w := &weights{
		embed:  newMatrix(c.vocab, c.hidden),
		norm:   make([]float32, c.hidden),
		layers: make([]layerWeights, c.layers),
		rope:   newRopeTable(c),
	}
	w.head = w.embed
	if !c.tied {
		w.head = newMatrix(c.vocab, c.hidden)
	}
	for i := range w.layers {
		l := &w.layers[i]
		l.inNorm = make([]float32, c.hidden)
		l.postNorm = make([]float32, c.hidden)
		if c.qkNorm {
			l.qNorm = make([]float32, c.headDim)
			l.kNorm = make([]float32, c.headDim)
		}
		for m := range l.linear {
			out, in := c.dims(module(m))
			l.linear[m] = newMatrix(out, in)
		}
	}
	return w
}

// tensorSpec is a base model's tensor with its Hugging Face name: a linear
// weight or embedding of two dimensions, or a norm of one.
type tensorSpec struct {
	name  string
	shape []int
}

// specs lists the tensors a model of shape c is made of, in a stable order.
func (c *config) specs() []tensorSpec {
	s := []tensorSpec{{"model.embed_tokens.weight", []int{c.vocab, c.hidden}}}
	for l := range c.layers {
		p := layerPath(l)
		s = append(s, tensorSpec{p + ".input_layernorm.weight", []int{c.hidden}})
		for m := range module(layerModules) {
			out, in := c.dims(m)
			s = append(s, tensorSpec{m.path(l) + ".weight", []int{out, in}})
			if m == oProj {
				if c.qkNorm {
					s = append(s,
						tensorSpec{p + ".self_attn.q_norm.weight", []int{c.headDim}},
						tensorSpec{p + ".self_attn.k_norm.weight", []int{c.headDim}})
				}
				s = append(s, tensorSpec{p + ".post_attention_layernorm.weight", []int{c.hidden}})
			}
		}
	}
	s = append(s, tensorSpec{"model.norm.weight", []int{c.hidden}})
	if !c.tied {
		s = append(s, tensorSpec{lmHead.path(0) + ".weight", []int{c.vocab, c.hidden}})
	}
	return s
}

// slices returns the storage of every tensor, in the order of specs.
func (w *weights) slices(c *config) [][]float32 {
	s := [][]float32{w.embed.Data}
	for i := range w.layers {
		l := &w.layers[i]
		s = append(s, l.inNorm)
		for m := range module(layerModules) {
			s = append(s, l.linear[m].Data)
			if m == oProj {
				if c.qkNorm {
					s = append(s, l.qNorm, l.kNorm)
				}
				s = append(s, l.postNorm)
			}
		}
	}
	s = append(s, w.norm)
	if !c.tied {
		s = append(s, w.head.Data)
	}
	return s
}
