package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// Ref names a checkpoint. It is made from a tinker path that was parsed and
// validated at the edge.
type Ref struct {
	RunID string
	Kind  metastore.Kind
	Name  string
}

const scheme = "tinker://"

// String formats the ref as a tinker path.
func (ref Ref) String() string { return scheme + ref.RunID + "/" + string(ref.Kind) + "/" + ref.Name }

// parseRef reads back what String wrote.
func parseRef(path string) (Ref, bool) {
	parts := strings.Split(strings.TrimPrefix(path, scheme), "/")
	if len(parts) != 3 {
		return Ref{}, false
	}
	return Ref{RunID: parts[0], Kind: metastore.Kind(parts[1]), Name: parts[2]}, true
}

func (r *Registry) expired(c metastore.Checkpoint) bool {
	return c.ExpiresAt != nil && !c.ExpiresAt.After(r.now())
}

// Owned finds a checkpoint of the owner's, without its files. Another owner's
// checkpoint, even a public one, is not found: only its owner may change it.
func (r *Registry) Owned(ctx context.Context, owner string, ref Ref) (metastore.Checkpoint, error) {
	return r.find(ctx, ref, r.meta.CheckpointInfo, func(c metastore.Checkpoint) bool { return c.Owner == owner })
}

// Readable finds a checkpoint that the owner may read: their own, or a public
// one. A private checkpoint of somebody else's cannot be told from one that
// does not exist.
func (r *Registry) Readable(ctx context.Context, owner string, ref Ref) (metastore.Checkpoint, error) {
	return r.find(ctx, ref, r.meta.Checkpoint, readableBy(owner))
}

// Info is Readable without the files.
func (r *Registry) Info(ctx context.Context, owner string, ref Ref) (metastore.Checkpoint, error) {
	return r.find(ctx, ref, r.meta.CheckpointInfo, readableBy(owner))
}

func readableBy(owner string) func(metastore.Checkpoint) bool {
	return func(c metastore.Checkpoint) bool { return c.Owner == owner || c.Public }
}

// Any finds a checkpoint whoever asks: for requests that prove in another way
// that they may read it. Asked for the same one again and again, it only looks
// whether that is still there. The files are not to be changed.
func (r *Registry) Any(ctx context.Context, ref Ref) (metastore.Checkpoint, error) {
	anybody := func(metastore.Checkpoint) bool { return true }
	c, err := r.find(ctx, ref, r.meta.CheckpointInfo, anybody)
	if err != nil {
		return c, err
	}
	var ok bool
	if c.Files, ok = r.manifests.get(c); ok {
		return c, nil
	}
	// It may have been replaced meanwhile; then this is the other one.
	if c, err = r.find(ctx, ref, r.meta.Checkpoint, anybody); err == nil {
		r.manifests.put(c)
	}
	return c, err
}

type lookup func(ctx context.Context, runID string, kind metastore.Kind, name string) (metastore.Checkpoint, error)

func (r *Registry) find(ctx context.Context, ref Ref, look lookup, allowed func(metastore.Checkpoint) bool) (metastore.Checkpoint, error) {
	c, err := look(ctx, ref.RunID, ref.Kind, ref.Name)
	if err != nil && CodeOf(err) != NotFound {
		return c, classify(err)
	}
	if err != nil || r.expired(c) || !allowed(c) {
		return metastore.Checkpoint{}, newError(NotFound, "checkpoint %s not found", ref)
	}
	return c, nil
}

// Checkpoints lists the owner's checkpoints, newest first.
func (r *Registry) Checkpoints(ctx context.Context, owner string, p metastore.Page) ([]metastore.Checkpoint, int, error) {
	cs, n, err := r.meta.Checkpoints(ctx, metastore.CheckpointFilter{Owner: owner, Now: r.now().UTC()}, p)
	return cs, n, classify(err)
}

// CheckpointsAfter goes through the owner's checkpoints, newest first, from a
// place in the list on; nil is its beginning. It lists about limit of them and
// says where to go on, nil at the end. The list may use the memory of into.
func (r *Registry) CheckpointsAfter(ctx context.Context, owner string, after *metastore.CheckpointPlace, limit int, into []metastore.ListedCheckpoint) ([]metastore.ListedCheckpoint, *metastore.CheckpointPlace, error) {
	list, next, err := r.meta.CheckpointsAfter(ctx, metastore.CheckpointFilter{Owner: owner, Now: r.now().UTC()}, after, limit, into)
	return list, next, classify(err)
}

// RunCheckpoints lists all checkpoints of a run of the owner's, newest first.
func (r *Registry) RunCheckpoints(ctx context.Context, owner, runID string) ([]metastore.Checkpoint, error) {
	cs, err := r.meta.AllRunCheckpoints(ctx, runID, r.now().UTC())
	if err == nil && len(cs) > 0 && cs[0].Owner == owner {
		return cs, nil // they all are the run's owner's
	}
	if err != nil {
		return nil, classify(err)
	}
	_, err = r.Run(ctx, owner, runID)
	return nil, err
}

// SetPublic publishes or unpublishes a checkpoint. One that is so already is a
// Conflict.
func (r *Registry) SetPublic(ctx context.Context, owner string, ref Ref, public bool) error {
	c, err := r.Owned(ctx, owner, ref)
	if err != nil {
		return err
	}
	changed, err := r.meta.SetPublic(ctx, c.ID, public)
	switch {
	case err != nil:
		return classify(err)
	case !changed && public:
		return newError(Conflict, "checkpoint %s is already public", ref)
	case !changed:
		return newError(Conflict, "checkpoint %s is not public", ref)
	}
	return nil
}

// SetTTL makes a checkpoint expire after ttl, or never if ttl is nil.
func (r *Registry) SetTTL(ctx context.Context, owner string, ref Ref, ttl *time.Duration) error {
	c, err := r.Owned(ctx, owner, ref)
	if err != nil {
		return err
	}
	if err := r.meta.SetExpiry(ctx, c.ID, r.expiry(ttl)); err != nil {
		return classify(err)
	}
	r.poke()
	return nil
}

// DeleteCheckpoint removes a checkpoint. Its bytes are removed later, unless
// another checkpoint has them too.
func (r *Registry) DeleteCheckpoint(ctx context.Context, owner string, ref Ref) error {
	c, err := r.Owned(ctx, owner, ref)
	if err != nil {
		return err
	}
	if err := r.meta.DeleteCheckpoint(ctx, c.ID); err != nil {
		if CodeOf(err) == NotFound {
			return newError(NotFound, "checkpoint %s not found", ref)
		}
		return fmt.Errorf("delete %s: %w", ref, classify(err))
	}
	return nil
}

// ManifestDigest identifies a checkpoint's content: equal files, names and
// order give equal digests.
func ManifestDigest(files []metastore.File) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s\x00%d\x00%s\n", f.Name, f.Size, f.Digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}
