package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// NewRun describes a training run to be created.
type NewRun struct {
	SessionID    string
	Seq          int64 // chosen by the client, unique within the session
	LoRA         metastore.LoRA
	Seed         *int64
	UserMetadata map[string]any
	RequestHash  string
}

func runID(session string, seq int64) string { return fmt.Sprintf("%s:train:%d", session, seq) }

// CreateRun starts training a fresh adapter. Its future's result is a
// wire.CreateModelResult.
func (r *Registry) CreateRun(ctx context.Context, owner string, n NewRun) (*Future, error) {
	cfg := engineConfig(n.LoRA, n.Seed)
	if err := r.engine.CheckConfig(cfg); err != nil {
		return nil, classify(err)
	}
	return r.startRun(ctx, owner, n, "", "CreateModel", func(ctx context.Context, m *model) (any, error) {
		em, err := r.engine.NewModel(ctx, cfg)
		if err != nil {
			return nil, err
		}
		m.adopt(em)
		return wire.CreateModelResult{ModelID: m.id, Type: "create_model"}, nil
	})
}

// startRun creates a run and queues the request that creates its model.
func (r *Registry) startRun(ctx context.Context, owner string, n NewRun, from, typ string, create func(context.Context, *model) (any, error)) (*Future, error) {
	if err := r.activeSession(ctx, owner, n.SessionID); err != nil {
		return nil, err
	}
	now := r.now().UTC()
	m := &model{
		r: r, id: runID(n.SessionID, n.Seq), owner: owner, sessionID: n.SessionID, server: r.servers.self(),
		lora: n.LoRA, viaLoad: from != "",
		jobs: map[int64]*job{}, top: 1, drained: make(chan struct{}), lastRequest: now, flushed: now,
	}
	id := requestID(m.id, 0)
	err := r.meta.CreateRun(ctx, metastore.Run{
		ID: m.id, SessionID: n.SessionID, Seq: n.Seq, Owner: owner, LoRA: n.LoRA, Seed: n.Seed,
		UserMetadata: n.UserMetadata, ResumedFrom: from, RequestHash: n.RequestHash,
		CreatedAt: now, LastRequestAt: now, State: metastore.RunLive, Server: m.server,
	})
	if err != nil {
		if CodeOf(err) != Conflict {
			return nil, classify(err)
		}
		old, err := r.meta.Run(ctx, m.id)
		if err != nil {
			return nil, classify(err)
		}
		if old.RequestHash != n.RequestHash {
			return nil, newError(Conflict, "model_seq_id: %d was already used by another request of session %q", n.Seq, n.SessionID)
		}
		return r.Retrieve(ctx, owner, id)
	}
	f := &Future{ID: id, Type: typ, Owner: owner, SessionID: n.SessionID, hash: n.RequestHash}
	r.accept(ctx, f)
	f, _ = r.futures.add(f)
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, newError(Unavailable, "the server is shutting down")
	}
	r.models[m.id] = m
	r.mu.Unlock()
	m.mu.Lock()
	m.enqueue(0, &job{f, funcOp(func(ctx context.Context, m *model, _ *Future) (any, error) {
		result, err := r.patiently(ctx, f, func(ctx context.Context) (any, error) { return create(ctx, m) })
		if err != nil {
			r.work.Go(func() { _ = m.retire(r.ctx, stateAfterUnload) })
		}
		return result, err
	})})
	m.mu.Unlock()
	return f, nil
}

// adopt gives the model its engine's side.
func (m *model) adopt(em engine.Model) {
	m.mu.Lock()
	m.em = em
	m.mu.Unlock()
}

// Unload ends a run once its accepted requests are done and frees its memory.
// Its future's result is a wire.UnloadModelResult.
func (r *Registry) Unload(ctx context.Context, owner, modelID string) (*Future, error) {
	id := modelID + requestMark + "unload"
	m, err := r.liveModel(ctx, owner, modelID, submission{})
	if err != nil {
		if f, ok := r.futures.get(id); ok && f.Owner == owner {
			return f, nil
		}
		return nil, err
	}
	f := &Future{ID: id, Type: "UnloadModel", Owner: owner, SessionID: m.sessionID}
	r.accept(ctx, f)
	f, added := r.futures.add(f)
	if added {
		r.work.Go(func() {
			err := m.retire(r.futures.start(r.ctx, f), stateAfterUnload)
			r.futures.complete(f, wire.UnloadModelResult{ModelID: m.id, Type: "unload_model"}, err)
		})
	}
	return f, nil
}

// Run returns a training run of the owner's, as of now.
func (r *Registry) Run(ctx context.Context, owner, id string) (metastore.Run, error) {
	run, err := r.meta.Run(ctx, id)
	if err != nil && CodeOf(err) != NotFound {
		return run, classify(err)
	}
	if err != nil || run.Owner != owner {
		return metastore.Run{}, newError(NotFound, "training run %q not found", id)
	}
	r.refresh(&run)
	return run, nil
}

// RunInfo is Run with its newest training and sampler checkpoint.
func (r *Registry) RunInfo(ctx context.Context, owner, id string) (metastore.Run, map[metastore.Kind]metastore.Checkpoint, error) {
	run, latest, err := r.meta.RunInfo(ctx, id, r.now().UTC())
	if err != nil && CodeOf(err) != NotFound {
		return run, nil, classify(err)
	}
	if err != nil || run.Owner != owner {
		return metastore.Run{}, nil, newError(NotFound, "training run %q not found", id)
	}
	r.refresh(&run)
	return run, latest, nil
}

// Runs lists the owner's training runs, newest first; a project restricts
// them if it is not empty.
func (r *Registry) Runs(ctx context.Context, owner, project string, p metastore.Page) ([]metastore.Run, int, error) {
	runs, n, err := r.meta.Runs(ctx, owner, project, p)
	for i := range runs {
		r.refresh(&runs[i])
	}
	return runs, n, classify(err)
}

// refresh brings a stored run up to what its live model knows.
func (r *Registry) refresh(run *metastore.Run) {
	r.mu.Lock()
	m := r.models[run.ID]
	r.mu.Unlock()
	if m == nil {
		return
	}
	m.mu.Lock()
	run.LastRequestAt, run.Unsaved = m.lastRequest, m.unsaved
	m.mu.Unlock()
}

// LatestCheckpoints returns each run's newest training and sampler checkpoint.
func (r *Registry) LatestCheckpoints(ctx context.Context, runIDs []string) (map[string]map[metastore.Kind]metastore.Checkpoint, error) {
	latest, err := r.meta.LatestCheckpoints(ctx, runIDs, r.now().UTC())
	return latest, classify(err)
}

// ModelInfo describes a run's model, live or not.
func (r *Registry) ModelInfo(ctx context.Context, owner, id string) (metastore.Run, engine.BaseModel, error) {
	run, err := r.Run(ctx, owner, id)
	if err != nil {
		return run, engine.BaseModel{}, newError(NotFound, "model_id: model %q not found", id)
	}
	base, err := r.baseModel(run.LoRA.BaseModel)
	if err != nil {
		base = engine.BaseModel{Name: run.LoRA.BaseModel}
	}
	return run, base, nil
}

func engineConfig(l metastore.LoRA, seed *int64) engine.ModelConfig {
	return engine.ModelConfig{
		BaseModel: l.BaseModel, Rank: l.Rank, Seed: seed,
		TrainAttn: l.TrainAttn, TrainMLP: l.TrainMLP, TrainUnembed: l.TrainUnembed,
	}
}

// expiry turns a time to live into an instant.
func (r *Registry) expiry(ttl *time.Duration) *time.Time {
	if ttl == nil {
		return nil
	}
	at := r.now().UTC().Add(*ttl)
	return &at
}
