package blobstore

import (
	"context"
	"fmt"
	"io"
	"os"
)

// sendPiece bounds how many bytes go to a writer between two looks at the
// context. It is large enough for the kernel to do the work.
const sendPiece = 64 << 20

// fileRange reads part of a file. It also implements io.WriterTo, which hands
// the file itself to a writer that knows what to do with one (sendfile), and
// io.ReaderAt, whose offsets count from the start of the range.
type fileRange struct {
	ctx    context.Context
	digest Digest
	f      *os.File
	rest   io.LimitedReader
	at     *io.SectionReader
}

// newFileRange takes over f if it succeeds.
func newFileRange(ctx context.Context, f *os.File, d Digest, offset, length int64) (*fileRange, error) {
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	n, err := checkRange(d, fi.Size(), offset, length)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, fmt.Errorf("read blob %s: %w", d, err)
		}
	}
	return &fileRange{
		ctx:    ctx,
		digest: d,
		f:      f,
		rest:   io.LimitedReader{R: f, N: n},
		at:     io.NewSectionReader(f, offset, n),
	}, nil
}

func (r *fileRange) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.rest.Read(p)
	if err == io.EOF && r.rest.N > 0 { //nolint:errorlint // a reader ends with io.EOF itself
		err = r.cut()
	}
	return n, err
}

// WriteTo hands writers an *io.LimitedReader over the *os.File: the shape that
// package net recognises.
func (r *fileRange) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for r.rest.N > 0 {
		if err := r.ctx.Err(); err != nil {
			return written, err
		}
		piece := io.LimitedReader{R: r.f, N: min(r.rest.N, sendPiece)}
		n, err := io.Copy(w, &piece)
		written += n
		r.rest.N -= n
		if err != nil {
			return written, err
		}
		if n == 0 {
			return written, r.cut()
		}
	}
	return written, nil
}

func (r *fileRange) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.at.ReadAt(p, off)
}

func (r *fileRange) Close() error { return r.f.Close() }

// cut reports that the file has become shorter than it was when it was opened,
// which no blob does by itself.
func (r *fileRange) cut() error {
	return fmt.Errorf("read blob %s: %d bytes are missing: %w", r.digest, r.rest.N, io.ErrUnexpectedEOF)
}
