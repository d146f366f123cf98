package tinkex

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// What a caller may want to decide on. Test with errors.Is; the errors
// themselves say more.
var (
	// ErrNotFound: no such thing, or not yours; the two are told apart nowhere. 404
	ErrNotFound = errors.New("not found")
	// ErrForbidden: yours to see, not to do. 403
	ErrForbidden = errors.New("forbidden")
	// ErrUnauthorized: the server does not accept the credential. 401
	ErrUnauthorized = errors.New("unauthorized")
	// ErrConflict: the state is not the one the request assumes, for example a
	// name that is taken. 409
	ErrConflict = errors.New("conflict")
	// ErrRateLimited: too many requests, even after retrying. 429
	ErrRateLimited = errors.New("rate limited")
	// ErrGone: the result is no longer there; make the request again. 410
	ErrGone = errors.New("gone")
	// ErrInvalid: the request itself is wrong. 400, 413, 422
	ErrInvalid = errors.New("invalid request")
	// ErrExists: the local target is there already.
	ErrExists = errors.New("already exists")
	// ErrInvalidPath: not a tinker path, or not an allowed checkpoint name.
	ErrInvalidPath = errors.New("invalid path")
	// ErrMissingAPIKey: no key was given and TINKER_API_KEY is not set.
	ErrMissingAPIKey = errors.New("missing API key")
	// ErrMalformedAPIKey: the key is neither a "tml-" key nor a JWT.
	ErrMalformedAPIKey = errors.New("malformed API key")
	// ErrMalformedBaseURL: the base URL is not one of a server.
	ErrMalformedBaseURL = errors.New("malformed base URL")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client is closed")
	// ErrBroken: an earlier request of this training client was lost on the
	// way, so the order of later ones cannot be kept. Resume from a checkpoint.
	ErrBroken = errors.New("training client is broken")
)

// Category says whose fault an error is.
type Category string

// The categories, as the protocol spells them.
const (
	CategoryUnknown Category = "unknown"
	CategoryServer  Category = "server" // trying again later may help
	CategoryUser    Category = "user"   // the same request will fail again
)

// Error is the type of every error of the protocol: an HTTP answer that is
// not a success, a failed future, a connection that could not be made, or
// input refused before any request.
type Error struct {
	Op         string        // what was being done: "publish tinker://..."
	Status     int           // HTTP status, 0 if there was no answer
	Category   Category      // whose fault it is
	Message    string        // the server's detail, or what is wrong with the input
	RequestID  string        // the future's or the answer's id, if known
	RetryAfter time.Duration // what the server asked for; 0 if nothing
	Err        error         // the cause, if there is one
}

// Error formats the operation, the message and, where known, the status and
// request id. It never contains a credential.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	b.WriteString(e.text())
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d", e.Status)
		if e.RequestID != "" {
			fmt.Fprintf(&b, ", request %s", e.RequestID)
		}
		b.WriteString(")")
	} else if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	return b.String()
}

// text is the error without its operation and status.
func (e *Error) text() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Err != nil:
		return e.Err.Error()
	case e.Status != 0:
		return http.StatusText(e.Status)
	}
	return "failed"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinel that the status stands for.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return target == ErrInvalid
	case http.StatusUnauthorized:
		return target == ErrUnauthorized
	case http.StatusForbidden:
		return target == ErrForbidden
	case http.StatusNotFound:
		return target == ErrNotFound
	case http.StatusConflict:
		return target == ErrConflict
	case http.StatusGone:
		return target == ErrGone
	case http.StatusTooManyRequests:
		return target == ErrRateLimited
	}
	return false
}

// invalidPath builds the error of everything that parses paths and names.
func invalidPath(s, format string, args ...any) error {
	return &Error{
		Category: CategoryUser,
		Message:  fmt.Sprintf("invalid tinker path %q: %s", s, fmt.Sprintf(format, args...)),
		Err:      ErrInvalidPath,
	}
}
