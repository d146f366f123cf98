package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// RestoreRequest describes a checkpoint as it was on a server, this one or
// another.
type RestoreRequest struct {
	Origin Ref
	// RunID is a run of the owner's to restore into. Empty is the run that
	// stands for the origin's: every restore of the owner's from it goes there.
	RunID         string
	LoRA          metastore.LoRA
	RunMetadata   map[string]string
	LastRequestAt time.Time // of the origin's run; zero: not known
	CreatedAt     time.Time // zero: not known
	UserMetadata  map[string]string
	TTL           *time.Duration
	Overwrite     bool
	Files         []ImportFile
}

// RestoredFrom is the key of the user metadata that tells a restored run's or
// checkpoint's origin.
const RestoredFrom = "restored_from"

// restoreTag marks the sessions of restored runs.
const restoreTag = "restore"

// restores is the name space of the ids of sessions that stand for others.
var restores = uuid.MustParse("6e1c2f0b-2d34-4c4e-9a8e-5f4f3d0a7b52")

// standIn is the session of the run that stands for another one. It has the
// owner in it, so that nobody is in anybody's way.
func standIn(owner, runID string) string {
	return uuid.NewSHA1(restores, []byte(owner+"\x00"+runID)).String()
}

// Check reports what is wrong with a request as such.
func (q *RestoreRequest) Check() error {
	switch {
	case q.LoRA.BaseModel == "":
		return newError(Invalid, "base_model: it is missing")
	case strings.ContainsFunc(q.LoRA.BaseModel, unicode.IsControl):
		return newError(Invalid, "base_model: %q contains a control character", q.LoRA.BaseModel)
	case q.LoRA.Rank < 1:
		return newError(Invalid, "lora_rank: %d: expected at least 1", q.LoRA.Rank)
	case len(q.Files) == 0:
		return newError(Invalid, "files: there are none")
	}
	return checkFiles(q.Files)
}

// Restore makes a checkpoint of what one was elsewhere: of its kind and name,
// with its bytes as they are, its times and its metadata, private, and in a run
// that cannot be trained. Whether the engine could load it is not asked: the
// base model need not be on offer here. Done again, it changes nothing, and
// created is false.
func (r *Registry) Restore(ctx context.Context, owner string, q RestoreRequest) (c metastore.Checkpoint, created bool, err error) {
	if err := q.Check(); err != nil {
		return c, false, err
	}
	run, fresh, err := r.restoreRun(ctx, owner, q)
	if err != nil {
		return c, false, err
	}
	ref := Ref{RunID: run.ID, Kind: q.Origin.Kind, Name: q.Origin.Name}
	overwrite := q.Overwrite
	if fresh == nil {
		old, err := r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name)
		switch {
		case err != nil && CodeOf(err) != NotFound:
			return c, false, classify(err)
		case err != nil:
		case r.expired(old):
			overwrite = true
		case sameFiles(old.Files, q.Files):
			return old, false, nil
		case !q.Overwrite:
			return c, false, newError(Conflict, "checkpoint %s already exists and has other files; choose another run_id or set overwrite", ref)
		}
	}
	files, parts, err := r.gather(ctx, owner, q.Files)
	if err != nil {
		return c, false, err
	}
	now := r.now().UTC()
	c = metastore.Checkpoint{
		RunID: run.ID, Kind: ref.Kind, Name: ref.Name, Owner: owner, Listed: true, LoRA: run.LoRA,
		CreatedAt: q.CreatedAt.UTC(), ExpiresAt: r.expiry(q.TTL), UserMetadata: withOrigin(q.UserMetadata, q.Origin.String()),
		HasOptimizer: hasOptimizer(files), Files: files,
	}
	if c.CreatedAt.IsZero() || c.CreatedAt.After(now) {
		c.CreatedAt = now
	}
	in := metastore.Import{Owner: owner, Uploads: parts, Checkpoints: []metastore.Checkpoint{c}, Overwrite: overwrite}
	if fresh != nil {
		in.Session, in.Run = fresh, &run
	}
	stored, err := r.meta.CommitImport(ctx, in)
	if CodeOf(err) == Conflict && fresh != nil {
		// Another restore made the run first.
		in.Session, in.Run = nil, nil
		stored, err = r.meta.CommitImport(ctx, in)
	}
	if CodeOf(err) == Conflict {
		if old, oldErr := r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name); oldErr == nil && sameFiles(old.Files, q.Files) {
			return old, false, nil
		}
		return c, false, newError(Conflict, "checkpoint %s already exists; choose another run_id or set overwrite", ref)
	}
	if err != nil {
		return c, false, classify(err)
	}
	r.poke()
	return stored[0], true, nil
}

// restoreRun finds the run to restore into. If it has to be made, its session
// is returned as well.
func (r *Registry) restoreRun(ctx context.Context, owner string, q RestoreRequest) (metastore.Run, *metastore.Session, error) {
	id := q.RunID
	session := standIn(owner, q.Origin.RunID)
	if id == "" {
		id = runID(session, 0)
	}
	run, err := r.Run(ctx, owner, id)
	switch {
	case err == nil:
		if run.LoRA.BaseModel != q.LoRA.BaseModel || run.LoRA.Rank != q.LoRA.Rank {
			return run, nil, newError(Invalid, "run_id: run %q is of %s with rank %d, the checkpoint of %s with rank %d",
				id, run.LoRA.BaseModel, run.LoRA.Rank, q.LoRA.BaseModel, q.LoRA.Rank)
		}
		// What was trained is the checkpoint's own matter.
		run.LoRA = q.LoRA
		return run, nil, nil
	case CodeOf(err) != NotFound:
		return run, nil, err
	case q.RunID != "":
		return run, nil, newError(NotFound, "run_id: training run %q not found", q.RunID)
	}
	now := r.now().UTC()
	origin := "tinker://" + q.Origin.RunID
	metadata := map[string]any{}
	for k, v := range withOrigin(q.RunMetadata, origin) {
		metadata[k] = v
	}
	last := q.LastRequestAt.UTC()
	if last.IsZero() || last.After(now) {
		last = now
	}
	return metastore.Run{
			ID: id, SessionID: session, Owner: owner, LoRA: q.LoRA, UserMetadata: metadata,
			CreatedAt: now, LastRequestAt: last, State: metastore.RunEnded,
		}, &metastore.Session{
			ID: session, Owner: owner, CreatedAt: now, LastHeartbeat: now, Tags: []string{restoreTag},
			UserMetadata: map[string]any{RestoredFrom: origin}, DisplayName: "restored " + q.Origin.RunID,
			FinishedAt: &now, FinishReason: "success",
		}, nil
}

func withOrigin(metadata map[string]string, origin string) map[string]string {
	out := maps.Clone(metadata)
	if out == nil {
		out = map[string]string{}
	}
	out[RestoredFrom] = origin
	return out
}

func sameFiles(have []metastore.File, want []ImportFile) bool {
	return slices.EqualFunc(have, want, func(a metastore.File, b ImportFile) bool {
		return a.Name == b.Name && a.Size == b.Size && a.Digest == b.Digest
	})
}

// gather makes sure that all files are blobs that the owner may use, and
// returns them with the parts that some were made of.
func (r *Registry) gather(ctx context.Context, owner string, files []ImportFile) (out []metastore.File, parts []blobstore.Digest, err error) {
	sizes, err := r.claim(ctx, owner, digestsOf(files))
	if err != nil {
		return nil, nil, err
	}
	for i, f := range files {
		used, err := r.assemble(ctx, owner, f, fmt.Sprintf("files[%d]", i), sizes)
		if err != nil {
			return nil, nil, err
		}
		parts = append(parts, used...)
		out = append(out, metastore.File{Name: f.Name, Size: f.Size, Digest: f.Digest})
	}
	return out, parts, nil
}
