package blobstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"time"
)

// NewMemory returns an empty store that keeps its blobs in memory, for tests
// and demonstrations. Its blobs survive nothing, power cuts least of all.
func NewMemory() Store {
	return &memory{blobs: make(map[Digest]memoryBlob)}
}

type memory struct {
	mu     sync.RWMutex
	blobs  map[Digest]memoryBlob
	aside  [][]byte // in quarantine
	closed bool
}

type memoryBlob struct {
	data    []byte // never written to again
	modTime time.Time
}

func (b memoryBlob) info(d Digest) Info {
	return Info{Digest: d, Size: int64(len(b.data)), ModTime: b.modTime}
}

var errMemoryClosed = fmt.Errorf("blob store in memory: %w", fs.ErrClosed)

func (s *memory) Create(ctx context.Context) (Writer, error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return &memoryWriter{store: s}, nil
}

type memoryWriter struct {
	store *memory
	buf   bytes.Buffer
	done  bool
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("stage blob: %w", fs.ErrClosed)
	}
	return w.buf.Write(p)
}

// Commit also drops the staged bytes when it fails.
func (w *memoryWriter) Commit(ctx context.Context) (Info, error) {
	if w.done {
		return Info{}, fmt.Errorf("commit blob: %w", fs.ErrClosed)
	}
	defer func() { _ = w.Abort() }()
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	d := Digest(sha256.Sum256(w.buf.Bytes()))
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return Info{}, errMemoryClosed
	}
	b, there := s.blobs[d]
	if !there {
		b.data = bytes.Clone(w.buf.Bytes()) // to its size: the buffer has room to spare
	}
	b.modTime = time.Now().Round(0)
	s.blobs[d] = b
	return b.info(d), nil
}

func (w *memoryWriter) Abort() error {
	w.done = true
	w.buf = bytes.Buffer{}
	return nil
}

func (s *memory) get(ctx context.Context, op string, d Digest) (memoryBlob, error) {
	if err := s.Check(ctx); err != nil {
		return memoryBlob{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[d]
	if !ok {
		return b, fmt.Errorf("%s blob %s: %w", op, d, ErrNotFound)
	}
	return b, nil
}

func (s *memory) OpenRange(ctx context.Context, d Digest, offset, length int64) (io.ReadCloser, error) {
	b, err := s.get(ctx, "read", d)
	if err != nil {
		return nil, err
	}
	n, err := checkRange(d, int64(len(b.data)), offset, length)
	if err != nil {
		return nil, err
	}
	return &memoryReader{ctx: ctx, r: bytes.NewReader(b.data[offset : offset+n])}, nil
}

// memoryReader implements the same optional interfaces as fileRange.
type memoryReader struct {
	ctx    context.Context
	r      *bytes.Reader
	closed bool
}

func (r *memoryReader) usable() error {
	if r.closed {
		return fmt.Errorf("read blob: %w", fs.ErrClosed)
	}
	return r.ctx.Err()
}

func (r *memoryReader) Read(p []byte) (int, error) {
	if err := r.usable(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (r *memoryReader) WriteTo(w io.Writer) (int64, error) {
	if err := r.usable(); err != nil {
		return 0, err
	}
	return r.r.WriteTo(w)
}

func (r *memoryReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.usable(); err != nil {
		return 0, err
	}
	return r.r.ReadAt(p, off)
}

func (r *memoryReader) Close() error {
	r.closed = true
	return nil
}

func (s *memory) Stat(ctx context.Context, d Digest) (Info, error) {
	b, err := s.get(ctx, "stat", d)
	if err != nil {
		return Info{}, err
	}
	return b.info(d), nil
}

// All walks over the digests there were at the start, so that the caller may
// use the store meanwhile.
func (s *memory) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := s.Check(ctx); err != nil {
			yield(Info{}, err)
			return
		}
		s.mu.RLock()
		digests := make([]Digest, 0, len(s.blobs))
		for d := range s.blobs {
			digests = append(digests, d)
		}
		s.mu.RUnlock()
		for _, d := range digests {
			info, err := s.Stat(ctx, d)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

func (s *memory) Delete(ctx context.Context, d Digest, before time.Time) (bool, error) {
	if err := s.Check(ctx); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok || !b.modTime.Before(before) {
		return false, nil
	}
	delete(s.blobs, d)
	return true, nil
}

func (s *memory) Quarantine(ctx context.Context, seen Info) (string, error) {
	if _, err := s.get(ctx, "quarantine", seen.Digest); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[seen.Digest]
	if !ok || int64(len(b.data)) != seen.Size || !b.modTime.Equal(seen.ModTime) {
		return "", nil
	}
	delete(s.blobs, seen.Digest)
	s.aside = append(s.aside, b.data)
	return fmt.Sprintf("quarantine in memory, number %d", len(s.aside)), nil
}

func (s *memory) Check(ctx context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errMemoryClosed
	}
	return ctx.Err()
}

func (s *memory) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.blobs = nil
	return nil
}
