package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"

	"github.com/tinkex/tinkex/internal/durable"
)

var _ Inspector = (*folder)(nil)

func (s *folder) Quarantine(ctx context.Context, seen Info) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	release, err := s.locks.lock(ctx, seen.Digest[0])
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", seen.Digest, err)
	}
	defer release()
	path := s.path(seen.Digest)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", s.absent("quarantine", seen.Digest)
	}
	if err == nil {
		if !fi.Mode().IsRegular() || fi.Size() != seen.Size || !fi.ModTime().Equal(seen.ModTime) {
			return "", nil
		}
		path, err = s.putAside(path)
	}
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", seen.Digest, err)
	}
	return path, nil
}

// putAside moves a file or directory into quarantine, where it keeps its name
// unless that is taken.
func (s *folder) putAside(path string) (where string, err error) {
	aside := filepath.Join(s.dir, asideName)
	if err := makeDirs(aside); err != nil {
		return "", err
	}
	release, err := lock(context.Background(), filepath.Join(s.locks.dir, asideName))
	if err != nil {
		return "", err
	}
	defer release()
	where = filepath.Join(aside, filepath.Base(path))
	for n := 2; ; n++ {
		if _, err := os.Lstat(where); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
		where = filepath.Join(aside, filepath.Base(path)+"."+strconv.Itoa(n))
	}
	if err := os.Rename(path, where); err != nil {
		return "", err
	}
	return where, errors.Join(durable.SyncDir(aside), durable.SyncDir(filepath.Dir(path)))
}

func (s *folder) Strays(ctx context.Context) iter.Seq2[Stray, error] {
	return func(yield func(Stray, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(Stray{}, err)
			return
		}
		if _, err := s.strays(ctx, yield); err != nil {
			yield(Stray{}, fmt.Errorf("look for what is no blob in %q: %w", s.dir, err))
		}
	}
}

// strays reports whether more are wanted.
func (s *folder) strays(ctx context.Context, yield func(Stray, error) bool) (more bool, err error) {
	more, err = straysIn(ctx, filepath.Dir(s.blobs), func(e fs.DirEntry) bool { return e.Name() == hashName && e.IsDir() }, yield)
	if !more || err != nil {
		return more, err
	}
	shards := make(map[string]bool, 256)
	for shard := range 256 {
		shards[shardName(byte(shard))] = true
	}
	more, err = straysIn(ctx, s.blobs, func(e fs.DirEntry) bool { return shards[e.Name()] && e.IsDir() }, yield)
	for shard := range 256 {
		if !more || err != nil {
			return more, err
		}
		more, err = straysIn(ctx, filepath.Join(s.blobs, shardName(byte(shard))), func(e fs.DirEntry) bool { return isBlob(e, byte(shard)) }, yield)
	}
	return more, err
}

// straysIn yields what is in a directory and does not belong there.
func straysIn(ctx context.Context, path string, belongs func(fs.DirEntry) bool, yield func(Stray, error) bool) (more bool, err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		} else if fi, statErr := os.Stat(path); statErr == nil && !fi.IsDir() {
			err = nil // a stray itself
		}
		return true, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if belongs(e) {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		s := Stray{Path: filepath.Join(path, e.Name())}
		if fi.Mode().IsRegular() {
			s.Size = fi.Size()
		}
		if !yield(s, nil) {
			return false, nil
		}
	}
	return true, nil
}

func (s *folder) PutAside(ctx context.Context, stray Stray) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	where, err := s.putAside(stray.Path)
	if err != nil {
		return "", fmt.Errorf("put aside %s: %w", stray.Path, err)
	}
	return where, nil
}
