package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"gocloud.dev/blob"

	"github.com/tinkex/tinkex/internal/outage"
)

// readAttempts is how often in a row reading may fail without a byte in
// between. A store's connections break now and then in the middle of a blob.
const readAttempts = 4

func (s *bucket) OpenRange(ctx context.Context, d Digest, offset, length int64) (io.ReadCloser, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	o, known := s.known.get(d)
	if !known || length == 0 { // nothing to read would not tell that it is gone
		var err error
		if o, err = s.find(ctx, "read", d); err != nil {
			return nil, err
		}
	}
	n, err := checkRange(d, o.size, offset, length)
	if err != nil {
		return nil, err
	}
	r := &bucketReader{store: s, d: d, offset: offset, remain: n, parent: ctx}
	r.ctx, r.guard = guarded(ctx, s.stall)
	r.guard.pause()
	if n > 0 {
		if err := r.open(o); err != nil {
			r.guard.stop()
			return nil, err
		}
	}
	return r, nil
}

// bucketReader reads a range of a blob, going on in another object or over
// another connection where it has to.
type bucketReader struct {
	store  *bucket
	d      Digest
	offset int64 // of the next byte in the blob
	remain int64
	parent context.Context // the caller's
	ctx    context.Context
	guard  *guard
	body   *blob.Reader // nil after a failure
	failed int          // times in a row
	closed bool
}

// open starts reading in an object, or in the one that superseded it.
func (r *bucketReader) open(o object) error {
	s := r.store
	r.guard.resume()
	defer r.guard.pause()
	for n := 1; ; n++ {
		body, err := s.b.NewRangeReader(r.ctx, o.key, r.offset, r.remain, nil)
		if err == nil {
			r.body = body
			return nil
		}
		if !absent(err) || n == commitAttempts {
			return s.explain(r.ctx, err, "read blob %s", r.d)
		}
		s.known.drop(r.d)
		if o, err = s.find(r.ctx, "read", r.d); err != nil {
			return err
		}
	}
}

func (r *bucketReader) Read(p []byte) (int, error) {
	switch {
	case r.closed:
		return 0, fmt.Errorf("read blob: %w", fs.ErrClosed)
	case r.parent.Err() != nil:
		return 0, r.parent.Err()
	case r.remain == 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	p = p[:min(int64(len(p)), r.remain)]
	for {
		n, err := r.readOnce(p)
		if n > 0 {
			// Whatever else there is to say comes with the next Read.
			r.offset += int64(n)
			r.remain -= int64(n)
			r.failed = 0
			return n, nil
		}
		if err == nil {
			return 0, nil
		}
		if r.failed++; r.failed >= readAttempts || r.ctx.Err() != nil || errors.Is(err, ErrNotFound) {
			return 0, err
		}
		select {
		case <-time.After(50 * time.Millisecond << r.failed):
		case <-r.ctx.Done():
			return 0, r.store.explain(r.ctx, err, "read blob %s", r.d)
		}
	}
}

func (r *bucketReader) readOnce(p []byte) (int, error) {
	if r.body == nil {
		o, err := r.store.find(r.ctx, "read", r.d)
		if err == nil {
			err = r.open(o)
		}
		if err != nil {
			return 0, err
		}
	}
	r.guard.resume()
	n, err := r.body.Read(p)
	r.guard.pause()
	if n > 0 || err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	_ = r.body.Close()
	r.body = nil
	return 0, r.store.explain(r.ctx, err, "read blob %s at byte %d", r.d, r.offset)
}

func (r *bucketReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.guard.stop()
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}

// guard gives up on something that moves bytes when none have moved for long.
type guard struct {
	limit  time.Duration
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func guarded(ctx context.Context, limit time.Duration) (context.Context, *guard) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &guard{limit, cancel, time.AfterFunc(limit, func() { cancel(&outage.Slow{After: limit}) })}
}

// pause is for while nothing is expected of the store.
func (g *guard) pause() { g.timer.Stop() }

// resume also says that something has moved.
func (g *guard) resume() { g.timer.Reset(g.limit) }

func (g *guard) stop() {
	g.timer.Stop()
	g.cancel(nil)
}

// guardedReader tells a guard of what an upload has taken. It has all that a
// client wants for reading parts of it again, at the same time.
type guardedReader struct {
	r *io.SectionReader
	g *guard
}

func (r *guardedReader) Read(p []byte) (int, error) {
	r.g.resume()
	return r.r.Read(p)
}

func (r *guardedReader) ReadAt(p []byte, off int64) (int, error) {
	r.g.resume()
	return r.r.ReadAt(p, off)
}

func (r *guardedReader) Seek(offset int64, whence int) (int64, error) {
	return r.r.Seek(offset, whence)
}

// Size spares a client finding out.
func (r *guardedReader) Size() int64 { return r.r.Size() }
