package cpu

import (
	"gonum.org/v1/gonum/blas/blas32"
)

// maxKeptFloats is how many activations a forward pass may keep for the
// backward pass; beyond it, only each layer's input is kept and the rest is
// computed again. 64 Mi floats are 256 MiB.
const maxKeptFloats = 64 << 20

// attentionBlock is the number of queries whose attention scores are held at a
// time, which keeps memory linear in the sequence length.
const attentionBlock = 64

// headFloats bounds the logits held at a time: rows of the vocabulary's width.
const headFloats = 1 << 20

// workspace holds one goroutine's scratch memory. Buffers grow to the longest
// sequence seen and hold rubbish between uses.
type workspace struct {
	xs     [][]float32  // [layers+1][T·hidden] residual stream between layers
	layers []layerCache // one for each layer, or a single one that is reused

	pos            []int32
	final          []float32 // [T, hidden] after the last norm
	finalRstd      []float32 // [T]
	finalH         []float32 // [T, rank] LoRA of the unembedding
	logits         []float32 // [rows, vocab]
	scores, dProbs []float32 // [attentionBlock, T]

	// Gradients flowing back.
	dx, dNorm    []float32 // [T, hidden]
	dAct, dUp    []float32 // [T, inter]
	dAtt, dq     []float32 // [T, qDim]
	dk, dv       []float32 // [T, kvDim]
	dh           []float32 // [T, rank]
	coef         []float32 // [T, K] gradient of the loss by logprob
	targetLogits []float32 // [K]
}

// layerCache holds a layer's activations for its backward pass.
type layerCache struct {
	norm1, norm2 []float32               // [T, hidden] inputs of attention and MLP
	rstd1, rstd2 []float32               // [T] reciprocal root mean squares
	q, k         []float32               // [T, qDim], [T, kvDim] before head norm; only with qkNorm
	qRstd, kRstd []float32               // [T, heads], [T, kvHeads]
	qRot, kRot   []float32               // after head norm and rotation
	v            []float32               // [T, kvDim]
	lse          []float32               // [T, heads] log of the softmax denominators
	att          []float32               // [T, qDim] attention's output
	mid          []float32               // [T, hidden] residual stream after attention
	gate, up     []float32               // [T, inter]
	sig, act     []float32               // [T, inter] sigmoid(gate); silu(gate)·up
	h            [layerModules][]float32 // [T, rank] LoRA: A·x
}

// fit returns a slice of length n, reusing buf's memory if it can. Growth
// leaves some room so that sequences of slowly rising length do not allocate
// each time.
func fit(buf *[]float32, n int) []float32 {
	if cap(*buf) < n {
		*buf = make([]float32, n, n+n/8)
	}
	*buf = (*buf)[:n]
	return *buf
}

func fitMatrix(buf *[]float32, rows, cols int) blas32.General {
	return matrix(fit(buf, rows*cols), rows, cols)
}

// keptFloats is the number of floats a layerCache takes for n tokens.
func (c *config) keptFloats(n int) int {
	perToken := 3*c.hidden + 3*c.qDim() + 3*c.kvDim() + 4*c.inter + 3*c.heads
	return n * perToken
}

// prepare makes room for a sequence of n tokens with the given number of layer
// caches.
func (ws *workspace) prepare(c *config, n, caches int) {
	if len(ws.xs) != c.layers+1 {
		ws.xs = make([][]float32, c.layers+1)
	}
	if len(ws.layers) < caches {
		ws.layers = append(ws.layers, make([]layerCache, caches-len(ws.layers))...)
	}
	if cap(ws.pos) < n {
		ws.pos = make([]int32, n)
	}
	ws.pos = ws.pos[:n]
}
