package cpu

import (
	"gonum.org/v1/gonum/blas/blas32"
)

// kvCache holds the rotated keys and the values of a run of tokens, for every
// layer.
type kvCache struct {
	width int         // kvDim
	n     int         // tokens
	keys  [][]float32 // [layers][tokens·kvDim]
	vals  [][]float32
}

// init makes an empty cache with room for n tokens.
func (k *kvCache) init(c *config, n int) {
	*k = kvCache{width: c.kvDim(), keys: make([][]float32, c.layers), vals: make([][]float32, c.layers)}
	if n > 0 {
		for l := range k.keys {
			k.keys[l] = make([]float32, 0, n*k.width)
			k.vals[l] = make([]float32, 0, n*k.width)
		}
	}
}

// layer views one layer's first n keys and values.
func (k *kvCache) layer(l, n int) (keys, vals blas32.General) {
	return matrix(k.keys[l], n, k.width), matrix(k.vals[l], n, k.width)
}

// extend runs tokens that follow those in kv, adds their keys and values to
// it, and leaves them normalised for logits.
func (p *pass) extend(kv *kvCache, tokens []int32) {
	n := len(tokens)
	ws := p.ws
	ws.prepare(p.c, n, 1)
	p.cos, p.sin = p.w.rope.upTo(kv.n + n)
	for i := range ws.pos {
		ws.pos[i] = int32(kv.n + i)
	}
	x := fit(&ws.xs[0], n*p.c.hidden)
	p.embedTokens(tokens, x)
	c := &ws.layers[0]
	for l := range p.c.layers {
		p.attentionInput(l, x, c)
		kv.keys[l] = append(kv.keys[l], c.kRot...)
		kv.vals[l] = append(kv.vals[l], c.v...)
		keys, vals := kv.layer(l, kv.n+n)
		p.attention(c, keys, vals, kv.n)
		p.attentionOutput(l, x, c)
		p.mlp(l, c, x)
	}
	kv.n += n
	p.finalNorm(x)
}

// step runs one token of each sample, which all follow the same prompt, and
// leaves them normalised for logits.
func (p *pass) step(prompt *kvCache, samples []*sample, tokens []int32) {
	n := len(samples)
	ws := p.ws
	ws.prepare(p.c, n, 1)
	longest := 0
	for i, s := range samples {
		ws.pos[i] = int32(prompt.n + s.kv.n)
		longest = max(longest, prompt.n+s.kv.n+1)
	}
	p.cos, p.sin = p.w.rope.upTo(longest)
	x := fit(&ws.xs[0], n*p.c.hidden)
	p.embedTokens(tokens, x)
	c := &ws.layers[0]
	kvDim := p.c.kvDim()
	for l := range p.c.layers {
		p.attentionInput(l, x, c)
		fit(&c.att, n*p.c.qDim())
		for i, s := range samples {
			s.kv.keys[l] = append(s.kv.keys[l], c.kRot[i*kvDim:(i+1)*kvDim]...)
			s.kv.vals[l] = append(s.kv.vals[l], c.v[i*kvDim:(i+1)*kvDim]...)
			p.attendOne(i, l, prompt, &s.kv, c)
		}
		p.attentionOutput(l, x, c)
		p.mlp(l, c, x)
	}
	for _, s := range samples {
		s.kv.n++
	}
	p.finalNorm(x)
}

// attendOne computes the attention of row i over the prompt's keys and values
// and then the sample's own, the newest of which is not counted in own.n yet.
func (p *pass) attendOne(i, layer int, prompt, own *kvCache, c *layerCache) {
	d := p.c.headDim
	group := p.c.heads / p.c.kvHeads
	scale := p.attentionScale()
	q := matrix(c.qRot[i*p.c.qDim():(i+1)*p.c.qDim()], 1, p.c.qDim())
	out := matrix(c.att[i*p.c.qDim():(i+1)*p.c.qDim()], 1, p.c.qDim())
	pk, pv := prompt.layer(layer, prompt.n)
	ok, ov := own.layer(layer, own.n+1)
	total := prompt.n + own.n + 1
	s := fitMatrix(&p.ws.scores, group, total)
	for kv := range p.c.kvHeads {
		// All the queries that share this key head at once.
		qh := matrix(q.Data[kv*group*d:][:group*d], group, d)
		oh := matrix(out.Data[kv*group*d:][:group*d], group, d)
		mulNT(scale, qh, columns(pk, kv*d, d), 0, columns(s, 0, prompt.n))
		mulNT(scale, qh, columns(ok, kv*d, d), 0, columns(s, prompt.n, own.n+1))
		for r := range group {
			softmax(s.Data[r*total : (r+1)*total])
		}
		mulNN(1, columns(s, 0, prompt.n), columns(pv, kv*d, d), 0, oh)
		mulNN(1, columns(s, prompt.n, own.n+1), columns(ov, kv*d, d), 1, oh)
	}
}
