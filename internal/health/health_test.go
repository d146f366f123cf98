package health_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/health"
)

// store is checked, as slowly and as badly as a test wants.
type store struct {
	mu   sync.Mutex
	err  error
	hold chan struct{} // not nil: checks wait until it is closed, whatever their context says
	runs atomic.Int64
	now  atomic.Int64 // checks in hand
}

func (s *store) set(err error, hold chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hold = err, hold
}

func (s *store) check(context.Context) error {
	s.runs.Add(1)
	s.now.Add(1)
	defer s.now.Add(-1)
	s.mu.Lock()
	err, hold := s.err, s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return err
}

type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func checker(s *store, o health.Options) (*health.Checker, *buffer) {
	log := &buffer{}
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	return health.New([]health.Check{
		{Name: "store", Run: s.check},
		{Name: "other", Run: func(context.Context) error { return nil }},
	}, o), log
}

func TestFailsAndRecovers(t *testing.T) {
	t.Parallel()
	var s store
	c, log := checker(&s, health.Options{MaxAge: -1, Timeout: time.Minute})
	if r := c.Report(t.Context()); !r.Ready() || len(r.Checks) != 2 || r.Checks["store"].CheckedAt.IsZero() {
		t.Fatalf("at first: %+v", r)
	}
	for range 3 {
		s.set(errors.New("dial postgres://me:s3cret@db.internal"), nil)
		for range 3 {
			r := c.Report(t.Context())
			if got := r.Checks["store"]; r.Ready() || got.Passes() || got.Error != "failed; the server's log says why" {
				t.Errorf("broken: %+v", r)
			}
			if !r.Checks["other"].Passes() {
				t.Errorf("the other check: %+v", r.Checks["other"])
			}
		}
		s.set(health.Problem("there is no room"), nil)
		if got := c.Report(t.Context()).Checks["store"].Error; got != "there is no room" {
			t.Errorf("a problem is told as %q", got)
		}
		s.set(nil, nil)
		if r := c.Report(t.Context()); !r.Ready() || r.Checks["store"].Error != "" {
			t.Errorf("mended: %+v", r)
		}
	}
	// Once each time, not with every probe.
	if text := log.String(); strings.Count(text, "not ready") != 3 || strings.Count(text, "ready again") != 3 || strings.Count(text, "db.internal") != 3 {
		t.Errorf("the log is\n%s", text)
	}
}

func TestAnswersAreUsedAgain(t *testing.T) {
	t.Parallel()
	var s store
	c, _ := checker(&s, health.Options{MaxAge: time.Hour})
	first := c.Report(t.Context()).Checks["store"]
	for range 10 {
		if got := c.Report(t.Context()).Checks["store"]; got != first {
			t.Errorf("%+v is not %+v", got, first)
		}
	}
	if n := s.runs.Load(); n != 1 {
		t.Errorf("%d checks, want 1", n)
	}
}

// A store that does not answer, not even to its context, is asked once.
func TestHangingCheck(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	var s store
	s.set(nil, hold)
	c, _ := checker(&s, health.Options{MaxAge: -1, Timeout: 20 * time.Millisecond})
	var probes sync.WaitGroup
	for range 50 {
		probes.Go(func() {
			r := c.Report(t.Context())
			if got := r.Checks["store"]; r.Ready() || got.Error != "no answer within 20ms" {
				t.Errorf("hanging: %+v", got)
			}
		})
	}
	probes.Wait()
	if runs, now := s.runs.Load(), s.now.Load(); runs != 1 || now != 1 {
		t.Errorf("%d checks were begun and %d are in hand, want 1 each", runs, now)
	}
	s.set(nil, nil)
	close(hold)
	deadline := time.After(time.Minute)
	for !c.Report(t.Context()).Ready() {
		select {
		case <-deadline:
			t.Fatal("it does not recover")
		case <-time.After(time.Millisecond):
		}
	}
}

// A check that gives up in time says why to the log, and the same to a probe.
func TestCheckThatMindsItsContext(t *testing.T) {
	t.Parallel()
	c := health.New([]health.Check{{Name: "store", Run: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}}, health.Options{Timeout: time.Millisecond})
	if got := c.Report(t.Context()).Checks["store"]; got.Error != "no answer within 1ms" {
		t.Errorf("%+v", got)
	}
}

func TestProbeThatGoesAway(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	defer close(hold)
	var s store
	s.set(nil, hold)
	c, log := checker(&s, health.Options{Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.Report(ctx); r.Ready() {
		t.Errorf("%+v", r)
	}
	if text := log.String(); text != "" {
		t.Errorf("a probe's impatience is not the store's fault: %s", text)
	}
}
