package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/wire"
)

// CompleteFile is the empty file that ends every checkpoint. The official
// client refuses to publish a checkpoint without it to a model hub.
const CompleteFile = "checkpoint_complete"

// The names of unlisted snapshots start with a character that no checkpoint
// name may contain, so nobody can address or collide with them.
const (
	snapshotPrefix = "~snapshot-"
	inflightName   = "~inflight"
)

// SaveRequest describes a checkpoint to be saved.
type SaveRequest struct {
	Kind         metastore.Kind
	Name         string // empty for a sampler: an unlisted snapshot
	TTL          *time.Duration
	Overwrite    bool
	UserMetadata map[string]string

	// SamplerSeq is the sampling session to open on an unlisted snapshot.
	SamplerSeq int64
	// Inflight makes the snapshot one that later inflight saves replace.
	Inflight bool
}

// Save queues the saving of a checkpoint. Its future's result is a
// wire.SaveWeightsResult, durably recorded in the transaction that makes the
// checkpoint visible.
func (r *Registry) Save(ctx context.Context, owner, modelID string, seq *int64, hash string, s SaveRequest) (*Future, error) {
	typ := map[metastore.Kind]string{
		metastore.KindTraining: "SaveWeights",
		metastore.KindSampler:  "SaveWeightsForSampler",
		metastore.KindExternal: "SaveWeightsExternal",
	}[s.Kind]
	return r.submit(ctx, owner, modelID, submission{
		typ: typ, hash: hash, seq: seq,
		op: saveOp{s},
	})
}

type saveOp struct{ Request SaveRequest }

func (op saveOp) run(ctx context.Context, m *model, f *Future) (any, error) {
	if op.Request.Name == "" && op.Request.Kind == metastore.KindSampler {
		return m.r.saveSnapshot(ctx, m, f, op.Request)
	}
	return m.r.saveNamed(ctx, m, f, op.Request)
}

func (r *Registry) saveNamed(ctx context.Context, m *model, f *Future, s SaveRequest) (any, error) {
	ref := Ref{RunID: m.id, Kind: s.Kind, Name: s.Name}
	if !s.Overwrite {
		// The transaction decides; asking first only spares the writing.
		old, err := r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name)
		if err == nil && !r.expired(old) && !r.recorded(ctx, f) {
			return nil, alreadySaved(ref)
		}
		if _, down := outage.Of(err); down {
			return nil, fmt.Errorf("save %s: %w", ref, err)
		}
	}
	c, err := r.writeCheckpoint(ctx, m, s)
	if err != nil {
		return nil, fmt.Errorf("save %s: %w", ref, err)
	}
	c.Listed = true
	result := wire.SaveWeightsResult{Path: ref.String(), SizeBytes: &c.SizeBytes, Type: typeOfSave(s.Kind)}
	res, err := r.durable(f, result)
	if err != nil {
		return nil, err
	}
	if _, err = r.meta.CommitCheckpoint(ctx, c, s.Overwrite, res); err != nil {
		if CodeOf(err) != Conflict {
			return nil, fmt.Errorf("save %s: %w", ref, err)
		}
		// A commit whose answer was lost is in the way of its own repetition.
		done, lost := r.meta.Result(ctx, res.RequestID)
		switch {
		case lost == nil && done.RequestHash == res.RequestHash:
			if err := json.Unmarshal(done.Payload, &result); err != nil {
				return nil, err
			}
		case lost == nil || CodeOf(lost) == NotFound:
			return nil, alreadySaved(ref)
		default:
			return nil, fmt.Errorf("save %s: %w", ref, lost)
		}
	}
	if s.Kind == metastore.KindTraining {
		m.mu.Lock()
		m.unsaved = false
		m.mu.Unlock()
	}
	r.poke()
	return result, nil
}

func (r *Registry) saveSnapshot(ctx context.Context, m *model, f *Future, s SaveRequest) (any, error) {
	s.Name = fmt.Sprintf("%s%d", snapshotPrefix, s.SamplerSeq)
	if s.Inflight {
		s.Name = inflightName
	}
	ref := Ref{RunID: m.id, Kind: s.Kind, Name: s.Name}
	c, err := r.writeCheckpoint(ctx, m, s)
	if err != nil {
		return nil, fmt.Errorf("save a snapshot of %s: %w", m.id, err)
	}
	if _, err := r.meta.CommitCheckpoint(ctx, c, true, nil); err != nil {
		return nil, err
	}
	id, err := r.createSampler(ctx, m.owner, m.sessionID, s.SamplerSeq, m.lora.BaseModel, ref.String(), f.hash)
	if err != nil {
		return nil, err
	}
	result := wire.SaveWeightsResult{SamplingSessionID: id, Type: typeOfSave(s.Kind)}
	res, err := r.durable(f, result)
	if err != nil {
		return nil, err
	}
	if err := r.meta.PutResult(ctx, *res); err != nil && !r.recorded(ctx, f) {
		return nil, err
	}
	return result, nil
}

func alreadySaved(ref Ref) error {
	return newError(Conflict, "checkpoint %s already exists; save under another name or set overwrite", ref)
}

func typeOfSave(k metastore.Kind) string {
	switch k {
	case metastore.KindSampler:
		return "save_weights_for_sampler"
	case metastore.KindExternal:
		return "save_weights_external"
	}
	return "save_weights"
}

// writeCheckpoint writes a model's files as blobs and describes the checkpoint
// they make. Nothing refers to the blobs yet.
func (r *Registry) writeCheckpoint(ctx context.Context, m *model, s SaveRequest) (metastore.Checkpoint, error) {
	return r.writeFiles(ctx, m, s, s.Kind == metastore.KindTraining, func(w *blobFiles) error {
		done, err := w.Create(CompleteFile)
		if err == nil {
			err = done.Close()
		}
		return err
	})
}

// writeFiles writes what the engine saves and what others add.
func (r *Registry) writeFiles(ctx context.Context, m *model, s SaveRequest, optimizer bool, add func(*blobFiles) error) (metastore.Checkpoint, error) {
	w := &blobFiles{ctx: ctx, blobs: r.blobs}
	err := m.em.Save(ctx, w, optimizer)
	if err == nil {
		err = add(w)
	}
	if err != nil {
		return metastore.Checkpoint{}, err
	}
	c := metastore.Checkpoint{
		RunID: m.id, Kind: s.Kind, Name: s.Name, Owner: m.owner,
		CreatedAt: r.now().UTC(), ExpiresAt: r.expiry(s.TTL),
		UserMetadata: s.UserMetadata, LoRA: m.lora, HasOptimizer: optimizer,
		Files: w.files,
	}
	for _, f := range c.Files {
		c.SizeBytes += f.Size
	}
	return c, nil
}

// durable makes the record of a result that outlives the server.
func (r *Registry) durable(f *Future, result any) (*metastore.Result, error) {
	payload, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return &metastore.Result{
		RequestID: f.ID, SessionID: f.SessionID, RequestHash: f.hash,
		CreatedAt: r.now().UTC(), Payload: payload,
	}, nil
}

// recorded reports whether a request has a result that outlives the server.
func (r *Registry) recorded(ctx context.Context, f *Future) bool {
	res, err := r.meta.Result(ctx, f.ID)
	return err == nil && res.RequestHash == f.hash
}

// storedResult is a recorded result read back: JSON as it will be sent.
func storedResult(payload []byte) any { return json.RawMessage(payload) }

// blobFiles is the engine.FileWriter that makes a manifest.
type blobFiles struct {
	ctx   context.Context
	blobs blobstore.Store
	files []metastore.File
}

var _ engine.FileWriter = (*blobFiles)(nil)

func (w *blobFiles) Create(name string) (io.WriteCloser, error) {
	b, err := w.blobs.Create(w.ctx)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return &blobFile{Writer: b, name: name, to: w}, nil
}

type blobFile struct {
	blobstore.Writer
	name   string
	to     *blobFiles
	failed bool
}

func (f *blobFile) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err != nil {
		f.failed = true
	}
	return n, err
}

// Close commits the file, unless a write to it failed.
func (f *blobFile) Close() error {
	if f.failed {
		return f.Abort()
	}
	info, err := f.Commit(f.to.ctx)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	f.to.files = append(f.to.files, metastore.File{Name: f.name, Size: info.Size, Digest: info.Digest})
	return nil
}
