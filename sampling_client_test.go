package tinkex

import (
	"context"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// sampled is a result of n sequences; the i-th is token i.
func sampled(n int) http.HandlerFunc {
	msg := &pb.SampleResponse{PromptLogprobs: wire.PackFloat32([]float32{float32(math.NaN()), -1})}
	for i := range n {
		msg.Sequences = append(msg.Sequences, &pb.SampledSequence{
			StopReason: pb.StopReason_STOP_REASON_LENGTH, Tokens: wire.PackInt32([]int32{int32(i)}), Logprobs: wire.PackFloat32([]float32{-0.5}),
		})
	}
	return protobufResult(msg)
}

// sampling is a client of a server whose samples are ready at once.
func sampling(t *testing.T, change ...func(*Options)) (*fakeTinker, *SamplingClient) {
	t.Helper()
	f := newFakeTinker(t)
	f.handle("POST /asample", func(w http.ResponseWriter, r *http.Request) {
		promise := f.promise(sampled(2))
		promise.SampleSequenceIDs = []string{"a", "b"}
		writeJSON(w, 200, promise)
	})
	c, err := f.service(change...).CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func TestSample(t *testing.T) {
	f, c := sampling(t)
	out := await(t, c.Sample(t.Context(), Tokens(1, 2), SampleOptions{NumSamples: 2}))
	if len(out.Sequences) != 2 || out.Sequences[1].ID != "b" || out.Sequences[1].Tokens[0] != 1 || out.Sequences[0].StopReason != StopReasonLength {
		t.Errorf("%+v", out)
	}
	polls := f.seen("POST /retrieve_future")
	if h := polls[len(polls)-1].header; h.Get("Accept") != wire.ContentTypeProtobuf || h.Get("X-Tinker-Request-Type") != "Sample" {
		t.Errorf("headers: %v", h)
	}
	if h := f.seen("POST /asample")[0].header; h.Get("X-Tinker-Sampling-Backpressure") != "1" {
		t.Errorf("headers: %v", h)
	}
	if !strings.Contains(c.String(), c.ID()) {
		t.Error(c)
	}
}

func TestSampleRequestOnTheWire(t *testing.T) {
	for _, test := range []struct {
		name    string
		prompt  ModelInput
		options SampleOptions
		want    string
	}{
		{"nothing asked for", Tokens(1, 2), SampleOptions{},
			`{"sampling_session_id":"s1:sample:0","seq_id":0,"num_samples":1,"prompt":{"chunks":[{"type":"encoded_text","tokens":[1,2]}]},"sampling_params":{},"type":"sample"}`},
		{"everything", ModelInput{Chunks: []Chunk{TokenChunk{7}, ImageChunk{Data: []byte("x"), Format: "png", ExpectedTokens: 3}}},
			SampleOptions{NumSamples: 3, PromptLogprobs: true, TopKPromptLogprobs: 4, TopKSampleLogprobs: 5,
				Params: SamplingParams{MaxTokens: 6, Seed: new(int64(0)), Temperature: new(0.0), TopK: 8, TopP: 0.5, StopTokens: []int32{9}}},
			`{"sampling_session_id":"s1:sample:0","seq_id":0,"num_samples":3,"prompt":{"chunks":[{"type":"encoded_text","tokens":[7]},{"type":"image","data":"eA==","format":"png","expected_tokens":3}]},
			"sampling_params":{"max_tokens":6,"seed":0,"temperature":0,"top_k":8,"top_p":0.5,"stop":[9]},"prompt_logprobs":true,"topk_prompt_logprobs":4,"topk_sample_logprobs":5,"type":"sample"}`},
		{"stop strings", Tokens(1), SampleOptions{Params: SamplingParams{StopStrings: []string{"\n", "END"}}},
			`{"sampling_session_id":"s1:sample:0","seq_id":0,"num_samples":1,"prompt":{"chunks":[{"type":"encoded_text","tokens":[1]}]},"sampling_params":{"stop":["\n","END"]},"type":"sample"}`},
		{"no stop", Tokens(1), SampleOptions{Params: SamplingParams{NoStop: true}},
			`{"sampling_session_id":"s1:sample:0","seq_id":0,"num_samples":1,"prompt":{"chunks":[{"type":"encoded_text","tokens":[1]}]},"sampling_params":{"stop":[]},"type":"sample"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, c := sampling(t)
			await(t, c.Sample(t.Context(), test.prompt, test.options))
			if got := string(f.seen("POST /asample")[0].body); !sameJSON(t, got, test.want) {
				t.Errorf("sent %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestSampleArgumentsAreChecked(t *testing.T) {
	f, c := sampling(t)
	f.forget()
	for says, o := range map[string]SampleOptions{
		"NumSamples is -1":        {NumSamples: -1},
		"number of top-k":         {TopKSampleLogprobs: -1},
		"MaxTokens is -1":         {Params: SamplingParams{MaxTokens: -1}},
		"TopK is -1":              {Params: SamplingParams{TopK: -1}},
		"TopP is 1.5":             {Params: SamplingParams{TopP: 1.5}},
		"TopP is NaN":             {Params: SamplingParams{TopP: math.NaN()}},
		"the temperature is -1":   {Params: SamplingParams{Temperature: new(-1.0)}},
		"the temperature is NaN":  {Params: SamplingParams{Temperature: new(math.NaN())}},
		"the temperature is +Inf": {Params: SamplingParams{Temperature: new(math.Inf(1))}},
		"one kind at a time":      {Params: SamplingParams{StopTokens: []int32{1}, StopStrings: []string{"x"}}},
		"NoStop contradicts":      {Params: SamplingParams{StopTokens: []int32{1}, NoStop: true}},
	} {
		wantError(t, failure(c.Sample(t.Context(), Tokens(1), o)), ErrInvalid, says, "sample from s1:sample:0")
	}
	wantError(t, failure(c.Sample(t.Context(), ModelInput{}, SampleOptions{})), ErrInvalid, "the model input is empty")
	if len(f.paths()) != 0 {
		t.Errorf("requests: %v", f.paths())
	}
}

func TestComputeLogprobs(t *testing.T) {
	f, c := sampling(t)
	got := await(t, c.ComputeLogprobs(t.Context(), Tokens(1, 2)))
	if len(got) != 2 || !math.IsNaN(float64(got[0])) || got[1] != -1 {
		t.Errorf("logprobs %v", got)
	}
	var q wire.SampleRequest
	f.seen("POST /asample")[0].decode(t, &q)
	if !*q.PromptLogprobs || *q.SamplingParams.MaxTokens != 1 || *q.NumSamples != 1 {
		t.Errorf("request: %+v", q)
	}
	f.handle("POST /retrieve_future", protobufResult(&pb.SampleResponse{}))
	wantError(t, failure(c.ComputeLogprobs(t.Context(), Tokens(1, 2))), nil, "no log probabilities")
	wantError(t, failure(c.ComputeLogprobs(t.Context(), ModelInput{})), ErrInvalid, "is empty")
}

func TestSamplesHaveNumbersOfTheirOwn(t *testing.T) {
	f, c := sampling(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Sample(t.Context(), Tokens(1), SampleOptions{}).Await(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, r := range f.seen("POST /asample") {
		var q wire.SampleRequest
		r.decode(t, &q)
		seen[*q.SeqID] = true
	}
	for i := range int64(20) {
		if !seen[i] {
			t.Errorf("no sample has number %d", i)
		}
	}
}

func TestBusyServerHoldsBackAllSamplers(t *testing.T) {
	f, c := sampling(t)
	busy := answerDetail(429, "too many")
	f.sequence("POST /asample", busy, busy, f.routes["POST /asample"])
	await(t, c.Sample(t.Context(), Tokens(1), SampleOptions{}))
	seen := f.seen("POST /asample")
	if string(seen[0].body) != string(seen[2].body) || len(seen) != 3 {
		t.Errorf("%d requests; the last one is %s", len(seen), seen[2].body)
	}
	if got := f.clock.slept(); len(got) != 2 || got[0] != samplePause || got[1] != samplePause {
		t.Errorf("waits: %v", got)
	}

	large := make([]int32, largeSampleBytes/10+1)
	f.sequence("POST /asample", busy, answerRaw(429, "application/json", `{}`, "Retry-After", "20"), func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 200, f.promise(sampled(1)))
	})
	before := len(f.clock.slept())
	await(t, c.Sample(t.Context(), ModelInput{Chunks: []Chunk{TokenChunk(large)}}, SampleOptions{}))
	if got := f.clock.slept()[before:]; len(got) != 2 || got[0] != largeSamplePause || got[1] != 20*time.Second {
		t.Errorf("waits: %v", got)
	}

	// Another sampler of the service waits as well.
	f.handle("POST /asample", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, f.promise(sampled(1))) })
	c.s.samplingPause.Store(f.clock.clock().now().Add(3 * time.Second).UnixNano())
	before = len(f.clock.slept())
	await(t, c.s.samplingClient("other").Sample(t.Context(), Tokens(1), SampleOptions{}))
	if got := f.clock.slept()[before:]; len(got) != 1 || got[0] != 3*time.Second {
		t.Errorf("waits: %v", got)
	}

	// In the end it is an error.
	f.handle("POST /asample", busy)
	wantError(t, failure(c.Sample(t.Context(), Tokens(1), SampleOptions{})), ErrRateLimited, "too many")
}

func TestBusyServerAndImpatientCaller(t *testing.T) {
	f, c := sampling(t)
	f.handle("POST /asample", answerDetail(429, "too many"))
	ctx, cancel := context.WithCancel(t.Context())
	f.clock.onSleep = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}
	wantError(t, failure(c.Sample(ctx, Tokens(1), SampleOptions{})), context.Canceled)
}

func TestForgottenResultIsAskedForAgain(t *testing.T) {
	f, c := sampling(t)
	gone := answerDetail(410, "promise is broken")
	var n int
	var mu sync.Mutex
	f.handle("POST /asample", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
		result := gone
		if n == 3 {
			result = sampled(1)
		}
		writeJSON(w, 200, f.promise(result))
	})
	await(t, c.Sample(t.Context(), Tokens(1), SampleOptions{}))
	for i, r := range f.seen("POST /asample") {
		var q wire.SampleRequest
		r.decode(t, &q)
		if *q.SeqID != int64(i) {
			t.Errorf("request %d has number %d", i, *q.SeqID)
		}
	}
	f.handle("POST /asample", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, f.promise(gone)) })
	f.forget()
	wantError(t, failure(c.Sample(t.Context(), Tokens(1), SampleOptions{})), ErrGone, "promise is broken")
	if n := len(f.seen("POST /asample")); n != maxResubmits+1 {
		t.Errorf("%d requests", n)
	}
	// A session that is gone is another matter.
	f.handle("POST /asample", gone)
	f.forget()
	wantError(t, failure(c.Sample(t.Context(), Tokens(1), SampleOptions{})), ErrGone)
	if n := len(f.seen("POST /asample")); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestSequenceIDsThatDoNotFitAreLeftOut(t *testing.T) {
	f, c := sampling(t)
	f.handle("POST /asample", func(w http.ResponseWriter, _ *http.Request) {
		promise := f.promise(sampled(1))
		promise.SampleSequenceIDs = []string{"a", "b"}
		writeJSON(w, 200, promise)
	})
	out := await(t, c.Sample(t.Context(), Tokens(1), SampleOptions{}))
	if out.Sequences[0].ID != "" {
		t.Errorf("%+v", out.Sequences)
	}
}

func TestSamplingCanBeGivenUp(t *testing.T) {
	f, c := sampling(t)
	polled := make(chan struct{}, 1)
	f.handle("POST /retrieve_future", func(_ http.ResponseWriter, r *http.Request) {
		polled <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	future := c.Sample(ctx, Tokens(1), SampleOptions{})
	<-polled
	cancel()
	wantError(t, failure(future), context.Canceled)
}

func TestSamplesAtTheSameTimeAreBounded(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"sample_max_concurrent_requests": 3})
	var mu sync.Mutex
	inside, most := 0, 0
	f.handle("POST /asample", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		inside++
		most = max(most, inside)
		mu.Unlock()
		writeJSON(w, 200, f.promise(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			inside--
			mu.Unlock()
			sampled(1)(w, r)
		}))
	})
	c, err := f.service().CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
	if err != nil {
		t.Fatal(err)
	}
	var futures []*Future[*SampleOutput]
	for range 30 {
		futures = append(futures, c.Sample(t.Context(), Tokens(1), SampleOptions{}))
	}
	for _, future := range futures {
		await(t, future)
	}
	if most > 3 {
		t.Errorf("%d at the same time", most)
	}
}

func TestByteLimit(t *testing.T) {
	l := &byteLimit{size: 10}
	acquire := func(n int64) func() {
		t.Helper()
		release, err := l.acquire(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	acquire(-5)()
	a, b := acquire(4), acquire(6)
	type granted struct {
		n       int64
		release func()
	}
	order := make(chan granted)
	wait := func(n int64) {
		before := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.waiting) }()
		go func() {
			release, err := l.acquire(context.Background(), n)
			if err != nil {
				panic(err)
			}
			order <- granted{n, release}
		}()
		waitFor(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.waiting) > before })
	}
	wait(100) // counts as all of it
	wait(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.acquire(ctx, 1); err == nil {
		t.Error("an ended context is let in")
	}
	a()
	a() // once is enough
	select {
	case g := <-order:
		t.Fatalf("%d came in too early", g.n)
	default:
	}
	b()
	g := <-order
	if g.n != 100 {
		t.Errorf("%d came first", g.n)
	}
	g.release()
	g = <-order
	g.release()
	if l.used != 0 || len(l.waiting) != 0 {
		t.Errorf("%d used, %d waiting", l.used, len(l.waiting))
	}
}
