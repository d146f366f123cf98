package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"time"
)

const (
	blockSize   = 512
	trailerSize = 2 * blockSize // two blocks of zeros end an archive
)

var zeros [trailerSize]byte

// Entry describes one file of a [Body].
type Entry struct {
	// Name is the slash-separated path within the archive, relative and
	// subject to the rules of [Extract].
	Name string
	// Size of the file in bytes.
	Size int64
	// ModTime is kept to the second. The zero time becomes the start of 1970.
	ModTime time.Time
	// Digest identifies the content, for instance its SHA-256 in hexadecimal.
	// It serves the [Body.ETag] only and may be empty.
	Digest string
	// Open reads exactly length bytes of the file from offset; it is not
	// called for zero bytes. It may be called any number of times, also
	// concurrently. If the reader implements io.WriterTo, that is what writes
	// its bytes, straight to where the archive goes.
	Open func(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// Body is bytes that exist as a list of entries only: an archive, or a single
// file. It is immutable and
// safe for concurrent use, as far as the Open functions are.
type Body struct {
	entries []placedEntry
	size    int64
	etag    string
}

// placedEntry is an entry and where it lies: its header from start, its
// content from data, its padding up to end.
type placedEntry struct {
	Entry
	header           []byte
	start, data, end int64
}

// NewTar lays out an archive of the given entries, in their order.
//
// The bytes depend on names, sizes, times and contents alone: members are
// plain files of mode 0644 that belong to uid and gid 0, with USTAR headers,
// preceded by a PAX record only where a name or a size does not fit. Names
// that [Extract] would refuse are refused here too, in the same words.
func NewTar(entries []Entry) (*Body, error) {
	t := &Body{entries: make([]placedEntry, 0, len(entries))}
	names := newNameSet(len(entries))
	sum := sha256.New()
	known := true
	for _, e := range entries {
		if err := names.addFile(e.Name); err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		switch {
		case e.Size < 0:
			return nil, fmt.Errorf("archive: %q: negative size %d", e.Name, e.Size)
		case e.Size > 0 && e.Open == nil:
			return nil, fmt.Errorf("archive: %q: no way to open it", e.Name)
		}
		header, err := headerBlocks(e)
		if err != nil {
			return nil, fmt.Errorf("archive: %q: %w", e.Name, err)
		}
		p := placedEntry{Entry: e, header: header, start: t.size}
		p.data = p.start + int64(len(header))
		if e.Size > math.MaxInt64-trailerSize-blockSize-p.data {
			return nil, fmt.Errorf("archive: %q: the archive would exceed %d bytes", e.Name, int64(math.MaxInt64))
		}
		p.end = p.data + e.Size + padding(e.Size)
		t.entries = append(t.entries, p)
		t.size = p.end

		known = known && (e.Digest != "" || e.Size == 0)
		sum.Write(header)
		sum.Write(binary.AppendUvarint(nil, uint64(len(e.Digest))))
		io.WriteString(sum, e.Digest)
	}
	t.size += trailerSize
	if known {
		t.etag = `"` + hex.EncodeToString(sum.Sum(nil)[:16]) + `"`
	}
	return t, nil
}

// NewFile is the bytes of a single entry, without an archive around them. Its
// name is not looked at.
func NewFile(e Entry) *Body {
	b := &Body{size: e.Size, entries: []placedEntry{{Entry: e, end: e.Size}}}
	if e.Digest != "" {
		b.etag = `"` + e.Digest + `"`
	}
	return b
}

func padding(size int64) int64 { return -size & (blockSize - 1) }

// headerBlocks has the standard library's writer make the header, with its PAX
// records if need be.
func headerBlocks(e Entry) ([]byte, error) {
	modTime := time.Unix(0, 0)
	if !e.ModTime.IsZero() {
		modTime = time.Unix(e.ModTime.Unix(), 0)
	}
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     e.Name,
		Size:     e.Size,
		Mode:     0o644,
		ModTime:  modTime,
	})
	return b.Bytes(), err
}

// Size of the archive in bytes.
func (t *Body) Size() int64 { return t.size }

// ETag returns a strong, quoted entity tag, which covers every byte of the
// archive if the digests of its entries cover their contents. It is empty if an
// entry that has content has no digest.
func (t *Body) ETag() string { return t.etag }

// piece is a run of bytes from one source: known ones, or else an entry's.
type piece struct {
	known  []byte
	entry  *placedEntry
	offset int64 // in the entry's content
	length int64
}

// pieceAt returns the piece that starts at off and is as long as its source.
func (t *Body) pieceAt(off int64) piece {
	i := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].end > off })
	if i == len(t.entries) {
		return knownPiece(zeros[:t.size-off])
	}
	switch e := &t.entries[i]; {
	case off < e.data:
		return knownPiece(e.header[off-e.start:])
	case off < e.data+e.Size:
		return piece{entry: e, offset: off - e.data, length: e.data + e.Size - off}
	default:
		return knownPiece(zeros[:e.end-off])
	}
}

func knownPiece(b []byte) piece { return piece{known: b, length: int64(len(b))} }

// WriteRange writes length bytes of the archive from offset; a negative length
// is up to the end. It returns how many bytes it wrote. Bytes beyond the end
// cannot be asked for.
//
// The contents of entries go from their reader's WriteTo, if it has one, to w
// itself, so that two ends that can arrange a transfer between them do.
func (t *Body) WriteRange(ctx context.Context, w io.Writer, offset, length int64) (int64, error) {
	if offset < 0 || offset > t.size || length > t.size-offset {
		return 0, fmt.Errorf("archive: range of %d bytes from %d is outside its %d bytes", length, offset, t.size)
	}
	if length < 0 {
		length = t.size - offset
	}
	var written int64
	for written < length {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		p := t.pieceAt(offset + written)
		n, err := p.writeTo(ctx, w, min(p.length, length-written))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeTo writes the first length bytes of the piece.
func (p piece) writeTo(ctx context.Context, w io.Writer, length int64) (int64, error) {
	if p.entry == nil {
		n, err := w.Write(p.known[:length])
		return int64(n), err
	}
	r, err := p.entry.Open(ctx, p.offset, length)
	if err != nil {
		return 0, fmt.Errorf("archive: %q: %w", p.entry.Name, err)
	}
	defer r.Close()
	var src io.Reader = r
	if _, ok := r.(io.WriterTo); !ok {
		src = io.LimitReader(r, length)
	}
	n, err := io.Copy(w, src)
	switch {
	case err != nil:
		return n, fmt.Errorf("archive: %q: %w", p.entry.Name, err)
	case n < length:
		return n, fmt.Errorf("archive: %q: %d bytes of %d are missing: %w", p.entry.Name, length-n, length, io.ErrUnexpectedEOF)
	case n > length:
		// Too late for this reader of the archive, but it will not go unnoticed.
		return n, fmt.Errorf("archive: %q: %w: %d instead of %d", p.entry.Name, errTooMuch, n, length)
	}
	return n, nil
}

var errTooMuch = errors.New("more bytes than asked for")
