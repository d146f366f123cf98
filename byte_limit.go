package tinkex

import (
	"context"
	"sync"
)

// byteLimit bounds the bytes that are in memory at the same time for one
// purpose, first come first served. Something larger than the whole limit
// passes when it is alone.
type byteLimit struct {
	size int64

	mu      sync.Mutex
	used    int64
	waiting []*byteWaiter
}

type byteWaiter struct {
	n     int64
	ready chan struct{}
}

// acquire waits for n bytes; the caller must call release.
func (l *byteLimit) acquire(ctx context.Context, n int64) (release func(), err error) {
	n = min(max(n, 0), l.size)
	free := sync.OnceFunc(func() {
		l.mu.Lock()
		l.used -= n
		l.admit()
		l.mu.Unlock()
	})
	l.mu.Lock()
	if len(l.waiting) == 0 && l.used+n <= l.size {
		l.used += n
		l.mu.Unlock()
		return free, nil
	}
	w := &byteWaiter{n: n, ready: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	select {
	case <-w.ready:
		return free, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	for i := range l.waiting {
		if l.waiting[i] == w {
			l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
			l.admit()
			l.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	l.mu.Unlock()
	free() // admitted in the meantime
	return nil, ctx.Err()
}

// admit lets in whoever fits now. l.mu is held.
func (l *byteLimit) admit() {
	for len(l.waiting) > 0 && l.used+l.waiting[0].n <= l.size {
		l.used += l.waiting[0].n
		close(l.waiting[0].ready)
		l.waiting = l.waiting[1:]
	}
}
