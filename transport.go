package tinkex

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex/internal/wire"
)

// transport is the one place that speaks HTTP. Every client of a
// ServiceClient shares its transport.
//
// Retried, with jittered exponential backoff from 0.5 s to 10 s: requests that
// got no answer, 408, 429, 5xx (not 501), and 400 without a body, which is a
// proxy's and is tried three times more. An answer's X-Should-Retry overrules
// this, its Retry-After replaces the interval. A 409 is final, unlike in the
// official client: it says that the state is not the one assumed, and it will
// not be a moment later. Retries carry the same X-Idempotency-Key.
type transport struct {
	base       string // with the prefix of all paths, without trailing slash
	http       *http.Client
	ownsHTTP   bool
	byOffset   atomic.Bool // the server's lists are asked for by offset alone
	cred       *credential
	log        *slog.Logger
	tracer     trace.Tracer // nil: no traces
	clock      clock
	timeout    time.Duration
	maxRetries int

	life   *lifecycle
	config lazy[flags]

	trainingBytes byteLimit // forward_backward bodies being sent
	samplingBytes byteLimit // prompts being sent
	resultBytes   byteLimit // large results being received
}

// Bounds of what is read of an answer, in bytes.
const (
	maxBody      = 1 << 30
	maxErrorBody = 64 << 10
)

const (
	maxEmptyBadRequests = 3

	// A 402 means that the account is paused until its bill is settled:
	// training and sampling wait, since failing would lose a model in memory.
	billingPause    = 5 * time.Second
	maxBillingPause = time.Hour
)

func newTransport(o Options, clk clock) (*transport, error) {
	o = o.withEnvironment()
	if err := checkAPIKey(o.APIKey); err != nil {
		return nil, err
	}
	base, err := parseBaseURL(o.BaseURL)
	if err != nil {
		return nil, err
	}
	t := &transport{
		base:          base.String() + wire.APIPrefix,
		log:           o.Logger,
		clock:         clk,
		timeout:       o.Timeout,
		maxRetries:    max(o.MaxRetries, 0),
		life:          newLifecycle(),
		trainingBytes: byteLimit{size: 50_000_000},
		samplingBytes: byteLimit{size: 10 << 20},
		resultBytes:   byteLimit{size: 50 << 20},
	}
	t.cred = &credential{key: hide(o.APIKey), jwt: hide(""), t: t}
	if o.Timeout == 0 {
		t.timeout = DefaultTimeout
	}
	if o.MaxRetries == 0 {
		t.maxRetries = DefaultMaxRetries
	}
	t.http, t.ownsHTTP = newHTTPClient(o.HTTPClient)
	if o.TracerProvider != nil {
		t.trace(o.TracerProvider)
	}
	return t, nil
}

func newHTTPClient(given *http.Client) (client *http.Client, owned bool) {
	client = new(http.Client)
	if given != nil {
		*client = *given
		client.Timeout = 0 // long polls take longer than any request's timeout
	} else if base, ok := http.DefaultTransport.(*http.Transport); ok {
		base = base.Clone()
		base.MaxIdleConnsPerHost = 64
		client.Transport = base
		owned = true
	}
	next := client.CheckRedirect
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		first := via[0]
		if first.Context().Value(noRedirect{}) != nil || req.Method != first.Method {
			return http.ErrUseLastResponse
		}
		if !sameServer(first.URL, req.URL) {
			req.Header.Del(wire.HeaderAPIKey)
		}
		if next != nil {
			return next(req, via)
		}
		if len(via) >= 10 {
			return errRedirects
		}
		return nil
	}
	return client, owned
}

var errRedirects = errors.New("stopped after 10 redirects")

// noRedirect is the context key of requests whose redirect is their answer.
type noRedirect struct{}

// sameServer reports whether a credential for a may be sent to b.
func sameServer(a, b *url.URL) bool {
	if a.Scheme == b.Scheme {
		return strings.EqualFold(a.Host, b.Host)
	}
	return a.Scheme == "http" && b.Scheme == "https" && a.Port() == "" && b.Port() == "" && strings.EqualFold(a.Host, b.Host)
}

// server names the server, for people.
func (t *transport) server() string { return strings.TrimSuffix(t.base, wire.APIPrefix) }

// close ends the background work and, with it, the connections.
func (t *transport) close(ctx context.Context) (first bool, err error) {
	first, err = t.life.close(ctx)
	return first, err
}

func (t *transport) closeConnections() {
	if t.ownsHTTP {
		t.http.CloseIdleConnections()
	}
}

// call is one request and what is special about it.
type call struct {
	op     string // what is being done, for errors
	method string
	path   string // below /api/v1, escaped
	query  url.Values
	header http.Header
	// extension: the path is below /tinkex/v1.
	extension bool

	body []byte
	// stream is the body instead, streamSize bytes that are read as they are
	// sent. The timeout is then how long nothing may move.
	stream          io.ReaderAt
	streamSize      int64
	contentType     string
	contentEncoding string
	accept          string
	// into is where the answer is read to, if its memory is to be used again.
	into *bytes.Buffer

	timeout    time.Duration // of an attempt; 0: the transport's
	once       bool          // no retries
	final      []int         // statuses that are not retried
	rawKey     bool          // send the key itself, never a JWT
	noRedirect bool          // a redirect is the answer
	pausable   bool          // wait while the account is paused
	closing    bool          // allowed, with few retries, on a closed client

	// done is the status that means, after an attempt whose answer was lost,
	// that this attempt did the work: 404 for a deletion, say.
	done int

	// Set by do: whether any attempt was made, and whether one may have reached
	// the server although no answer was received.
	sent, lost bool
}

// reply is an answer, read in full.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *reply) isProtobuf() bool {
	return strings.Contains(r.header.Get("Content-Type"), wire.ContentTypeProtobuf)
}

// json sends in, unless it is nil, and decodes the answer into out, unless
// that is nil.
func (t *transport) json(ctx context.Context, c *call, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return &Error{Op: c.op, Category: CategoryUser, Message: "the request cannot be encoded: " + err.Error(), Err: err}
		}
		c.body, c.contentType = body, wire.ContentTypeJSON
	}
	if c.accept == "" {
		c.accept = wire.ContentTypeJSON
	}
	r, err := t.do(ctx, c)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(r.body, out); err != nil {
		return t.unreadable(c.op, r, err)
	}
	return nil
}

// unreadable is the error of a success whose body makes no sense.
func (t *transport) unreadable(op string, r *reply, err error) *Error {
	return &Error{Op: op, Category: CategoryServer, RequestID: r.header.Get(wire.HeaderRequestID), Err: err,
		Message: fmt.Sprintf("the server's answer cannot be read: %v: %s", err, t.cred.redact(excerpt(string(r.body))))}
}

// do sends a request until it is answered for good. Its errors are *Error; if
// one is an answer of the server, the answer is returned with it.
func (t *transport) do(ctx context.Context, c *call) (*reply, error) {
	if !c.closing {
		var stop context.CancelFunc
		ctx, stop = t.life.bind(ctx)
		defer stop()
	}
	var idempotencyKey string
	if c.method != http.MethodGet {
		idempotencyKey = newUUID()
	}
	retries := t.maxRetries
	switch {
	case c.once:
		retries = 0
	case c.closing:
		retries = min(retries, 2)
	}
	wait := newBackoff(initialRetryDelay, maxRetryDelay)
	var paused time.Duration
	emptyBadRequests, reauthorized := 0, false
	for attempt := 1; ; {
		if ctx.Err() != nil {
			return nil, interrupted(ctx, c.op)
		}
		key, err := t.credentialFor(ctx, c)
		if err != nil {
			return nil, err
		}
		c.sent = true
		r, err := t.attempt(ctx, c, key, idempotencyKey)
		if ctx.Err() != nil && (err != nil || r.status >= 400) {
			c.lost = c.lost || mayHaveArrived(r, err)
			return nil, interrupted(ctx, c.op)
		}
		if err == nil && (r.status < 300 || c.noRedirect && r.status < 400) {
			return r, nil
		}
		var failure *Error
		if err != nil {
			failure = t.connectionError(c, err)
		} else {
			failure = t.statusError(c, r)
		}

		wasLost := c.lost
		c.lost = c.lost || mayHaveArrived(r, err)
		switch {
		case err == nil && wasLost && r.status == c.done:
			return &reply{status: http.StatusNoContent, header: r.header}, nil
		case err == nil && !reauthorized && t.reauthorize(ctx, c, r, key):
			reauthorized = true
			continue
		case err == nil && r.status == http.StatusPaymentRequired && c.pausable && paused < maxBillingPause:
			if paused%time.Minute == 0 {
				t.log.Warn("paused: the account's billing needs attention", "op", c.op, "reason", failure.Message)
			}
			paused += billingPause
			if t.clock.sleep(ctx, billingPause) != nil {
				return nil, interrupted(ctx, c.op)
			}
			continue
		case err != nil && !transientConnectionError(err), err == nil && !t.transientStatus(c, r):
			return r, failure
		}

		if err == nil && r.status == http.StatusBadRequest && r.header.Get(wire.HeaderShouldRetry) != "true" {
			emptyBadRequests++
		}
		if attempt > retries || emptyBadRequests > maxEmptyBadRequests {
			if attempt > 1 {
				failure.Message = fmt.Sprintf("%s; gave up after %d attempts", failure.text(), attempt)
			}
			return r, failure
		}
		delay := retryDelay(wait, failure.RetryAfter)
		level := slog.LevelDebug
		if attempt > 2 {
			level = slog.LevelInfo
		}
		t.log.Log(ctx, level, "retrying", "op", c.op, "attempt", attempt, "in", delay.Round(time.Millisecond), "error", failure.text())
		if t.clock.sleep(ctx, delay) != nil {
			e := interrupted(ctx, c.op)
			e.Message = fmt.Sprintf("%v while waiting to retry after: %s", e.Err, failure.text())
			return nil, e
		}
		attempt++
	}
}

func (t *transport) credentialFor(ctx context.Context, c *call) (string, error) {
	if c.rawKey || c.closing && t.life.ctx.Err() != nil && !t.cred.has() {
		return t.cred.key(), nil
	}
	return t.cred.get(ctx)
}

// reauthorize reacts to a refused credential; it reports whether it is worth
// asking again. A client that began without reading the server's flags learns
// here that the server wants a JWT.
func (t *transport) reauthorize(ctx context.Context, c *call, r *reply, rejected string) bool {
	if c.rawKey || c.closing || r.status != http.StatusUnauthorized && r.status != http.StatusForbidden {
		return false
	}
	if invalidToken(r) && rejected != t.cred.key() {
		_, err := t.cred.replace(ctx, rejected)
		return err == nil
	}
	if _, known := t.config.peek(); known {
		return false
	}
	f, err := t.flags(ctx)
	return err == nil && f.exchangeKey
}

// attempt sends a request once.
func (t *transport) attempt(ctx context.Context, c *call, key, idempotencyKey string) (*reply, error) {
	timeout := c.timeout
	if timeout == 0 {
		timeout = t.timeout
	}
	moved := func() {}
	switch {
	case timeout > 0 && c.stream != nil:
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		timer := time.AfterFunc(timeout, func() { cancel(attemptTimeout(timeout)) })
		defer timer.Stop()
		moved = func() { timer.Reset(timeout) }
	case timeout > 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, attemptTimeout(timeout))
		defer cancel()
	}
	if c.noRedirect {
		ctx = context.WithValue(ctx, noRedirect{}, true)
	}
	target := t.base + c.path
	if c.extension {
		target = t.server() + wire.ExtensionPrefix + c.path
	}
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, body)
	if err != nil {
		return nil, err
	}
	var broken atomic.Pointer[sourceError]
	if c.stream != nil && c.streamSize > 0 {
		open := func() (io.ReadCloser, error) {
			return io.NopCloser(&streamBody{io.NewSectionReader(c.stream, 0, c.streamSize), c.streamSize, moved, &broken}), nil
		}
		req.Body, _ = open()
		req.GetBody, req.ContentLength = open, c.streamSize
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	set("Content-Type", c.contentType)
	set("Content-Encoding", c.contentEncoding)
	set("Accept", c.accept)
	set("User-Agent", "tinkex-go/"+Version)
	set(wire.HeaderAPIKey, key)
	set(wire.HeaderIdempotencyKey, idempotencyKey)

	resp, err := t.http.Do(req)
	if err == nil {
		defer resp.Body.Close()
		r := &reply{status: resp.StatusCode, header: resp.Header}
		if r.body, err = readBody(resp, c.into); err == nil {
			return r, nil
		}
	}
	if source := broken.Load(); source != nil {
		return nil, source
	}
	var late attemptTimeout
	if errors.As(context.Cause(ctx), &late) {
		return nil, late
	}
	return nil, err
}

// streamBody is a body on its way.
type streamBody struct {
	r      io.Reader
	left   int64
	moved  func()
	broken *atomic.Pointer[sourceError]
}

func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.moved()
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.broken.Store(&sourceError{err})
	}
	return n, err
}

// sourceError is a failure to read what is to be sent, which no other attempt
// will change.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read what is to be sent: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

func readBody(resp *http.Response, buf *bytes.Buffer) ([]byte, error) {
	if resp.StatusCode >= 400 {
		return io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	}
	if buf == nil {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	if n := resp.ContentLength; n > 0 && n <= 16<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && n > maxBody {
		err = fmt.Errorf("the answer is larger than %d bytes", maxBody)
	}
	return buf.Bytes(), err
}

// attemptTimeout is the error of an attempt that took too long. It is not the
// caller's deadline.
type attemptTimeout time.Duration

func (d attemptTimeout) Error() string        { return fmt.Sprintf("no answer within %v", time.Duration(d)) }
func (d attemptTimeout) Timeout() bool        { return true }
func (d attemptTimeout) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// transientConnectionError reports whether no answer now may be followed by
// one later. What a certificate or a scheme says will not change.
func transientConnectionError(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var source *sourceError
	return !errors.As(err, &source) && !errors.Is(err, errRedirects) && !errors.Is(err, http.ErrSchemeMismatch) &&
		!errors.As(err, &certificate) && !errors.As(err, &record)
}

// mayHaveArrived reports whether a failed attempt may have been carried out.
func mayHaveArrived(r *reply, err error) bool {
	if err == nil {
		return r.status == http.StatusRequestTimeout || r.status >= 500
	}
	var op *net.OpError
	return !errors.As(err, &op) || op.Op != "dial"
}

func (t *transport) transientStatus(c *call, r *reply) bool {
	if slices.Contains(c.final, r.status) {
		return false
	}
	switch r.header.Get(wire.HeaderShouldRetry) {
	case "true":
		return r.status >= 400
	case "false":
		return false
	}
	switch r.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	case http.StatusBadRequest:
		return len(r.body) == 0
	}
	return r.status >= 500
}

// connectionError is the error of a request that got no answer.
func (t *transport) connectionError(c *call, err error) *Error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is no news, and Op says what it was for
	}
	host := t.base
	if u, uerr := url.Parse(t.base); uerr == nil {
		host = u.Host
	}
	e := &Error{Op: c.op, Category: CategoryUnknown, Err: err}
	var op *net.OpError
	var source *sourceError
	switch {
	case errors.As(err, &source):
		e.Category = CategoryUser
	case errors.As(err, &op) && op.Op == "dial":
		e.Message = fmt.Sprintf("cannot connect to %s: %v", host, op.Err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Message = fmt.Sprintf("%s closed the connection before its answer was complete", host)
	default:
		e.Message = fmt.Sprintf("%s: %s", host, t.cred.redact(err.Error()))
	}
	return e
}

// parseRetryAfter understands seconds, milliseconds (retry-after-ms, as the
// official client does) and dates.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	for _, in := range []struct {
		name string
		unit time.Duration
	}{{"Retry-After-Ms", time.Millisecond}, {"Retry-After", time.Second}} {
		if n, err := strconv.ParseFloat(strings.TrimSpace(h.Get(in.name)), 64); err == nil && n > 0 && !math.IsInf(n, 0) {
			return time.Duration(min(n*float64(in.unit), float64(24*time.Hour)))
		}
	}
	if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		return min(max(at.Sub(now), 0), 24*time.Hour)
	}
	return 0
}

// newUUID returns a random (version 4) UUID.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
