package cpu

import (
	"math"

	"gonum.org/v1/gonum/blas/blas32"
)

// pass runs a base model with an adapter in one workspace.
type pass struct {
	c  *config
	w  *weights
	ad *adapter // nil: the base model alone
	ws *workspace

	cos, sin []float32
}

// embedTokens writes the embeddings of tokens to x [len(tokens), hidden].
func (p *pass) embedTokens(tokens []int32, x []float32) {
	h := p.c.hidden
	for i, t := range tokens {
		copy(x[i*h:(i+1)*h], p.w.embed.Data[int(t)*h:(int(t)+1)*h])
	}
}

// linear computes y = x·Wᵀ + scale·(x·Aᵀ)·Bᵀ and leaves x·Aᵀ in h for the
// backward pass.
func (p *pass) linear(layer int, m module, x, y blas32.General, h *[]float32) {
	mulNT(1, x, p.weight(layer, m), 0, y)
	var l lora
	if l := p.ad.lora(p.ad.slotOf(layer, m), &l); l != nil {
		hm := fitMatrix(h, x.Rows, l.a.Rows)
		mulNT(1, x, l.a, 0, hm)
		mulNT(l.scale, hm, l.b, 1, y)
	}
}

func (p *pass) weight(layer int, m module) blas32.General {
	if m == lmHead {
		return p.w.head
	}
	return p.w.layers[layer].linear[m]
}

// rmsNorm writes x·rstd·weight to y and the reciprocal root mean squares to
// rstd, for each row of width len(weight).
func rmsNorm(x, weight, y, rstd []float32, eps float64) {
	n := len(weight)
	for i := range rstd {
		row, out := x[i*n:(i+1)*n], y[i*n:(i+1)*n]
		var sum float64
		for _, v := range row {
			sum += float64(v) * float64(v)
		}
		r := float32(1 / math.Sqrt(sum/float64(n)+eps))
		rstd[i] = r
		for j, v := range row {
			out[j] = v * r * weight[j]
		}
	}
}

// attentionInput fills c with the normalised input, the rotated queries and
// keys, and the values of layer's attention for the rows of x, whose positions
// are in the workspace.
func (p *pass) attentionInput(layer int, x []float32, c *layerCache) {
	n := len(p.ws.pos)
	lw := &p.w.layers[layer]
	norm := fitMatrix(&c.norm1, n, p.c.hidden)
	rmsNorm(x, lw.inNorm, norm.Data, fit(&c.rstd1, n), p.c.normEps)

	qRot := fitMatrix(&c.qRot, n, p.c.qDim())
	kRot := fitMatrix(&c.kRot, n, p.c.kvDim())
	q, k := qRot, kRot
	if p.c.qkNorm {
		q, k = fitMatrix(&c.q, n, p.c.qDim()), fitMatrix(&c.k, n, p.c.kvDim())
	}
	p.linear(layer, qProj, norm, q, &c.h[qProj])
	p.linear(layer, kProj, norm, k, &c.h[kProj])
	p.linear(layer, vProj, norm, fitMatrix(&c.v, n, p.c.kvDim()), &c.h[vProj])
	if p.c.qkNorm {
		rmsNorm(q.Data, lw.qNorm, qRot.Data, fit(&c.qRstd, n*p.c.heads), p.c.normEps)
		rmsNorm(k.Data, lw.kNorm, kRot.Data, fit(&c.kRstd, n*p.c.kvHeads), p.c.normEps)
	}
	p.rotateHeads(qRot, rotate)
	p.rotateHeads(kRot, rotate)
}

// rotateHeads applies turn to each head of each row of m.
func (p *pass) rotateHeads(m blas32.General, turn func(x, cos, sin []float32)) {
	d := p.c.headDim
	half := d / 2
	for i, pos := range p.ws.pos {
		cos, sin := p.cos[int(pos)*half:][:half], p.sin[int(pos)*half:][:half]
		for h := 0; h < m.Cols; h += d {
			turn(m.Data[i*m.Stride+h:][:d], cos, sin)
		}
	}
}

// attention computes causal attention of the queries in c, which stand at
// positions first, first+1, …, over keys and values [first+n, kvDim].
func (p *pass) attention(c *layerCache, keys, vals blas32.General, first int) {
	n := len(p.ws.pos)
	d := p.c.headDim
	group := p.c.heads / p.c.kvHeads
	scale := p.attentionScale()
	q := matrix(c.qRot, n, p.c.qDim())
	out := fitMatrix(&c.att, n, p.c.qDim())
	lse := fit(&c.lse, n*p.c.heads)
	for h := range p.c.heads {
		kv := h / group * d
		for i := 0; i < n; i += attentionBlock {
			m := min(attentionBlock, n-i)
			seen := first + i + m
			s := fitMatrix(&p.ws.scores, m, seen)
			mulNT(scale, rows(columns(q, h*d, d), i, m), rows(columns(keys, kv, d), 0, seen), 0, s)
			for r := range m {
				row := s.Data[r*seen : (r+1)*seen]
				visible := first + i + r + 1
				lse[(i+r)*p.c.heads+h] = softmax(row[:visible])
				clear(row[visible:])
			}
			mulNN(1, s, rows(columns(vals, kv, d), 0, seen), 0, rows(columns(out, h*d, d), i, m))
		}
	}
}

func (p *pass) attentionScale() float32 {
	return float32(1 / math.Sqrt(float64(p.c.headDim)))
}

// attentionOutput adds attention's output to the residual stream: mid.
func (p *pass) attentionOutput(layer int, x []float32, c *layerCache) {
	n := len(p.ws.pos)
	mid := fitMatrix(&c.mid, n, p.c.hidden)
	p.linear(layer, oProj, matrix(c.att, n, p.c.qDim()), mid, &c.h[oProj])
	add(mid.Data, x)
}

// mlp adds the MLP's output to the residual stream and writes it to out, which
// may be the layer's input.
func (p *pass) mlp(layer int, c *layerCache, out []float32) {
	n := len(p.ws.pos)
	norm := fitMatrix(&c.norm2, n, p.c.hidden)
	rmsNorm(c.mid, p.w.layers[layer].postNorm, norm.Data, fit(&c.rstd2, n), p.c.normEps)
	gate, up := fitMatrix(&c.gate, n, p.c.inter), fitMatrix(&c.up, n, p.c.inter)
	p.linear(layer, gateProj, norm, gate, &c.h[gateProj])
	p.linear(layer, upProj, norm, up, &c.h[upProj])
	act := fitMatrix(&c.act, n, p.c.inter)
	sig := fit(&c.sig, len(act.Data))
	sigmoid(gate.Data, sig)
	for i, g := range gate.Data {
		act.Data[i] = g * sig[i] * up.Data[i]
	}
	p.linear(layer, downProj, act, matrix(out, n, p.c.hidden), &c.h[downProj])
	add(out, c.mid)
}

// add computes dst += x.
func add(dst, x []float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] += x[i]
	}
}

// forward runs a whole sequence and leaves the residual stream of every layer
// in the workspace, and the activations of every layer if keep is set.
func (p *pass) forward(tokens []int32, keep bool) {
	n := len(tokens)
	ws := p.ws
	caches := 1
	if keep {
		caches = p.c.layers
	}
	ws.prepare(p.c, n, caches)
	p.cos, p.sin = p.w.rope.upTo(n)
	for i := range ws.pos {
		ws.pos[i] = int32(i)
	}
	p.embedTokens(tokens, fit(&ws.xs[0], n*p.c.hidden))
	for l := range p.c.layers {
		c := &ws.layers[0]
		if keep {
			c = &ws.layers[l]
		}
		p.layer(l, ws.xs[l], c, fit(&ws.xs[l+1], n*p.c.hidden))
	}
	p.finalNorm(ws.xs[p.c.layers])
}

// layer runs one transformer layer over a whole sequence.
func (p *pass) layer(l int, x []float32, c *layerCache, out []float32) {
	n := len(p.ws.pos)
	p.attentionInput(l, x, c)
	p.attention(c, matrix(c.kRot, n, p.c.kvDim()), matrix(c.v, n, p.c.kvDim()), 0)
	p.attentionOutput(l, x, c)
	p.mlp(l, c, out)
}

// finalNorm normalises the last residual stream and applies the A matrix of
// the unembedding's adapter.
func (p *pass) finalNorm(x []float32) {
	n := len(p.ws.pos)
	norm := fitMatrix(&p.ws.final, n, p.c.hidden)
	rmsNorm(x, p.w.norm, norm.Data, fit(&p.ws.finalRstd, n), p.c.normEps)
	var l lora
	if l := p.ad.lora(p.ad.slotOf(0, lmHead), &l); l != nil {
		mulNT(1, norm, l.a, 0, fitMatrix(&p.ws.finalH, n, l.a.Rows))
	}
}

// logitRows is how many rows of logits are computed at a time.
func (p *pass) logitRows() int { return max(1, headFloats/p.c.vocab) }

// logits computes the logits of rows [from, from+n) after finalNorm.
func (p *pass) logits(from, n int) blas32.General {
	ws := p.ws
	total := len(ws.pos)
	out := fitMatrix(&ws.logits, n, p.c.vocab)
	mulNT(1, rows(matrix(ws.final, total, p.c.hidden), from, n), p.w.head, 0, out)
	var l lora
	if l := p.ad.lora(p.ad.slotOf(0, lmHead), &l); l != nil {
		mulNT(l.scale, rows(matrix(ws.finalH, total, l.a.Rows), from, n), l.b, 1, out)
	}
	return out
}
