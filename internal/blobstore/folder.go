package blobstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/durable"
)

// The layout of a folder store, below its directory:
//
//	blobs/sha256/<first two digits>/<digest>   the blobs
//	staging/<opener>/                          bytes not committed yet, one directory per open store
//	staging/<opener>.lock                      locked for as long as that store is open
//	locks/<first two digits>                   serialises Commit, Delete and Quarantine between processes
//	locks/staging                              serialises opening and sweeping
//	quarantine/                                what was found damaged or does not belong, for people to look at
//
// Everything is on one file system, so that a commit is a rename.
const (
	blobsName   = "blobs"
	hashName    = "sha256"
	stagingName = "staging"
	locksName   = "locks"
	asideName   = "quarantine"

	lockSuffix = ".lock"

	dirMode = 0o700
)

// abandonedAfter is how long staged bytes must have lain untouched before they
// are taken for a dead process's where locks cannot tell.
const abandonedAfter = 24 * time.Hour

type folder struct {
	dir     string // as the caller named it, for messages
	blobs   string
	staging string       // this store's own staging directory
	alive   *flock.Flock // on that directory
	locks   *shardLocks
	// durable[i]: this process has made sure that shard i's own directory
	// entry would survive a power cut.
	durable [256]atomic.Bool
	closed  atomic.Bool
}

// OpenFolder opens the store in a directory of the local file system, creating
// the directory and its parents as needed. Any number of processes may have
// the same directory open.
//
// What a process that died had staged is swept away by the next OpenFolder:
// every open store holds a lock on its own staging directory, and one whose
// lock is free has no owner. On file systems without locks (some network
// mounts) staged bytes are swept once nothing has touched them for a day, and
// Delete is atomic with respect to the Commits of its own process only.
//
// Times are kept to the resolution of the file system.
func OpenFolder(dir string) (Store, error) {
	s, err := openFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store in %q: %w", dir, err)
	}
	return s, nil
}

func openFolder(dir string) (*folder, error) {
	if dir == "" {
		return nil, errors.New("no directory given")
	}
	s := &folder{
		dir:   dir,
		blobs: filepath.Join(dir, blobsName, hashName),
		locks: newShardLocks(filepath.Join(dir, locksName)),
	}
	staging := filepath.Join(dir, stagingName)
	for _, d := range []string{s.blobs, staging, s.locks.dir} {
		if err := makeDirs(d); err != nil {
			return nil, err
		}
	}

	// Nobody sweeps between the creation of our lock file and its locking.
	release, err := lock(context.Background(), filepath.Join(s.locks.dir, stagingName))
	if err != nil {
		return nil, err
	}
	defer release()
	sweep(staging)

	s.staging = filepath.Join(staging, opener())
	s.alive = flock.New(s.staging+lockSuffix, flock.SetFlag(os.O_RDWR|os.O_CREATE|os.O_EXCL))
	if _, err := s.alive.TryLock(); err != nil && !durable.NoLocks(err) {
		return nil, err
	}
	if err := os.Mkdir(s.staging, dirMode); err != nil {
		return nil, errors.Join(err, unlock(s.alive))
	}
	return s, nil
}

// makeDirs creates a directory and its missing parents such that all of them
// survive a power cut.
func makeDirs(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%q is in the way: not a directory", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDirs(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(parent)
}

// opener returns a name for a staging directory that nobody has used before.
// The process id is there for whoever looks into the directory by hand.
func opener() string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%s", os.Getpid(), hex.EncodeToString(b[:]))
}

// sweep removes what dead openers left in the staging directory. What it
// cannot remove costs space and nothing else, so that is not an error.
func sweep(staging string) {
	entries, err := os.ReadDir(staging)
	if err != nil {
		return
	}
	locked := make(map[string]bool) // the openers that have a lock file
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), lockSuffix); ok {
			locked[name] = true
			sweepOpener(filepath.Join(staging, name))
		}
	}
	for _, e := range entries {
		path := filepath.Join(staging, e.Name())
		if strings.HasSuffix(e.Name(), lockSuffix) || locked[e.Name()] || !abandoned(path) {
			continue
		}
		os.RemoveAll(path)
	}
}

// sweepOpener removes an opener's staging directory, then its lock file, if
// the opener is dead.
func sweepOpener(path string) {
	l := flock.New(path+lockSuffix, flock.SetFlag(os.O_RDWR))
	locked, err := l.TryLock()
	if dead := locked || durable.NoLocks(err) && abandoned(path) && abandoned(path+lockSuffix); !dead {
		return
	}
	removed := os.RemoveAll(path)
	// Before the lock file's removal: Windows does not remove open files.
	if err := unlock(l); err == nil && removed == nil {
		os.Remove(path + lockSuffix)
	}
}

// abandoned reports whether nothing at path or directly in it has changed for
// so long that nobody can be working on it. What is not there is abandoned.
func abandoned(path string) bool {
	limit := time.Now().Add(-abandonedAfter)
	fi, err := os.Lstat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	if !fi.ModTime().Before(limit) {
		return false
	}
	if !fi.IsDir() {
		return true
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && !fi.ModTime().Before(limit) {
			return false
		}
	}
	return true
}

func shardName(shard byte) string { return hex.EncodeToString([]byte{shard}) }

func (s *folder) path(d Digest) string {
	return filepath.Join(s.blobs, shardName(d[0]), d.String())
}

// usable reports why nothing can be asked of the store, if so.
func (s *folder) usable(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("blob store in %q: %w", s.dir, fs.ErrClosed)
	}
	return ctx.Err()
}

// absent explains that a blob's file is not there. When the whole store is
// gone (a volume not mounted, a directory removed) the blob is not known to be
// absent, and saying ErrNotFound would have its checkpoints taken for damaged.
func (s *folder) absent(op string, d Digest) error {
	if err := s.gone(); err != nil {
		return fmt.Errorf("%s blob %s: %w", op, d, err)
	}
	return fmt.Errorf("%s blob %s: %w", op, d, ErrNotFound)
}

func (s *folder) Create(ctx context.Context) (Writer, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.staging, "blob-*")
	if errors.Is(err, fs.ErrNotExist) {
		// Our directory was cleaned away. Mkdir rather than MkdirAll: if the
		// store itself is gone, it must not spring up anew on whatever is
		// below its mount point.
		if err = os.Mkdir(s.staging, dirMode); err == nil || errors.Is(err, fs.ErrExist) {
			f, err = os.CreateTemp(s.staging, "blob-*")
		}
	}
	if err != nil {
		if gone := s.gone(); gone != nil {
			err = gone
		}
		return nil, staging(err)
	}
	return &folderWriter{store: s, f: f, hash: sha256.New()}, nil
}

type folderWriter struct {
	store *folder
	f     *os.File // nil once committed or aborted
	hash  hash.Hash
	size  int64
	err   error // what a Write met; such a blob must not be committed

	// pending is what has not reached the file yet, at the beginning of a buffer
	// from writeBuffers; large is what the bytes beyond cachedBytes go through.
	pending []byte
	large   *durable.Appender
}

// cachedBytes of a blob stay in the page cache. They are what is read again
// soon: parts of an upload, headers, small files.
const cachedBytes = 32 << 20

// writeBuffers hold what is hashed and written at a time.
var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}

func (w *folderWriter) Write(p []byte) (int, error) {
	switch {
	case w.f == nil:
		return 0, fmt.Errorf("stage blob: %w", fs.ErrClosed)
	case w.err != nil:
		return 0, w.err
	}
	n := 0
	for n < len(p) {
		if w.pending == nil {
			w.pending = (*writeBuffers.Get().(*[]byte))[:0]
		}
		m := copy(w.pending[len(w.pending):cap(w.pending)], p[n:])
		w.pending = w.pending[:len(w.pending)+m]
		n += m
		if len(w.pending) == cap(w.pending) {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush hashes and writes what is pending, side by side.
func (w *folderWriter) flush() error {
	if w.large == nil && w.size >= cachedBytes && len(w.pending) == cap(w.pending) {
		if w.large, w.err = durable.NewAppender(w.f, w.size); w.err != nil {
			w.err = staging(w.err)
			return w.err
		}
	}
	var dst io.Writer = w.f
	if w.large != nil {
		dst = w.large
	}
	var hashing sync.WaitGroup
	hashing.Go(func() { w.hash.Write(w.pending) })
	n, err := dst.Write(w.pending)
	hashing.Wait()
	w.size += int64(n)
	w.pending = w.pending[:0]
	if err != nil {
		w.err = staging(err)
	}
	return w.err
}

// Commit also drops the staged bytes when it fails.
func (w *folderWriter) Commit(ctx context.Context) (Info, error) {
	if w.f == nil {
		return Info{}, fmt.Errorf("commit blob: %w", fs.ErrClosed)
	}
	defer func() { _ = w.Abort() }()
	if w.err != nil {
		return Info{}, w.err
	}
	if err := w.store.usable(ctx); err != nil {
		return Info{}, err
	}
	if err := w.flush(); err != nil {
		return Info{}, err
	}
	d := Digest(w.hash.Sum(nil))
	info, err := w.commit(ctx, d)
	if err != nil {
		return Info{}, onDisk(fmt.Errorf("commit blob %s: %w", d, err))
	}
	return info, nil
}

func (w *folderWriter) commit(ctx context.Context, d Digest) (Info, error) {
	if err := w.f.Sync(); err != nil {
		return Info{}, err
	}
	if err := w.f.Close(); err != nil {
		return Info{}, err
	}
	return w.store.adopt(ctx, w.f.Name(), d, w.size)
}

func (w *folderWriter) Abort() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	if w.pending != nil {
		b := w.pending[:cap(w.pending)]
		writeBuffers.Put(&b)
		w.pending = nil
	}
	f.Close() // after a commit it is closed already, which is fine
	// A committed file was renamed away, unless the blob was there before.
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop staged blob: %w", err)
	}
	return nil
}

// AdoptFile implements FileAdopter by a rename.
func (s *folder) AdoptFile(ctx context.Context, path string, d Digest, size int64) (Info, error) {
	if err := s.usable(ctx); err != nil {
		return Info{}, err
	}
	fi, err := os.Lstat(path)
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() != size) {
		err = fmt.Errorf("%q is no file of %d bytes", path, size)
	}
	var info Info
	if err == nil {
		info, err = s.adopt(ctx, path, d, size)
	}
	if err != nil {
		return Info{}, fmt.Errorf("adopt blob %s: %w", d, err)
	}
	return info, nil
}

// adopt makes a staged, flushed file the blob d, unless the blob is there. The
// staged file may be left behind.
func (s *folder) adopt(ctx context.Context, staged string, d Digest, size int64) (Info, error) {
	release, err := s.locks.lock(ctx, d[0])
	if err != nil {
		return Info{}, err
	}
	defer release()

	path := s.path(d)
	shard := filepath.Dir(path)
	if !s.durable[d[0]].Load() {
		if err := s.makeShard(shard); err != nil {
			return Info{}, err
		}
		s.durable[d[0]].Store(true)
	}

	fi, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Info{}, err
	}
	// A file of another size is a damaged blob, and here is the cure. One
	// whose time we may not set belongs to another user; ours replaces it.
	there := err == nil && fi.Mode().IsRegular() && fi.Size() == size && touch(path) == nil
	if !there {
		err := os.Rename(staged, path)
		if errors.Is(err, fs.ErrNotExist) { // somebody tidied the directory away
			if err := s.makeShard(shard); err != nil {
				return Info{}, err
			}
			err = os.Rename(staged, path)
		}
		if err != nil {
			return Info{}, err
		}
	}
	// Even if the blob was there: whoever put it there may not have come this
	// far, and our caller is promised that it survives.
	if err := durable.SyncDir(shard); err != nil {
		return Info{}, err
	}
	// Last, so that the time is as close to our return as can be.
	if err := touch(path); err != nil {
		return Info{}, err
	}
	fi, err = os.Lstat(path)
	if err != nil {
		return Info{}, err
	}
	return Info{Digest: d, Size: size, ModTime: fi.ModTime()}, nil
}

// makeShard sees to it that a shard's directory is there and stays.
func (s *folder) makeShard(shard string) error {
	if err := os.Mkdir(shard, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(s.blobs)
}

func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

func (s *folder) OpenRange(ctx context.Context, d Digest, offset, length int64) (io.ReadCloser, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.absent("read", d)
	}
	if err != nil {
		err = fmt.Errorf("read blob %s: %w", d, err)
		if !errors.Is(err, syscall.EIO) { // which is about this blob
			err = onDisk(err)
		}
		return nil, err
	}
	r, err := newFileRange(ctx, f, d, offset, length)
	if err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (s *folder) Stat(ctx context.Context, d Digest) (Info, error) {
	if err := s.usable(ctx); err != nil {
		return Info{}, err
	}
	fi, err := os.Lstat(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, s.absent("stat", d)
	}
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat blob %s: %w", d, err)
	}
	return Info{Digest: d, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

var errNotRegular = errors.New("its file is not a regular file")

func (s *folder) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(Info{}, err)
			return
		}
		if err := s.gone(); err != nil {
			yield(Info{}, fmt.Errorf("list blobs: %w", err))
			return
		}
		for shard := range 256 {
			more, err := s.allOf(ctx, byte(shard), yield)
			if err != nil {
				yield(Info{}, onDisk(fmt.Errorf("list blobs: %w", err)))
				return
			}
			if !more {
				return
			}
		}
	}
}

// allOf yields the blobs of one shard, and reports whether more are wanted. It
// reads the directory in pieces: a shard may hold any number of blobs.
func (s *folder) allOf(ctx context.Context, shard byte, yield func(Info, error) bool) (more bool, err error) {
	dir, err := os.Open(filepath.Join(s.blobs, shardName(shard)))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		entries, err := dir.ReadDir(512)
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			if !isBlob(e, shard) {
				continue // not ours
			}
			d, err := ParseDigest(e.Name())
			if err != nil {
				return false, err
			}
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return false, err
			}
			if !yield(Info{Digest: d, Size: fi.Size(), ModTime: fi.ModTime()}, nil) {
				return false, nil
			}
		}
	}
}

// isBlob reports whether an entry of a shard's directory is a blob.
func isBlob(e fs.DirEntry, shard byte) bool {
	d, err := ParseDigest(e.Name())
	return err == nil && d[0] == shard && d.String() == e.Name() && e.Type().IsRegular()
}

// Delete does not flush the directory: a removal undone by a power cut leaves
// an unreferenced blob, which the next collection finds again.
func (s *folder) Delete(ctx context.Context, d Digest, before time.Time) (bool, error) {
	if err := s.usable(ctx); err != nil {
		return false, err
	}
	deleted, err := s.delete(ctx, d, before)
	if err != nil {
		return false, onDisk(fmt.Errorf("delete blob %s: %w", d, err))
	}
	return deleted, nil
}

func (s *folder) delete(ctx context.Context, d Digest, before time.Time) (bool, error) {
	release, err := s.locks.lock(ctx, d[0])
	if err != nil {
		return false, err
	}
	defer release()
	path := s.path(d)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, s.gone()
	}
	if err != nil {
		return false, err
	}
	if !fi.ModTime().Before(before) {
		return false, nil
	}
	if err := os.Remove(path); err != nil {
		return false, err
	}
	return true, nil
}

// Check writes, flushes and removes a byte.
func (s *folder) Check(ctx context.Context) error {
	w, err := s.Create(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write([]byte{0}); err != nil {
		return err
	}
	if err := w.(*folderWriter).f.Sync(); err != nil {
		return staging(err)
	}
	if err := s.gone(); err != nil {
		return fmt.Errorf("blob store in %q: %w", s.dir, err)
	}
	return w.Abort()
}

// Close gives up what is staged. Readers that are open stay usable.
func (s *folder) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := os.RemoveAll(s.staging)
	if unlocked := unlock(s.alive); err == nil {
		err = unlocked
	}
	if err == nil {
		err = os.Remove(s.alive.Path())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("close blob store in %q: %w", s.dir, err)
	}
	return nil
}
