package cpu

import (
	"math"
)

// reference computes a model's log probabilities in float64 with plain loops
// and no caches, as an independent statement of what the engine must compute.
type reference struct {
	c      *config
	w      *weights
	l      *layout // nil: no adapter
	params []float64
	scale  float64
}

func newReference(c *config, w *weights, ad *adapter) *reference {
	r := &reference{c: c, w: w}
	if ad != nil {
		r.l, r.scale = ad.layout, ad.alpha/float64(ad.rank)
		r.params = make([]float64, len(ad.params))
		for i, v := range ad.params {
			r.params[i] = float64(v)
		}
	}
	return r
}

// linear applies a module, adapter included, to one vector.
func (r *reference) linear(layer int, m module, x []float64) []float64 {
	out, in := r.c.dims(m)
	data := r.w.head.Data
	if m != lmHead {
		data = r.w.layers[layer].linear[m].Data
	}
	y := make([]float64, out)
	for i := range y {
		for j := range in {
			y[i] += float64(data[i*in+j]) * x[j]
		}
	}
	if r.l == nil {
		return y
	}
	for _, s := range r.l.slots {
		if s.mod != m || s.layer != layer && m != lmHead {
			continue
		}
		for k := range r.l.rank {
			var h float64
			for j := range in {
				h += r.params[s.a+k*in+j] * x[j]
			}
			for i := range y {
				y[i] += r.scale * r.params[s.b+i*r.l.rank+k] * h
			}
		}
	}
	return y
}

func (r *reference) norm(x []float64, w []float32) []float64 {
	var sum float64
	for _, v := range x {
		sum += v * v
	}
	inv := 1 / math.Sqrt(sum/float64(len(x))+r.c.normEps)
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * inv * float64(w[i])
	}
	return y
}

// rotary is Hugging Face's x·cos + rotate_half(x)·sin.
func (r *reference) rotary(x []float64, pos int) []float64 {
	d := len(x)
	freq := r.c.rope.frequencies(d)
	y := make([]float64, d)
	for i := range x {
		a := float64(pos) * freq[i%(d/2)]
		half := -1.0
		j := i + d/2
		if i >= d/2 {
			half, j = 1, i-d/2
		}
		y[i] = x[i]*math.Cos(a) + half*x[j]*math.Sin(a)
	}
	return y
}

func (r *reference) heads(x []float64, norm []float32, pos int, rotate bool) [][]float64 {
	var hs [][]float64
	for i := 0; i < len(x); i += r.c.headDim {
		h := x[i : i+r.c.headDim]
		if norm != nil {
			h = r.norm(h, norm)
		}
		if rotate {
			h = r.rotary(h, pos)
		}
		hs = append(hs, h)
	}
	return hs
}

// logprobs returns the log probabilities of the next token at each position.
func (r *reference) logprobs(tokens []int32) [][]float64 {
	c := r.c
	xs := make([][]float64, len(tokens))
	for t, tok := range tokens {
		for j := range c.hidden {
			xs[t] = append(xs[t], float64(r.w.embed.Data[int(tok)*c.hidden+j]))
		}
	}
	for l := range c.layers {
		lw := &r.w.layers[l]
		var qs, ks, vs [][][]float64
		for t, x := range xs {
			n := r.norm(x, lw.inNorm)
			qs = append(qs, r.heads(r.linear(l, qProj, n), lw.qNorm, t, true))
			ks = append(ks, r.heads(r.linear(l, kProj, n), lw.kNorm, t, true))
			vs = append(vs, r.heads(r.linear(l, vProj, n), nil, t, false))
		}
		for t := range xs {
			var att []float64
			for h := range c.heads {
				kv := h * c.kvHeads / c.heads
				p := make([]float64, t+1)
				for u := range p {
					for i := range c.headDim {
						p[u] += qs[t][h][i] * ks[u][kv][i]
					}
					p[u] /= math.Sqrt(float64(c.headDim))
				}
				toProbs(p)
				o := make([]float64, c.headDim)
				for u, w := range p {
					for i := range o {
						o[i] += w * vs[u][kv][i]
					}
				}
				att = append(att, o...)
			}
			xs[t] = sumOf(xs[t], r.linear(l, oProj, att))
		}
		for t := range xs {
			n := r.norm(xs[t], lw.postNorm)
			g, u := r.linear(l, gateProj, n), r.linear(l, upProj, n)
			for i := range g {
				g[i] *= u[i] / (1 + math.Exp(-g[i]))
			}
			xs[t] = sumOf(xs[t], r.linear(l, downProj, g))
		}
	}
	out := make([][]float64, len(xs))
	for t, x := range xs {
		out[t] = r.linear(0, lmHead, r.norm(x, r.w.norm))
		toProbs(out[t])
		for i, p := range out[t] {
			out[t][i] = math.Log(p)
		}
	}
	return out
}

func toProbs(x []float64) {
	top := math.Inf(-1)
	for _, v := range x {
		top = max(top, v)
	}
	var sum float64
	for i, v := range x {
		x[i] = math.Exp(v - top)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
}

func sumOf(a, b []float64) []float64 {
	s := make([]float64, len(a))
	for i := range s {
		s[i] = a[i] + b[i]
	}
	return s
}
