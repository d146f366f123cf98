package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// ErrChanged: the file on the server is no longer the one that was begun.
var ErrChanged = errors.New("it has changed on the server meanwhile")

// StatusError is an answer that is not the file's bytes.
type StatusError struct {
	Status int
	// RetryAfter is what the server asked for, or zero.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := http.StatusText(e.Status)
	if text == "" {
		return fmt.Sprintf("the server answered %d", e.Status)
	}
	return fmt.Sprintf("the server answered %d %s", e.Status, text)
}

// refusesURL reports whether another URL for the same object may be accepted:
// object stores answer in any of these ways when a signature has expired.
func (e *StatusError) refusesURL() bool {
	return slices.Contains([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone}, e.Status)
}

func (e *StatusError) transient() bool {
	return e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests ||
		e.Status >= 500 && e.Status != http.StatusNotImplemented
}

// The ways in which an answer is not what was asked for. All of them may be a
// proxy's fault and pass.
var (
	errStalled   = errors.New("the server stopped sending")
	errShort     = errors.New("the connection ended early")
	errLong      = errors.New("the server sent more bytes than the file has")
	errNotRange  = errors.New("the server sent the whole file instead of the range asked for")
	errBadRange  = errors.New("the server sent another range than the one asked for")
	errRedirects = errors.New("stopped after 10 redirects")
)

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.transient()
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var final *finalError
	return !errors.Is(err, ErrChanged) && !errors.Is(err, errRedirects) && !errors.Is(err, http.ErrSchemeMismatch) &&
		!errors.As(err, &certificate) && !errors.As(err, &record) && !errors.As(err, &final)
}

// finalError is a failure that was given up on, or that is not worth a retry.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// describe makes an error of the HTTP client readable, without the signed URL
// that it quotes.
func describe(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("cannot find the host %q: %w", dns.Name, err)
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("cannot connect to %s: %w", op.Addr, op.Err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", errShort, err)
	}
	return err
}

// retryAfter reads the header's two forms.
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = 5 * time.Minute
	value := h.Get("Retry-After")
	if s, err := strconv.Atoi(value); err == nil && s > 0 {
		return min(time.Duration(s)*time.Second, most)
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return min(at.Sub(now), most)
	}
	return 0
}

// cause is why a context ended, with the context's own error kept for callers
// that look for it.
func cause(ctx context.Context) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return ctx.Err()
}
