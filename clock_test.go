package tinkex

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestSystemClockSleeps(t *testing.T) {
	t.Parallel()
	c := systemClock()
	began := c.now()
	if err := c.sleep(t.Context(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if d := c.now().Sub(began); d < 20*time.Millisecond {
		t.Errorf("20 ms took %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	for name, sleep := range map[string]func(context.Context, time.Duration) error{"sleep": c.sleep, "beat": c.beat} {
		if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: an interrupted hour ended with %v", name, err)
		}
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	// Doubling, within a quarter to both sides, up to the limit.
	b := newBackoff(initialRetryDelay, maxRetryDelay)
	for i, want := range []time.Duration{500, 1000, 2000, 4000, 8000, 10000, 10000} {
		want *= time.Millisecond
		if d := retryDelay(b, 0); d < want*3/4 || d > min(want*5/4, maxRetryDelay) {
			t.Errorf("delay %d is %v, want about %v", i, d, want)
		}
	}
	// What the server asks for counts instead, up to a minute and never less.
	for ask, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: maxRetryAfter} {
		for range 20 {
			if d := retryDelay(b, ask); d < want || d > want*11/10 {
				t.Errorf("Retry-After %v became %v", ask, d)
			}
		}
	}
}
