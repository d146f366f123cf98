package tinkex

// SamplingParams says how to sample. The zero value samples at temperature 1
// up to the context's end.
type SamplingParams struct {
	MaxTokens   int      // 0: up to the context's end
	Seed        *int64   // nil: a new one each time
	Temperature *float64 // nil: 1; 0 is greedy
	TopK        int      // 0: no limit
	TopP        float64  // 0: no limit
	// Stop conditions; at most one of the two. The token or text that stops a
	// sequence is part of it. Without any, the model's end-of-text tokens stop.
	StopTokens  []int32
	StopStrings []string
	// NoStop generates MaxTokens, whatever comes.
	NoStop bool
}

// SampleOptions asks for more than the tokens. The zero value asks for one
// sequence.
type SampleOptions struct {
	NumSamples int // 0 is 1
	Params     SamplingParams
	// PromptLogprobs returns the prompt's own log probabilities.
	PromptLogprobs     bool
	TopKPromptLogprobs int
	TopKSampleLogprobs int
}

// StopReason says why a sequence ended.
type StopReason string

// The reasons.
const (
	StopReasonStop   StopReason = "stop"
	StopReasonLength StopReason = "length"
)

// SampleOutput is the result of a sample request. Log probabilities are
// natural logarithms of the model's own distribution.
type SampleOutput struct {
	Sequences []SampledSequence
	// PromptLogprobs has one entry per prompt token, NaN where there is none
	// (the first); nil if not asked for.
	PromptLogprobs     []float32
	TopKPromptLogprobs [][]TokenLogprob
}

// SampledSequence is one continuation of the prompt.
type SampledSequence struct {
	ID           string // unique within the session
	Tokens       []int32
	Logprobs     []float32
	TopKLogprobs [][]TokenLogprob
	StopReason   StopReason
}

// TokenLogprob is a token and its log probability.
type TokenLogprob struct {
	Token   int32
	Logprob float32
}
