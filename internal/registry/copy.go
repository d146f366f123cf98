package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// CopyRequest says what is to be copied and where to: as run Seq of a session,
// or, without one, to a session of its own in a project; or into a run.
type CopyRequest struct {
	From      Ref
	SessionID string
	Seq       int64
	ProjectID string
	TTL       *time.Duration

	Name      string // empty: the source's
	RunID     string // of the caller's, of the same base model and rank
	Overwrite bool   // what has that name in the run

	// Key, if not empty, makes the request one that is carried out once: sent
	// again, its answer is the first one's. Hash tells requests apart.
	Key, Hash string
}

// copyTag marks the sessions of copies.
const copyTag = "copy"

// Copy makes a checkpoint of the caller's out of one that the caller may read:
// of the same kind and, unless another is asked for, name, in a run of its own
// that cannot be trained or in one of the caller's. No byte moves; the copy's manifest names the source's blobs. It is private and
// expires when asked to, whatever the source does.
func (r *Registry) Copy(ctx context.Context, owner string, q CopyRequest) (Ref, error) {
	resultID := copyResult(owner, q.Key)
	if done, err := r.copied(ctx, resultID, q); done != nil || err != nil {
		return deref(done), err
	}
	if q.SessionID != "" {
		if err := r.activeSession(ctx, owner, q.SessionID); err != nil {
			return Ref{}, err
		}
	}
	src, err := r.Readable(ctx, owner, q.From)
	if err != nil {
		return Ref{}, err
	}
	// The source may be deleted at any moment, and its bytes with it: they are
	// claimed until the copy refers to them.
	digests := make([]blobstore.Digest, len(src.Files))
	for i, f := range src.Files {
		digests[i] = f.Digest
	}
	held, err := r.claim(ctx, owner, digests)
	if err != nil {
		return Ref{}, err
	}
	if slices.ContainsFunc(digests, func(d blobstore.Digest) bool { _, ok := held[d]; return !ok }) {
		return Ref{}, newError(NotFound, "checkpoint %s not found", q.From)
	}

	now := r.now().UTC()
	in := metastore.Import{Owner: owner}
	origin := map[string]any{"copied_from": q.From.String()}
	c := src
	c.Owner, c.Public, c.CreatedAt, c.ExpiresAt = owner, false, now, r.expiry(q.TTL)
	if q.Name != "" {
		c.Name = q.Name
	}
	if q.RunID != "" {
		return r.copyInto(ctx, owner, q, c, resultID)
	}
	session, seq := q.SessionID, q.Seq
	if session == "" {
		id, err := uuid.NewRandom()
		if err != nil {
			return Ref{}, err
		}
		session, seq = id.String(), 0
		in.Session = &metastore.Session{
			ID: session, Owner: owner, CreatedAt: now, LastHeartbeat: now, Tags: []string{copyTag}, ProjectID: q.ProjectID,
			UserMetadata: origin, DisplayName: "copy of " + q.From.Name, FinishedAt: &now, FinishReason: "success",
		}
	}
	in.Run = &metastore.Run{
		ID: runID(session, seq), SessionID: session, Seq: seq, Owner: owner, LoRA: src.LoRA, UserMetadata: origin,
		RequestHash: q.Hash, CreatedAt: now, LastRequestAt: now, State: metastore.RunEnded,
	}
	c.RunID = in.Run.ID
	in.Checkpoints = []metastore.Checkpoint{c}
	ref := Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}
	if in.Result, err = copyOutcome(resultID, q.Hash, now, ref); err != nil {
		return Ref{}, err
	}
	if _, err := r.meta.CommitImport(ctx, in); err != nil {
		if CodeOf(err) != Conflict {
			return Ref{}, classify(err)
		}
		// The same request may have been faster.
		if done, doneErr := r.copied(ctx, resultID, q); done != nil || doneErr != nil {
			return deref(done), doneErr
		}
		if old, err := r.meta.Run(ctx, in.Run.ID); err == nil && old.RequestHash == q.Hash {
			return ref, nil
		}
		return Ref{}, newError(Conflict, "model_seq_id: %d was already used by another request of session %q", q.Seq, q.SessionID)
	}
	r.poke()
	return ref, nil
}

// copyInto puts a copy into a run that is there.
func (r *Registry) copyInto(ctx context.Context, owner string, q CopyRequest, c metastore.Checkpoint, resultID string) (Ref, error) {
	run, err := r.Run(ctx, owner, q.RunID)
	if err != nil {
		return Ref{}, newError(NotFound, "run_id: training run %q not found", q.RunID)
	}
	if run.LoRA.BaseModel != c.LoRA.BaseModel || run.LoRA.Rank != c.LoRA.Rank {
		return Ref{}, newError(Invalid, "run_id: run %q is of %s with rank %d, the checkpoint of %s with rank %d",
			run.ID, run.LoRA.BaseModel, run.LoRA.Rank, c.LoRA.BaseModel, c.LoRA.Rank)
	}
	c.RunID = run.ID
	ref := Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}
	if ref == q.From {
		return Ref{}, newError(Invalid, "name: %s would be copied onto itself; give the copy another name", ref)
	}
	in := metastore.Import{Owner: owner, Checkpoints: []metastore.Checkpoint{c}, Overwrite: q.Overwrite}
	if in.Result, err = copyOutcome(resultID, q.Hash, c.CreatedAt, ref); err != nil {
		return Ref{}, err
	}
	if _, err := r.meta.CommitImport(ctx, in); err != nil {
		if CodeOf(err) != Conflict {
			return Ref{}, classify(err)
		}
		// The same request may have been faster.
		if done, doneErr := r.copied(ctx, resultID, q); done != nil || doneErr != nil {
			return deref(done), doneErr
		}
		return Ref{}, alreadySaved(ref)
	}
	r.poke()
	return ref, nil
}

// copyOutcome is what a request that is carried out once leaves behind, nil if
// it is none.
func copyOutcome(resultID, hash string, now time.Time, ref Ref) (*metastore.Result, error) {
	if resultID == "" {
		return nil, nil //nolint:nilnil // no outcome is a valid answer
	}
	payload, err := json.Marshal(ref)
	if err != nil {
		return nil, err
	}
	return &metastore.Result{RequestID: resultID, RequestHash: hash, CreatedAt: now, Payload: payload}, nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// copyResult is the id of a request's record; a key is its owner's.
func copyResult(owner, key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(owner + "\x00" + key))
	return "copy:" + hex.EncodeToString(sum[:])
}

// copied finds the outcome of a request that was carried out before, nil if
// there is none.
func (r *Registry) copied(ctx context.Context, resultID string, q CopyRequest) (*Ref, error) {
	if resultID == "" {
		return nil, nil //nolint:nilnil // no outcome is a valid answer
	}
	res, err := r.meta.Result(ctx, resultID)
	if err != nil {
		if CodeOf(err) == NotFound {
			return nil, nil //nolint:nilnil // see above
		}
		return nil, classify(err)
	}
	if res.RequestHash != q.Hash {
		return nil, newError(Conflict, "X-Idempotency-Key: it was already used by another copy")
	}
	var ref Ref
	if err := json.Unmarshal(res.Payload, &ref); err != nil {
		return nil, err
	}
	return &ref, nil
}
