package mirror

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/durable"
)

const (
	lockFile    = "mirror.lock" // held by the process that mirrors to a directory
	lockInfo    = "mirror.lock.json"
	leaseName   = "lock"
	leasePrefix = leaseName + "/"
)

// Times of a lease. Clocks of those who share a target may differ by less than
// what is left of it when it is renewed.
const (
	leaseTime  = 5 * time.Minute
	renewEvery = time.Minute
)

// Holder is who mirrors to a target.
type Holder struct {
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires,omitzero"` // of a lease

	Token    string `json:"token,omitempty"` // tells leases apart
	Released bool   `json:"released,omitempty"`
}

func newHolder() Holder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return Holder{Host: host, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)}
}

// LockedError says that somebody else mirrors to the target.
type LockedError struct {
	Where  string
	Holder Holder
}

func (e *LockedError) Error() string {
	h := e.Holder
	if h.Host == "" {
		return "another mirror to it is running"
	}
	s := fmt.Sprintf("another mirror to it is running: process %d on %s, since %s", h.PID, h.Host, h.Since.UTC().Format(time.RFC3339))
	if !h.Expires.IsZero() {
		s += fmt.Sprintf("; if it died, its lock ends at %s", h.Expires.UTC().Format(time.RFC3339))
	}
	return s
}

// errLost is why a mirror ends whose lease somebody else has taken over.
var errLost = errors.New("the lock on the target was lost: it was not renewed in time, and another mirror has it now")

// Lock keeps other mirrors away from the target, or fails at once with a
// *LockedError. The context that it returns ends with ctx and when the lock is
// lost; release gives the lock back.
//
// A directory is locked by its file system, so that the lock ends with its
// process. A bucket, and a directory whose file system has no locks, is locked
// by a lease: a document that is made only if it is not there, renewed while
// the mirror runs, and void a while after it no longer is. Every lease has a
// number of its own, higher than all before, so that nobody renews what
// somebody else has taken over.
func (m *Mirror) Lock(ctx context.Context) (_ context.Context, release func(), err error) {
	held, release, err := m.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	// Another mirror, the first one, may have ended only just now.
	if err := m.readHeader(ctx); err != nil {
		release()
		return nil, nil, err
	}
	return held, release, nil
}

func (m *Mirror) lock(ctx context.Context) (_ context.Context, release func(), err error) {
	if m.dir != "" {
		release, err := m.lockFile()
		if err == nil || !durable.NoLocks(err) {
			return ctx, release, err
		}
	}
	return m.lease(ctx, time.Now)
}

func (m *Mirror) lockFile() (release func(), err error) {
	if err := m.MakeDir(); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(m.dir, lockFile), flock.SetFlag(os.O_RDWR|os.O_CREATE))
	locked, err := l.TryLock()
	if err != nil {
		return nil, err
	}
	// Beside it, because Windows lets nobody read a locked file.
	info := filepath.Join(m.dir, lockInfo)
	if !locked {
		e := &LockedError{Where: m.where}
		if b, err := os.ReadFile(info); err == nil && json.Unmarshal(b, &e.Holder) != nil {
			e.Holder = Holder{} // it is only just being written
		}
		return nil, e
	}
	// What it says is for people. The lock is the other file.
	if b, err := json.Marshal(newHolder()); err == nil {
		_ = os.WriteFile(info, b, 0o644)
	}
	return func() {
		_ = os.Remove(info)
		_ = l.Unlock()
	}, nil
}

func leaseKey(n int) string { return fmt.Sprintf("%s%010d.json", leasePrefix, n) }

// leases returns the numbers of all leases, ascending.
func (m *Mirror) leases(ctx context.Context) (all []int, err error) {
	for key, err := range m.docs.list(ctx, leasePrefix) {
		if err != nil {
			return nil, err
		}
		s := strings.TrimSuffix(strings.TrimPrefix(key, leasePrefix), ".json")
		if n, err := strconv.Atoi(s); err == nil && leaseKey(n) == key {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (m *Mirror) readLease(ctx context.Context, n int) (h Holder, err error) {
	b, err := m.docs.get(ctx, leaseKey(n))
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	return h, err
}

func (m *Mirror) lease(ctx context.Context, now func() time.Time) (_ context.Context, release func(), err error) {
	h, n := newHolder(), 1
	h.Token = rand.Text()
	all, err := m.leases(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", m.where, err)
	}
	if len(all) > 0 {
		last := all[len(all)-1]
		held, err := m.readLease(ctx, last)
		if err != nil {
			return nil, nil, fmt.Errorf("lock %s: %w", m.where, err)
		}
		if !held.Released && now().Before(held.Expires) {
			return nil, nil, &LockedError{m.where, held}
		}
		n = last + 1
	}
	h.Expires = now().UTC().Add(leaseTime)
	b, err := json.Marshal(h)
	if err == nil {
		err = m.docs.create(ctx, leaseKey(n), b)
	}
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		held, err := m.readLease(ctx, n)
		if err != nil {
			held = Holder{}
		}
		return nil, nil, &LockedError{m.where, held}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", m.where, err)
	}
	for _, old := range all {
		_ = m.docs.remove(ctx, leaseKey(old)) // the highest number counts
	}
	held, lose := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := m.renew(ctx, n, &h, now); err != nil {
					lose(err)
					return
				}
			}
		}
	})
	return held, func() {
		close(stop)
		renewing.Wait()
		// It is not removed: numbers only grow.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		if m.ours(ctx, n, h) == nil {
			h.Released = true
			if b, err := json.Marshal(h); err == nil {
				_ = m.docs.put(ctx, leaseKey(n), b)
			}
		}
		lose(nil)
	}, nil
}

// renew lets a lease go on, and fails when it is over. A store that does not
// answer is asked again next time.
func (m *Mirror) renew(ctx context.Context, n int, h *Holder, now func() time.Time) error {
	err := m.ours(ctx, n, *h)
	if err == nil {
		next := *h
		next.Expires = now().UTC().Add(leaseTime)
		var b []byte
		if b, err = json.Marshal(next); err == nil {
			err = m.docs.put(ctx, leaseKey(n), b)
		}
		if err == nil {
			*h = next
		}
	}
	if err != nil && (errors.Is(err, errLost) || !now().Before(h.Expires)) {
		return errLost
	}
	return nil
}

// ours is errLost if a lease is no longer the one that counts.
func (m *Mirror) ours(ctx context.Context, n int, h Holder) error {
	all, err := m.leases(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 || all[len(all)-1] != n {
		return errLost
	}
	is, err := m.readLease(ctx, n)
	if err != nil {
		return err
	}
	if is.Token != h.Token {
		return errLost
	}
	return nil
}
