package telemetry

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex/internal/blobstore"
)

// Blobstore measures the operations of a store of blobs; kind says which it
// is ("folder", "s3", ...). Its readers can do what the store's can.
func (t *Telemetry) Blobstore(next blobstore.Store, kind string) blobstore.Store {
	return &blobs{Store: next, t: t, kind: kind, system: attribute.String("tinkex.blobstore", kind)}
}

// blobs has every method of the store; a test sees to it that none is passed
// through unmeasured.
type blobs struct {
	blobstore.Store
	t      *Telemetry
	kind   string
	system attribute.KeyValue
}

func (b *blobs) begin(ctx context.Context, name string) (context.Context, *operation) {
	ctx, span := b.t.child(ctx, "blobstore."+name, b.system)
	return ctx, &operation{
		began: time.Now(), span: span, time: b.t.blobTime.WithLabelValues(b.kind, name),
		errors: b.t.blobErrors, labels: [2]string{b.kind, name}, answers: isBlobAnswer,
	}
}

func isBlobAnswer(err error) bool { return errors.Is(err, blobstore.ErrNotFound) }

func (b *blobs) count(direction string, n int64) {
	if n > 0 {
		b.t.blobBytes.WithLabelValues(b.kind, direction).Add(float64(n))
	}
}

// Create's operation is the whole of a write, from here to Commit or Abort.
func (b *blobs) Create(ctx context.Context) (blobstore.Writer, error) {
	_, span := b.t.child(ctx, "blobstore.Write", b.system)
	w := &blobWriter{of: b, span: span}
	err := w.within(func() (err error) {
		w.next, err = b.Store.Create(ctx)
		return err
	})
	if err != nil {
		w.end()
		return nil, err
	}
	return w, nil
}

// blobWriter adds up the time that is spent in the store: the rest of the time
// is that of whoever makes the bytes.
type blobWriter struct {
	of    *blobs
	next  blobstore.Writer
	span  trace.Span
	spent time.Duration
	bytes int64
	err   error
	ended bool
}

func (w *blobWriter) within(f func() error) error {
	began := time.Now()
	err := f()
	w.spent += time.Since(began)
	if err != nil {
		w.err = err
	}
	return err
}

func (w *blobWriter) Write(p []byte) (n int, err error) {
	err = w.within(func() error {
		n, err = w.next.Write(p)
		return err
	})
	w.bytes += int64(n)
	return n, err
}

func (w *blobWriter) Commit(ctx context.Context) (info blobstore.Info, err error) {
	err = w.within(func() error {
		info, err = w.next.Commit(ctx)
		return err
	})
	w.end()
	return info, err
}

func (w *blobWriter) Abort() error {
	err := w.next.Abort()
	w.end()
	return err
}

func (w *blobWriter) end() {
	if w.ended {
		return
	}
	w.ended = true
	if w.span != nil {
		w.span.SetAttributes(attribute.Int64("tinkex.bytes", w.bytes))
	}
	op := operation{
		began: time.Now().Add(-w.spent), span: w.span, time: w.of.t.blobTime.WithLabelValues(w.of.kind, "Write"),
		errors: w.of.t.blobErrors, labels: [2]string{w.of.kind, "Write"}, answers: isBlobAnswer,
	}
	w.of.count("written", w.bytes)
	op.end(&w.err)
}

// OpenRange's operation ends when there is something to read from. How long the
// reading takes depends on the reader.
func (b *blobs) OpenRange(ctx context.Context, d blobstore.Digest, offset, length int64) (_ io.ReadCloser, err error) {
	_, op := b.begin(ctx, "OpenRange") // what is read later is not part of its span
	defer op.end(&err)
	r, err := b.Store.OpenRange(ctx, d, offset, length)
	if err != nil {
		return nil, err
	}
	counted := &blobReader{of: b, next: r}
	if to, ok := r.(io.WriterTo); ok {
		if at, ok := r.(io.ReaderAt); ok {
			return &localReader{counted, to, at}, nil
		}
	}
	return counted, nil
}

// blobReader counts what is read.
type blobReader struct {
	of    *blobs
	next  io.ReadCloser
	bytes int64
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.next.Read(p)
	r.bytes += int64(n)
	return n, err
}

func (r *blobReader) Close() error {
	r.of.count("read", r.bytes)
	r.bytes = 0
	return r.next.Close()
}

// localReader is a blobReader over one that hands its file to who knows what
// to do with it, and that can be read anywhere.
type localReader struct {
	*blobReader
	to io.WriterTo
	at io.ReaderAt
}

func (r *localReader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.to.WriteTo(w)
	r.bytes += n
	return n, err
}

// ReadAt may be called from several goroutines at once, and counts by itself.
func (r *localReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.at.ReadAt(p, off)
	r.of.count("read", int64(n))
	return n, err
}

func (b *blobs) Stat(ctx context.Context, d blobstore.Digest) (_ blobstore.Info, err error) {
	ctx, op := b.begin(ctx, "Stat")
	defer op.end(&err)
	return b.Store.Stat(ctx, d)
}

// All's operation is the whole walk, with what is done on the way.
func (b *blobs) All(ctx context.Context) iter.Seq2[blobstore.Info, error] {
	return func(yield func(blobstore.Info, error) bool) {
		var failed error
		ctx, op := b.begin(ctx, "All")
		defer op.end(&failed)
		for info, err := range b.Store.All(ctx) {
			failed = err
			if !yield(info, err) {
				return
			}
		}
	}
}

func (b *blobs) Delete(ctx context.Context, d blobstore.Digest, before time.Time) (_ bool, err error) {
	ctx, op := b.begin(ctx, "Delete")
	defer op.end(&err)
	return b.Store.Delete(ctx, d, before)
}

func (b *blobs) Quarantine(ctx context.Context, seen blobstore.Info) (_ string, err error) {
	ctx, op := b.begin(ctx, "Quarantine")
	defer op.end(&err)
	return b.Store.Quarantine(ctx, seen)
}

func (b *blobs) Check(ctx context.Context) (err error) {
	ctx, op := b.begin(ctx, "Check")
	defer op.end(&err)
	return b.Store.Check(ctx)
}
