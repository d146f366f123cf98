package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
)

// ErrNoRanges: the server sends whole files only, so none can be read from its
// middle.
var ErrNoRanges = errors.New("the server does not support ranges")

// facts is what has been learnt of an object, by which every answer is judged.
type facts struct {
	name string

	mu   sync.Mutex
	etag string
	size int64 // -1: not known
	// modified is when a range was last modified, of an object without an entity
	// tag. It does not tell all changes, but most of them, and there is nothing
	// else by which pieces of two objects could be told apart. Whoever reads an
	// object as a whole compares its bytes instead.
	modified string
}

func (f *facts) get() (etag string, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.etag, f.size
}

// learn compares an answer with what is known, and takes over what is news.
func (f *facts) learn(a *answer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.etag != "" && a.etag != "" && a.etag != f.etag:
		return fmt.Errorf("%w: its entity tag is %s instead of %s", ErrChanged, a.etag, f.etag)
	case f.size >= 0 && a.size >= 0 && a.size != f.size:
		return fmt.Errorf("%w: it has %d bytes instead of %d", ErrChanged, a.size, f.size)
	case f.etag == "" && a.ranged && f.modified != "" && a.modified != "" && a.modified != f.modified:
		return fmt.Errorf("%w: it was modified on %s and not on %s", ErrChanged, a.modified, f.modified)
	}
	if f.modified == "" && a.ranged {
		f.modified = a.modified
	}
	if f.etag == "" {
		f.etag = a.etag
	}
	if f.size < 0 {
		f.size = a.size
	}
	return nil
}

// Reader yields an object's bytes in order. It is used by one goroutine.
type Reader struct {
	c       *Client
	loc     *location
	known   *facts
	arrived func(n int)
	ranged  bool

	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
	queue  chan *chunk // in the order of their bytes; closed after the last
	rest   []byte      // what Read has not returned of the last piece
	err    error
	// giveBack releases what Next returned last.
	giveBack func()
}

// chunk is a piece of the window.
type chunk struct {
	buf  []byte // at most the client's chunk size; grows to n
	n    int64
	done chan struct{}
	err  error
}

// Open begins to read an object from an offset. It returns once the server has
// answered. arrived, if not nil, is called with the number of bytes whenever
// some have arrived, from several goroutines.
//
// An offset beyond the beginning of an object on a server without ranges is
// ErrNoRanges. Errors do not name the object; its user knows it.
func (c *Client) Open(ctx context.Context, o Object, offset int64, arrived func(n int)) (*Reader, error) {
	r := &Reader{
		c: c, loc: newLocation(o.Locate), known: &facts{name: o.Name, etag: o.ETag, size: o.Size},
		arrived: arrived, queue: make(chan *chunk, cap(c.window)),
	}
	if r.arrived == nil {
		r.arrived = func(int) {}
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	if o.Size >= 0 && offset >= o.Size {
		r.ranged = true
		close(r.queue)
		return r, nil
	}
	buf, err := c.buffer(r.ctx)
	if err != nil {
		r.cancel(nil)
		return nil, err
	}
	length := c.chunk
	if o.Size >= 0 {
		length = min(length, o.Size-offset)
	}
	first, url, err := r.first(offset, length)
	if err == nil && first.ranged && r.Size() < 0 {
		// "bytes 0-99/*": no telling where it ends, unless it is read as a whole.
		first.close()
		if first, err = nil, ErrNoRanges; offset == 0 {
			first, url, err = r.first(0, -1)
		}
	}
	if err != nil {
		c.release(buf)
		r.cancel(nil)
		return nil, err
	}
	r.ranged = first.ranged
	if r.ranged {
		r.work.Go(func() { r.inRanges(first, url, buf, offset) })
	} else {
		r.work.Go(func() { r.asStream(first, url, buf) })
	}
	return r, nil
}

// first sends the request that tells how the object can be read.
func (r *Reader) first(offset, length int64) (*answer, string, error) {
	url, err := r.loc.get(r.ctx, "")
	if err != nil {
		return nil, "", err
	}
	tries := r.c.attempts()
	for {
		a, err := r.c.get(r.ctx, url, offset, length, r.known)
		if err == nil {
			return a, url, nil
		}
		if errors.Is(err, errNotRange) {
			return nil, "", ErrNoRanges
		}
		if url, err = tries.again(r.ctx, r.loc, url, r.known.name, err); err != nil {
			return nil, "", err
		}
	}
}

// Size is the object's length in bytes, or -1 if the server does not say.
func (r *Reader) Size() int64 {
	_, size := r.known.get()
	return size
}

// ETag is the object's strong entity tag, or empty.
func (r *Reader) ETag() string {
	etag, _ := r.known.get()
	return etag
}

// Ranged reports whether the server honours ranges, so that a later reader can
// begin where this one ends.
func (r *Reader) Ranged() bool { return r.ranged }

// Next returns the next bytes, or io.EOF after the last. They are valid until
// the following call.
func (r *Reader) Next() ([]byte, error) {
	if r.giveBack != nil {
		r.giveBack()
		r.giveBack = nil
	}
	b, release, err := r.Take()
	r.giveBack = release
	return b, err
}

// Take is Next for users who keep several pieces at a time: the bytes are valid
// until release is called, which has to happen, once, before they make room in
// the window for others. It is not called after an error.
func (r *Reader) Take() (b []byte, release func(), err error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	select {
	case c, ok := <-r.queue:
		if !ok {
			r.err = io.EOF
			if r.ctx.Err() != nil {
				r.err = cause(r.ctx)
			}
			return nil, nil, r.err
		}
		<-c.done // ends with the context too
		if r.err = c.err; r.err != nil {
			r.c.release(c.buf)
			r.cancel(r.err)
			return nil, nil, r.err
		}
		return c.buf, func() { r.c.release(c.buf) }, nil
	case <-r.ctx.Done():
		r.err = cause(r.ctx)
		return nil, nil, r.err
	}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		b, err := r.Next()
		if err != nil {
			return 0, err
		}
		r.rest = b
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close ends the requests and gives the window back, but for what was taken and
// not released.
func (r *Reader) Close() {
	r.cancel(io.ErrClosedPipe)
	if r.giveBack != nil {
		r.giveBack()
		r.giveBack = nil
	}
	for c := range r.queue {
		<-c.done
		r.c.release(c.buf)
	}
	r.work.Wait()
	r.err = io.ErrClosedPipe
}

// buffer takes one from the window, waiting for it. Chunks of an object take
// theirs in the order of their bytes, so the one that its user waits for always
// has one, and nobody waits for ever.
func (c *Client) buffer(ctx context.Context) ([]byte, error) {
	select {
	case b := <-c.window:
		return b[:0], nil
	case <-ctx.Done():
		return nil, cause(ctx)
	}
}

func (c *Client) release(b []byte) { c.window <- b }

// sized returns a buffer of n bytes, which is b if it is large enough.
func sized(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// inRanges schedules the chunks. The first one's answer is there already.
func (r *Reader) inRanges(a *answer, url string, buf []byte, offset int64) {
	defer close(r.queue)
	_, size := r.known.get()
	for {
		c := &chunk{n: min(r.c.chunk, size-offset), done: make(chan struct{})}
		c.buf = sized(buf, c.n)
		at, answer, from := offset, a, url
		r.work.Go(func() {
			defer close(c.done)
			if c.err = r.fill(c.buf, at, answer, from); c.err != nil {
				c.buf = c.buf[:0]
			}
		})
		r.queue <- c // has room for the whole window
		if offset += c.n; offset >= size {
			return
		}
		a, url = nil, ""
		var err error
		if buf, err = r.c.buffer(r.ctx); err != nil {
			return
		}
	}
}

// fill reads len(buf) bytes from offset, in as many tries as it takes. The
// first try's answer may be there already.
func (r *Reader) fill(buf []byte, offset int64, a *answer, url string) (err error) {
	tries := r.c.attempts()
	if a == nil {
		if url, err = r.loc.get(r.ctx, ""); err != nil {
			return err
		}
	}
	for {
		if a == nil {
			a, err = r.c.get(r.ctx, url, offset, int64(len(buf)), r.known)
		}
		if err == nil {
			var n int
			n, err = r.body(a, buf)
			if n >= leastProgress || n == len(buf) {
				tries.progress()
			}
			buf, offset, a = buf[n:], offset+int64(n), nil
			if len(buf) == 0 {
				return nil
			}
			if err == nil {
				err = errShort // a shorter range than asked for: ask for the rest
			}
		}
		if url, err = tries.again(r.ctx, r.loc, url, r.known.name, err); err != nil {
			return err
		}
	}
}

// body reads an answer's body into buf, when it is its turn, and closes it.
func (r *Reader) body(a *answer, buf []byte) (int, error) {
	defer a.close()
	if !a.ranged && (a.length < 0 || a.length > int64(len(buf))) {
		return 0, errNotRange
	}
	if err := r.turn(a); err != nil {
		return 0, err
	}
	defer func() { <-r.c.jobs }()
	n := 0
	for int64(n) < a.length {
		m, err := a.body.Read(buf[n:a.length])
		n += m
		a.watch.bytes.Add(int64(m))
		r.arrived(m)
		if err != nil && int64(n) < a.length {
			return n, r.broken(err)
		}
	}
	// The end has to be read for the connection to be used again.
	_, _ = a.body.Read(make([]byte, 1))
	return n, nil
}

// turn waits for a job.
func (r *Reader) turn(a *answer) error {
	a.watch.pause()
	select {
	case r.c.jobs <- struct{}{}:
		a.watch.resume()
		return nil
	case <-r.ctx.Done():
		return cause(r.ctx)
	}
}

// broken says why a body could not be read on.
func (r *Reader) broken(err error) error {
	switch {
	case r.ctx.Err() != nil:
		return cause(r.ctx)
	case errors.Is(err, context.Canceled):
		return errStalled // nobody else cancels a request
	}
	return describe(err)
}

// asStream reads the object from a server without ranges. When the stream
// breaks it is begun anew, and what has been read of it before must be what it
// was: by the entity tag if there is a strong one, else by the bytes.
func (r *Reader) asStream(a *answer, url string, buf []byte) {
	defer close(r.queue)
	var sum hash.Hash
	if a.etag == "" {
		sum = sha256.New()
	}
	tries := r.c.attempts()
	var delivered int64
	fail := func(err error) {
		c := &chunk{buf: buf[:0], err: err, done: make(chan struct{})}
		close(c.done)
		r.queue <- c
	}
	for {
		err := r.skip(a, delivered, sum)
		for err == nil {
			c := &chunk{buf: sized(buf, r.c.chunk), done: make(chan struct{})}
			var n int
			n, err = r.read(a, c.buf)
			buf = c.buf
			if n == 0 {
				break
			}
			if _, size := r.known.get(); size >= 0 && delivered+int64(n) > size {
				err = errLong // and perhaps for ever: not a byte of it goes on
				break
			}
			if sum != nil {
				sum.Write(c.buf[:n])
			}
			if n >= leastProgress {
				tries.progress()
			}
			delivered += int64(n)
			c.buf = c.buf[:n]
			close(c.done)
			r.queue <- c
			var full error
			if buf, full = r.c.buffer(r.ctx); full != nil {
				a.close()
				return
			}
		}
		a.close()
		if err == io.EOF { //nolint:errorlint // the end itself
			if _, size := r.known.get(); size < 0 || delivered == size {
				r.c.release(buf)
				return
			}
			err = errShort
		}
		for {
			if url, err = tries.again(r.ctx, r.loc, url, r.known.name, err); err != nil {
				fail(err)
				return
			}
			if a, err = r.c.get(r.ctx, url, 0, -1, r.known); err == nil {
				break
			}
		}
	}
}

// read fills buf as far as the stream goes. The job is taken for that long only:
// whoever waits for a part of the window must not keep others from emptying
// theirs.
func (r *Reader) read(a *answer, buf []byte) (n int, err error) {
	if err := r.turn(a); err != nil {
		return 0, err
	}
	defer func() {
		a.watch.pause()
		<-r.c.jobs
	}()
	for n < len(buf) && err == nil {
		var m int
		m, err = a.body.Read(buf[n:])
		n += m
		a.watch.bytes.Add(int64(m))
		r.arrived(m)
	}
	if err != nil && err != io.EOF { //nolint:errorlint // the end itself
		err = r.broken(err)
	}
	return n, err
}

// skip reads past what was delivered before.
func (r *Reader) skip(a *answer, n int64, want hash.Hash) error {
	if n == 0 {
		return nil
	}
	if want == nil && a.etag == "" {
		return fmt.Errorf("%w: it has lost its entity tag", ErrChanged)
	}
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for left := n; left > 0; {
		m, err := a.body.Read(buf[:min(left, int64(len(buf)))])
		a.watch.bytes.Add(int64(m))
		if want != nil {
			h.Write(buf[:m])
		}
		if left -= int64(m); err != nil && left > 0 {
			if err == io.EOF {
				return fmt.Errorf("%w: it has fewer bytes than before", ErrChanged)
			}
			return r.broken(err)
		}
	}
	if want != nil && !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%w: its first %d bytes differ", ErrChanged, n)
	}
	return nil
}
