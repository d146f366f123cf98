package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
)

const (
	// headerBudget is how many bytes there may be between the content of one
	// member and that of the next: padding, header, PAX and GNU records. The
	// longest name accepted needs some 3 KiB; the rest is for attributes that
	// nobody here wants.
	headerBudget = 64 << 10

	// trailerBudget is how many bytes of zeros may follow the end of an
	// archive. Writers pad to their blocking factor, 10 KiB by default.
	trailerBudget = 1 << 20

	// barrenBudget is how many compressed bytes may yield nothing. A gzip
	// stream can go on for ever without a single byte coming out of it.
	barrenBudget = 1 << 20
)

var (
	errOverBudget = errors.New("more bytes than expected here")
	errBarren     = errors.New("compressed data that yields nothing")
)

// input is the stream as it arrives. It remembers its failure, which the
// readers above it may present as something else.
type input struct {
	ctx    context.Context
	r      io.Reader
	err    error // r's failure or ctx's; never io.EOF
	barren int64 // bytes that went in since the last one came out
}

func (in *input) Read(p []byte) (int, error) {
	if in.err = in.ctx.Err(); in.err != nil {
		return 0, in.err
	}
	if in.barren > barrenBudget {
		return 0, errBarren
	}
	n, err := in.r.Read(p)
	in.barren += int64(n)
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// source is the archive itself, decompressed. It yields no more bytes than its
// budget, which its user renews, and remembers whether its end was reached.
type source struct {
	input  *input
	r      io.Reader
	budget int64
	offset int64 // of the next byte, in the archive
	ended  bool
	// compressed streams cannot be entered in their middle.
	compressed bool
	// looksLike is what the stream may be instead of a tar archive, if it turns
	// out not to be one.
	looksLike string
}

// newSource looks at the first bytes of a stream and decompresses it if need
// be.
func newSource(ctx context.Context, r io.Reader) (*source, error) {
	s := &source{input: &input{ctx: ctx, r: r}}
	br := bufio.NewReaderSize(s.input, 64<<10)
	s.r = br
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF { //nolint:errorlint // a reader ends with io.EOF itself, never with an error around it
		return nil, s.explain("", err)
	}
	if len(magic) == 0 {
		return nil, refuse("", ErrTruncated, "it is empty")
	}
	s.looksLike = otherFormat(magic)
	if bytes.HasPrefix(magic, []byte("\x1f\x8b")) {
		if s.r, err = gzip.NewReader(br); err != nil {
			return nil, s.explain("", err)
		}
		s.compressed = true
	}
	return s, nil
}

// resumedSource goes on in the middle of a plain archive, where bytes of any
// kind may come first.
func resumedSource(ctx context.Context, r io.Reader, offset int64) *source {
	in := &input{ctx: ctx, r: r}
	return &source{input: in, r: bufio.NewReaderSize(in, 64<<10), offset: offset}
}

// otherFormat names what else archives come as, to be of help.
func otherFormat(magic []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"\xfd7zXZ\x00", "xz"},
		{"BZh", "bzip2"},
		{"\x04\x22\x4d\x18", "lz4"},
		{"PK\x03\x04", "a zip archive"},
		{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	} {
		if bytes.HasPrefix(magic, []byte(f.magic)) {
			return f.name
		}
	}
	return ""
}

func (s *source) Read(p []byte) (int, error) {
	if len(p) > 0 && s.budget <= 0 {
		return 0, errOverBudget
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.budget)])
	s.budget -= int64(n)
	s.offset += int64(n)
	if n > 0 {
		s.input.barren = 0
	}
	if err == io.EOF {
		if n > 0 {
			return n, nil // the end counts when it is asked for
		}
		s.ended = true
	}
	return n, err
}

// explain turns an error of the readers stacked on the stream into a refusal
// or, if the stream itself failed, into that failure. The name is that of the
// last member known.
func (s *source) explain(name string, err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case s.input.err != nil:
		return fmt.Errorf("read archive: %w", s.input.err)
	case name == "" && s.looksLike != "":
		return refuse("", ErrFormat, "it looks like %s; plain tar and gzip are understood", s.looksLike)
	case errors.Is(err, errOverBudget):
		return refuse(name, ErrLimit, "followed by a header of more than %d bytes", headerBudget)
	case errors.Is(err, errBarren):
		return refuse(name, ErrLimit, "%v", errBarren)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(name, ErrTruncated, "the stream ends here")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt), errors.Is(err, tar.ErrHeader):
		return refuse(name, ErrFormat, "%v", err)
	}
	return fmt.Errorf("read archive: %w", err)
}

// finish reads on behind the end of the archive, of which nothing but zeros
// may be left. It also has the checksum of a compressed stream verified.
func (s *source) finish(name string) error {
	if s.ended {
		return refuse(name, ErrTruncated, "its end is not marked")
	}
	s.budget = trailerBudget
	buf := make([]byte, 32<<10)
	for {
		n, err := s.Read(buf)
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return refuse(name, ErrFormat, "something follows the end of the archive")
		}
		switch {
		case err == io.EOF: //nolint:errorlint // as above
			return nil
		case errors.Is(err, errOverBudget):
			return refuse(name, ErrLimit, "more than %d bytes of zeros follow the end of the archive", trailerBudget)
		case err != nil:
			return s.explain(name, err)
		}
	}
}
