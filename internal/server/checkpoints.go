package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// CheckpointPath is how REST paths address a checkpoint. Its segments are
// looked up, never joined into anything, so there is nothing to sanitise.
type CheckpointPath struct {
	Run  string `path:"run"`
	Kind string `path:"kind" enum:"weights,sampler_weights,external_weights"`
	Name string `path:"name"`
}

func (p CheckpointPath) ref() (registry.Ref, error) {
	t, err := tinkex.ParseCheckpointType(p.Kind)
	if err == nil {
		var path tinkex.TinkerPath
		if path, err = tinkex.NewTinkerPath(p.Run, t, p.Name); err == nil {
			return refOf(path), nil
		}
	}
	return registry.Ref{}, failure(http.StatusBadRequest, err.Error())
}

// on makes a handler of a checkpoint that answers without a body.
func (s *Server) on(do func(ctx context.Context, owner string, ref registry.Ref) error) func(context.Context, *CheckpointPath) (*struct{}, error) {
	return func(ctx context.Context, in *CheckpointPath) (*struct{}, error) {
		ref, err := in.ref()
		if err == nil {
			err = do(ctx, ownerOf(ctx), ref)
		}
		return nil, s.fail(ctx, err)
	}
}

const checkpointRoute = "/training_runs/{run}/checkpoints/{kind}/{name}"

func (s *Server) checkpointOps(api huma.API) {
	register(api, http.MethodGet, "/checkpoints", "list-checkpoints", "List one's checkpoints, newest first",
		func(ctx context.Context, in *struct {
			Limit  int `query:"limit" minimum:"0" maximum:"10000" default:"100"`
			Offset int `query:"offset" minimum:"0" default:"0"`
		}) (*reply[tinkex.CheckpointList], error) {
			list, total, err := s.reg.Checkpoints(ctx, ownerOf(ctx), metastore.Page{Limit: in.Limit, Offset: in.Offset})
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.CheckpointList{
				Checkpoints: checkpointsOf(list),
				Cursor:      &tinkex.Cursor{Offset: in.Offset, Limit: in.Limit, TotalCount: total},
			}), nil
		})
	s.listingOps(api)
	register(api, http.MethodGet, "/training_runs/{run}/checkpoints", "list-run-checkpoints", "List a run's checkpoints, newest first",
		func(ctx context.Context, in *struct {
			Run string `path:"run"`
		}) (*reply[tinkex.CheckpointList], error) {
			list, err := s.reg.RunCheckpoints(ctx, ownerOf(ctx), in.Run)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.CheckpointList{Checkpoints: checkpointsOf(list)}), nil
		})
	register(api, http.MethodDelete, checkpointRoute, "delete-checkpoint", "Delete a checkpoint",
		s.on(s.reg.DeleteCheckpoint), status(http.StatusNoContent))
	register(api, http.MethodPost, checkpointRoute+"/publish", "publish-checkpoint", "Let everybody read a checkpoint",
		s.on(func(ctx context.Context, owner string, ref registry.Ref) error {
			return s.reg.SetPublic(ctx, owner, ref, true)
		}), status(http.StatusNoContent))
	register(api, http.MethodDelete, checkpointRoute+"/publish", "unpublish-checkpoint", "Make a checkpoint private again",
		s.on(func(ctx context.Context, owner string, ref registry.Ref) error {
			return s.reg.SetPublic(ctx, owner, ref, false)
		}), status(http.StatusNoContent))
	register(api, http.MethodPut, checkpointRoute+"/ttl", "set-checkpoint-ttl", "Set or remove when a checkpoint expires",
		func(ctx context.Context, in *struct {
			CheckpointPath
			Body wire.SetTTLRequest
		}) (*struct{}, error) {
			ttl, err := ttlOf(in.Body.TTLSeconds)
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			ref, err := in.ref()
			if err == nil {
				err = s.reg.SetTTL(ctx, ownerOf(ctx), ref, ttl)
			}
			return nil, s.fail(ctx, err)
		}, status(http.StatusNoContent))
	register(api, http.MethodGet, checkpointRoute+"/archive", "checkpoint-archive", "Where the checkpoint's tar can be fetched: the answer redirects there", s.archiveURL, status(http.StatusFound))
	register(api, http.MethodGet, checkpointRoute+"/external_weights_urls", "external-weights-urls", "Where an external checkpoint's files can be fetched", s.externalWeightsURLs)
	extend(api, http.MethodGet, checkpointRoute+"/manifest", "checkpoint-manifest", "A checkpoint's files, with sizes, digests and signed URLs", s.manifest)
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		badIdentifier(api, m)
	}
}

// badIdentifier answers paths that look for a checkpoint but do not say its
// kind, as the hosted service does.
func badIdentifier(api huma.API, method string) {
	type input struct {
		Run  string `path:"run"`
		Rest string `path:"rest"`
	}
	register(api, method, "/training_runs/{run}/checkpoints/{rest...}", "", "",
		func(_ context.Context, in *input) (*struct{}, error) {
			return nil, failure(http.StatusBadRequest, "Invalid checkpoint identifier "+in.Rest+". Expected format weights/<name> or sampler_weights/<name>")
		}, func(op *huma.Operation) { op.Hidden = true })
}

func checkpointsOf(list []metastore.Checkpoint) []tinkex.Checkpoint {
	out := make([]tinkex.Checkpoint, len(list))
	for i, c := range list {
		out[i] = checkpointOf(c)
	}
	return out
}
