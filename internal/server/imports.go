package server

import (
	"context"
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
	for i, f := range b.Files {
		file := registry.ImportFile{Name: f.Name, Size: f.SizeBytes}
		field := fmt.Sprintf("files[%d]", i)
		if file.Digest, err = blobstore.ParseDigest(f.SHA256); err != nil {
			return req, fmt.Errorf("%s.sha256: %w", field, err)
		}
		if file.Parts, err = blobsOf(f.Parts, field+".parts"); err != nil {
			return req, err
		}
		req.Files = append(req.Files, file)
	}
	return req, req.Check()
}
