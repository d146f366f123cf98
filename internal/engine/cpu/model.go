package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/tinkex/tinkex/internal/engine"
)

var errClosed = errors.New("closed")

// Model is an adapter in training.
type Model struct {
	eng  *Engine
	base *base
	cfg  engine.ModelConfig

	ad   *adapter
	opt  adamW
	grad []float32 // accumulated since the last step; nil if there are none

	spare sync.Pool // of []float32, gradients; those of a former adapter may be of another size
}

var _ engine.Model = (*Model)(nil)

// Config implements engine.Model.
func (m *Model) Config() engine.ModelConfig { return m.cfg }

// Check implements engine.Model.
func (m *Model) Check(b *engine.Batch) error { return checkBatch(&m.base.cfg, b) }

// Close implements engine.Model.
func (m *Model) Close() error {
	m.ad, m.opt, m.grad = nil, adamW{}, nil
	return nil
}

func (m *Model) zeroGrad() []float32 {
	if g, ok := m.spare.Get().(*[]float32); ok && len(*g) == m.ad.size {
		clear(*g)
		return *g
	}
	return make([]float32, m.ad.size)
}

func (m *Model) recycle(g []float32) { m.spare.Put(&g) }

// ForwardBackward implements engine.Model.
func (m *Model) ForwardBackward(ctx context.Context, b *engine.Batch) (*engine.ForwardBackwardOutput, error) {
	if m.ad == nil {
		return nil, errClosed
	}
	if err := m.Check(b); err != nil {
		return nil, err
	}
	w, err := m.base.load()
	if err != nil {
		return nil, err
	}
	run := &batchRun{m: m, w: w, b: b, results: make([]datumResult, len(b.Data))}
	if err := run.do(ctx); err != nil {
		return nil, err
	}
	if run.total != nil {
		if m.grad == nil {
			m.grad = run.total
		} else {
			add(m.grad, run.total)
			m.recycle(run.total)
		}
	}
	return run.output(), nil
}

// batchRun is one call of ForwardBackward. Goroutines take the datums in
// order; a datum's gradient goes to a buffer of its own, and the buffers are
// added to total in the datums' order, so that the sum does not depend on how
// many goroutines there are.
type batchRun struct {
	m *Model
	w *weights
	b *engine.Batch

	mu      sync.Mutex
	moved   sync.Cond // on mu: summed or err has changed
	ahead   int       // how far next may be ahead of summed: bounds the gradients held
	next    int       // datum to compute
	summed  int       // datums whose gradients are in total
	results []datumResult
	total   []float32
	err     error
}

type datumResult struct {
	done     bool
	grad     []float32
	loss     float64
	logprobs []float32
	losses   []float32
}

func (r *batchRun) do(ctx context.Context) error {
	workers := min(runtime.GOMAXPROCS(0), len(r.b.Data))
	r.moved.L, r.ahead = &r.mu, 2*workers
	if !r.b.ForwardOnly {
		r.total = r.m.zeroGrad()
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	wg.Wait()
	if r.err != nil {
		for i := range r.results {
			if g := r.results[i].grad; g != nil {
				r.m.recycle(g)
			}
		}
		if r.total != nil {
			r.m.recycle(r.total)
		}
	}
	return r.err
}

func (r *batchRun) work(ctx context.Context) {
	ws := r.m.base.workspace()
	defer r.m.base.scratch.Put(ws)
	for {
		i, ok := r.take()
		if !ok {
			return
		}
		if err := r.m.eng.acquire(ctx); err != nil {
			r.fail(err)
			return
		}
		res := r.datum(i, ws)
		r.m.eng.release()
		r.finish(i, res)
	}
}

func (r *batchRun) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.moved.Broadcast()
}

// take hands out the next datum, once it is not too far ahead of one that
// takes long. The goroutine on that one never waits here.
func (r *batchRun) take() (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && r.next-r.summed >= r.ahead {
		r.moved.Wait()
	}
	if r.err != nil || r.next == len(r.b.Data) {
		return 0, false
	}
	r.next++
	return r.next - 1, true
}

// finish records a datum and adds up the gradients that are next in order.
func (r *batchRun) finish(i int, res datumResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res.done = true
	r.results[i] = res
	for r.summed < len(r.results) && r.results[r.summed].done {
		d := &r.results[r.summed]
		if d.grad != nil {
			add(r.total, d.grad)
			r.m.recycle(d.grad)
			d.grad = nil
		}
		r.summed++
	}
	r.moved.Broadcast()
}

// datum computes one datum.
func (r *batchRun) datum(i int, ws *workspace) datumResult {
	d := &r.b.Data[i]
	t := newTarget(losses[r.b.Loss], r.b.LossConfig, d)
	p := &pass{c: &r.m.base.cfg, w: r.w, ad: r.m.ad, ws: ws}
	res := datumResult{
		logprobs: make([]float32, len(t.tokens)),
		losses:   make([]float32, len(t.tokens)),
	}
	keep := !r.b.ForwardOnly && p.c.layers*p.c.keptFloats(len(d.Tokens)) <= maxKeptFloats
	p.forward(d.Tokens, keep)
	if !r.b.ForwardOnly {
		res.grad = r.m.zeroGrad()
	}
	if p.unembed(t, &res) {
		p.backward(keep, res.grad)
	}
	return res
}

// unembed computes the log probabilities and losses of a sequence after
// forward. If res has a gradient, it adds the unembedding's share and sets
// ws.dx to the gradient by the last residual stream; it returns whether the
// layers below have any gradient to receive.
func (p *pass) unembed(t *target, res *datumResult) bool {
	ws, c := p.ws, p.c
	n := len(ws.pos)
	back := res.grad != nil
	var dFinal []float32
	if back {
		dFinal = fit(&ws.dNorm, n*c.hidden)
	}
	step := p.logitRows()
	anyLive := false
	for from := 0; from < n; from += step {
		m := min(step, n-from)
		logits := p.logits(from, m)
		live := false
		for r := range m {
			lo := (from + r) * t.k
			live = p.lossRow(logits.Data[r*c.vocab:(r+1)*c.vocab], t, lo, res, back) || live
		}
		if !back {
			continue
		}
		d := rows(matrix(dFinal, n, c.hidden), from, m)
		if !live {
			clear(d.Data)
			continue
		}
		anyLive = true
		final := rows(matrix(ws.final, n, c.hidden), from, m)
		var h []float32
		if p.ad.head >= 0 {
			h = ws.finalH[from*p.ad.rank : (from+m)*p.ad.rank]
		}
		p.linearBack(0, lmHead, final, h, logits, 0, &d, res.grad)
	}
	if !anyLive || p.lowestTrained() == c.layers {
		return false
	}
	rmsNormBack(dFinal, ws.xs[c.layers], p.w.norm, ws.finalRstd, fit(&ws.dx, n*c.hidden), true)
	return true
}

// lossRow computes one position's log probabilities and losses, for the
// targets from index lo on. With back, it replaces the logits by their
// gradients and returns whether any of these is not zero.
func (p *pass) lossRow(logits []float32, t *target, lo int, res *datumResult, back bool) bool {
	picked := fit(&p.ws.targetLogits, t.k)
	for j := range picked {
		picked[j] = logits[t.tokens[lo+j]]
	}
	top, sum := expSum(logits)
	lse := float64(top) + math.Log(sum)
	var total float64 // of the derivatives by log probability
	coef := fit(&p.ws.coef, t.k)
	live := false
	for j, logit := range picked {
		lp := float64(logit) - lse
		l, g := t.at(lo+j, lp)
		res.logprobs[lo+j] = float32(lp)
		res.losses[lo+j] = float32(l)
		res.loss += l
		coef[j] = float32(g)
		total += g
		live = live || g != 0
	}
	if !back {
		return false
	}
	if !live {
		clear(logits)
		return false
	}
	// d lp_t / d logit_j is [j = t] - softmax_j, and logits holds the
	// unnormalised softmax now.
	scale := float32(-total / sum)
	for j := range logits {
		logits[j] *= scale
	}
	for j, g := range coef {
		logits[t.tokens[lo+j]] += g
	}
	return true
}

// outputType names the records of ForwardBackwardOutput.Outputs.
const outputType = "ArrayRecord"

func (r *batchRun) output() *engine.ForwardBackwardOutput {
	out := &engine.ForwardBackwardOutput{
		OutputType: outputType,
		Outputs:    make([]map[string]engine.Tensor, len(r.results)),
	}
	var loss float64
	tokens := 0
	for i := range r.results {
		res := &r.results[i]
		loss += res.loss
		tokens += len(r.b.Data[i].Tokens)
		shape := r.b.Data[i].Inputs[inTargets].Shape
		if shape == nil {
			shape = []int{len(res.logprobs)}
		}
		out.Outputs[i] = map[string]engine.Tensor{
			"logprobs":         {DType: engine.Float32, Shape: shape, F: res.logprobs},
			"elementwise_loss": {DType: engine.Float32, Shape: shape, F: res.losses},
		}
	}
	out.Metrics = map[string]float64{
		"loss:sum":       loss,
		"num_tokens:sum": float64(tokens),
	}
	return out
}

// OptimStep implements engine.Model. Its metrics are grad_norm:mean, the
// gradient's global norm before clipping, and step:max, the steps taken.
func (m *Model) OptimStep(ctx context.Context, p engine.AdamParams) (map[string]float64, error) {
	if m.ad == nil {
		return nil, errClosed
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if err := m.eng.acquire(ctx); err != nil {
		return nil, fmt.Errorf("optimizer step: %w", err)
	}
	defer m.eng.release()
	norm := m.opt.apply(p, m.ad.params, m.grad)
	if m.grad != nil {
		m.recycle(m.grad)
		m.grad = nil
	}
	return map[string]float64{
		"grad_norm:mean": norm,
		"step:max":       float64(m.opt.step),
	}, nil
}
