package registry

import (
	"context"
	"sync"
	"time"
)

// Observe is told that a request was accepted whose result is a future, in
// the context of whoever asked. What it returns is called when the request is
// about to be carried out, which may be after that context's end, and gives the
// context to do so in; what that returns is called with how it ended. All three
// are called once, also for a request that never got so far.
type Observe func(ctx context.Context, typ, id string) (begin func(context.Context) (context.Context, func(error)))

// accept tells the observer of a future that is not yet known to anybody.
func (r *Registry) accept(ctx context.Context, f *Future) {
	if r.observe != nil {
		f.begin = r.observe(ctx, f.Type, f.ID)
	}
}

// Stats is what a registry is doing at one moment. It says nothing of other
// servers on the same stores.
type Stats struct {
	// Waiting futures are accepted, Running ones are being carried out, Ready
	// ones have a result that was not fetched, and Fetched ones are kept for a
	// client whose answer was lost.
	Waiting, Running, Ready, Fetched int
	// Queued is how many requests wait for their turn with a live model.
	Queued int
	// Models, Sessions and Samplers are held in memory.
	Models, Sessions, Samplers int

	Sweeps      Rounds // of expired checkpoints
	Collections Rounds // of unreferenced blobs
}

// Rounds tells of work that is done again and again.
type Rounds struct {
	Done, Failed uint64
	LastDone     time.Time // zero if it never was
	Removed      uint64    // checkpoints, or blobs
	RemovedBytes uint64    // of blobs
}

// Stats is cheap: it counts nothing that grows with what is stored.
func (r *Registry) Stats() Stats {
	var s Stats
	s.Sweeps, s.Collections = r.rounds.get()

	f := r.futures
	f.mu.Lock()
	s.Running, s.Ready, s.Fetched = f.running, f.unfetched.Len(), f.fetched.Len()
	s.Waiting = len(f.byID) - s.Running - s.Ready - s.Fetched
	f.mu.Unlock()

	r.samplers.mu.Lock()
	s.Samplers = len(r.samplers.open)
	r.samplers.mu.Unlock()

	r.mu.Lock()
	s.Models, s.Sessions = len(r.models), len(r.sessions)
	models := make([]*model, 0, len(r.models))
	for _, m := range r.models {
		models = append(models, m)
	}
	r.mu.Unlock()
	for _, m := range models {
		m.mu.Lock()
		s.Queued += len(m.jobs)
		m.mu.Unlock()
	}
	return s
}

// rounds counts.
type rounds struct {
	mu                  sync.Mutex
	sweeps, collections Rounds
}

func (r *rounds) swept(at time.Time, removed int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweeps.count(at, err)
	r.sweeps.Removed += uint64(removed)
}

func (r *rounds) collected(at time.Time, g Garbage, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collections.count(at, err)
	r.collections.Removed += uint64(g.Blobs)
	r.collections.RemovedBytes += uint64(g.Bytes)
}

func (r *rounds) get() (sweeps, collections Rounds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sweeps, r.collections
}

func (r *Rounds) count(at time.Time, err error) {
	if err != nil {
		r.Failed++
		return
	}
	r.Done++
	r.LastDone = at
}
