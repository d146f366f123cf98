package enginetest

import (
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
)

func (s *suite) sample(smp engine.Sampler, req *engine.SampleRequest) *engine.SampleOutput {
	s.t.Helper()
	if err := smp.Check(req); err != nil {
		s.t.Fatalf("Sampler.Check: %v", err)
	}
	out, err := smp.Sample(s.t.Context(), req)
	if err != nil {
		s.t.Fatalf("Sample: %v", err)
	}
	if len(out.Sequences) != req.NumSamples {
		s.t.Fatalf("%d sequences for %d samples", len(out.Sequences), req.NumSamples)
	}
	for i, seq := range out.Sequences {
		if len(seq.Tokens) == 0 || len(seq.Tokens) != len(seq.Logprobs) {
			s.t.Fatalf("sequence %d has %d tokens and %d logprobs", i, len(seq.Tokens), len(seq.Logprobs))
		}
		for _, tok := range seq.Tokens {
			if tok < 0 || int(tok) >= s.base.VocabSize {
				s.t.Fatalf("sequence %d has token %d", i, tok)
			}
		}
	}
	return out
}

// request is a seeded request for n samples of up to k tokens.
func (s *suite) request(n, k int) *engine.SampleRequest {
	seed := uint64(42)
	return &engine.SampleRequest{Prompt: s.tokens(2, 9), NumSamples: n, MaxTokens: k, Seed: &seed, Temperature: 1, TopP: 1, NoStop: true}
}

func (r request) with(edit func(*engine.SampleRequest)) *engine.SampleRequest {
	c := *r.SampleRequest
	edit(&c)
	return &c
}

type request struct{ *engine.SampleRequest }

func testSamplerSeeds(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	req := s.request(4, 12)
	want := s.sample(smp, req)
	if !same(s.sample(smp, req), want) {
		t.Error("a seeded request gives different samples each time")
	}
	if !same(s.sample(s.sampler(nil), req), want) {
		t.Error("another sampler of the same weights gives different samples")
	}
	other := uint64(43)
	got := s.sample(smp, request{req}.with(func(r *engine.SampleRequest) { r.Seed = &other }))
	if slices.Equal(got.Sequences[0].Tokens, want.Sequences[0].Tokens) {
		t.Error("another seed gives the same sample")
	}
	for i := 1; i < 4; i++ {
		if slices.Equal(want.Sequences[0].Tokens, want.Sequences[i].Tokens) {
			t.Errorf("samples 0 and %d of one request are the same", i)
		}
	}
	unseeded := request{req}.with(func(r *engine.SampleRequest) { r.Seed = nil })
	if same(s.sample(smp, unseeded), s.sample(smp, unseeded)) {
		t.Error("two unseeded requests give the same samples")
	}
}

func testSamplerGreedy(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	out := s.sample(smp, request{s.request(2, 6)}.with(func(r *engine.SampleRequest) {
		r.Temperature, r.Seed, r.TopKSampleLogprobs = 0, nil, 1
	}))
	if !slices.Equal(out.Sequences[0].Tokens, out.Sequences[1].Tokens) {
		t.Error("greedy samples differ")
	}
	for i, top := range out.Sequences[0].TopKLogprobs {
		if len(top) != 1 || top[0].Token != out.Sequences[0].Tokens[i] {
			t.Errorf("token %d is %d, the likeliest is %v", i, out.Sequences[0].Tokens[i], top)
		}
	}
}

func testSamplerTruncation(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	const k = 5
	out := s.sample(smp, request{s.request(8, 8)}.with(func(r *engine.SampleRequest) { r.TopK, r.TopKSampleLogprobs = k, k }))
	greedy := true
	for _, seq := range out.Sequences {
		for i, tok := range seq.Tokens {
			if !slices.ContainsFunc(seq.TopKLogprobs[i], func(c engine.TokenLogprob) bool { return c.Token == tok }) {
				t.Errorf("top_k %d drew %d, not one of %v", k, tok, seq.TopKLogprobs[i])
			}
			greedy = greedy && tok == seq.TopKLogprobs[i][0].Token
		}
	}
	if greedy {
		t.Errorf("top_k %d drew nothing but the likeliest token", k)
	}
	for name, edit := range map[string]func(*engine.SampleRequest){
		"top_k 1":              func(r *engine.SampleRequest) { r.TopK = 1 },
		"top_p 1e-9":           func(r *engine.SampleRequest) { r.TopP = 1e-9 },
		"temperature 1e-6":     func(r *engine.SampleRequest) { r.Temperature = 1e-6 },
		"temperature 5e-324":   func(r *engine.SampleRequest) { r.Temperature = 5e-324 },
		"top_k beyond, greedy": func(r *engine.SampleRequest) { r.TopK, r.Temperature = s.base.VocabSize+7, 0 },
	} {
		got := s.sample(smp, request{s.request(2, 4)}.with(edit))
		want := s.sample(smp, request{s.request(2, 4)}.with(func(r *engine.SampleRequest) { r.Temperature = 0 }))
		if !slices.Equal(got.Sequences[0].Tokens, want.Sequences[0].Tokens) || !slices.Equal(got.Sequences[1].Tokens, want.Sequences[1].Tokens) {
			t.Errorf("%s is not greedy", name)
		}
	}
	// top_p keeps the fewest tokens that hold the probability.
	const p = 0.3
	v := s.base.VocabSize
	out = s.sample(smp, request{s.request(8, 4)}.with(func(r *engine.SampleRequest) { r.TopP, r.TopKSampleLogprobs = p, v }))
	for _, seq := range out.Sequences {
		for i, tok := range seq.Tokens {
			above := 0.0
			for _, c := range seq.TopKLogprobs[i] {
				if c.Token == tok {
					break
				}
				above += math.Exp(float64(c.Logprob))
			}
			if above > p+1e-3 {
				t.Errorf("top_p %v drew token %d below %v of the probability", p, tok, above)
			}
		}
	}
}

func testSamplerLengths(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	for _, n := range []int{1, 7} {
		for _, seq := range s.sample(smp, s.request(3, n)).Sequences {
			if len(seq.Tokens) != n || seq.Stopped {
				t.Errorf("max_tokens %d gave %d tokens, stopped %v", n, len(seq.Tokens), seq.Stopped)
			}
		}
	}
	// Up to the context's end, and exactly there.
	full := s.tokens(4, s.base.MaxContextLength-3)
	for _, n := range []int{0, 3} {
		out := s.sample(smp, request{s.request(1, n)}.with(func(r *engine.SampleRequest) { r.Prompt = full }))
		if got := len(out.Sequences[0].Tokens); got != 3 {
			t.Errorf("max_tokens %d, three short of the context's end, gave %d tokens", n, got)
		}
	}
}

func testSamplerStops(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	free := s.sample(smp, s.request(3, 16))
	// Each sample must end at its first occurrence of the stop token, or go on.
	stop := free.Sequences[0].Tokens[5]
	out := s.sample(smp, request{s.request(3, 16)}.with(func(r *engine.SampleRequest) {
		r.NoStop, r.StopTokens = false, []int32{stop}
	}))
	for i, seq := range out.Sequences {
		want, stopped := free.Sequences[i].Tokens, false
		if at := slices.Index(want, stop); at >= 0 {
			want, stopped = want[:at+1], true
		}
		if !slices.Equal(seq.Tokens, want) || seq.Stopped != stopped {
			t.Errorf("sample %d is %v, stopped %v; want %v, %v", i, seq.Tokens, seq.Stopped, want, stopped)
		}
	}
}

// rescore returns the logprobs of seq's tokens as part of a prompt.
func (s *suite) rescore(smp engine.Sampler, prompt []int32, seq engine.Sequence) []float32 {
	s.t.Helper()
	out := s.sample(smp, &engine.SampleRequest{
		Prompt: slices.Concat(prompt, seq.Tokens), NumSamples: 1, MaxTokens: 1, TopP: 1, PromptLogprobs: true,
	})
	return out.PromptLogprobs[len(prompt):]
}

func testSamplerLogprobs(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	// Temperature and truncation do not show in the logprobs.
	req := request{s.request(2, 10)}.with(func(r *engine.SampleRequest) {
		r.Temperature, r.TopK, r.TopP, r.TopKSampleLogprobs = 0.7, 50, 0.9, 3
	})
	out := s.sample(smp, req)
	for i, seq := range out.Sequences {
		for j, want := range s.rescore(smp, req.Prompt, seq) {
			if !near(float64(seq.Logprobs[j]), float64(want), logprobTolerance) {
				t.Errorf("sample %d, token %d: logprob %v when sampled, %v when scored", i, j, seq.Logprobs[j], want)
			}
			top := seq.TopKLogprobs[j]
			if len(top) != 3 || !slices.IsSortedFunc(top, func(a, b engine.TokenLogprob) int {
				if a.Logprob > b.Logprob {
					return -1
				}
				if a.Logprob < b.Logprob {
					return 1
				}
				return 0
			}) {
				t.Errorf("sample %d, token %d: top logprobs %v", i, j, top)
			}
			for _, c := range top {
				if c.Token == seq.Tokens[j] && c.Logprob != seq.Logprobs[j] {
					t.Errorf("sample %d, token %d has logprobs %v and %v", i, j, c.Logprob, seq.Logprobs[j])
				}
			}
		}
	}
	// All tokens' probabilities add up to one.
	out = s.sample(smp, request{s.request(1, 1)}.with(func(r *engine.SampleRequest) { r.TopKSampleLogprobs = s.base.VocabSize }))
	sum := 0.0
	for _, c := range out.Sequences[0].TopKLogprobs[0] {
		sum += math.Exp(float64(c.Logprob))
	}
	if !near(sum, 1, 1e-4) {
		t.Errorf("the probabilities add up to %v", sum)
	}
}

func testSamplerPromptLogprobs(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	const n, k = 12, 3
	base := request{s.request(1, 1)}.with(func(r *engine.SampleRequest) { r.Prompt = s.tokens(6, n) })
	out := s.sample(smp, request{base}.with(func(r *engine.SampleRequest) {
		r.PromptLogprobs, r.TopKPromptLogprobs, r.PromptAltTokensK = true, k, k
		r.TargetPromptTokens = make([][]int64, n-1)
		for i := range r.TargetPromptTokens {
			r.TargetPromptTokens[i] = []int64{int64(r.Prompt[i+1]), -1, int64(i)}
		}
	}))
	if len(out.PromptLogprobs) != n || len(out.TopKPromptLogprobs) != n || len(out.TargetPromptLogprobs) != n-1 || len(out.PromptAltTokens) != n-1 {
		t.Fatalf("%d prompt tokens have %d logprobs, %d top, %d targets and %d alternatives", n,
			len(out.PromptLogprobs), len(out.TopKPromptLogprobs), len(out.TargetPromptLogprobs), len(out.PromptAltTokens))
	}
	if lp := out.PromptLogprobs[0]; lp == lp || out.TopKPromptLogprobs[0] != nil {
		t.Errorf("the first position has logprob %v and top %v", lp, out.TopKPromptLogprobs[0])
	}
	for i := 1; i < n; i++ {
		lp := out.PromptLogprobs[i]
		top, target, alt := out.TopKPromptLogprobs[i], out.TargetPromptLogprobs[i-1], out.PromptAltTokens[i-1]
		if !(lp <= 0) || len(top) != k || top[0].Logprob < lp {
			t.Errorf("position %d has logprob %v and top %v", i, lp, top)
		}
		if len(target) != 3 || target[0] != lp || target[1] != 0 || !(target[2] < 0) {
			t.Errorf("position %d has logprob %v and target logprobs %v", i, lp, target)
		}
		for _, a := range alt {
			if a.Token < 0 || int(a.Token) >= s.base.VocabSize || a.Logprob > top[0].Logprob {
				t.Errorf("position %d has alternatives %v and top %v", i, alt, top)
			}
		}
		if len(alt) != k {
			t.Errorf("position %d has alternatives %v", i, alt)
		}
	}
	// Only the last few, and nothing that was not asked.
	last := s.sample(smp, request{base}.with(func(r *engine.SampleRequest) { r.PromptLogprobs, r.PromptLogprobsLastN = true, 4 }))
	for i, lp := range last.PromptLogprobs {
		want := out.PromptLogprobs[i]
		if i < n-4 {
			if lp == lp {
				t.Errorf("position %d of %d has a logprob, the last 4 were asked", i, n)
			}
		} else if !near(float64(lp), float64(want), logprobTolerance) {
			t.Errorf("position %d has logprob %v alone and %v among others", i, lp, want)
		}
	}
	if last.TopKPromptLogprobs != nil || last.TargetPromptLogprobs != nil || last.PromptAltTokens != nil {
		t.Error("the answer has what was not asked")
	}
	if plain := s.sample(smp, base); plain.PromptLogprobs != nil {
		t.Error("the answer has prompt logprobs that were not asked")
	}
	greedy := s.sample(smp, request{base}.with(func(r *engine.SampleRequest) {
		r.Temperature, r.TopKPromptLogprobs, r.PromptAltTokensK = 0, 1, 1
	}))
	for i, alt := range greedy.PromptAltTokens {
		if alt[0] != greedy.TopKPromptLogprobs[i+1][0] {
			t.Errorf("position %d: greedy alternative %v, likeliest %v", i+1, alt, greedy.TopKPromptLogprobs[i+1])
		}
	}
	one := s.sample(smp, request{base}.with(func(r *engine.SampleRequest) {
		r.Prompt, r.PromptLogprobs, r.PromptAltTokensK, r.TargetPromptTokens = r.Prompt[:1], true, 2, [][]int64{}
	}))
	if len(one.PromptLogprobs) != 1 || len(one.PromptAltTokens) != 0 {
		t.Errorf("a prompt of one token has logprobs %v and alternatives %v", one.PromptLogprobs, one.PromptAltTokens)
	}
}

func testSamplerAdapter(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 3)
	saved := s.save(m, false)
	smp := s.sampler(saved)
	d := s.datum(8, 15)
	b := &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{d}, ForwardOnly: true}
	trained := s.forwardBackward(m, b).Outputs[0]["logprobs"].F
	score := func(smp engine.Sampler) []float32 {
		req := &engine.SampleRequest{NumSamples: 1, MaxTokens: 1, TopP: 1, PromptLogprobs: true}
		req.Prompt = append(slices.Clone(d.Tokens), int32(d.Inputs["target_tokens"].I[14]))
		return s.sample(smp, req).PromptLogprobs[1:]
	}
	got := score(smp)
	for i, want := range trained {
		if !near(float64(got[i]), float64(want), logprobTolerance) {
			t.Errorf("position %d: the sampler gives %v, the model it was saved from %v", i, got[i], want)
		}
	}
	if base := score(s.sampler(nil)); slices.EqualFunc(got, base, func(a, b float32) bool { return near(float64(a), float64(b), logprobTolerance) }) {
		t.Error("the adapter makes no difference to the sampler")
	}
	// A sampler's weights are fixed, whatever becomes of the model.
	s.train(m, 3, 2)
	if !slices.Equal(score(smp), got) {
		t.Error("training on changed a sampler")
	}
	out := s.sample(smp, s.request(2, 8))
	for i, seq := range out.Sequences {
		for j, want := range s.rescore(smp, s.request(2, 8).Prompt, seq) {
			if !near(float64(seq.Logprobs[j]), float64(want), logprobTolerance) {
				t.Errorf("sample %d, token %d: logprob %v when sampled, %v when scored", i, j, seq.Logprobs[j], want)
			}
		}
	}
}

func testSamplerConcurrency(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	req := s.request(3, 6)
	want := s.sample(smp, req)
	var wg sync.WaitGroup
	got := make([]*engine.SampleOutput, 8)
	errs := make([]error, len(got))
	for i := range got {
		wg.Go(func() { got[i], errs[i] = smp.Sample(t.Context(), req) })
	}
	wg.Wait()
	for i := range got {
		if errs[i] != nil || !same(got[i], want) {
			t.Errorf("request %d of many at once differs (error %v)", i, errs[i])
		}
	}
}

func testSamplerBadRequests(t *testing.T, s *suite) {
	smp := s.sampler(nil)
	for name, edit := range map[string]func(*engine.SampleRequest){
		"empty prompt":            func(r *engine.SampleRequest) { r.Prompt = nil },
		"token too large":         func(r *engine.SampleRequest) { r.Prompt = []int32{1, int32(s.base.VocabSize)} },
		"negative token":          func(r *engine.SampleRequest) { r.Prompt = []int32{-1} },
		"prompt too long":         func(r *engine.SampleRequest) { r.Prompt = s.tokens(1, s.base.MaxContextLength+1) },
		"no room":                 func(r *engine.SampleRequest) { r.Prompt, r.MaxTokens = s.tokens(1, s.base.MaxContextLength), 0 },
		"too many tokens":         func(r *engine.SampleRequest) { r.MaxTokens = s.base.MaxContextLength },
		"negative max_tokens":     func(r *engine.SampleRequest) { r.MaxTokens = -1 },
		"no samples":              func(r *engine.SampleRequest) { r.NumSamples = 0 },
		"too many samples":        func(r *engine.SampleRequest) { r.NumSamples = 1 << 30 },
		"negative temperature":    func(r *engine.SampleRequest) { r.Temperature = -1 },
		"NaN temperature":         func(r *engine.SampleRequest) { r.Temperature = math.NaN() },
		"infinite temperature":    func(r *engine.SampleRequest) { r.Temperature = math.Inf(1) },
		"top_p 0":                 func(r *engine.SampleRequest) { r.TopP = 0 },
		"top_p 1.5":               func(r *engine.SampleRequest) { r.TopP = 1.5 },
		"top_p NaN":               func(r *engine.SampleRequest) { r.TopP = math.NaN() },
		"stop token too large":    func(r *engine.SampleRequest) { r.StopTokens = []int32{int32(s.base.VocabSize)} },
		"empty stop string":       func(r *engine.SampleRequest) { r.StopStrings = []string{""} },
		"negative top-k":          func(r *engine.SampleRequest) { r.TopKSampleLogprobs = -1 },
		"negative prompt top-k":   func(r *engine.SampleRequest) { r.TopKPromptLogprobs = -1 },
		"negative alternatives":   func(r *engine.SampleRequest) { r.PromptAltTokensK = -1 },
		"last n without logprobs": func(r *engine.SampleRequest) { r.PromptLogprobsLastN = 2 },
		"last n too large":        func(r *engine.SampleRequest) { r.PromptLogprobs, r.PromptLogprobsLastN = true, len(r.Prompt) },
		"too few target rows":     func(r *engine.SampleRequest) { r.TargetPromptTokens = [][]int64{{1}} },
		"target too large": func(r *engine.SampleRequest) {
			r.TargetPromptTokens = make([][]int64, len(r.Prompt)-1)
			r.TargetPromptTokens[2] = []int64{int64(s.base.VocabSize)}
		},
	} {
		req := request{s.request(1, 4)}.with(edit)
		check := smp.Check(req)
		_, err := smp.Sample(t.Context(), req)
		if !isInput(check) || !isInput(err) || check.Error() != err.Error() {
			t.Errorf("%s: Check says %v, Sample says %v", name, check, err)
		}
	}
}
