package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// maxTTL is the protocol's: ten years.
const maxTTL = 10 * 365 * 24 * time.Hour

func (s *Server) weightsOps(api huma.API) {
	save := func(kind metastore.Kind) func(context.Context, *bodyOf[wire.SaveWeightsRequest]) (*reply[wire.Future], error) {
		return func(ctx context.Context, in *bodyOf[wire.SaveWeightsRequest]) (*reply[wire.Future], error) {
			return s.saveWeights(ctx, kind, in.Body)
		}
	}
	register(api, http.MethodPost, "/save_weights", "save-weights", "Save a training checkpoint", save(metastore.KindTraining))
	register(api, http.MethodPost, "/save_weights_for_sampler", "save-weights-for-sampler", "Save weights to sample from", save(metastore.KindSampler))
	register(api, http.MethodPost, "/save_weights_external", "save-weights-external", "Export weights to be downloaded file by file", save(metastore.KindExternal))
	register(api, http.MethodPost, "/load_weights", "load-weights", "Load a checkpoint onto a new model, or as what creates it", s.loadWeights)
	register(api, http.MethodPost, "/copy_weights", "copy-weights", "Copy a checkpoint that one may read; no bytes move", s.copyWeights)
	register(api, http.MethodPost, "/weights_info", "weights-info", "What a checkpoint was trained as", s.weightsInfo)
}

func (s *Server) saveWeights(ctx context.Context, kind metastore.Kind, b wire.SaveWeightsRequest) (*reply[wire.Future], error) {
	hash := hashOf(b)
	req, err := saveRequest(kind, b)
	if err != nil {
		return nil, s.reject(ctx, b.ModelID, b.SeqID, "Save", hash, err)
	}
	f, err := s.reg.Save(ctx, ownerOf(ctx), b.ModelID, b.SeqID, hash, req)
	return s.promise(ctx, f, err)
}

// saveRequest checks a save before it takes its place in the queue.
func saveRequest(kind metastore.Kind, b wire.SaveWeightsRequest) (registry.SaveRequest, error) {
	req := registry.SaveRequest{
		Kind: kind, Name: deref(b.Path), Overwrite: b.Overwrite, UserMetadata: b.UserMetadata,
		Inflight: b.Kind == "inflight",
	}
	var err error
	if req.TTL, err = ttlOf(b.TTLSeconds); err != nil {
		return req, err
	}
	switch {
	case len(b.AgeEncryptionRecipients) > 0:
		return req, fmt.Errorf("age_encryption_recipients: this server does not encrypt exports")
	case b.Path != nil:
		if err := tinkex.ValidateName(*b.Path); err != nil {
			return req, fmt.Errorf("path: %w", err)
		}
	case kind == metastore.KindSampler && b.SamplingSessionSeqID != nil:
		if *b.SamplingSessionSeqID < 0 {
			return req, fmt.Errorf("sampling_session_seq_id: %d is negative", *b.SamplingSessionSeqID)
		}
		req.SamplerSeq = *b.SamplingSessionSeqID
	default:
		return req, fmt.Errorf("path: a name for the checkpoint is required")
	}
	return req, nil
}

// ttlOf checks a time to live. The hosted service wants at least an hour; a
// server of one's own need not.
func ttlOf(seconds *int64) (*time.Duration, error) {
	if seconds == nil {
		return nil, nil //nolint:nilnil // no TTL is a valid answer
	}
	if *seconds < 1 || *seconds > int64(maxTTL/time.Second) {
		return nil, fmt.Errorf("ttl_seconds: %d is out of range: expected 1 to %d (ten years), or null for never", *seconds, int64(maxTTL/time.Second))
	}
	d := time.Duration(*seconds) * time.Second
	return &d, nil
}

func refOf(p tinkex.TinkerPath) registry.Ref {
	return registry.Ref{RunID: p.RunID, Kind: metastore.Kind(p.Type.Segment()), Name: p.Name}
}

func (s *Server) loadWeights(ctx context.Context, in *bodyOf[wire.LoadWeightsRequest]) (*reply[wire.Future], error) {
	b, hash := in.Body, hashOf(in.Body)
	creates := b.SessionID != "" || b.ModelSeqID != nil
	if creates == (b.ModelID != "") {
		return nil, failure(http.StatusBadRequest, "give either model_id and seq_id, to load onto a model just created, or session_id and model_seq_id, to create one")
	}
	path, err := tinkex.ParseTinkerPath(b.Path)
	if err == nil && creates {
		err = checkOptimizer("optimizer_config", b.OptimizerConfig)
	}
	load := registry.LoadRequest{From: refOf(path), Optimizer: b.Optimizer}
	if creates {
		if err != nil {
			return nil, failure(http.StatusBadRequest, err.Error())
		}
		if b.SessionID == "" || b.ModelSeqID == nil || *b.ModelSeqID < 0 {
			return nil, failure(http.StatusBadRequest, "session_id and a model_seq_id of at least 0 are required together")
		}
		f, err := s.reg.CreateRunFrom(ctx, ownerOf(ctx), registry.NewRun{
			SessionID: b.SessionID, Seq: *b.ModelSeqID, UserMetadata: b.UserMetadata, RequestHash: hash,
		}, deref(b.BaseModel), load)
		return s.promise(ctx, f, err)
	}
	if err != nil {
		return nil, s.reject(ctx, b.ModelID, b.SeqID, "LoadWeights", hash, err)
	}
	f, err := s.reg.Load(ctx, ownerOf(ctx), b.ModelID, b.SeqID, hash, load)
	return s.promise(ctx, f, err)
}

func (s *Server) copyWeights(ctx context.Context, in *struct {
	Key  string `header:"X-Idempotency-Key"`
	Body wire.CopyWeightsRequest
},
) (*reply[wire.CopyWeightsResponse], error) {
	b := in.Body
	if (b.SessionID != "") != (b.ModelSeqID != nil) || (b.SessionID != "") == (b.DestinationProjectID != "") {
		return nil, failure(http.StatusBadRequest, "give either destination_project_id, or session_id and model_seq_id, as where to copy to")
	}
	from, err := optionalRef("source_path", &b.SourcePath)
	if err != nil {
		return nil, err
	}
	ttl, err := ttlOf(b.TTLSeconds)
	if err != nil {
		return nil, failure(http.StatusBadRequest, err.Error())
	}
	ref, err := s.reg.Copy(ctx, ownerOf(ctx), registry.CopyRequest{
		From: *from, SessionID: b.SessionID, Seq: deref(b.ModelSeqID), ProjectID: b.DestinationProjectID,
		TTL: ttl, Key: in.Key, Hash: hashOf(b),
	})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return replyWith(wire.CopyWeightsResponse{TinkerPath: ref.String()}), nil
}

func (s *Server) weightsInfo(ctx context.Context, in *bodyOf[wire.WeightsInfoRequest]) (*reply[tinkex.WeightsInfo], error) {
	path, err := tinkex.ParseTinkerPath(in.Body.TinkerPath)
	if err != nil {
		return nil, failure(http.StatusBadRequest, err.Error())
	}
	c, err := s.reg.Info(ctx, ownerOf(ctx), refOf(path))
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return replyWith(tinkex.WeightsInfo{
		BaseModel: c.LoRA.BaseModel, IsLoRA: true, LoRARank: &c.LoRA.Rank,
		TrainAttn: &c.LoRA.TrainAttn, TrainMLP: &c.LoRA.TrainMLP, TrainUnembed: &c.LoRA.TrainUnembed,
	}), nil
}
