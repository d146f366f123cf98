package registry

import (
	"context"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

// seqWindow is how far ahead of the next request a request may arrive. Clients
// send the chunks of one batch in any order; nobody sends thousands of them.
const seqWindow = 1 << 14

// model is a live model: an engine's model and the queue of its requests,
// which are carried out in the order of their sequence numbers, each exactly
// once. Number 0 is the request that creates the model.
type model struct {
	r         *Registry
	id        string
	owner     string
	sessionID string
	server    string // as which this server holds it
	lora      metastore.LoRA
	viaLoad   bool

	mu      sync.Mutex
	em      engine.Model // nil until request 0 is done
	next    int64        // the number to carry out next
	top     int64        // one above the highest number taken
	jobs    map[int64]*job
	running bool
	// retired is set when the model takes no more requests; drained is closed
	// when those it took are done.
	retired bool
	// given is why the queue is left after the request in hand, if it is: given
	// up, or kept as it is if parking.
	given   error
	parking bool
	drained chan struct{}
	ended   sync.Once
	endErr  error

	unsaved     bool
	lastRequest time.Time
	flushed     time.Time // lastRequest as the metastore knows it
}

// job is one request of a model.
type job struct {
	future *Future
	op     operation
}

// submission is a request on its way into a model's queue.
type submission struct {
	typ  string
	hash string
	// seq is the client's number; nil takes the next free one.
	seq *int64
	// check refuses bad input at once. A refused request still takes its
	// number: the requests after it are already on their way.
	check func(m *model) error
	op    operation
}

// submit queues a request of a live model.
func (r *Registry) submit(ctx context.Context, owner, modelID string, s submission) (*Future, error) {
	m, err := r.liveModel(ctx, owner, modelID, s)
	if err != nil || m == nil {
		if err == nil {
			return r.Retrieve(ctx, owner, requestID(modelID, *s.seq))
		}
		return nil, err
	}
	return m.submit(ctx, s)
}

// liveModel finds the model of a request. A request that was already carried
// out before its model went away is answered by its recorded result: then the
// model is nil and there is no error.
func (r *Registry) liveModel(ctx context.Context, owner, id string, s submission) (*model, error) {
	r.mu.Lock()
	m, ok := r.models[id]
	if ok {
		if live := r.sessions[m.sessionID]; live != nil {
			live.lastSeen = r.now()
		}
	}
	r.mu.Unlock()
	if ok && m.owner == owner {
		return m, nil
	}
	run, err := r.meta.Run(ctx, id)
	if ok || err != nil || run.Owner != owner {
		if err != nil && CodeOf(err) != NotFound {
			return nil, classify(err)
		}
		return nil, newError(NotFound, "model_id: model %q not found", id)
	}
	if run.State == metastore.RunParked {
		return r.unpark(ctx, run)
	}
	if err := r.heldElsewhere(ctx, run); err != nil {
		return nil, err
	}
	if s.seq != nil {
		if res, err := r.meta.Result(ctx, requestID(id, *s.seq)); err == nil && res.RequestHash == s.hash {
			return nil, nil
		}
	}
	return nil, notLoaded(id)
}

func (m *model) submit(ctx context.Context, s submission) (*Future, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := m.top
	if s.seq != nil {
		seq = *s.seq
		if seq < 1 {
			return nil, newError(Invalid, "seq_id: %d is out of range: requests of a model are numbered from 1", seq)
		}
		if seq >= m.next+seqWindow {
			return nil, newError(Invalid, "seq_id: %d is too far ahead of %d, the next one to be carried out", seq, m.next)
		}
	}
	f := &Future{ID: requestID(m.id, seq), Type: s.typ, Owner: m.owner, SessionID: m.sessionID, hash: s.hash}
	if seq < m.next || m.jobs[seq] != nil {
		old, ok := m.r.futures.get(f.ID)
		switch {
		case !ok:
			return nil, newError(Gone, "the result of request %q is no longer kept", f.ID)
		case old.hash != s.hash || old.Type != s.typ:
			return nil, newError(Conflict, "seq_id: %d was already used by another request of model %q", seq, m.id)
		}
		return old, nil
	}
	switch {
	case m.given != nil:
		return nil, m.given
	case m.retired:
		return nil, notLoaded(m.id)
	}
	m.r.accept(ctx, f)
	f, _ = m.r.futures.add(f)
	var refusal error
	if s.check != nil {
		if refusal = classify(s.check(m)); refusal != nil {
			s.op = refused(refusal)
		}
	}
	m.enqueue(seq, &job{f, s.op})
	if refusal != nil {
		return nil, refusal
	}
	return f, nil
}

// enqueue adds a job and sees to it that it is carried out. m.mu is held.
func (m *model) enqueue(seq int64, j *job) {
	m.jobs[seq] = j
	m.top = max(m.top, seq+1)
	m.lastRequest = m.r.now().UTC()
	m.start()
}

// start sees to it that the jobs whose turn it is are carried out. m.mu is held.
func (m *model) start() {
	if !m.running && m.jobs[m.next] != nil {
		m.running = true
		m.r.work.Go(m.drain)
	}
}

// drain carries out jobs until the next one in order is not there.
func (m *model) drain() {
	for {
		m.mu.Lock()
		j := m.jobs[m.next]
		if j == nil || m.given != nil {
			m.running = false
			if m.retired {
				m.abandonLocked()
			}
			m.mu.Unlock()
			return
		}
		delete(m.jobs, m.next)
		m.next++
		creating := m.em == nil
		failed := creating && m.next > 1
		m.mu.Unlock()

		ctx := m.r.futures.start(m.r.ctx, j.future)
		if failed {
			m.r.futures.complete(j.future, nil, newError(Gone, "model %q could not be created", m.id))
			continue
		}
		do := func(ctx context.Context) (any, error) { return j.op.run(ctx, m, j.future) }
		var result any
		var err error
		if creating {
			result, err = do(ctx) // which has its own patience, for the model ends with it
		} else {
			result, err = m.r.patiently(ctx, j.future, do)
		}
		m.r.logFailure(j.future, err)
		m.r.futures.complete(j.future, result, err)
	}
}

// abandonLocked fails the jobs that wait for a number that never came, unless
// they are to be kept.
func (m *model) abandonLocked() {
	if m.parking {
		close(m.drained)
		return
	}
	reason := m.given
	if reason == nil {
		reason = newError(Gone, "model %q was unloaded before request %d came", m.id, m.next)
	}
	for seq, j := range m.jobs {
		delete(m.jobs, seq)
		m.r.futures.complete(j.future, nil, reason)
	}
	close(m.drained)
}

// quit gives up the queue after the request in hand. The model must be retired
// next.
func (m *model) quit(reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.given == nil {
		m.given = reason
	}
}

// markUnsaved records that the model holds a step that no checkpoint does,
// before the step is acknowledged.
func (m *model) markUnsaved(ctx context.Context) error {
	m.mu.Lock()
	was := m.unsaved
	m.mu.Unlock()
	if was {
		return nil
	}
	if err := m.r.meta.TouchRun(ctx, m.id, m.r.now().UTC(), true); err != nil {
		return err
	}
	m.mu.Lock()
	m.unsaved = true
	m.mu.Unlock()
	return nil
}

// retire stops taking requests, waits for those taken and ends the run, in
// the state that after chooses.
func (m *model) retire(ctx context.Context, after func(*model) metastore.RunState) error {
	m.mu.Lock()
	if !m.retired {
		m.retired = true
		if !m.running {
			m.abandonLocked()
		}
	}
	m.mu.Unlock()
	select {
	case <-m.drained:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.ended.Do(func() { m.conclude(ctx, after) })
	return m.endErr
}

// conclude lets go of a drained model. It is called once.
func (m *model) conclude(ctx context.Context, after func(*model) metastore.RunState) {
	m.r.mu.Lock()
	delete(m.r.models, m.id)
	m.r.mu.Unlock()
	if m.em != nil {
		_ = m.em.Close()
	}
	// If the run is not ours any more, what became of it is not ours to say.
	_, m.endErr = m.r.meta.MoveRun(context.WithoutCancel(ctx), m.id,
		metastore.Holding{State: metastore.RunLive, Server: m.server}, metastore.Holding{State: after(m), Server: m.server})
}

// stateAfterLoss is a run's state when its model is lost to it.
func stateAfterLoss(m *model) metastore.RunState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unsaved {
		return metastore.RunCorrupted
	}
	return metastore.RunEnded
}

// stateAfterUnload is a run's state when its user was done with the model.
func stateAfterUnload(*model) metastore.RunState { return metastore.RunEnded }

// flush writes the time of the last request, if it changed.
func (m *model) flush(ctx context.Context) error {
	m.mu.Lock()
	last, stale := m.lastRequest, !m.lastRequest.Equal(m.flushed)
	m.flushed = last
	m.mu.Unlock()
	if !stale {
		return nil
	}
	// Whether there are unsaved steps is not for us to say: a save may be about
	// to commit.
	return m.r.meta.TouchRun(ctx, m.id, last, false)
}
