package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxRanges is how many ranges of one request are honoured. Each may cost an
// opened blob, and no client that means well wants more than a few.
const maxRanges = 16

// Serve answers a GET or HEAD request with a body, as [http.ServeContent] would
// with a file: one or several byte ranges, preconditions and If-Range by
// the strong etag and by modTime. Requests for more than 16 ranges at once get
// the whole, as the protocol permits. The type is that of tar archives, unless
// the header has one already.
//
// An empty etag stands for t.ETag(); missing quotes are added. A zero modTime
// is left out, as is an empty filename, which otherwise is what browsers save
// the archive as.
//
// An error says why an answer broke off, for the log; if the client went away,
// that is why. What has been sent cannot be taken back: after logging it, panic
// with [http.ErrAbortHandler], so that the client sees a broken connection in
// every version of HTTP.
func Serve(w http.ResponseWriter, r *http.Request, t *Body, etag string, modTime time.Time, filename string) error {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return nil
	}
	if etag == "" {
		etag = t.ETag()
	}
	if etag != "" {
		if !strings.HasSuffix(etag, `"`) {
			etag = `"` + etag + `"`
		}
		h.Set("ETag", etag)
	}
	h.Set("Accept-Ranges", "bytes")
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/x-tar")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if filename != "" {
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": filename}))
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}

	c := &content{ctx: r.Context(), t: t}
	defer c.Close()
	http.ServeContent(&contentWriter{ResponseWriter: w, content: c}, r, "", modTime, c)
	return c.failure()
}

// contentWriter recognises the standard library's attempt to copy a range of
// content to the response, and has the archive write that range instead, to
// the response itself. That way the files' readers meet the connection and the
// kernel can do the copying.
//
// Should a later standard library copy differently, content.Read takes over:
// the same bytes, a little slower.
type contentWriter struct {
	http.ResponseWriter
	content *content
}

func (w *contentWriter) ReadFrom(src io.Reader) (int64, error) {
	if lr, ok := src.(*io.LimitedReader); ok && lr.R == w.content {
		n, err := w.content.writeTo(w.ResponseWriter, lr.N)
		lr.N -= n
		return n, err
	}
	n, err := io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	if err != nil {
		w.content.mu.Lock()
		defer w.content.mu.Unlock()
		err = w.content.fail(err)
	}
	return n, err
}

// content is an archive as an io.ReadSeeker. Its lock is there because the
// standard library serves several ranges from a goroutine of its own, which
// may outlive the request by a read.
type content struct {
	ctx context.Context
	t   *Body

	mu     sync.Mutex
	pos    int64
	piece  piece         // what remains of the piece being read, for Read
	open   io.ReadCloser // the reader of piece, if it is an entry's
	closed bool
	err    error // the first failure to produce bytes
}

var errContentClosed = errors.New("archive: the request is over")

func (c *content) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *content) fail(err error) error {
	if c.err == nil {
		c.err = err
	}
	return err
}

func (c *content) writeTo(w io.Writer, length int64) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leavePiece()
	n, err := c.t.WriteRange(c.ctx, w, c.pos, min(length, c.t.size-c.pos))
	c.pos += n
	if err != nil {
		err = c.fail(err)
	}
	return n, err
}

func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, errContentClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.pos >= c.t.size {
		return 0, io.EOF
	}
	if c.piece.length == 0 {
		if err := c.enterPiece(); err != nil {
			return 0, c.fail(err)
		}
	}
	p = p[:min(int64(len(p)), c.piece.length)]
	var n int
	if c.open == nil {
		n = copy(p, c.piece.known)
		c.piece.known = c.piece.known[n:]
	} else {
		var err error
		n, err = c.open.Read(p)
		if err == io.EOF && int64(n) < c.piece.length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			c.pos += int64(n)
			c.piece.length -= int64(n)
			return n, c.fail(fmt.Errorf("archive: %q: %w", c.piece.entry.Name, err))
		}
	}
	c.pos += int64(n)
	c.piece.length -= int64(n)
	if c.piece.length == 0 {
		c.leavePiece()
	}
	return n, nil
}

func (c *content) enterPiece() error {
	c.leavePiece()
	c.piece = c.t.pieceAt(c.pos)
	if e := c.piece.entry; e != nil {
		r, err := e.Open(c.ctx, c.piece.offset, c.piece.length)
		if err != nil {
			c.piece = piece{}
			return fmt.Errorf("archive: %q: %w", e.Name, err)
		}
		c.open = r
	}
	return nil
}

func (c *content) leavePiece() {
	c.piece = piece{}
	if c.open != nil {
		c.open.Close()
		c.open = nil
	}
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += c.pos
	case io.SeekEnd:
		offset += c.t.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("archive: seek to %d", offset)
	}
	if offset != c.pos {
		c.leavePiece()
		c.pos = offset
	}
	return offset, nil
}

func (c *content) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leavePiece()
	c.closed = true
}
