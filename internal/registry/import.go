package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Bounds of one import.
const (
	maxImportFiles = 64
	// maxAdapterConfig bounds what is read into memory of a file whose size
	// its sender chose.
	maxAdapterConfig = 1 << 20
	// importsAtOnce bounds how many adapters are in memory to be tried.
	importsAtOnce = 2
)

// ImportFile is a file of an adapter: bytes that the owner has sent, whole or
// in parts that make up the whole in their order.
type ImportFile struct {
	Name   string
	Size   int64
	Digest blobstore.Digest
	Parts  []metastore.Blob
}

// ImportRequest describes an adapter made elsewhere and the checkpoints that
// it is to become.
type ImportRequest struct {
	Name         string
	Kinds        []metastore.Kind // KindTraining, KindSampler or both
	BaseModel    string           // empty: what the adapter says
	RunID        string           // empty: a run of its own
	Overwrite    bool
	TTL          *time.Duration
	UserMetadata map[string]string
	Files        []ImportFile

	// Key, if not empty, makes the request one that is carried out once: sent
	// again, its answer is the first one's. Hash tells requests apart.
	Key, Hash string
}

// Check reports what is wrong with a request as such.
func (q *ImportRequest) Check() error {
	if err := checkFiles(q.Files); err != nil {
		return err
	}
	for _, name := range []string{engine.AdapterConfigFile, engine.AdapterWeightsFile} {
		if !slices.ContainsFunc(q.Files, func(f ImportFile) bool { return f.Name == name }) {
			return newError(Invalid, "files: there is no %s", name)
		}
	}
	return nil
}

// checkFiles reports what is wrong with the files of a request as such.
func checkFiles(files []ImportFile) error {
	if len(files) > maxImportFiles {
		return newError(Invalid, "files: %d are more than %d", len(files), maxImportFiles)
	}
	var names []string
	for i, f := range files {
		field := fmt.Sprintf("files[%d]", i)
		switch {
		case strings.Contains(f.Name, "/"):
			return newError(Invalid, "%s.name: %q is not a file's name but a path", field, f.Name)
		case strings.HasPrefix(f.Name, "."):
			return newError(Invalid, "%s.name: %q is reserved: names with a dot in front are for programs to keep records in", field, f.Name)
		case strings.EqualFold(f.Name, CompleteFile) && (f.Name != CompleteFile || f.Size != 0):
			return newError(Invalid, "%s.name: %q is reserved for an empty file, which need not be sent", field, f.Name)
		case f.Size < 0:
			return newError(Invalid, "%s.size_bytes: %d is negative", field, f.Size)
		case f.Name == engine.AdapterConfigFile && f.Size > maxAdapterConfig:
			return newError(Invalid, "%s.size_bytes: %s has %d bytes, more than %d", field, f.Name, f.Size, maxAdapterConfig)
		}
		if err := checkParts(f, field); err != nil {
			return err
		}
		names = append(names, f.Name)
		// One by one, so that the fault is the last one's.
		if err := archive.CheckNames(names); err != nil {
			return newError(Invalid, "%s.name: %w", field, err)
		}
	}
	return nil
}

func checkParts(f ImportFile, field string) error {
	if f.Parts == nil {
		return nil
	}
	var sum int64
	for i, p := range f.Parts {
		if p.Size < 1 || p.Size > PartBytes {
			return newError(Invalid, "%s.parts[%d].size_bytes: %d: expected 1 to %d", field, i, p.Size, PartBytes)
		}
		if sum > math.MaxInt64-p.Size {
			return newError(Invalid, "%s.parts: too many bytes", field)
		}
		sum += p.Size
	}
	if sum != f.Size {
		return newError(Invalid, "%s.parts: %d bytes in all, but %s has %d", field, sum, f.Name, f.Size)
	}
	return nil
}

// Import makes checkpoints of an adapter. Nothing of it can be seen before all
// of it is there: bytes are put together as blobs first, the engine loads
// them, and one transaction makes session, run and checkpoints visible.
// A crash before that leaves blobs that are uploads of the owner's for a day.
func (r *Registry) Import(ctx context.Context, owner string, q ImportRequest) ([]metastore.Checkpoint, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	resultID := importResult(owner, q.Key)
	if done, err := r.imported(ctx, resultID, q); done != nil || err != nil {
		return done, err
	}
	if err := r.importable(ctx, owner, q); err != nil {
		return nil, err
	}
	if err := r.describable(ctx, owner, q); err != nil {
		return nil, err
	}
	select {
	case r.imports <- struct{}{}:
		defer func() { <-r.imports }()
	case <-ctx.Done():
		return nil, classify(ctx.Err())
	}

	_, parts, err := r.gather(ctx, owner, q.Files)
	if err != nil {
		return nil, err
	}
	complete := ImportFile{Name: CompleteFile, Digest: emptyDigest}
	if err := r.storeBlob(ctx, emptyDigest, 0, func(io.Writer) error { return nil }); err != nil {
		return nil, err
	}
	files := importManifest(append(slices.Clone(q.Files), complete))
	lora, optimizer, err := r.tryAdapter(ctx, q.BaseModel, files)
	if err != nil {
		return nil, err
	}
	return r.commitImport(ctx, owner, q, resultID, metastore.Checkpoint{LoRA: lora, HasOptimizer: optimizer, Files: files}, parts)
}

// digestsOf lists all blobs that files mention.
func digestsOf(files []ImportFile) []blobstore.Digest {
	var all []blobstore.Digest
	for _, f := range files {
		all = append(all, f.Digest)
		for _, p := range f.Parts {
			all = append(all, p.Digest)
		}
	}
	return all
}

// importManifest orders files as a save does: the adapter, the optimizer's
// state, whatever else there is, and the mark that all of it is there.
func importManifest(files []ImportFile) []metastore.File {
	order := []string{engine.AdapterConfigFile, engine.AdapterWeightsFile, engine.OptimizerFile}
	rank := func(name string) int {
		if name == CompleteFile {
			return len(order) + 1
		}
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	var out []metastore.File
	for _, f := range files {
		out = append(out, metastore.File{Name: f.Name, Size: f.Size, Digest: f.Digest})
	}
	slices.SortStableFunc(out, func(a, b metastore.File) int { return rank(a.Name) - rank(b.Name) })
	return slices.CompactFunc(out, func(a, b metastore.File) bool { return a.Name == b.Name })
}

// importable refuses early what the transaction would refuse at last.
func (r *Registry) importable(ctx context.Context, owner string, q ImportRequest) error {
	if q.RunID == "" {
		return nil
	}
	if _, err := r.Run(ctx, owner, q.RunID); err != nil {
		return newError(NotFound, "run_id: training run %q not found", q.RunID)
	}
	for _, kind := range q.Kinds {
		ref := Ref{RunID: q.RunID, Kind: kind, Name: q.Name}
		if old, err := r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name); err == nil && !r.expired(old) && !q.Overwrite {
			return alreadySaved(ref)
		}
	}
	return nil
}

// describable refuses what the adapter's configuration is enough to refuse, if
// that has been sent, whether or not the rest has.
func (r *Registry) describable(ctx context.Context, owner string, q ImportRequest) error {
	i := slices.IndexFunc(q.Files, func(f ImportFile) bool { return f.Name == engine.AdapterConfigFile })
	config, _, err := r.gather(ctx, owner, q.Files[i:i+1])
	if err != nil {
		return nil //nolint:nilerr // it is found again with all files, under its name in the request
	}
	_, err = r.engine.Describe(r.files(ctx, config), q.BaseModel)
	return classify(err)
}

// assemble makes sure that a file is one blob that the owner may use, and
// returns the parts it was made of, if it was.
func (r *Registry) assemble(ctx context.Context, owner string, f ImportFile, field string, sizes map[blobstore.Digest]int64) ([]blobstore.Digest, error) {
	if f.Size == 0 && f.Digest == emptyDigest {
		return nil, r.storeBlob(ctx, emptyDigest, 0, func(io.Writer) error { return nil })
	}
	if size, ok := sizes[f.Digest]; ok {
		if size != f.Size {
			return nil, newError(Invalid, "%s.size_bytes: %s has %d bytes, not %d", field, f.Name, size, f.Size)
		}
		return nil, nil
	}
	if len(f.Parts) == 0 {
		return nil, newError(Conflict, "%s: %s has not been sent within the last day: upload %s", field, f.Name, f.Digest)
	}
	used := make([]blobstore.Digest, len(f.Parts))
	for i, p := range f.Parts {
		used[i] = p.Digest
		size, ok := sizes[p.Digest]
		if !ok {
			return nil, newError(Conflict, "%s.parts[%d]: this part of %s has not been sent within the last day: upload %s", field, i, f.Name, p.Digest)
		}
		if size != p.Size {
			return nil, newError(Invalid, "%s.parts[%d].size_bytes: %s has %d bytes, not %d", field, i, p.Digest, size, p.Size)
		}
	}
	err := r.storeBlob(ctx, f.Digest, f.Size, func(w io.Writer) error {
		for _, p := range f.Parts {
			part, err := r.blobs.OpenRange(ctx, p.Digest, 0, -1)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, part)
			if err = errors.Join(err, part.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if CodeOf(err) == Invalid {
		return nil, newError(Invalid, "%s.sha256: the parts of %s are not the whole: %w", field, f.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: put %s together: %w", field, f.Name, err)
	}
	// From here on a repeated request need not do this again.
	sizes[f.Digest] = f.Size
	return used, classify(r.meta.PutUpload(ctx, owner, metastore.Blob{Digest: f.Digest, Size: f.Size}, r.now().UTC()))
}

// tryAdapter has the engine load an adapter as training would, which is how
// one learns that it can.
func (r *Registry) tryAdapter(ctx context.Context, baseModel string, files []metastore.File) (lora metastore.LoRA, optimizer bool, err error) {
	fsys := r.files(ctx, files)
	cfg, err := r.engine.Describe(fsys, baseModel)
	if err != nil {
		return lora, false, classify(err)
	}
	m, err := r.engine.NewModel(ctx, cfg)
	if err != nil {
		return lora, false, classify(err)
	}
	defer m.Close()
	optimizer = hasOptimizer(files)
	if err := m.Load(ctx, fsys, optimizer); err != nil {
		return lora, false, classify(err)
	}
	return metastore.LoRA{
		BaseModel: cfg.BaseModel, Rank: cfg.Rank,
		TrainAttn: cfg.TrainAttn, TrainMLP: cfg.TrainMLP, TrainUnembed: cfg.TrainUnembed,
	}, optimizer, nil
}

func hasOptimizer(files []metastore.File) bool {
	return slices.ContainsFunc(files, func(f metastore.File) bool { return f.Name == engine.OptimizerFile })
}

// importTag marks the sessions of imports.
const importTag = "import"

func (r *Registry) commitImport(ctx context.Context, owner string, q ImportRequest, resultID string, c metastore.Checkpoint, parts []blobstore.Digest) ([]metastore.Checkpoint, error) {
	now := r.now().UTC()
	in := metastore.Import{Overwrite: q.Overwrite, Owner: owner, Uploads: parts}
	if q.RunID == "" {
		id, err := uuid.NewRandom()
		if err != nil {
			return nil, err
		}
		origin := map[string]any{"imported": "true"}
		in.Session = &metastore.Session{
			ID: id.String(), Owner: owner, CreatedAt: now, LastHeartbeat: now, Tags: []string{importTag},
			UserMetadata: origin, DisplayName: "import of " + q.Name, FinishedAt: &now, FinishReason: "success",
		}
		in.Run = &metastore.Run{
			ID: runID(id.String(), 0), SessionID: id.String(), Owner: owner, LoRA: c.LoRA, UserMetadata: origin,
			CreatedAt: now, LastRequestAt: now, State: metastore.RunEnded,
		}
		q.RunID = in.Run.ID
	} else {
		run, err := r.Run(ctx, owner, q.RunID)
		if err != nil {
			return nil, newError(NotFound, "run_id: training run %q not found", q.RunID)
		}
		if run.LoRA.BaseModel != c.LoRA.BaseModel || run.LoRA.Rank != c.LoRA.Rank {
			return nil, newError(Invalid, "run_id: run %q is of %s with rank %d, the adapter of %s with rank %d",
				q.RunID, run.LoRA.BaseModel, run.LoRA.Rank, c.LoRA.BaseModel, c.LoRA.Rank)
		}
	}
	c.RunID, c.Name, c.Owner, c.Listed = q.RunID, q.Name, owner, true
	c.CreatedAt, c.ExpiresAt, c.UserMetadata = now, r.expiry(q.TTL), q.UserMetadata
	var refs []Ref
	for _, kind := range q.Kinds {
		k := c
		k.Kind = kind
		if kind != metastore.KindTraining {
			k.HasOptimizer = false
			k.Files = slices.DeleteFunc(slices.Clone(c.Files), func(f metastore.File) bool { return f.Name == engine.OptimizerFile })
		}
		in.Checkpoints = append(in.Checkpoints, k)
		refs = append(refs, Ref{RunID: k.RunID, Kind: k.Kind, Name: k.Name})
	}
	if resultID != "" {
		payload, err := json.Marshal(refs)
		if err != nil {
			return nil, err
		}
		in.Result = &metastore.Result{RequestID: resultID, RequestHash: q.Hash, CreatedAt: now, Payload: payload}
	}
	stored, err := r.meta.CommitImport(ctx, in)
	if CodeOf(err) == Conflict {
		// The same request may have been faster, or the name is taken.
		if done, doneErr := r.imported(ctx, resultID, q); done != nil || doneErr != nil {
			return done, doneErr
		}
		return nil, newError(Conflict, "name: a checkpoint %q of run %q already exists; choose another name or set overwrite", q.Name, q.RunID)
	}
	if err != nil {
		return nil, classify(err)
	}
	r.poke()
	return stored, nil
}

// importResult is the id of a request's record; a key is its owner's.
func importResult(owner, key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(owner + "\x00" + key))
	return "import:" + hex.EncodeToString(sum[:])
}

// imported finds the outcome of a request that was carried out before, nil if
// there is none.
func (r *Registry) imported(ctx context.Context, resultID string, q ImportRequest) ([]metastore.Checkpoint, error) {
	if resultID == "" {
		return nil, nil
	}
	res, err := r.meta.Result(ctx, resultID)
	if err != nil {
		if CodeOf(err) == NotFound {
			return nil, nil
		}
		return nil, classify(err)
	}
	if res.RequestHash != q.Hash {
		return nil, newError(Conflict, "X-Idempotency-Key: it was already used by another import")
	}
	var refs []Ref
	if err := json.Unmarshal(res.Payload, &refs); err != nil {
		return nil, err
	}
	var out []metastore.Checkpoint
	for _, ref := range refs {
		c, err := r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name)
		if err != nil {
			return nil, newError(Gone, "checkpoint %s was imported by this request and has been deleted since", ref)
		}
		out = append(out, c)
	}
	return out, nil
}
