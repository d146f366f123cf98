package tinkex

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// clock is time as the clients see it, so that their tests need not sleep.
type clock struct {
	now   func() time.Time
	sleep func(ctx context.Context, d time.Duration) error // nil, or ctx.Err()
	// beat is the sleep between heartbeats.
	beat func(ctx context.Context, d time.Duration) error
}

func systemClock() clock {
	sleep := func(ctx context.Context, d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return clock{now: time.Now, sleep: sleep, beat: sleep}
}

// The official client's intervals (tinker 0.38.0, _constants.py).
const (
	initialRetryDelay = 500 * time.Millisecond
	maxRetryDelay     = 10 * time.Second
	// maxRetryAfter bounds what a server's Retry-After may ask for.
	maxRetryAfter = 60 * time.Second
)

func newBackoff(initial, limit time.Duration) *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{
		InitialInterval:     initial,
		MaxInterval:         limit,
		Multiplier:          2,
		RandomizationFactor: 0.25,
	}
	b.Reset()
	return b
}

// retryDelay is the wait before the next attempt: what the server asked for,
// if it did, with a little jitter so that its clients do not come back all at
// the same moment; otherwise the next interval.
func retryDelay(b *backoff.ExponentialBackOff, retryAfter time.Duration) time.Duration {
	d := min(b.NextBackOff(), b.MaxInterval)
	if retryAfter > 0 {
		d = min(retryAfter, maxRetryAfter)
		d += time.Duration(rand.Float64() * 0.1 * float64(d))
	}
	return d
}
