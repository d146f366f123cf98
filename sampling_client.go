package tinkex

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// SamplingClient samples from fixed weights: a base model, a checkpoint, or a
// snapshot of a model in training. It is safe for concurrent use; requests run
// at the same time, in no particular order.
type SamplingClient struct {
	s    *ServiceClient
	t    *transport
	id   string
	next atomic.Int64 // the next request's number

	limit    sync.Once
	inFlight byteLimit // counts requests
}

// Rules for a server that is busy or has forgotten (tinker 0.38.0,
// SamplingClient._sample_async_impl).
const (
	samplePause      = time.Second     // after a 429
	largeSamplePause = 5 * time.Second // of a large prompt
	largeSampleBytes = 128 << 10
	// A busy server is asked again for as long as this.
	maxSamplePause = time.Hour
	// maxResubmits bounds how often a request is made again because the server
	// has dropped its result.
	maxResubmits = 10
	// While a server was busy lately, prompts count this much more, so that
	// fewer are sent at the same time.
	busyWeight = 20
	busyMemory = 10 * time.Second
)

// String names the sampling session.
func (c *SamplingClient) String() string { return "tinkex.SamplingClient(" + c.id + ")" }

// ID is the sampling session's id, "<session-id>:sample:<n>".
func (c *SamplingClient) ID() string { return c.id }

// Sample asks for continuations of a prompt. Ending ctx gives the request up,
// also after it was sent.
func (c *SamplingClient) Sample(ctx context.Context, prompt ModelInput, opts SampleOptions) *Future[*SampleOutput] {
	op := "sample from " + c.id
	request, err := sampleRequest(prompt, opts)
	if err != nil {
		return failedFuture[*SampleOutput](op, invalid(op, "%v", err))
	}
	request.SamplingSessionID = &c.id
	return background(c.t.life, op, func() (out *SampleOutput, err error) {
		ctx, stop := c.t.life.bind(ctx)
		defer stop()
		ctx, end := c.t.operation(ctx, op)
		defer func() { end(err) }()
		return c.sample(ctx, op, request, estimatePrompt(prompt))
	})
}

// ComputeLogprobs returns the log probability of each token of a prompt given
// those before it; NaN for the first.
func (c *SamplingClient) ComputeLogprobs(ctx context.Context, prompt ModelInput) *Future[[]float32] {
	op := "compute logprobs with " + c.id
	out := c.Sample(ctx, prompt, SampleOptions{PromptLogprobs: true, Params: SamplingParams{MaxTokens: 1}})
	return background(c.t.life, op, func() ([]float32, error) {
		<-out.done
		if out.err != nil {
			return nil, out.err
		}
		if out.value.PromptLogprobs == nil {
			return nil, &Error{Op: op, Category: CategoryServer, Message: "the server returned no log probabilities"}
		}
		return out.value.PromptLogprobs, nil
	})
}

func (c *SamplingClient) sample(ctx context.Context, op string, request wire.SampleRequest, bytes int64) (*SampleOutput, error) {
	c.limit.Do(func() {
		flags, _ := c.t.config.peek()
		c.inFlight.size = int64(max(flags.maxSamples, 1))
	})
	release, err := c.inFlight.acquire(ctx, 1)
	if err != nil {
		return nil, interrupted(ctx, op)
	}
	defer release()
	wait := newBackoff(initialRetryDelay, maxRetryDelay)
	for resubmits := 0; ; resubmits++ {
		request.SeqID = new(c.next.Add(1) - 1)
		promise, err := c.submit(ctx, op, request, bytes)
		if err != nil {
			return nil, err
		}
		out, err := retrieve(ctx, c.t, retrieval{op: op, requestID: promise.RequestID, kind: "Sample", protobuf: true}, decodeSample)
		if errors.Is(err, ErrGone) && resubmits < maxResubmits {
			c.t.log.DebugContext(ctx, "sampling again: the server no longer keeps the result", "op", op, "error", err)
			if c.t.clock.sleep(ctx, retryDelay(wait, 0)) != nil {
				return nil, interrupted(ctx, op)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(promise.SampleSequenceIDs) == len(out.Sequences) {
			for i, id := range promise.SampleSequenceIDs {
				out.Sequences[i].ID = id
			}
		}
		return out, nil
	}
}

// submit sends a request, again and again while the server is too busy: all
// of a ServiceClient's samplers hold back then.
func (c *SamplingClient) submit(ctx context.Context, op string, request wire.SampleRequest, bytes int64) (wire.Future, error) {
	var promise wire.Future
	began := c.t.clock.now()
	weight := bytes
	if since := began.Sub(time.Unix(0, c.s.samplingPause.Load())); since < busyMemory {
		weight *= busyWeight
	}
	release, err := c.t.samplingBytes.acquire(ctx, weight)
	if err != nil {
		return promise, interrupted(ctx, op)
	}
	defer release()
	for {
		for {
			wait := time.Unix(0, c.s.samplingPause.Load()).Sub(c.t.clock.now())
			if wait <= 0 {
				break
			}
			if c.t.clock.sleep(ctx, wait) != nil {
				return promise, interrupted(ctx, op)
			}
		}
		err := c.t.json(ctx, &call{
			op: op, method: http.MethodPost, path: "/asample", pausable: true,
			final:  []int{http.StatusTooManyRequests},
			header: http.Header{"X-Tinker-Sampling-Backpressure": {"1"}},
		}, request, &promise)
		var e *Error
		now := c.t.clock.now()
		if !errors.As(err, &e) || e.Status != http.StatusTooManyRequests || now.Sub(began) > maxSamplePause {
			return promise, err
		}
		pause := samplePause
		if bytes > largeSampleBytes {
			pause = largeSamplePause
		}
		pause = max(pause, min(e.RetryAfter, maxRetryAfter))
		c.t.log.DebugContext(ctx, "the server is too busy to sample", "op", op, "again_in", pause)
		until := now.Add(pause).UnixNano()
		if old := c.s.samplingPause.Load(); old < until {
			c.s.samplingPause.CompareAndSwap(old, until)
		}
	}
}

// sampleRequest checks and translates the arguments of Sample.
func sampleRequest(prompt ModelInput, opts SampleOptions) (wire.SampleRequest, error) {
	request := wire.SampleRequest{
		NumSamples:         &opts.NumSamples,
		TopKPromptLogprobs: opts.TopKPromptLogprobs,
		TopKSampleLogprobs: opts.TopKSampleLogprobs,
		Type:               "sample",
	}
	if err := validateInput(prompt); err != nil {
		return request, err
	}
	p := opts.Params
	switch {
	case opts.NumSamples < 0:
		return request, fmt.Errorf("NumSamples is %d", opts.NumSamples)
	case opts.TopKPromptLogprobs < 0 || opts.TopKSampleLogprobs < 0:
		return request, fmt.Errorf("the number of top-k logprobs is negative")
	case p.MaxTokens < 0:
		return request, fmt.Errorf("MaxTokens is %d", p.MaxTokens)
	case p.TopK < 0:
		return request, fmt.Errorf("TopK is %d; 0 is no limit", p.TopK)
	case !(p.TopP >= 0 && p.TopP <= 1):
		return request, fmt.Errorf("TopP is %v; it is between 0 and 1, and 0 is no limit", p.TopP)
	case p.Temperature != nil && !(*p.Temperature >= 0 && *p.Temperature <= math.MaxFloat64):
		return request, fmt.Errorf("the temperature is %v", *p.Temperature)
	case len(p.StopTokens) > 0 && len(p.StopStrings) > 0:
		return request, fmt.Errorf("there are both StopTokens and StopStrings; the protocol has one kind at a time")
	case p.NoStop && len(p.StopTokens)+len(p.StopStrings) > 0:
		return request, fmt.Errorf("NoStop contradicts the stop conditions")
	}
	if opts.NumSamples == 0 {
		opts.NumSamples = 1
	}
	if opts.PromptLogprobs {
		request.PromptLogprobs = &opts.PromptLogprobs
	}
	request.SamplingParams = wire.SamplingParams{Seed: p.Seed, Temperature: p.Temperature}
	if p.MaxTokens > 0 {
		request.SamplingParams.MaxTokens = &p.MaxTokens
	}
	if p.TopK > 0 {
		request.SamplingParams.TopK = &p.TopK
	}
	if p.TopP > 0 {
		request.SamplingParams.TopP = &p.TopP
	}
	if p.NoStop || len(p.StopTokens)+len(p.StopStrings) > 0 {
		request.SamplingParams.Stop = &wire.Stop{Strings: p.StopStrings, Tokens: p.StopTokens}
	}
	for _, c := range prompt.Chunks {
		switch c := c.(type) {
		case TokenChunk:
			request.Prompt.Chunks = append(request.Prompt.Chunks, wire.ModelInputChunk{Type: wire.ChunkEncodedText, Tokens: c})
		case ImageChunk:
			chunk := wire.ModelInputChunk{Type: "image", Data: c.Data, Format: c.Format}
			if c.ExpectedTokens > 0 {
				chunk.ExpectedTokens = &c.ExpectedTokens
			}
			request.Prompt.Chunks = append(request.Prompt.Chunks, chunk)
		}
	}
	return request, nil
}

// estimatePrompt is about how many bytes a prompt is as JSON.
func estimatePrompt(m ModelInput) int64 {
	n := 0
	for _, c := range m.Chunks {
		if image, ok := c.(ImageChunk); ok {
			n += len(image.Data)
		} else {
			n += 10 * c.Length()
		}
	}
	return int64(n)
}
