// Package seed puts checkpoints straight into a server's stores, without
// training them: for tests and benchmarks that want a checkpoint of a certain
// size or content. What it commits is what a server that saved it would have
// committed, except that nobody has looked into the files.
package seed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/server"
)

// copyBuffer is how much of a file is held in memory while it is stored.
const copyBuffer = 1 << 20

// Stores are a server's stores.
type Stores struct {
	Meta  metastore.Store
	Blobs blobstore.Store
}

// OpenDir opens the stores of a data directory, which is made if it is not
// there. A server may have it open at the same time.
func OpenDir(ctx context.Context, dataDir string) (*Stores, error) {
	return Open(ctx, node.Stores{DataDir: dataDir})
}

// Open opens stores that may be elsewhere.
func Open(ctx context.Context, stores node.Stores) (*Stores, error) {
	blobs, err := stores.OpenBlobs(ctx)
	if err != nil {
		return nil, err
	}
	meta, err := stores.OpenMeta(ctx)
	if err != nil {
		return nil, errors.Join(err, blobs.Close())
	}
	return &Stores{meta, blobs}, nil
}

// Close closes both stores.
func (s *Stores) Close() error { return errors.Join(s.Meta.Close(), s.Blobs.Close()) }

// Key makes a server accept a key and take it for the owner. From the first
// key on it accepts no others.
func (s *Stores) Key(ctx context.Context, key, owner string) error {
	hash := server.HashKey(key)
	return s.Meta.CreateKey(ctx, metastore.Key{
		ID: "key-" + hash[:12], Hash: hash, Owner: owner, CreatedAt: time.Now().UTC(),
	})
}

// File is a file of a checkpoint to be made.
type File struct {
	Name string
	Body io.Reader
}

// Checkpoint stores the files and commits c with them, listed. c needs a
// RunID, of the form "<session>:train:<n>", a Kind, a Name and an Owner; its
// session and run are made if they are not there. Files that c already has are
// kept, in front of the others: their bytes must be stored already, as those of
// another checkpoint are. A zero CreatedAt is now, a zero LoRA is rank 8 of
// tinkex/tiny.
func (s *Stores) Checkpoint(ctx context.Context, c metastore.Checkpoint, files ...File) (metastore.Checkpoint, error) {
	if c.CreatedAt.IsZero() {
		c.CreatedAt = time.Now().UTC()
	}
	if c.LoRA == (metastore.LoRA{}) {
		c.LoRA = metastore.LoRA{BaseModel: "tinkex/tiny", Rank: 8, TrainAttn: true, TrainMLP: true, TrainUnembed: true}
	}
	c.Listed = true
	c.HasOptimizer = c.Kind == metastore.KindTraining
	if err := s.run(ctx, c); err != nil {
		return c, fmt.Errorf("seed %s: %w", c.RunID, err)
	}
	c.Files = append([]metastore.File(nil), c.Files...)
	for _, f := range files {
		stored, err := s.File(ctx, f)
		if err != nil {
			return c, fmt.Errorf("seed %s of %s: %w", f.Name, c.RunID, err)
		}
		c.Files = append(c.Files, stored)
	}
	return s.Meta.CommitCheckpoint(ctx, c, false, nil)
}

// Run makes a run, and its session if it is not there. Its id is of the form
// "<session>:train:<n>", which also gives Seq and SessionID. metastore.ErrExists
// if there is one of that id.
func (s *Stores) Run(ctx context.Context, r metastore.Run) error {
	session, rest, _ := strings.Cut(r.ID, ":train:")
	if n, _ := fmt.Sscanf(rest, "%d", &r.Seq); n != 1 || session == "" || r.ID != fmt.Sprintf("%s:train:%d", session, r.Seq) {
		return fmt.Errorf(`run %q: expected an id of the form "<session>:train:<n>"`, r.ID)
	}
	r.SessionID = session
	err := s.Meta.CreateSession(ctx, metastore.Session{ID: session, Owner: r.Owner, CreatedAt: r.CreatedAt, LastHeartbeat: r.CreatedAt})
	if err != nil && !errors.Is(err, metastore.ErrExists) {
		return err
	}
	return s.Meta.CreateRun(ctx, r)
}

// run makes the run of a checkpoint, unless it is there.
func (s *Stores) run(ctx context.Context, c metastore.Checkpoint) error {
	err := s.Run(ctx, metastore.Run{
		ID: c.RunID, Owner: c.Owner, LoRA: c.LoRA,
		CreatedAt: c.CreatedAt, LastRequestAt: c.CreatedAt, State: metastore.RunEnded,
	})
	if errors.Is(err, metastore.ErrExists) {
		return nil
	}
	return err
}

// File stores a file, for checkpoints to have.
func (s *Stores) File(ctx context.Context, f File) (metastore.File, error) {
	w, err := s.Blobs.Create(ctx)
	if err != nil {
		return metastore.File{}, err
	}
	defer w.Abort()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, f.Body, make([]byte, copyBuffer)); err != nil {
		return metastore.File{}, err
	}
	info, err := w.Commit(ctx)
	return metastore.File{Name: f.Name, Size: info.Size, Digest: info.Digest}, err
}
