package tinkex

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tinkex/tinkex/internal/wire"
)

// The rules of waiting for a result are the official client's (tinker 0.38.0,
// lib/api_future_impl.py), with a bound: it would wait for a server that is
// gone for ever.
const (
	// pollTimeout is how long the server may hold a request for a result.
	pollTimeout = 45 * time.Second
	// pollPatience is how long a server may answer nothing but failures.
	pollPatience = 15 * time.Minute
	// pollBadRequests is how many 400s are taken for a proxy's.
	pollBadRequests = 3
	// pollPace is what a poll takes at least, so that a server that does not
	// hold requests is not hammered.
	pollPace    = 50 * time.Millisecond
	maxPollPace = time.Second
	// maxPollDelay bounds the wait after a failure.
	maxPollDelay = 30 * time.Second
)

// retrieval waits for the result of an accepted request.
type retrieval struct {
	op        string
	requestID string
	kind      string // the request's type, as the official client names it
	protobuf  bool   // the result is a protobuf message
}

// retrieve polls until there is a result and decodes it. It fails with an
// *Error: ErrGone if the result is no longer kept, the request's own failure
// with the status it would have had as an answer.
func retrieve[T any](ctx context.Context, t *transport, q retrieval, decode func([]byte) (T, error)) (T, error) {
	var zero T
	r, release, err := t.poll(ctx, q)
	if err != nil {
		return zero, err
	}
	defer release()
	if q.protobuf && !r.isProtobuf() {
		return zero, &Error{Op: q.op, Category: CategoryServer, RequestID: q.requestID,
			Message: "the server answered JSON where the protocol has protobuf; it is too old for this client"}
	}
	v, err := decode(r.body)
	if err != nil {
		return zero, &Error{Op: q.op, Category: CategoryServer, RequestID: q.requestID, Err: err,
			Message: "the result cannot be read: " + err.Error()}
	}
	return v, nil
}

// poll returns the answer that holds the result; release is called when it
// has been decoded.
func (t *transport) poll(ctx context.Context, q retrieval) (*reply, func(), error) {
	release := func() {}
	metadataOnly := true
	badRequests := 0
	failing := newBackoff(initialRetryDelay, maxPollDelay)
	pace := newBackoff(pollPace, maxPollPace)
	lastAnswer := t.clock.now()
	queue := queueLog{t: t, op: q.op}
	give := func(err error) (*reply, func(), error) {
		release()
		return nil, nil, err
	}
	for iteration := 0; ; iteration++ {
		body, err := json.Marshal(wire.RetrieveFutureRequest{RequestID: q.requestID, AllowMetadataOnly: metadataOnly})
		if err != nil {
			return give(err)
		}
		c := &call{
			op: q.op, method: http.MethodPost, path: "/retrieve_future",
			body: body, contentType: wire.ContentTypeJSON, accept: wire.ContentTypeJSON,
			timeout: pollTimeout, once: true, pausable: true,
			header: http.Header{
				"X-Tinker-Request-Iteration": {strconv.Itoa(iteration)},
				"X-Tinker-Request-Type":      {q.kind},
			},
		}
		if q.protobuf {
			c.accept = wire.ContentTypeProtobuf
		}
		began := t.clock.now()
		r, err := t.do(ctx, c)
		if ctx.Err() != nil && err != nil {
			return give(interrupted(ctx, q.op))
		}
		now := t.clock.now()

		var delay time.Duration
		var e *Error
		switch {
		case err == nil:
			lastAnswer = now
			failing.Reset()
			if r.isProtobuf() {
				queue.observe("", "")
				return r, release, nil
			}
			s, err := readStatus(r.body)
			if err != nil {
				return give(t.unreadable(q.op, r, err))
			}
			switch {
			case s.Type == wire.TypeTryAgain:
				queue.observe(s.QueueState, s.QueueStateReason)
				delay = tooFast(pace, now.Sub(began))
			case s.Status == "complete_metadata" && metadataOnly:
				metadataOnly = false
				if release, err = t.resultBytes.acquire(ctx, s.ResponsePayloadSize); err != nil {
					return nil, nil, interrupted(ctx, q.op)
				}
			case s.Error != "":
				queue.observe("", "")
				return give(t.requestFailed(q, s))
			default:
				queue.observe("", "")
				return r, release, nil
			}
		case !errors.As(err, &e):
			return give(err)
		case e.Status == 0 && errors.Is(err, os.ErrDeadlineExceeded):
			// Held too long; nothing is wrong with asking again at once.
		case e.Status == http.StatusRequestTimeout:
			// How some servers say "not yet".
			lastAnswer = now
			if s, err := readStatus(r.body); err == nil {
				queue.observe(s.QueueState, s.QueueStateReason)
			}
			delay = max(tooFast(pace, now.Sub(began)), e.RetryAfter)
		case e.Status == 0 && transientConnectionError(e.Err):
			delay = retryDelay(failing, 0) - now.Sub(began)
		case e.Status == http.StatusTooManyRequests:
			delay = retryDelay(failing, e.RetryAfter)
		case e.Status >= 500 && e.Status != http.StatusNotImplemented:
			delay = retryDelay(failing, e.RetryAfter) - now.Sub(began)
		case e.Status == http.StatusBadRequest && badRequests < pollBadRequests:
			badRequests++
			delay = retryDelay(failing, e.RetryAfter)
		default:
			if e.RequestID == "" {
				e.RequestID = q.requestID
			}
			return give(err)
		}
		if err != nil {
			if waited := now.Sub(lastAnswer); waited > pollPatience {
				e.Message = e.text() + "; gave up after " + waited.Round(time.Second).String()
				e.RequestID = q.requestID
				return give(err)
			}
			t.log.DebugContext(ctx, "asking again for a result", "op", q.op, "request_id", q.requestID, "in", delay, "error", err)
		}
		if delay > 0 && t.clock.sleep(ctx, delay) != nil {
			return give(interrupted(ctx, q.op))
		}
	}
}

// readStatus reads what retrieve_future answers, as far as it is a status:
// the fields of a result may have other types.
func readStatus(body []byte) (wire.FutureStatus, error) {
	var s struct {
		wire.FutureStatus
		Error json.RawMessage `json:"error"`
	}
	err := json.Unmarshal(body, &s)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		err = nil
	}
	s.FutureStatus.Error = describeDetail(s.Error)
	return s.FutureStatus, err
}

// tooFast is the wait after an empty answer that took no time.
func tooFast(pace *backoff.ExponentialBackOff, took time.Duration) time.Duration {
	if took >= pollPace {
		pace.Reset()
		return 0
	}
	return min(pace.NextBackOff(), maxPollPace)
}

// requestFailed is the error of a request that was accepted and then failed.
func (t *transport) requestFailed(q retrieval, s wire.FutureStatus) *Error {
	e := &Error{
		Op:        q.op,
		Status:    s.StatusCode,
		Category:  Category(s.Category),
		Message:   t.cred.redact(clean(s.Error, 2000)),
		RequestID: q.requestID,
	}
	switch e.Category {
	case CategoryUser, CategoryServer:
	default:
		e.Category = CategoryUnknown
	}
	return e
}

// queueLog tells the log once when the server's queue pauses a request, and
// once when it goes on.
type queueLog struct {
	t     *transport
	op    string
	state string // "" is active
}

func (q *queueLog) observe(state, reason string) {
	if state == "active" {
		state = ""
	}
	if state == q.state {
		return
	}
	q.state = state
	if state == "" {
		q.t.log.Info("resumed", "op", q.op)
		return
	}
	q.t.log.Warn("paused by the server", "op", q.op, "state", clean(state, 64), "reason", clean(reason, 500))
}
