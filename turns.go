package tinkex

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// turns keeps the requests of one model in the order of the calls that made
// them: a request is sent when all before it have been acknowledged, and gets
// its number (seq_id) then, so that one given up before its turn leaves no
// gap that the server would wait for.
type turns struct {
	mu   sync.Mutex
	tail <-chan struct{} // closed when the last request in line is through
	next int64           // the next number
	end  error           // why no further request can be sent
}

func newTurns(first int64) *turns {
	free := make(chan struct{})
	close(free)
	return &turns{tail: free, next: first}
}

// turn is one request's place in line: it may be sent when before is closed,
// and closes over to let the next one go.
type turn struct {
	before <-chan struct{}
	over   chan struct{}
}

// enter takes the next place in line.
func (q *turns) enter() turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := turn{before: q.tail, over: make(chan struct{})}
	q.tail = t.over
	return t
}

// wait returns when it is this request's turn, or as soon as ctx ends.
func (t turn) wait(ctx context.Context) error {
	select {
	case <-t.before:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// check reports why nothing more can be sent, if so.
func (q *turns) check(op string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.end == nil:
		return nil
	case errors.Is(q.end, ErrClosed):
		return &Error{Op: op, Category: CategoryUser, Err: ErrClosed, Message: "the model was unloaded"}
	}
	return &Error{Op: op, Category: CategoryServer, Err: ErrBroken,
		Message: fmt.Sprintf("%v: an earlier request was lost (%v); go on from a checkpoint", ErrBroken, q.end)}
}

// stop ends the line, for the first reason given.
func (q *turns) stop(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = why
	}
}

// take returns the first of n consecutive numbers. Only the request whose turn
// it is may call it.
func (q *turns) take(n int) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := q.next
	q.next += int64(n)
	return first
}

// submission is how the sending of one numbered request went.
type submission struct {
	sent bool // some attempt was made
	lost bool // some attempt may have arrived without being answered
	err  error
}

// status is what the server answered in the end, 0 if nothing.
func (s submission) status() int {
	var e *Error
	if errors.As(s.err, &e) {
		return e.Status
	}
	return 0
}

// atTheDoor reports whether the request was turned away before it could reach
// the model: for who sent it, for an unpaid bill, or for being one too many.
func (s submission) atTheDoor() bool {
	switch s.status() {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests:
		return true
	}
	return false
}

// settled reports whether the server has dealt with the number: it took the
// request, or refused it. A refused request has used up its number, as it has
// with the official client.
func (s submission) settled() bool {
	if s.err == nil {
		return true
	}
	status := s.status()
	return s.sent && status >= 400 && status < 500 && status != http.StatusRequestTimeout && !s.atTheDoor()
}

// unseen reports whether the number certainly never reached the model.
func (s submission) unseen() bool {
	return s.err != nil && !s.lost && (!s.sent || s.status() == 0 || s.atTheDoor())
}

// conclude draws the conclusions of sending the numbers from first on. Those
// at the end that were never seen are given back. If it is unknown whether the
// server has one, or it misses one in between, it would wait for it for ever:
// then the line ends.
func (q *turns) conclude(first int64, sent []submission) {
	n := len(sent)
	for n > 0 && sent[n-1].unseen() {
		n--
	}
	for _, s := range sent[:n] {
		if !s.settled() {
			q.stop(s.err)
			return
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = first + int64(n)
}
