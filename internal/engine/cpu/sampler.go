package cpu

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/tinkex/tinkex/internal/engine"
)

const (
	// maxSamples bounds what one request can ask for.
	maxSamples = 1024

	// prefillTokens is how many prompt tokens are computed at a time; a
	// cancelled request stops at the next such step.
	prefillTokens = 128
)

// Sampler generates text from a base model and, perhaps, an adapter.
type Sampler struct {
	eng  *Engine
	base *base
	ad   *adapter // nil: the base model alone
}

var _ engine.Sampler = (*Sampler)(nil)

// Close implements engine.Sampler.
func (s *Sampler) Close() error { return nil }

// Check implements engine.Sampler.
func (s *Sampler) Check(req *engine.SampleRequest) error {
	c := &s.base.cfg
	if err := checkTokens(c, req.Prompt, "prompt"); err != nil {
		return err
	}
	n := len(req.Prompt)
	const params = "sampling_params."
	switch {
	case req.NumSamples < 1 || req.NumSamples > maxSamples:
		return engine.Invalid("num_samples", "must be between 1 and %d, got %d", maxSamples, req.NumSamples)
	case req.MaxTokens < 0:
		return engine.Invalid(params+"max_tokens", "must not be negative, got %d", req.MaxTokens)
	case req.MaxTokens == 0 && n == c.context:
		return engine.Invalid("prompt", "fills the context of %d tokens, leaving no room for a sample", c.context)
	case req.MaxTokens > c.context-n:
		return engine.Invalid(params+"max_tokens", "prompt and max_tokens together exceed the context: %d + %d > %d", n, req.MaxTokens, c.context)
	case !(req.Temperature >= 0) || math.IsInf(req.Temperature, 0):
		return engine.Invalid(params+"temperature", "must be a finite number, 0 or greater, got %v", req.Temperature)
	case !(req.TopP > 0 && req.TopP <= 1):
		return engine.Invalid(params+"top_p", "must be greater than 0 and at most 1, got %v", req.TopP)
	}
	if err := s.checkStop(req, params+"stop"); err != nil {
		return err
	}
	return checkPromptOptions(c, req)
}

func (s *Sampler) checkStop(req *engine.SampleRequest, field string) error {
	for i, t := range req.StopTokens {
		if t < 0 || int(t) >= s.base.cfg.vocab {
			return engine.Invalid(fmt.Sprintf("%s[%d]", field, i), "token %d is outside the vocabulary of %d tokens", t, s.base.cfg.vocab)
		}
	}
	for i, str := range req.StopStrings {
		if str == "" {
			return engine.Invalid(fmt.Sprintf("%s[%d]", field, i), "must not be empty")
		}
	}
	if len(req.StopStrings) > 0 {
		if _, err := s.base.tokenTable(); err != nil {
			return engine.Invalid(field, "stop strings cannot be used with %s, only stop tokens: %v", s.base.info.Name, err)
		}
	}
	return nil
}

func checkPromptOptions(c *config, req *engine.SampleRequest) error {
	n := len(req.Prompt)
	for _, k := range []struct {
		field string
		value int
	}{
		{"topk_prompt_logprobs", req.TopKPromptLogprobs},
		{"topk_sample_logprobs", req.TopKSampleLogprobs},
		{"prompt_alt_tokens_k", req.PromptAltTokensK},
	} {
		if k.value < 0 || k.value > c.vocab {
			return engine.Invalid(k.field, "must be between 0 and the vocabulary's %d tokens, got %d", c.vocab, k.value)
		}
	}
	if last := req.PromptLogprobsLastN; last != 0 {
		switch {
		case !req.PromptLogprobs:
			return engine.Invalid("prompt_logprobs_last_n", "needs prompt_logprobs")
		case last < 1 || last > n-1:
			return engine.Invalid("prompt_logprobs_last_n", "must be between 1 and %d, one less than the prompt's tokens, got %d", n-1, last)
		}
	}
	if t := req.TargetPromptTokens; t != nil {
		if len(t) != n-1 {
			return engine.Invalid("target_prompt_logprobs", "has %d rows, expected %d, one for each prompt token after the first", len(t), n-1)
		}
		for i, row := range t {
			for j, id := range row {
				if id < -1 || id >= int64(c.vocab) {
					return engine.Invalid(fmt.Sprintf("target_prompt_logprobs[%d][%d]", i, j), "token %d is outside the vocabulary of %d tokens", id, c.vocab)
				}
			}
		}
	}
	return nil
}

// Sample implements engine.Sampler.
func (s *Sampler) Sample(ctx context.Context, req *engine.SampleRequest) (*engine.SampleOutput, error) {
	if err := s.Check(req); err != nil {
		return nil, err
	}
	w, err := s.base.load()
	if err != nil {
		return nil, err
	}
	run := &sampleRun{s: s, w: w, req: req, maxTokens: req.MaxTokens, out: &engine.SampleOutput{}}
	if run.maxTokens == 0 {
		run.maxTokens = s.base.cfg.context - len(req.Prompt)
	}
	if req.Seed != nil {
		run.seed = *req.Seed
	} else {
		run.seed = rand.Uint64()
	}
	if run.stop, err = s.newStopper(req); err != nil {
		return nil, err
	}
	if err := run.prefill(ctx); err != nil {
		return nil, err
	}
	if err := run.generate(ctx); err != nil {
		return nil, err
	}
	return run.out, nil
}

// sampleRun is one call of Sample.
type sampleRun struct {
	s         *Sampler
	w         *weights
	req       *engine.SampleRequest
	maxTokens int
	seed      uint64
	stop      *stopper

	prompt kvCache   // shared by all samples, read-only after prefill
	first  []float32 // [vocab] logits after the prompt
	out    *engine.SampleOutput
}

// rng is the generator for one named use of the request's seed.
func (r *sampleRun) rng(use string) *rand.Rand { return rand.New(newRand(r.seed, use)) }

func (r *sampleRun) pass(ws *workspace) *pass {
	return &pass{c: &r.s.base.cfg, w: r.w, ad: r.s.ad, ws: ws}
}

// prefill computes the prompt's keys and values, what was asked about the
// prompt, and the logits of the first new token.
func (r *sampleRun) prefill(ctx context.Context) error {
	p := r.pass(r.s.base.workspace())
	defer r.s.base.scratch.Put(p.ws)
	n := len(r.req.Prompt)
	r.prompt.init(p.c, n)
	score := newPromptScorer(r)
	for from := 0; from < n; from += prefillTokens {
		m := min(prefillTokens, n-from)
		if err := r.s.eng.acquire(ctx); err != nil {
			return fmt.Errorf("sample: %w", err)
		}
		p.extend(&r.prompt, r.req.Prompt[from:from+m])
		for lo, step := 0, p.logitRows(); lo < m; lo += step {
			k := min(step, m-lo)
			last := from+lo+k == n
			// The rows that predict the tokens after the first one scored;
			// the very last one predicts the first sampled token.
			skip := min(k, max(0, score.first-1-(from+lo)))
			if skip == k && !last {
				continue
			}
			if skip == k {
				skip = k - 1
			}
			logits := p.logits(lo+skip, k-skip)
			for i := range k - skip {
				row := logits.Data[i*p.c.vocab : (i+1)*p.c.vocab]
				pos := from + lo + skip + i + 1 // the position this row predicts
				if pos == n {
					r.first = append(r.first[:0], row...)
				} else {
					score.position(pos, row)
				}
			}
		}
		r.s.eng.release()
	}
	return nil
}

// promptScorer answers what a request asks about its prompt.
type promptScorer struct {
	req   *engine.SampleRequest
	out   *engine.SampleOutput
	alt   *rand.Rand
	lp    logprobs
	first int // first position of interest; len(prompt) if there is none
	from  int // first position of prompt and top-k logprobs
}

func newPromptScorer(r *sampleRun) *promptScorer {
	req, out := r.req, r.out
	n := len(req.Prompt)
	s := &promptScorer{req: req, out: out, first: n, from: 1}
	if req.PromptLogprobsLastN > 0 {
		s.from = n - req.PromptLogprobsLastN
	}
	if req.PromptLogprobs {
		out.PromptLogprobs = make([]float32, n)
		for i := range out.PromptLogprobs {
			out.PromptLogprobs[i] = float32(math.NaN())
		}
		s.first = s.from
	}
	if req.TopKPromptLogprobs > 0 {
		out.TopKPromptLogprobs = make([][]engine.TokenLogprob, n)
		s.first = s.from
	}
	if req.TargetPromptTokens != nil {
		out.TargetPromptLogprobs = make([][]float32, n-1)
		s.first = 1
	}
	if req.PromptAltTokensK > 0 {
		out.PromptAltTokens = make([][]engine.TokenLogprob, n-1)
		s.alt = r.rng("prompt alternatives")
		s.first = 1
	}
	return s
}

// position records what is asked about prompt position pos, given the logits
// of the position before it.
func (s *promptScorer) position(pos int, logits []float32) {
	s.lp.set(logits)
	if pos >= s.from {
		if s.out.PromptLogprobs != nil {
			s.out.PromptLogprobs[pos] = s.lp.of(s.req.Prompt[pos])
		}
		if s.out.TopKPromptLogprobs != nil {
			s.out.TopKPromptLogprobs[pos] = s.lp.top(s.req.TopKPromptLogprobs)
		}
	}
	if s.out.TargetPromptLogprobs != nil {
		want := s.req.TargetPromptTokens[pos-1]
		got := make([]float32, len(want))
		for j, id := range want {
			if id >= 0 {
				got[j] = s.lp.of(int32(id))
			}
		}
		s.out.TargetPromptLogprobs[pos-1] = got
	}
	if s.out.PromptAltTokens != nil {
		draws := make([]engine.TokenLogprob, s.req.PromptAltTokensK)
		for j := range draws {
			// Only the temperature shapes these draws, not top_k and top_p.
			t := s.lp.draw(s.req.Temperature, 0, 1, s.alt)
			draws[j] = engine.TokenLogprob{Token: t, Logprob: s.lp.of(t)}
		}
		s.out.PromptAltTokens[pos-1] = draws
	}
}

// sample is one continuation being generated.
type sample struct {
	kv   kvCache // of the new tokens; the prompt's are shared
	rng  *rand.Rand
	stop stopState
	seq  engine.Sequence
	done bool
}

// generate spreads the samples over goroutines, each of which advances its own
// by one token at a time, together: a weight is then read once for all of them.
func (r *sampleRun) generate(ctx context.Context) error {
	n := r.req.NumSamples
	samples := make([]sample, n)
	for i := range samples {
		samples[i].rng = r.rng(fmt.Sprintf("sample %d", i))
		samples[i].kv.init(&r.s.base.cfg, 0)
	}
	groups := min(runtime.GOMAXPROCS(0), n)
	errs := make([]error, groups)
	var wg sync.WaitGroup
	for g := range groups {
		wg.Go(func() { errs[g] = r.generateGroup(ctx, samples[g*n/groups:(g+1)*n/groups]) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("sample: %w", err)
		}
	}
	r.out.Sequences = make([]engine.Sequence, n)
	for i := range samples {
		r.out.Sequences[i] = samples[i].seq
	}
	return nil
}

func (r *sampleRun) generateGroup(ctx context.Context, group []sample) error {
	p := r.pass(r.s.base.workspace())
	defer r.s.base.scratch.Put(p.ws)
	var lp logprobs
	active := make([]*sample, len(group))
	for i := range group {
		active[i] = &group[i]
	}
	if err := r.s.eng.acquire(ctx); err != nil {
		return err
	}
	for _, s := range active {
		r.next(s, r.first, &lp)
	}
	r.s.eng.release()
	tokens := make([]int32, 0, len(group))
	for {
		still := active[:0]
		tokens = tokens[:0]
		for _, s := range active {
			if !s.done {
				still = append(still, s)
				tokens = append(tokens, s.seq.Tokens[len(s.seq.Tokens)-1])
			}
		}
		active = still
		if len(active) == 0 {
			return nil
		}
		if err := r.s.eng.acquire(ctx); err != nil {
			return err
		}
		p.step(&r.prompt, active, tokens)
		for from, rows := 0, p.logitRows(); from < len(active); from += rows {
			m := min(rows, len(active)-from)
			logits := p.logits(from, m)
			for i := range m {
				r.next(active[from+i], logits.Data[i*p.c.vocab:(i+1)*p.c.vocab], &lp)
			}
		}
		r.s.eng.release()
	}
}

// next draws a sample's next token from its logits.
func (r *sampleRun) next(s *sample, logits []float32, lp *logprobs) {
	lp.set(logits)
	token := lp.draw(r.req.Temperature, r.req.TopK, r.req.TopP, s.rng)
	s.seq.Tokens = append(s.seq.Tokens, token)
	s.seq.Logprobs = append(s.seq.Logprobs, lp.of(token))
	if k := r.req.TopKSampleLogprobs; k > 0 {
		s.seq.TopKLogprobs = append(s.seq.TopKLogprobs, lp.top(k))
	}
	switch {
	case r.stop.stops(&s.stop, token):
		s.seq.Stopped, s.done = true, true
	case len(s.seq.Tokens) >= r.maxTokens:
		s.done = true
	}
}
