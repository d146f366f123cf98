package registry

import (
	"context"
	"time"
)

// The sweeper looks at least and at most this often.
const (
	sweepAtMost  = time.Minute
	sweepAtLeast = time.Second
	// sweepBatch bounds how much one transaction deletes.
	sweepBatch = 500
	// resultTTL is how long results that outlive the server are kept. No
	// client retries for as long.
	resultTTL = 7 * 24 * time.Hour
)

// What one server does for all.
const (
	dutySweep   = "sweep"
	dutyCollect = "collect"
)

// poke makes the sweeper look at the next expiry again.
func (r *Registry) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// sweepLoop removes what has expired, soon after it has. Nobody has seen it
// since the instant it did: every query hides it.
func (r *Registry) sweepLoop() {
	timer := time.NewTimer(sweepAtLeast)
	defer timer.Stop()
	lastGC := r.now()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
			if err := r.Sweep(r.ctx); err != nil && r.ctx.Err() == nil {
				r.log.Error("sweep", "error", err)
			}
			if r.gcInterval > 0 && r.now().Sub(lastGC) >= r.gcInterval {
				lastGC = r.now()
				mine, err := r.mayDo(r.ctx, dutyCollect)
				if err == nil && mine {
					_, err = r.CollectGarbage(r.ctx)
				}
				if err != nil && r.ctx.Err() == nil {
					r.log.Error("garbage collection", "error", err)
				}
			}
		case <-r.wake:
		}
		wait := sweepAtMost
		if at, ok, err := r.meta.NextExpiry(r.ctx); err == nil && ok {
			wait = min(wait, max(at.Sub(r.now()), sweepAtLeast))
		}
		timer.Reset(wait)
	}
}

// Sweep lets go of the models of sessions that gave no sign of life, writes down
// activity times and, if no other server does, removes expired checkpoints,
// uploads and results and applies the retention policies that are due.
func (r *Registry) Sweep(ctx context.Context) error {
	removed, err := r.sweep(ctx)
	r.rounds.swept(r.now(), removed, err)
	return err
}

// sweep returns how many checkpoints it removed.
func (r *Registry) sweep(ctx context.Context) (removed int, err error) {
	now := r.now().UTC()
	idle := now.Add(-r.sessionTimeout)

	r.mu.Lock()
	var dead []string
	for id, s := range r.sessions {
		if s.lastSeen.Before(idle) {
			dead = append(dead, id)
		}
	}
	models := make([]*model, 0, len(r.models))
	for _, m := range r.models {
		models = append(models, m)
	}
	r.mu.Unlock()
	for _, id := range dead {
		r.log.Info("session gave no sign of life; its models are unloaded", "session", id, "timeout", r.sessionTimeout)
		r.dropSession(id, stateAfterLoss)
	}
	for _, m := range models {
		if err := m.flush(ctx); err != nil {
			return removed, err
		}
	}
	r.futures.tidy()
	if mine, err := r.mayDo(ctx, dutySweep); err != nil || !mine {
		return removed, err
	}
	for {
		n, err := r.meta.DeleteExpired(ctx, now, idle, sweepBatch)
		if err != nil {
			return removed, err
		}
		removed += n
		if n > 0 {
			r.log.Info("removed expired checkpoints", "count", n)
		}
		if n < sweepBatch {
			break
		}
	}
	if _, err := r.meta.DeleteUploads(ctx, now.Add(-uploadTTL)); err != nil {
		return removed, err
	}
	if _, err := r.meta.DeleteResults(ctx, now.Add(-resultTTL)); err != nil {
		return removed, err
	}
	n, err := r.applyRetention(ctx)
	return removed + n, err
}
