package cpu

import (
	"gonum.org/v1/gonum/blas/blas32"
)

// linearBack propagates dy, the gradient by a module's output, for input x and
// h = x·Aᵀ: it adds the adapter's gradients to grad and, if dx is not nil,
// sets dx (beta 0) or adds to it (beta 1).
func (p *pass) linearBack(layer int, m module, x blas32.General, h []float32, dy blas32.General, beta float32, dx *blas32.General, grad []float32) {
	if dx != nil {
		mulNN(1, dy, p.weight(layer, m), beta, *dx)
	}
	i := p.ad.slotOf(layer, m)
	var buf lora
	l := p.ad.lora(i, &buf)
	if l == nil {
		return
	}
	s := &p.ad.slots[i]
	rank := p.ad.rank
	mulTN(l.scale, dy, matrix(h, dy.Rows, rank), 1, p.ad.matrixB(s, grad))
	dh := fitMatrix(&p.ws.dh, dy.Rows, rank)
	mulNN(l.scale, dy, l.b, 0, dh)
	mulTN(1, dh, x, 1, p.ad.matrixA(s, grad))
	if dx != nil {
		mulNN(1, dh, l.a, 1, *dx)
	}
}

// rmsNormBack adds to dx the gradient by x of y = x·rstd·weight, given dy.
// With set, it overwrites dx, which may then be dy itself.
func rmsNormBack(dy, x, weight, rstd, dx []float32, set bool) {
	n := len(weight)
	for i, r := range rstd {
		dyr, xr, out := dy[i*n:(i+1)*n], x[i*n:(i+1)*n], dx[i*n:(i+1)*n]
		var dot float64
		for j, g := range dyr {
			dot += float64(g*weight[j]) * float64(xr[j])
		}
		k := float32(dot) * r * r * r / float32(n)
		if set {
			for j, g := range dyr {
				out[j] = g*weight[j]*r - xr[j]*k
			}
		} else {
			for j, g := range dyr {
				out[j] += g*weight[j]*r - xr[j]*k
			}
		}
	}
}

// backward propagates the gradient by the last residual stream, which is in
// ws.dx, through all layers and adds the adapter's gradients to grad. The
// forward pass of the same sequence must have come right before it, with the
// same keep.
func (p *pass) backward(keep bool, grad []float32) {
	for l := p.c.layers - 1; l >= p.lowestTrained(); l-- {
		c := &p.ws.layers[0]
		if keep {
			c = &p.ws.layers[l]
		} else if l < p.c.layers-1 {
			// The cache still holds the last layer's activations; any other
			// layer's are computed again. The layer's output goes to where its
			// forward pass put it: the same bits once more.
			p.layer(l, p.ws.xs[l], c, p.ws.xs[l+1])
		}
		p.layerBack(l, c, grad)
	}
}

// lowestTrained is the first layer with an adapted module: no gradient is
// needed below it.
func (p *pass) lowestTrained() int {
	for l := range p.ad.byLayer {
		for _, i := range p.ad.byLayer[l] {
			if i >= 0 {
				return l
			}
		}
	}
	return p.c.layers
}

func (p *pass) layerBack(layer int, c *layerCache, grad []float32) {
	ws, cfg := p.ws, p.c
	n := len(ws.pos)
	lw := &p.w.layers[layer]
	dx := matrix(ws.dx, n, cfg.hidden)
	dNorm := fitMatrix(&ws.dNorm, n, cfg.hidden)

	// MLP: out = mid + down(silu(gate)·up).
	dAct := fitMatrix(&ws.dAct, n, cfg.inter)
	dUp := fitMatrix(&ws.dUp, n, cfg.inter)
	p.linearBack(layer, downProj, matrix(c.act, n, cfg.inter), c.h[downProj], dx, 0, &dAct, grad)
	dGate := dAct // dAct is read before it is overwritten, element by element
	for i, d := range dAct.Data {
		g, s := c.gate[i], c.sig[i]
		dUp.Data[i] = d * g * s
		dGate.Data[i] = d * c.up[i] * s * (1 + g*(1-s))
	}
	norm2 := matrix(c.norm2, n, cfg.hidden)
	bottom := layer == p.lowestTrained()
	attention := false
	for m := qProj; m <= oProj; m++ {
		attention = attention || p.ad.slotOf(layer, m) >= 0
	}
	if bottom && !attention {
		p.linearBack(layer, gateProj, norm2, c.h[gateProj], dGate, 0, nil, grad)
		p.linearBack(layer, upProj, norm2, c.h[upProj], dUp, 0, nil, grad)
		return
	}
	p.linearBack(layer, gateProj, norm2, c.h[gateProj], dGate, 0, &dNorm, grad)
	p.linearBack(layer, upProj, norm2, c.h[upProj], dUp, 1, &dNorm, grad)
	rmsNormBack(dNorm.Data, c.mid, lw.postNorm, c.rstd2, dx.Data, false)

	// Attention: mid = x + o(attention(q, k, v)).
	dAtt := fitMatrix(&ws.dAtt, n, cfg.qDim())
	p.linearBack(layer, oProj, matrix(c.att, n, cfg.qDim()), c.h[oProj], dx, 0, &dAtt, grad)
	dq := fitMatrix(&ws.dq, n, cfg.qDim())
	dk := fitMatrix(&ws.dk, n, cfg.kvDim())
	dv := fitMatrix(&ws.dv, n, cfg.kvDim())
	p.attentionBack(c, dAtt, dq, dk, dv)
	p.rotateHeads(dq, rotateBack)
	p.rotateHeads(dk, rotateBack)
	if cfg.qkNorm {
		rmsNormBack(dq.Data, c.q, lw.qNorm, c.qRstd, dq.Data, true)
		rmsNormBack(dk.Data, c.k, lw.kNorm, c.kRstd, dk.Data, true)
	}
	norm1 := matrix(c.norm1, n, cfg.hidden)
	dIn := &dNorm
	if bottom {
		dIn = nil
	}
	p.linearBack(layer, qProj, norm1, c.h[qProj], dq, 0, dIn, grad)
	p.linearBack(layer, kProj, norm1, c.h[kProj], dk, 1, dIn, grad)
	p.linearBack(layer, vProj, norm1, c.h[vProj], dv, 1, dIn, grad)
	if !bottom {
		rmsNormBack(dNorm.Data, ws.xs[layer], lw.inNorm, c.rstd1, dx.Data, false)
	}
}

// attentionBack computes the gradients by the rotated queries and keys and by
// the values. The probabilities are computed again from the kept logarithms of
// their denominators.
func (p *pass) attentionBack(c *layerCache, dAtt, dq, dk, dv blas32.General) {
	n := dAtt.Rows
	d := p.c.headDim
	group := p.c.heads / p.c.kvHeads
	scale := p.attentionScale()
	q, k := matrix(c.qRot, n, p.c.qDim()), matrix(c.kRot, n, p.c.kvDim())
	v, att := matrix(c.v, n, p.c.kvDim()), matrix(c.att, n, p.c.qDim())
	clear(dk.Data)
	clear(dv.Data)
	for h := range p.c.heads {
		kv := h / group * d
		for i := 0; i < n; i += attentionBlock {
			m := min(attentionBlock, n-i)
			seen := i + m
			qh := rows(columns(q, h*d, d), i, m)
			kh := rows(columns(k, kv, d), 0, seen)
			dOut := rows(columns(dAtt, h*d, d), i, m)
			probs := fitMatrix(&p.ws.scores, m, seen)
			mulNT(scale, qh, kh, 0, probs)
			dProbs := fitMatrix(&p.ws.dProbs, m, seen)
			mulNT(1, dOut, rows(columns(v, kv, d), 0, seen), 0, dProbs)
			for r := range m {
				visible := i + r + 1
				row := probs.Data[r*seen : (r+1)*seen]
				lse := c.lse[(i+r)*p.c.heads+h]
				for j, score := range row[:visible] {
					row[j] = exp32(score - lse)
				}
				clear(row[visible:])
			}
			mulTN(1, probs, dOut, 1, rows(columns(dv, kv, d), 0, seen))
			for r := range m {
				o := (i+r)*att.Stride + h*d
				delta := dot(dAtt.Data[o:o+d], att.Data[o:o+d])
				row := probs.Data[r*seen : (r+1)*seen]
				dRow := dProbs.Data[r*seen : (r+1)*seen]
				for j, pr := range row {
					row[j] = pr * (dRow[j] - delta)
				}
			}
			mulNN(scale, probs, kh, 0, rows(columns(dq, h*d, d), i, m))
			mulTN(scale, probs, qh, 1, rows(columns(dk, kv, d), 0, seen))
		}
	}
}

// dot is the sum of products in float64.
func dot(x, y []float32) float32 {
	var sum float64
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return float32(sum)
}
