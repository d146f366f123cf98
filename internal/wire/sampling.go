package wire

import (
	"encoding/json"
	"fmt"
)

// CreateSamplingSessionRequest opens a sampling session on saved weights or on
// a base model. Its id is <session>:sample:<seq>.
type CreateSamplingSessionRequest struct {
	SessionID            string  `json:"session_id"`
	SamplingSessionSeqID int64   `json:"sampling_session_seq_id" minimum:"0"`
	BaseModel            *string `json:"base_model,omitempty"`
	ModelPath            *string `json:"model_path,omitempty"`
	Type                 string  `json:"type,omitempty"`
}

// CreateSamplingSessionResponse names the sampling session.
type CreateSamplingSessionResponse struct {
	Type              string `json:"type"`
	SamplingSessionID string `json:"sampling_session_id"`
}

// JoinSamplingSessionRequest asks for a client number of one's own.
type JoinSamplingSessionRequest struct {
	SamplingSessionID string `json:"sampling_session_id"`
	Type              string `json:"type,omitempty"`
}

// JoinSamplingSessionResponse gives it; the session's first client is 0.
type JoinSamplingSessionResponse struct {
	Type          string `json:"type"`
	ClientCounter int64  `json:"client_counter"`
}

// SampleRequest asks for continuations of a prompt.
type SampleRequest struct {
	SamplingSessionID    *string        `json:"sampling_session_id,omitempty"`
	SeqID                *int64         `json:"seq_id,omitempty"`
	BaseModel            *string        `json:"base_model,omitempty"`
	ModelPath            *string        `json:"model_path,omitempty"`
	NumSamples           *int           `json:"num_samples,omitempty"`
	Prompt               ModelInput     `json:"prompt"`
	SamplingParams       SamplingParams `json:"sampling_params"`
	PromptLogprobs       *bool          `json:"prompt_logprobs,omitempty"`
	TopKPromptLogprobs   int            `json:"topk_prompt_logprobs,omitempty"`
	TopKSampleLogprobs   int            `json:"topk_sample_logprobs,omitempty"`
	TargetPromptLogprobs *TensorData    `json:"target_prompt_logprobs,omitempty"`
	PromptAltTokensK     int            `json:"prompt_alt_tokens_k,omitempty"`
	PromptLogprobsLastN  *int           `json:"prompt_logprobs_last_n,omitempty"`
	RecordStabilityInfo  *bool          `json:"record_stability_info,omitempty"`
	Type                 string         `json:"type,omitempty"`
}

// ModelInput is a sequence of chunks.
type ModelInput struct {
	Chunks []ModelInputChunk `json:"chunks"`
}

// ModelInputChunk is a chunk of any type; Type says which fields count.
type ModelInputChunk struct {
	Type           string  `json:"type"`
	Tokens         []int32 `json:"tokens,omitempty"`
	Data           []byte  `json:"data,omitempty"`
	Format         string  `json:"format,omitempty"`
	Location       string  `json:"location,omitempty"`
	ExpectedTokens *int    `json:"expected_tokens,omitempty"`
	DMel           []byte  `json:"dmel,omitempty"`
}

// ChunkEncodedText is the Type of a chunk of tokens.
const ChunkEncodedText = "encoded_text"

// TensorData is a tensor as JSON carries it.
type TensorData struct {
	Data              []float64 `json:"data"`
	DType             string    `json:"dtype" enum:"int64,float32"`
	Shape             []int     `json:"shape,omitempty"`
	SparseCrowIndices []int64   `json:"sparse_crow_indices,omitempty"`
	SparseColIndices  []int64   `json:"sparse_col_indices,omitempty"`
}

// SamplingParams says how to sample. Absent fields have the protocol's
// defaults: temperature 1, no top-k (-1), top-p 1.
type SamplingParams struct {
	MaxTokens   *int     `json:"max_tokens,omitempty"`
	Seed        *int64   `json:"seed,omitempty"`
	Stop        *Stop    `json:"stop,omitempty"`
	Temperature *float64 `json:"temperature,omitempty"`
	TopK        *int     `json:"top_k,omitempty"`
	TopP        *float64 `json:"top_p,omitempty"`
}

// Stop is a string, a list of strings or a list of token ids. Absent means
// the model's own end-of-text tokens; an empty list means never.
type Stop struct {
	Strings []string
	Tokens  []int32
}

// MarshalJSON writes the list that is set, or an empty one.
func (s Stop) MarshalJSON() ([]byte, error) {
	switch {
	case len(s.Strings) > 0:
		return json.Marshal(s.Strings)
	case len(s.Tokens) > 0:
		return json.Marshal(s.Tokens)
	}
	return []byte("[]"), nil
}

// UnmarshalJSON accepts all three forms.
func (s *Stop) UnmarshalJSON(b []byte) error {
	*s = Stop{}
	var one string
	if json.Unmarshal(b, &one) == nil {
		s.Strings = []string{one}
		return nil
	}
	if json.Unmarshal(b, &s.Strings) == nil {
		return nil
	}
	s.Strings = nil
	if json.Unmarshal(b, &s.Tokens) == nil {
		return nil
	}
	return fmt.Errorf("stop: expected a string, a list of strings or a list of token ids")
}
