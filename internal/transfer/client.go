package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Defaults of Options.
const (
	DefaultJobs         = 8
	DefaultWindowBytes  = 20 << 20
	maxChunkBytes       = 2 << 20
	minChunkBytes       = 256 << 10
	DefaultStallTimeout = 30 * time.Second
	DefaultRetries      = 8

	defaultRetryDelay = 500 * time.Millisecond
	maxRetryDelay     = 15 * time.Second

	// leastProgress is how many bytes have to arrive for a connection to count
	// as alive, within StallTimeout, and for earlier failures to be forgotten.
	leastProgress = 16 << 10
)

// Options configures a Client. The zero value works.
type Options struct {
	// HTTPClient sends the requests. Nil is one of the Client's own, which keeps
	// to HTTP/1.1: HTTP/2 would send all ranges through a single connection.
	HTTPClient *http.Client
	// Jobs is how many answers are read at once. Up to half as many requests
	// more are sent ahead of their turn, so that no connection waits for one to
	// cross the network. If less than or equal to 0, DefaultJobs (8).
	Jobs int
	// WindowBytes is how much is kept in memory of what has arrived before its
	// turn. It is shared out among the requests, each of which asks for 256 KiB
	// at least and 2 MiB at most. If less than or equal to 0, DefaultWindowBytes
	// (20 MiB).
	WindowBytes int
	// StallTimeout is how long an answer may fail to bring 16 KiB before it is
	// given up. If less than or equal to 0, DefaultStallTimeout (30 s).
	StallTimeout time.Duration
	// Retries is how often in a row something may fail. Zero is DefaultRetries
	// (8), negative is never.
	Retries int
	// RetryDelay is the first wait between two tries, which doubles from one to
	// the next up to 15 s. If less than or equal to 0, half a second.
	RetryDelay time.Duration
	// Logger hears of retries. Nil discards.
	Logger *slog.Logger
}

// Client reads objects. Everything that is open at a time shares its jobs and
// its window. It is safe for concurrent use.
type Client struct {
	http       *http.Client
	owned      bool
	chunk      int64
	stall      time.Duration
	retries    int
	retryDelay time.Duration
	log        *slog.Logger

	jobs   chan struct{} // holds one for every answer being read
	window chan []byte   // the buffers that are free; nil ones are not allocated yet
}

// New returns a client. Close it when its readers are closed.
func New(opts Options) *Client {
	if opts.Jobs <= 0 {
		opts.Jobs = DefaultJobs
	}
	if opts.WindowBytes <= 0 {
		opts.WindowBytes = DefaultWindowBytes
	}
	if opts.StallTimeout <= 0 {
		opts.StallTimeout = DefaultStallTimeout
	}
	if opts.Retries == 0 {
		opts.Retries = DefaultRetries
	}
	if opts.RetryDelay <= 0 {
		opts.RetryDelay = defaultRetryDelay
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	requests := opts.Jobs + (opts.Jobs+1)/2
	// A multiple of what disks are written in.
	chunk := min(max(opts.WindowBytes/requests, minChunkBytes), maxChunkBytes) &^ (64<<10 - 1)
	c := &Client{
		chunk:      int64(chunk),
		stall:      opts.StallTimeout,
		retries:    max(opts.Retries, 0),
		retryDelay: opts.RetryDelay,
		log:        opts.Logger,
		jobs:       make(chan struct{}, opts.Jobs),
		window:     make(chan []byte, requests),
	}
	for range cap(c.window) {
		c.window <- nil
	}
	client := http.Client{}
	if opts.HTTPClient != nil {
		client = *opts.HTTPClient
		client.Timeout = 0 // a file takes as long as it takes; stalls are seen to
	} else if base, ok := http.DefaultTransport.(*http.Transport); ok {
		base = base.Clone()
		base.MaxIdleConnsPerHost = cap(c.window)
		base.ForceAttemptHTTP2 = false
		base.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		client.Transport = base
		c.owned = true
	}
	client.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errRedirects
		}
		return nil
	}
	c.http = &client
	return c
}

// Close closes the connections.
func (c *Client) Close() {
	if c.owned {
		c.http.CloseIdleConnections()
	}
}

// answer is a successful response whose body has not been read yet.
type answer struct {
	body io.ReadCloser
	// length is how many bytes the body has, or -1.
	length int64
	// size is the whole object's, or -1.
	size int64
	etag string // strong, or empty
	// modified is the Last-Modified of an answer without an entity tag.
	modified string
	ranged   bool // the body is the range asked for, and not everything
	watch    *watchdog
}

func (a *answer) close() {
	a.watch.end()
	a.body.Close()
}

// watchdog gives up a request that brings nothing. It is paused while nobody
// reads.
type watchdog struct {
	every  time.Duration
	bytes  atomic.Int64
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	awake bool
	seen  int64
}

func newWatchdog(every time.Duration, cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{every: every, cancel: cancel, awake: true}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(every, w.look)
	return w
}

func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.awake {
		return
	}
	n := w.bytes.Load()
	if n-w.seen < leastProgress {
		w.cancel(errStalled)
		return
	}
	w.seen = n
	w.timer.Reset(w.every)
}

func (w *watchdog) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awake = false
	w.timer.Stop()
}

func (w *watchdog) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awake, w.seen = true, w.bytes.Load()
	w.timer.Reset(w.every)
}

func (w *watchdog) end() {
	w.pause()
	w.cancel(nil)
}

// get asks for length bytes from offset, or for everything if length is
// negative. known is what has been learnt of the object so far.
func (c *Client) get(ctx context.Context, url string, offset, length int64, known *facts) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := newWatchdog(c.stall, cancel)
	a, err := c.send(ctx, url, offset, length, known)
	if err != nil {
		watch.end()
		if why := context.Cause(ctx); why != nil && why == errStalled { //nolint:errorlint // the cause itself
			err = errStalled
		}
		return nil, err
	}
	a.watch = watch
	return a, nil
}

func (c *Client) send(ctx context.Context, url string, offset, length int64, known *facts) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &finalError{fmt.Errorf("the server gave a URL that is none: %w", describe(err))}
	}
	req.Header.Set("Accept-Encoding", "identity")
	if length >= 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		if etag, _ := known.get(); etag != "" {
			req.Header.Set("If-Range", etag)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, describe(err)
	}
	a, err := read(resp, offset, length, known)
	if err != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // for the connection's reuse
		resp.Body.Close()
		return nil, err
	}
	return a, nil
}

// read makes sense of a response.
func read(resp *http.Response, offset, length int64, known *facts) (*answer, error) {
	a := &answer{body: resp.Body, length: resp.ContentLength, size: -1}
	if etag := resp.Header.Get("ETag"); strings.HasPrefix(etag, `"`) {
		a.etag = etag
	} else {
		a.modified = resp.Header.Get("Last-Modified")
	}
	switch resp.StatusCode {
	case http.StatusOK:
		a.size = resp.ContentLength
	case http.StatusPartialContent:
		if length < 0 {
			return nil, errBadRange
		}
		first, last, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != offset || last >= offset+length || a.length >= 0 && a.length != last-first+1 {
			return nil, errBadRange
		}
		a.ranged, a.length, a.size = true, last-first+1, size
	case http.StatusRequestedRangeNotSatisfiable:
		if length < 0 {
			return nil, &StatusError{Status: resp.StatusCode} // no range was asked for
		}
		if _, size, ok := strings.Cut(resp.Header.Get("Content-Range"), "*/"); ok && size == "0" && offset == 0 {
			a.ranged, a.length, a.size = true, 0, 0
			break
		}
		return nil, fmt.Errorf("%w: it ends before byte %d", ErrChanged, offset)
	default:
		return nil, &StatusError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	}
	if err := known.learn(a); err != nil {
		return nil, err
	}
	if length >= 0 && !a.ranged && offset > 0 {
		return nil, errNotRange
	}
	return a, nil
}

// parseContentRange reads "bytes 0-99/1000" or "bytes 0-99/*".
func parseContentRange(s string) (first, last, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(s, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	var errs [3]error
	number := func(s string, err *error) int64 {
		n, e := strconv.ParseUint(s, 10, 63) // takes no signs
		*err = e
		return int64(n)
	}
	first, last, size = number(from, &errs[0]), number(to, &errs[1]), -1
	if total != "*" {
		size = number(total, &errs[2])
	}
	for _, err := range errs {
		if err != nil {
			return 0, 0, 0, false
		}
	}
	return first, last, size, last >= first && (size < 0 || last < size)
}

// attempts counts failures in a row.
type attempts struct {
	c       *Client
	wait    *backoff.ExponentialBackOff
	failed  int
	refused int // answers in a row that another URL might have spared
}

func (c *Client) attempts() *attempts {
	a := &attempts{c: c, wait: &backoff.ExponentialBackOff{
		InitialInterval: c.retryDelay, MaxInterval: maxRetryDelay, Multiplier: 2, RandomizationFactor: 0.25,
	}}
	a.wait.Reset()
	return a
}

// progress forgets failures.
func (a *attempts) progress() {
	a.failed, a.refused = 0, 0
	a.wait.Reset()
}

// again decides on a failure: it waits and returns the URL to try next, or
// returns the error to give up with.
func (a *attempts) again(ctx context.Context, loc *location, url, name string, err error) (string, error) {
	if ctx.Err() != nil {
		return "", cause(ctx)
	}
	var status *StatusError
	if errors.As(err, &status) && status.refusesURL() && a.refused == 0 {
		a.refused++
		a.c.log.DebugContext(ctx, "asking for another URL", "file", name, "error", err)
		return loc.get(ctx, url)
	}
	if !transient(err) {
		return "", err
	}
	a.failed++
	if a.failed > a.c.retries {
		if a.failed > 1 {
			err = fmt.Errorf("%w; gave up after %d tries", err, a.failed)
		}
		return "", &finalError{err}
	}
	delay := min(a.wait.NextBackOff(), maxRetryDelay)
	if status != nil && status.RetryAfter > 0 {
		delay = status.RetryAfter
	}
	a.c.log.DebugContext(ctx, "retrying", "file", name, "try", a.failed+1, "in", delay, "error", err)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return loc.get(ctx, "")
	case <-ctx.Done():
		return "", cause(ctx)
	}
}
