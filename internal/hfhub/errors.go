package hfhub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// What callers decide on; test with errors.Is.
var (
	// ErrNotFound: not there, or not for the token to see.
	ErrNotFound = errors.New("not found on the Hub")
	// ErrNoRevision: the repository is there, the revision is not.
	ErrNoRevision = errors.New("no such revision")
	// ErrMoved: the branch is not where it was expected to be any more.
	ErrMoved = errors.New("the branch moved")
)

// Error is an answer of the Hub that is not a success, or none at all.
type Error struct {
	Op        string // what was being done
	Status    int    // 0 if there was no answer
	Message   string // the Hub's own, or what is wrong
	RequestID string
	// RetryAfter is what the Hub asked for; 0 if nothing.
	RetryAfter time.Duration
	Err        error // the cause, if there is one

	code  string // X-Error-Code
	body  []byte
	again bool // the same request may succeed
}

// Error never holds a token or a signed URL.
func (e *Error) Error() string {
	text := e.Message
	if text == "" && e.Err != nil {
		text = e.Err.Error()
	}
	if text == "" {
		text = http.StatusText(e.Status)
	}
	if e.Status == 0 {
		return e.Op + ": " + text
	}
	id := ""
	if e.RequestID != "" {
		id = ", request " + e.RequestID
	}
	return fmt.Sprintf("%s: %s (HTTP %d%s)", e.Op, text, e.Status, id)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinels.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		// A repository that is not there is 401 to whoever is not logged in.
		return e.Status == http.StatusNotFound || e.code == "RepoNotFound" || e.code == "RevisionNotFound"
	case ErrNoRevision:
		return e.code == "RevisionNotFound"
	case ErrMoved:
		return e.Status == http.StatusPreconditionFailed
	}
	return false
}

func (e *Error) decode(out any) error { return json.Unmarshal(e.body, out) }

// answerError is the error of an answer whose beginning is body.
func answerError(op string, resp *http.Response, body []byte, now time.Time) *Error {
	e := &Error{
		Op: op, Status: resp.StatusCode, body: body, code: resp.Header.Get("X-Error-Code"),
		Message: resp.Header.Get("X-Error-Message"), RequestID: resp.Header.Get("X-Request-Id"),
		RetryAfter: retryAfter(resp.Header, now),
	}
	var said struct {
		Error any `json:"error"`
	}
	if e.Message == "" && json.Unmarshal(body, &said) == nil {
		if text, ok := said.Error.(string); ok {
			e.Message = text
		}
	}
	e.Message = strings.ToValidUTF8(e.Message, "?")
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		e.again = true
	}
	return e
}
