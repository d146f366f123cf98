package hfhub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultJobs    = 4
	DefaultRetries = 5

	defaultRetryDelay   = time.Second
	defaultStallTimeout = 2 * time.Minute
	// answerTimeout is how long the Hub may think: a large commit takes it a
	// while.
	answerTimeout = 5 * time.Minute

	maxRetryDelay = 16 * time.Second
	// maxRetryAfter bounds the wait that the Hub may ask for. Its rate limits
	// are over windows of five minutes.
	maxRetryAfter = 5*time.Minute + 5*time.Second

	maxAnswer = 64 << 20
	maxError  = 64 << 10
)

// Options configures a Client. The zero value works where a token is found.
type Options struct {
	// Endpoint is the Hub's address. Empty is HF_ENDPOINT, then DefaultEndpoint.
	Endpoint string
	// Token authenticates. Empty is what FindToken finds, and finds again when
	// that one's time is up.
	Token string
	// UserAgent is sent with every request to the endpoint.
	UserAgent string
	// HTTPClient sends the requests. Nil is one of the Client's own.
	HTTPClient *http.Client
	// Jobs is how many uploads are on their way at once. If less than or equal
	// to 0, DefaultJobs.
	Jobs int
	// Retries is how often in a row a request may fail. Zero is DefaultRetries,
	// negative is never.
	Retries int
	// RetryDelay is the first wait between two tries, which doubles from one to
	// the next up to 16 s unless the Hub asks for another. If less than or equal
	// to 0, a second.
	RetryDelay time.Duration
	// StallTimeout is how long nothing of an upload may be taken. If less than
	// or equal to 0, two minutes.
	StallTimeout time.Duration
	// Wait sleeps between two tries. Nil waits by the clock.
	Wait func(ctx context.Context, d time.Duration) error
	// Notice is called, by one goroutine at a time, with what people should know
	// of a token that could not be renewed. Nil logs it.
	Notice func(message string)
	// Logger hears of retries. Nil discards.
	Logger *slog.Logger
}

// Client talks to the Hub. It is safe for concurrent use.
type Client struct {
	endpoint *url.URL
	// token is not a string, so that no formatting shows it.
	token   func(ctx context.Context) (string, error)
	keyless bool
	kept    *keptTokens
	notice  func(message string)
	agent   string
	http    *http.Client
	direct  *http.Client // which follows no redirects
	jobs    int
	retries int
	delay   time.Duration
	stall   time.Duration
	wait    func(ctx context.Context, d time.Duration) error
	log     *slog.Logger
}

// New returns a client. Without a token to be found, ErrNoToken or ErrOIDC.
func New(ctx context.Context, opts Options) (*Client, error) {
	c, err := newClient(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := c.authenticate(ctx, cleanToken(opts.Token)); err != nil {
		return nil, err
	}
	return c, nil
}

// newClient returns a client that has no token.
func newClient(ctx context.Context, opts Options) (*Client, error) {
	u, err := endpoint(opts.Endpoint)
	if err != nil {
		return nil, err
	}
	c := &Client{
		endpoint: u, agent: opts.UserAgent, notice: opts.Notice,
		jobs: opts.Jobs, retries: opts.Retries, delay: opts.RetryDelay, stall: opts.StallTimeout,
		wait: opts.Wait, log: opts.Logger,
	}
	if c.jobs <= 0 {
		c.jobs = DefaultJobs
	}
	if c.retries == 0 {
		c.retries = DefaultRetries
	}
	if c.delay <= 0 {
		c.delay = defaultRetryDelay
	}
	if c.stall <= 0 {
		c.stall = defaultStallTimeout
	}
	if c.wait == nil {
		c.wait = sleep
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	client := http.Client{}
	if opts.HTTPClient != nil {
		client = *opts.HTTPClient
		client.Timeout = 0 // a file takes as long as it takes; stalls are seen to
	}
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if !sameOrigin(req.URL, c.endpoint) {
			req.Header.Del("Authorization")
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	direct := client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http, c.direct = &client, &direct
	if c.notice == nil {
		c.notice = func(message string) { c.log.WarnContext(ctx, message) }
	}
	c.kept = &keptTokens{hub: c}
	return c, nil
}

// authenticate sees to it that there is a token.
func (c *Client) authenticate(ctx context.Context, given string) error {
	if given != "" {
		c.token = func(context.Context) (string, error) { return given, nil }
		_, err := checkToken(given, "the options")
		return err
	}
	c.keyless = oidcResource() != ""
	c.token = remembered(c.find)
	_, err := c.token(ctx)
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// request is one try of a request.
type request struct {
	method, url, contentType, accept string
	body                             io.Reader // of length bytes
	length                           int64
	// anonymous requests carry no token, wherever they go; others carry it to
	// the endpoint only.
	anonymous bool
	// bearer is carried instead, to where the request goes.
	bearer string
	// direct requests carry secrets, and are not redirected.
	direct bool
}

// send sends a request once. An answer that is not a success is an *Error.
func (c *Client) send(ctx context.Context, op string, r request) (*http.Response, error) {
	body := r.body
	if r.length == 0 {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		// The URL is the Hub's, and may be signed.
		return nil, &Error{Op: op, Message: "the Hub gave an address that is none"}
	}
	req.ContentLength = r.length
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if sameOrigin(req.URL, c.endpoint) {
		if c.agent != "" {
			req.Header.Set("User-Agent", c.agent)
		}
		if !r.anonymous && r.bearer == "" {
			token, err := c.token(ctx)
			if err != nil {
				return nil, err
			}
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	client := c.http
	if r.direct {
		client = c.direct
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, transient(op, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	return nil, answerError(op, resp, said, time.Now())
}

// transient is the error of a connection that did not hold, without the URL.
func transient(op string, err error) error {
	if err == nil {
		return nil
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Error{Op: op, Err: err, again: true}
}

// call makes a request with and for JSON, trying again where that may help.
func (c *Client) call(ctx context.Context, op, method, u string, in, out any) error {
	var body []byte
	r := request{method: method, url: u, accept: "application/json"}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		r.contentType = "application/json"
	}
	return c.retry(ctx, op, func(ctx context.Context) error { return c.once(ctx, op, r, body, out) })
}

// once makes a request once, with a body that is in memory.
func (c *Client) once(ctx context.Context, op string, r request, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r.body, r.length = bytes.NewReader(body), int64(len(body))
	resp, err := c.send(ctx, op, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxError) // so that the connection can be used again
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return transient(op, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &Error{Op: op, Status: resp.StatusCode, Message: "the answer is not what was expected: " + err.Error()}
	}
	return nil
}

// retry tries until it succeeds, fails for good, or failed too often.
func (c *Client) retry(ctx context.Context, op string, try func(ctx context.Context) error) error {
	for n := 0; ; n++ {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", op, ctx.Err())
		}
		if err := c.pause(ctx, err, n); err != nil {
			return err
		}
	}
}

// pause waits before the try after the n-th failed one, or returns the error if
// there is to be none.
func (c *Client) pause(ctx context.Context, err error, n int) error {
	var e *Error
	if !errors.As(err, &e) || !e.again || n >= c.retries {
		return err
	}
	d := c.delay << min(n, 10)
	if d > maxRetryDelay || d <= 0 {
		d = maxRetryDelay
	}
	d = d/2 + rand.N(d/2+1)
	if e.RetryAfter > maxRetryAfter {
		return err
	}
	d = max(d, e.RetryAfter)
	c.log.InfoContext(ctx, "the Hub is asked again", "after", d, "error", err)
	return c.wait(ctx, d)
}

// rateLimit is the header by which the Hub tells when a limit ends:
// `"api";r=0;t=55`.
var rateLimit = regexp.MustCompile(`;\s*r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)`)

// retryAfter is how long an answer asks to be left alone.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if m := rateLimit.FindStringSubmatch(h.Get("RateLimit")); m != nil && m[1] == "0" {
		if s, err := strconv.Atoi(m[2]); err == nil && s < 1<<30 {
			return time.Duration(s+1) * time.Second
		}
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(s, 0), 1<<30)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// watched is a body that ends the request if nothing of it is taken for a
// while, and counts what is.
type watched struct {
	r     io.Reader
	timer *time.Timer
	stall time.Duration
	count func(n int)
	mu    sync.Mutex
	done  bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.count(n)
		if err != nil {
			w.timer.Reset(answerTimeout) // all is sent; now the answer
		} else {
			w.timer.Reset(w.stall)
		}
	}
	return n, err
}

// finish ends the counting: the transport may read on when the request has
// ended.
func (w *watched) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	w.timer.Stop()
}

var errStalled = errors.New("nothing was taken any more")

// put sends a piece of a file to a signed address and returns the entity tag.
func (c *Client) put(ctx context.Context, op, u string, r io.ReaderAt, offset, length int64, progress *progress) (etag string, err error) {
	err = c.retry(ctx, op, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var counted int64
		w := &watched{
			r: io.NewSectionReader(r, offset, length), stall: c.stall,
			timer: time.AfterFunc(c.stall, func() { cancel(errStalled) }),
			count: func(n int) { counted += int64(n); progress.sent(int64(n)) },
		}
		resp, err := c.send(ctx, op, request{method: http.MethodPut, url: u, body: w, length: length, anonymous: true})
		w.finish()
		if err != nil {
			progress.sent(-counted)
			if errors.Is(context.Cause(ctx), errStalled) {
				err = &Error{Op: op, Err: errStalled, again: true}
			}
			return err
		}
		defer resp.Body.Close()
		etag = resp.Header.Get("ETag")
		_, _ = io.CopyN(io.Discard, resp.Body, maxError)
		return nil
	})
	return etag, err
}
