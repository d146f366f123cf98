package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
)

func (s *Server) runOps(api huma.API) {
	register(api, http.MethodGet, "/training_runs", "list-training-runs", "List one's training runs, newest first",
		func(ctx context.Context, in *struct {
			Page
			ProjectID string `query:"project_id"`
		}) (*reply[tinkex.TrainingRunList], error) {
			runs, total, err := s.reg.Runs(ctx, ownerOf(ctx), in.ProjectID, in.page())
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			out, err := s.trainingRuns(ctx, runs)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.TrainingRunList{
				TrainingRuns: out,
				Cursor:       tinkex.Cursor{Offset: in.Offset, Limit: in.Limit, TotalCount: total},
			}), nil
		})
	register(api, http.MethodGet, "/training_runs/{run}", "get-training-run", "Describe a training run",
		func(ctx context.Context, in *struct {
			Run         string `path:"run"`
			AccessScope string `query:"access_scope" enum:"owned,accessible" default:"owned"`
		}) (*reply[tinkex.TrainingRun], error) {
			run, latest, err := s.reg.RunInfo(ctx, ownerOf(ctx), in.Run)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(trainingRunOf(run, latest)), nil
		})
}

// trainingRuns describes runs with their latest checkpoints.
func (s *Server) trainingRuns(ctx context.Context, runs []metastore.Run) ([]tinkex.TrainingRun, error) {
	ids := make([]string, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	latest, err := s.reg.LatestCheckpoints(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]tinkex.TrainingRun, len(runs))
	for i, r := range runs {
		out[i] = trainingRunOf(r, latest[r.ID])
	}
	return out, nil
}

func trainingRunOf(r metastore.Run, latest map[metastore.Kind]metastore.Checkpoint) tinkex.TrainingRun {
	out := tinkex.TrainingRun{
		TrainingRunID: r.ID, BaseModel: r.LoRA.BaseModel, ModelOwner: r.Owner,
		IsLoRA: true, LoRARank: ptr(r.LoRA.Rank),
		Corrupted:       r.State == metastore.RunCorrupted,
		LastRequestTime: r.LastRequestAt.UTC(),
		UserMetadata:    stringsOf(r.UserMetadata),
		ResumedFrom:     r.ResumedFrom,
	}
	if c, ok := latest[metastore.KindTraining]; ok {
		out.LastCheckpoint = ptr(checkpointOf(c))
	}
	if c, ok := latest[metastore.KindSampler]; ok {
		out.LastSamplerCheckpoint = ptr(checkpointOf(c))
	}
	return out
}

var checkpointTypes = map[metastore.Kind]tinkex.CheckpointType{
	metastore.KindTraining: tinkex.Training,
	metastore.KindSampler:  tinkex.Sampler,
	metastore.KindExternal: tinkex.External,
}

func pathOf(c *metastore.ListedCheckpoint) tinkex.TinkerPath {
	return tinkex.TinkerPath{RunID: c.RunID, Type: checkpointTypes[c.Kind], Name: c.Name}
}

func checkpointOf(full metastore.Checkpoint) tinkex.Checkpoint {
	c := full.InList()
	p := pathOf(&c)
	return tinkex.Checkpoint{
		CheckpointID: p.CheckpointID(), CheckpointType: p.Type, Time: c.CreatedAt, TinkerPath: p.String(),
		SizeBytes: &c.SizeBytes, Public: c.Public, UserMetadata: c.UserMetadata, ExpiresAt: c.ExpiresAt, BaseModel: c.BaseModel,
	}
}
