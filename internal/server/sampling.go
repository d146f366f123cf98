package server

import (
	"context"
	"fmt"
	"math"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// maxSamples bounds how many sequences one request may ask for.
const maxSamples = 1024

func (s *Server) samplingOps(api huma.API) {
	register(api, http.MethodPost, "/create_sampling_session", "create-sampling-session", "Open a sampling session on weights or on a base model",
		func(ctx context.Context, in *bodyOf[wire.CreateSamplingSessionRequest]) (*reply[wire.CreateSamplingSessionResponse], error) {
			b := in.Body
			from, err := optionalRef("model_path", b.ModelPath)
			if err != nil {
				return nil, err
			}
			id, err := s.reg.CreateSampler(ctx, ownerOf(ctx), registry.NewSampler{
				SessionID: b.SessionID, Seq: b.SamplingSessionSeqID, BaseModel: deref(b.BaseModel), From: from, RequestHash: hashOf(b),
			})
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(wire.CreateSamplingSessionResponse{Type: "create_sampling_session", SamplingSessionID: id}), nil
		})
	register(api, http.MethodGet, "/samplers/{sampler}", "get-sampler", "Describe a sampling session",
		func(ctx context.Context, in *struct {
			Sampler string `path:"sampler"`
		}) (*reply[tinkex.SamplerInfo], error) {
			sm, err := s.reg.Sampler(ctx, ownerOf(ctx), in.Sampler)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.SamplerInfo{SamplerID: sm.ID, BaseModel: sm.BaseModel, ModelPath: sm.ModelPath}), nil
		})
	register(api, http.MethodPost, "/asample", "sample", "Continue a prompt", s.sample, bodyLimit(maxSampleBody))
}

func optionalRef(field string, path *string) (*registry.Ref, error) {
	if path == nil {
		return nil, nil //nolint:nilnil // absence is a valid answer
	}
	p, err := tinkex.ParseTinkerPath(*path)
	if err != nil {
		return nil, failure(http.StatusBadRequest, field+": "+err.Error())
	}
	ref := refOf(p)
	return &ref, nil
}

func (s *Server) sample(ctx context.Context, in *bodyOf[wire.SampleRequest]) (*reply[wire.Future], error) {
	b := in.Body
	from, err := optionalRef("model_path", b.ModelPath)
	if err != nil {
		return nil, err
	}
	req, err := sampleRequest(b)
	if err != nil {
		return nil, failure(http.StatusBadRequest, err.Error())
	}
	f, err := s.reg.Sample(ctx, ownerOf(ctx), registry.SampleTarget{
		SamplerID: deref(b.SamplingSessionID), Seq: b.SeqID, BaseModel: deref(b.BaseModel), From: from,
	}, hashOf(b), req)
	return s.promise(ctx, f, err)
}

// sampleRequest makes the protocol's request the engine's.
func sampleRequest(b wire.SampleRequest) (*engine.SampleRequest, error) {
	p := b.SamplingParams
	req := &engine.SampleRequest{
		NumSamples:         1,
		MaxTokens:          deref(p.MaxTokens),
		Temperature:        or(p.Temperature, 1),
		TopK:               deref(p.TopK),
		TopP:               or(p.TopP, 1),
		PromptLogprobs:     deref(b.PromptLogprobs),
		TopKPromptLogprobs: b.TopKPromptLogprobs,
		TopKSampleLogprobs: b.TopKSampleLogprobs,
		PromptAltTokensK:   b.PromptAltTokensK,
	}
	for i, c := range b.Prompt.Chunks {
		if c.Type != wire.ChunkEncodedText {
			return nil, engine.Invalid(fmt.Sprintf("prompt.chunks[%d]", i), "a chunk of type %q; this server's models read tokens only", c.Type)
		}
		req.Prompt = append(req.Prompt, c.Tokens...)
	}
	if b.NumSamples != nil {
		req.NumSamples = *b.NumSamples
	}
	if req.NumSamples < 1 || req.NumSamples > maxSamples {
		return nil, engine.Invalid("num_samples", "%d is out of range: expected 1 to %d", req.NumSamples, maxSamples)
	}
	if p.MaxTokens != nil && *p.MaxTokens < 1 {
		return nil, engine.Invalid("sampling_params.max_tokens", "%d: expected at least 1", *p.MaxTokens)
	}
	if p.Seed != nil {
		req.Seed = ptr(uint64(*p.Seed))
	}
	if p.Stop != nil {
		req.StopStrings, req.StopTokens = p.Stop.Strings, p.Stop.Tokens
		req.NoStop = len(req.StopStrings)+len(req.StopTokens) == 0
	}
	if n := b.PromptLogprobsLastN; n != nil {
		if !req.PromptLogprobs || *n < 1 {
			return nil, engine.Invalid("prompt_logprobs_last_n", "%d: expected at least 1, together with prompt_logprobs", *n)
		}
		req.PromptLogprobsLastN = *n
	}
	if t := b.TargetPromptLogprobs; t != nil {
		rows, err := targetRows(t)
		if err != nil {
			return nil, engine.Invalid("target_prompt_logprobs", "%v", err)
		}
		req.TargetPromptTokens = rows
	}
	return req, nil
}

// targetRows reads the matrix of token ids to score; in a sparse one the
// cells not listed ask for nothing.
func targetRows(t *wire.TensorData) ([][]int64, error) {
	if t.DType != "int64" || len(t.Shape) != 2 || t.Shape[0] < 0 || t.Shape[1] < 0 || int64(t.Shape[0])*int64(t.Shape[1]) > maxTensor {
		return nil, fmt.Errorf("expected an int64 tensor of shape [len(prompt)-1, k], not %s %v", t.DType, t.Shape)
	}
	n, k := t.Shape[0], t.Shape[1]
	flat := make([]int64, n*k)
	ids := make([]int64, len(t.Data))
	for i, v := range t.Data {
		if v != math.Trunc(v) {
			return nil, fmt.Errorf("data[%d] is %v, not a token id", i, v)
		}
		ids[i] = int64(v)
	}
	switch {
	case t.SparseCrowIndices != nil:
		for i := range flat {
			flat[i] = -1
		}
		crow, col := t.SparseCrowIndices, t.SparseColIndices
		if len(crow) != n+1 || len(col) != len(ids) {
			return nil, fmt.Errorf("expected %d crow indices and %d column indices, got %d and %d", n+1, len(ids), len(crow), len(col))
		}
		for r := range n {
			for i := crow[r]; i < crow[r+1]; i++ {
				if i < 0 || i >= int64(len(ids)) || col[i] < 0 || col[i] >= int64(k) {
					return nil, fmt.Errorf("row %d of the sparse tensor is out of range", r)
				}
				flat[r*k+int(col[i])] = ids[i]
			}
		}
	case len(ids) != n*k:
		return nil, fmt.Errorf("shape %v has %d elements, but %d were sent", t.Shape, n*k, len(ids))
	default:
		copy(flat, ids)
	}
	rows := make([][]int64, n)
	for r := range rows {
		rows[r] = flat[r*k : (r+1)*k]
	}
	return rows, nil
}
