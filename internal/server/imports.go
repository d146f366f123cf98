package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

func (s *Server) importOps(api huma.API) {
	extend(api, http.MethodPost, "/imports", "import-checkpoint", "Make checkpoints of an adapter whose files were sent",
		func(ctx context.Context, in *struct {
			Key  string `header:"X-Idempotency-Key"`
			Body wire.ImportRequest
		}) (*reply[tinkex.ImportResult], error) {
			req, err := importRequest(in.Body)
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			req.Key, req.Hash = in.Key, hashOf(in.Body)
			list, err := s.reg.Import(ctx, ownerOf(ctx), req)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.ImportResult{Checkpoints: checkpointsOf(list), TrainingRunID: list[0].RunID}), nil
		}, bodyLimit(maxImportBody), func(op *huma.Operation) {
			op.Errors = append(op.Errors, http.StatusConflict)
		})
	extend(api, http.MethodPost, "/restores", "restore-checkpoint", "Make a checkpoint of what one was elsewhere; done again, it changes nothing",
		func(ctx context.Context, in *bodyOf[wire.RestoreRequest]) (*reply[tinkex.RestoreResult], error) {
			req, err := restoreRequest(in.Body)
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			c, created, err := s.reg.Restore(ctx, ownerOf(ctx), req)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.RestoreResult{Checkpoint: checkpointOf(c), Created: created}), nil
		}, bodyLimit(maxImportBody), func(op *huma.Operation) {
			op.Errors = append(op.Errors, http.StatusConflict)
		})
	extend(api, http.MethodPost, "/copies", "copy-checkpoint", "Copy a checkpoint that one may read, under another name or into a run of one's own; no bytes move",
		func(ctx context.Context, in *struct {
			Key  string `header:"X-Idempotency-Key"`
			Body wire.CopyRequest
		}) (*reply[wire.CopyWeightsResponse], error) {
			b := in.Body
			from, err := optionalRef("source_path", &b.SourcePath)
			if err != nil {
				return nil, err
			}
			req := registry.CopyRequest{From: *from, Name: b.Name, RunID: b.RunID, ProjectID: b.ProjectID, Overwrite: b.Overwrite, Key: in.Key, Hash: hashOf(b)}
			if req.TTL, err = ttlOf(b.TTLSeconds); err == nil && b.Name != "" {
				if err = tinkex.ValidateName(b.Name); err != nil {
					err = fmt.Errorf("name: %w", err)
				}
			}
			if err == nil && b.RunID != "" && b.ProjectID != "" {
				err = errors.New("project_id: a run has its project; give run_id or project_id")
			}
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			ref, err := s.reg.Copy(ctx, ownerOf(ctx), req)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(wire.CopyWeightsResponse{TinkerPath: ref.String()}), nil
		}, func(op *huma.Operation) {
			op.Errors = append(op.Errors, http.StatusConflict)
		})
}

// restoreRequest checks a restore as far as its own words go.
func restoreRequest(b wire.RestoreRequest) (registry.RestoreRequest, error) {
	yes := func(p *bool) bool { return p == nil || *p }
	req := registry.RestoreRequest{
		RunID: b.RunID, RunMetadata: b.RunMetadata, UserMetadata: b.UserMetadata, Overwrite: b.Overwrite,
		LoRA: metastore.LoRA{
			BaseModel: b.BaseModel, Rank: b.LoRARank,
			TrainAttn: yes(b.TrainAttn), TrainMLP: yes(b.TrainMLP), TrainUnembed: yes(b.TrainUnembed),
		},
		LastRequestAt: deref(b.LastRequestTime), CreatedAt: deref(b.Time),
	}
	origin, err := tinkex.ParseTinkerPath(b.Origin)
	if err != nil {
		return req, fmt.Errorf("origin: %w", err)
	}
	req.Origin = refOf(origin)
	if req.TTL, err = ttlOf(b.TTLSeconds); err != nil {
		return req, err
	}
	if req.Files, err = filesOf(b.Files); err != nil {
		return req, err
	}
	return req, req.Check()
}

func filesOf(list []wire.ImportFile) ([]registry.ImportFile, error) {
	var out []registry.ImportFile
	for i, f := range list {
		var err error
		file := registry.ImportFile{Name: f.Name, Size: f.SizeBytes}
		field := fmt.Sprintf("files[%d]", i)
		if file.Digest, err = blobstore.ParseDigest(f.SHA256); err != nil {
			return nil, fmt.Errorf("%s.sha256: %w", field, err)
		}
		if file.Parts, err = blobsOf(f.Parts, field+".parts"); err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}

// importRequest checks an import as far as its own words go.
func importRequest(b wire.ImportRequest) (registry.ImportRequest, error) {
	req := registry.ImportRequest{
		Name: b.Name, BaseModel: b.BaseModel, RunID: b.RunID, Overwrite: b.Overwrite, UserMetadata: b.UserMetadata,
	}
	if err := tinkex.ValidateName(b.Name); err != nil {
		return req, fmt.Errorf("name: %w", err)
	}
	for i, typ := range b.Types {
		kind := metastore.Kind(typ)
		switch {
		case kind != metastore.KindTraining && kind != metastore.KindSampler:
			return req, fmt.Errorf("types[%d]: %q: expected weights or sampler_weights", i, typ)
		case slices.Contains(req.Kinds, kind):
			return req, fmt.Errorf("types[%d]: %q is there twice", i, typ)
		}
		req.Kinds = append(req.Kinds, kind)
	}
	if len(req.Kinds) == 0 {
		req.Kinds = []metastore.Kind{metastore.KindTraining, metastore.KindSampler}
	}
	var err error
	if req.TTL, err = ttlOf(b.TTLSeconds); err != nil {
		return req, err
	}
	if req.Files, err = filesOf(b.Files); err != nil {
		return req, err
	}
	return req, req.Check()
}
