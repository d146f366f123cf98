// Package blobstore keeps bytes under their SHA-256 digest.
//
// A blob never changes: whoever holds its digest can check every byte. Blobs
// are shared between all checkpoints that contain them, so nothing here knows
// an owner, a name or a reference count; what is no longer referenced is found
// by the garbage collector, which marks from the manifests.
package blobstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"
)

// ErrNotFound: no blob has that digest.
var ErrNotFound = errors.New("blob not found")

// Digest is a blob's SHA-256.
type Digest [sha256.Size]byte

// ParseDigest reads 64 hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return d, fmt.Errorf("digest %q: expected %d hexadecimal digits", s, 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// String returns 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Info describes a stored blob.
type Info struct {
	Digest Digest
	Size   int64 // bytes
	// ModTime is when the blob was last committed, by whomever: committing
	// bytes that are there already counts, which is what lets the garbage
	// collector leave alone what a save in progress is about to reference.
	ModTime time.Time
}

// Store keeps blobs. It is safe for concurrent use by any number of processes.
//
// Every implementation promises, and package blobstoretest checks:
//
//   - A blob is either absent or whole. A crash at any instant leaves at worst
//     staged bytes that nobody can open and that a later Store sweeps away.
//   - When Commit returns, the bytes survive a power cut.
//   - Committing bytes that are already stored succeeds, keeps one copy and
//     renews ModTime.
//   - Errors that mean absence wrap ErrNotFound; all others may be retried.
type Store interface {
	// Create stages a new blob. The caller must call Commit or Abort.
	Create(ctx context.Context) (Writer, error)

	// OpenRange reads length bytes from offset; a negative length is up to
	// the end. Asking for bytes beyond the end is an error. Readers of local
	// files implement io.WriterTo such that an http.ResponseWriter can use
	// sendfile.
	OpenRange(ctx context.Context, d Digest, offset, length int64) (io.ReadCloser, error)

	// Stat describes a blob.
	Stat(ctx context.Context, d Digest) (Info, error)

	// All yields every blob, in no particular order. Blobs that come or go
	// during the walk may or may not be seen. A non-nil error ends the walk.
	All(ctx context.Context) iter.Seq2[Info, error]

	// Delete removes a blob if it was last committed before the given time,
	// and reports whether it did. A blob that is not there is not an error.
	// The comparison and the removal are one step as far as Commit is
	// concerned: a blob whose Commit has returned after that time is kept.
	Delete(ctx context.Context, d Digest, before time.Time) (bool, error)

	// Quarantine moves a damaged blob's bytes to a place where no method finds
	// them and nobody removes them, and returns where that is. It does so if
	// the blob is still as it was seen, of that size and last committed at
	// that time; otherwise it returns "", for it may have been replaced by a
	// whole one. As in Delete this is one step as far as Commit is concerned.
	// A blob that is not there is ErrNotFound.
	Quarantine(ctx context.Context, seen Info) (where string, err error)

	// Check reports whether the store can be reached and written to.
	Check(ctx context.Context) error

	Close() error
}

// Stray is something that lies where blobs are kept and is none.
type Stray struct {
	Path string // as an operator can find it
	Size int64  // bytes; 0 for what is not a file
}

// Inspector is implemented by stores that share their place with whatever
// people put there.
type Inspector interface {
	// Strays yields what is no blob and was not put there by any Store. A
	// non-nil error ends the walk.
	Strays(ctx context.Context) iter.Seq2[Stray, error]
	// PutAside moves a stray to where Quarantine moves blobs to.
	PutAside(ctx context.Context, s Stray) (where string, err error)
}

// FileAdopter is implemented by stores that take over a file without another
// copy of it on the way.
type FileAdopter interface {
	// AdoptFile makes a file a blob, as Commit would one with these bytes. The
	// file must have that digest and size, be flushed, and nobody may write to
	// it any more; a folder's must be on the folder's file system. Afterwards
	// it is gone, or left behind to be removed.
	AdoptFile(ctx context.Context, path string, d Digest, size int64) (Info, error)
}

// PutFile makes a file a blob, by AdoptFile where the store has it.
func PutFile(ctx context.Context, s Store, path string, d Digest, size int64) error {
	if a, ok := s.(FileAdopter); ok {
		_, err := a.AdoptFile(ctx, path, d, size)
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := s.Create(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	n, err := io.Copy(w, f)
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%q has %d bytes, not %d", path, n, size)
	}
	info, err := w.Commit(ctx)
	if err == nil && info.Digest != d {
		err = fmt.Errorf("%q is %s, not %s", path, info.Digest, d)
	}
	return err
}

// Writer stages one blob. It is used by one goroutine at a time.
type Writer interface {
	io.Writer
	// Commit makes the bytes written so far a blob, durably.
	Commit(ctx context.Context) (Info, error)
	// Abort drops the staged bytes. After Commit it does nothing.
	Abort() error
}
