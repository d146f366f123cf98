package tinkex

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// queued starts an acquire that has to wait.
func queued(ctx context.Context, t *testing.T, l *byteLimit, n int64) (got func() (release func(), err error, ok bool)) {
	t.Helper()
	type outcome struct {
		release func()
		err     error
	}
	done := make(chan outcome, 1)
	go func() {
		release, err := l.acquire(ctx, n)
		done <- outcome{release, err}
	}()
	synctest.Wait()
	return func() (func(), error, bool) {
		synctest.Wait()
		select {
		case o := <-done:
			return o.release, o.err, true
		default:
			return nil, nil, false
		}
	}
}

func TestByteLimitIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &byteLimit{size: 10}
		first, err := l.acquire(t.Context(), 6)
		if err != nil {
			t.Fatal(err)
		}
		large := queued(t.Context(), t, l, 8)
		small := queued(t.Context(), t, l, 1) // would fit, but is not first
		if _, _, ok := small(); ok {
			t.Fatal("the small one went past the large one")
		}
		first()
		first() // a second release gives nothing back
		releaseLarge, _, ok := large()
		releaseSmall, _, ok2 := small()
		if !ok || !ok2 {
			t.Fatalf("after the release: large %t, small %t", ok, ok2)
		}
		if l.used != 9 {
			t.Errorf("%d bytes are in use, want 9", l.used)
		}
		releaseLarge()
		releaseSmall()
		if l.used != 0 {
			t.Errorf("%d bytes are in use after everything was released", l.used)
		}
	})
}

func TestByteLimitLetsTheOversizedPassAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &byteLimit{size: 10}
		huge, err := l.acquire(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		next := queued(t.Context(), t, l, 1)
		if _, _, ok := next(); ok {
			t.Error("it was not alone")
		}
		huge()
		release, _, ok := next()
		if !ok {
			t.Fatal("nobody follows the oversized one")
		}
		release()
		// Nothing, and less, takes no room.
		for _, n := range []int64{0, -5} {
			if _, err := l.acquire(t.Context(), n); err != nil || l.used != 0 {
				t.Errorf("acquire(%d): %v, %d bytes in use", n, err, l.used)
			}
		}
	})
}

func TestByteLimitForgetsWhoeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &byteLimit{size: 10}
		first, err := l.acquire(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		large := queued(ctx, t, l, 10)
		small := queued(t.Context(), t, l, 5)
		cancel()
		if _, err, ok := large(); !ok || !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up got %v, %t", err, ok)
		}
		// It was all that stood in the other's way.
		release, _, ok := small()
		if !ok {
			t.Fatal("the next one still waits")
		}
		first()
		release()
		if l.used != 0 {
			t.Errorf("%d bytes are in use after everything was released", l.used)
		}
	})
}
