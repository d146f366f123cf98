package tinkextest

import (
	"sync"
	"time"
)

// Clock is a clock that stands still until it is moved. Its Now is for
// Options.Now:
//
//	clock := tinkextest.NewClock(time.Time{})
//	srv := tinkextest.NewServerWith(t, tinkextest.Options{Now: clock.Now})
//
// A checkpoint is hidden the moment the clock reaches its expiry. Signed URLs,
// tokens and sessions expire by it too: a model in training whose client has
// been silent for Options.SessionTimeout of this clock's time is given up.
type Clock struct {
	mu sync.Mutex
	at time.Time
}

// NewClock returns a clock that shows a time; the zero Time is the present.
func NewClock(at time.Time) *Clock {
	if at.IsZero() {
		at = time.Now()
	}
	return &Clock{at: at}
}

// Now is the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}
