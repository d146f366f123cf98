// Package health asks whether what a server stands on can be used.
//
// Probes come often, from several places, and must not make a bad time worse:
// an answer is used again for a moment, a check that does not answer is waited
// for once, by everybody, and not begun anew before it has ended.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultTimeout = 2 * time.Second
	DefaultMaxAge  = time.Second
)

// Check is one thing that must be in order.
type Check struct {
	Name string
	// Run reports what is wrong. Only what a Problem says is told to whoever
	// asks; other errors may name hosts and users, and go to the log.
	Run func(context.Context) error
}

// Problem is what is wrong, in words for everybody.
type Problem string

func (p Problem) Error() string { return string(p) }

// Options configures a Checker. The zero value works.
type Options struct {
	// Timeout is how long a check may take. If less than or equal to 0,
	// DefaultTimeout.
	Timeout time.Duration
	// MaxAge is how long an answer is used again. Zero is DefaultMaxAge;
	// negative is not at all.
	MaxAge time.Duration
	// Logger hears when a check begins to fail, and when it passes again. Nil
	// discards it.
	Logger *slog.Logger
}

// Status is how a check or a whole report turned out.
type Status string

// The statuses.
const (
	OK       Status = "ok"
	Failed   Status = "failed"
	Ready    Status = "ready"
	NotReady Status = "not ready"
)

// Result is how a check turned out.
type Result struct {
	Status    Status    `json:"status" enum:"ok,failed"`
	LatencyMS float64   `json:"latency_ms" doc:"How long the check took, in milliseconds; of one that did not answer, how long it has been waited for"`
	CheckedAt time.Time `json:"checked_at" doc:"When it was begun"`
	Error     string    `json:"error,omitempty"`
}

// Passes reports whether all is well.
func (r Result) Passes() bool { return r.Status == OK }

// Report is all results, by the checks' names.
type Report struct {
	Status Status            `json:"status" enum:"ready,not ready"`
	Checks map[string]Result `json:"checks"`
}

// Ready reports whether every check passes.
func (r Report) Ready() bool { return r.Status == Ready }

// Add adds a result.
func (r *Report) Add(name string, res Result) {
	r.Checks[name] = res
	if !res.Passes() {
		r.Status = NotReady
	}
}

// Checker runs checks. It is safe for concurrent use.
type Checker struct {
	checks []*check
}

// New returns a Checker that has checked nothing yet.
func New(checks []Check, opts Options) *Checker {
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.MaxAge == 0 {
		opts.MaxAge = DefaultMaxAge
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Checker{}
	for _, k := range checks {
		c.checks = append(c.checks, &check{Check: k, Options: opts})
	}
	return c
}

// Report runs the checks whose last answer is too old. It returns within the
// timeout, or as soon as ctx ends.
func (c *Checker) Report(ctx context.Context) Report {
	results := make([]Result, len(c.checks))
	var all sync.WaitGroup
	for i, k := range c.checks {
		all.Go(func() { results[i] = k.result(ctx) })
	}
	all.Wait()
	r := Report{Status: Ready, Checks: map[string]Result{}}
	for i, k := range c.checks {
		r.Add(k.Name, results[i])
	}
	return r
}

type check struct {
	Check
	Options

	mu      sync.Mutex
	last    Result
	until   time.Time // last may be used again
	run     *run      // the one in hand
	failing bool
}

// run is a check being made. Its context ends with the timeout, but who knows
// whether the check minds.
type run struct {
	began time.Time
	late  <-chan struct{} // closed when it should have ended
	done  chan struct{}
}

func (c *check) result(ctx context.Context) Result {
	c.mu.Lock()
	if c.run == nil && time.Now().Before(c.until) {
		defer c.mu.Unlock()
		return c.last
	}
	r := c.run
	if r == nil {
		r = c.begin()
	}
	c.mu.Unlock()
	select {
	case <-r.done:
	case <-r.late:
	case <-ctx.Done():
		return failed(r.began, Problem("the probe went away"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == r {
		// It may be on its way out, having been told; then it says more.
		c.settle(r, fmt.Errorf("no answer: %w", context.DeadlineExceeded))
	}
	return c.last
}

// begin starts the check. c.mu is held.
func (c *check) begin() *run {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	r := &run{began: time.Now(), late: ctx.Done(), done: make(chan struct{})}
	c.run = r
	go func() {
		err := c.Run(ctx)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("no answer: %w: %w", context.DeadlineExceeded, err)
		}
		c.mu.Lock()
		c.settle(r, err)
		c.run = nil
		c.until = time.Now().Add(c.MaxAge)
		c.mu.Unlock()
		close(r.done)
		cancel()
	}()
	return r
}

// settle takes note of how the check turned out, as far as is known. c.mu is
// held.
func (c *check) settle(r *run, err error) {
	switch {
	case err == nil:
		c.last = Result{Status: OK, LatencyMS: milliseconds(r.began), CheckedAt: r.began.UTC()}
	case errors.Is(err, context.DeadlineExceeded):
		c.last = failed(r.began, Problem(fmt.Sprintf("no answer within %v", c.Timeout)))
	default:
		c.last = failed(r.began, err)
	}
	if now := err != nil; now != c.failing {
		c.failing = now
		if now {
			c.Logger.Error("not ready", "check", c.Name, "error", err)
		} else {
			c.Logger.Info("ready again", "check", c.Name)
		}
	}
}

func failed(began time.Time, err error) Result {
	text := "failed; the server's log says why"
	var p Problem
	if errors.As(err, &p) {
		text = p.Error()
	}
	return Result{Status: Failed, LatencyMS: milliseconds(began), CheckedAt: began.UTC(), Error: text}
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since).Microseconds()) / 1000
}
