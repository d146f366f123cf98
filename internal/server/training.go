package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// The protocol's default rank (tinker.ServiceClient.create_lora_training_client).
const defaultRank = 32

func (s *Server) trainingOps(api huma.API) {
	register(api, http.MethodPost, "/create_model", "create-model", "Start a training run", s.createModel)
	register(api, http.MethodPost, "/get_info", "get-info", "Describe a run's model", s.getInfo)
	register(api, http.MethodPost, "/unload_model", "unload-model", "End a run and free its memory",
		func(ctx context.Context, in *bodyOf[wire.ModelRequest]) (*reply[wire.Future], error) {
			f, err := s.reg.Unload(ctx, ownerOf(ctx), in.Body.ModelID)
			return s.promise(ctx, f, err)
		})
	register(api, http.MethodPost, "/optim_step", "optim-step", "Apply the accumulated gradients", s.optimStep)
	register(api, http.MethodPost, "/forward_backward", "forward-backward", "Compute losses and accumulate gradients; the body is a protobuf ForwardBackwardRequest", s.forwardBackward, bodyLimit(maxTrainingBody))
}

// promise answers an accepted request.
func (s *Server) promise(ctx context.Context, f *registry.Future, err error) (*reply[wire.Future], error) {
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return replyWith(wire.Future{RequestID: f.ID, SampleSequenceIDs: f.SequenceIDs}), nil
}

// hashOf identifies a request's content, so that a retry can be told from
// another request under the same number.
func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		// Requests are plain data decoded from JSON; they can be encoded again.
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func isTrue(b *bool) bool { return b == nil || *b }

func (s *Server) createModel(ctx context.Context, in *bodyOf[wire.CreateModelRequest]) (*reply[wire.Future], error) {
	b := in.Body
	if err := checkOptimizer("optimizer_config", b.OptimizerConfig); err != nil {
		return nil, err
	}
	cfg := b.LoRAConfig
	if cfg == nil {
		cfg = &wire.LoRAConfig{Rank: defaultRank}
	}
	f, err := s.reg.CreateRun(ctx, ownerOf(ctx), registry.NewRun{
		SessionID: b.SessionID, Seq: b.ModelSeqID, Seed: cfg.Seed,
		LoRA: metastore.LoRA{
			BaseModel: b.BaseModel, Rank: cfg.Rank,
			TrainAttn: isTrue(cfg.TrainAttn), TrainMLP: isTrue(cfg.TrainMLP), TrainUnembed: isTrue(cfg.TrainUnembed),
		},
		UserMetadata: b.UserMetadata, RequestHash: hashOf(b),
	})
	return s.promise(ctx, f, err)
}

func checkOptimizer(field string, o *wire.OptimizerConfig) error {
	if o != nil && o.Type != "adamw" {
		return failure(http.StatusBadRequest, field+": optimizer "+o.Type+" is not offered by this server; use adamw")
	}
	return nil
}

func (s *Server) getInfo(ctx context.Context, in *bodyOf[wire.ModelRequest]) (*reply[tinkex.ModelInfo], error) {
	run, base, err := s.reg.ModelInfo(ctx, ownerOf(ctx), in.Body.ModelID)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return replyWith(tinkex.ModelInfo{
		Type: "get_info", ModelID: run.ID, ModelName: base.Name,
		IsLoRA: ptr(true), LoRARank: ptr(run.LoRA.Rank),
		ModelData: tinkex.ModelData{Arch: base.Arch, ModelName: base.Name, TokenizerID: base.TokenizerID},
	}), nil
}

func or(p *float64, def float64) float64 {
	if p != nil {
		return *p
	}
	return def
}

func (s *Server) optimStep(ctx context.Context, in *bodyOf[wire.OptimStepRequest]) (*reply[wire.Future], error) {
	b, hash := in.Body, hashOf(in.Body)
	if err := checkOptimizer("optimizer_params", b.OptimizerParams); err != nil {
		return nil, s.reject(ctx, b.ModelID, b.SeqID, "OptimStep", hash, err)
	}
	p := b.AdamParams
	if p == nil {
		p = &wire.AdamParams{}
	}
	f, err := s.reg.OptimStep(ctx, ownerOf(ctx), b.ModelID, b.SeqID, hash, engine.AdamParams{
		LearningRate: or(p.LearningRate, 1e-4),
		Beta1:        or(p.Beta1, 0.9),
		Beta2:        or(p.Beta2, 0.95),
		Eps:          or(p.Eps, 1e-12),
		WeightDecay:  or(p.WeightDecay, 0),
		GradClipNorm: or(p.GradClipNorm, 0),
	})
	return s.promise(ctx, f, err)
}

// reject refuses a numbered request of a model for a reason found here.
func (s *Server) reject(ctx context.Context, modelID string, seq *int64, typ, hash string, reason error) error {
	return s.fail(ctx, s.reg.Reject(ctx, ownerOf(ctx), modelID, seq, typ, hash, reason))
}

type protobufBody struct {
	ContentType string `header:"Content-Type"`
	RawBody     []byte `contentType:"application/x-protobuf"`
}

func (s *Server) forwardBackward(ctx context.Context, in *protobufBody) (*reply[wire.Future], error) {
	if ct, _, _ := mime.ParseMediaType(in.ContentType); ct != wire.ContentTypeProtobuf {
		return nil, failure(http.StatusUnsupportedMediaType, "forward_backward takes a protobuf ForwardBackwardRequest as "+wire.ContentTypeProtobuf+", not "+in.ContentType)
	}
	var msg pb.ForwardBackwardRequest
	if err := proto.Unmarshal(in.RawBody, &msg); err != nil {
		return nil, failure(http.StatusBadRequest, "body: not a ForwardBackwardRequest: "+err.Error())
	}
	if msg.GetModelId() == "" {
		return nil, failure(http.StatusBadRequest, "model_id: required")
	}
	seq := int64(msg.GetSeqId())
	batch, hash, err := batchFromProto(&msg)
	if err != nil {
		var input *engine.InputError
		if !errors.As(err, &input) {
			return nil, s.fail(ctx, err)
		}
		typ := "ForwardBackward"
		if msg.GetForwardOnly() {
			typ = "Forward"
		}
		return nil, s.reject(ctx, msg.GetModelId(), &seq, typ, hash, err)
	}
	f, err := s.reg.ForwardBackward(ctx, ownerOf(ctx), msg.GetModelId(), &seq, hash, batch)
	return s.promise(ctx, f, err)
}
