package registry

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// A server that is told to stop parks its live models: it finishes the request
// in hand of each and keeps weights, optimizer, accumulated gradients, the
// position in the sequence numbers, the requests in the queue and the results
// that a client may still ask for, as an unlisted checkpoint. The first request
// for the model, or for a result of it, that a later server sees brings it back.

const (
	// parkedName is the unlisted checkpoint. It is of the sampler kind so that
	// it does not count as what saves a run's steps.
	parkedName = "~parked"
	parkedKind = metastore.KindSampler
	// parkedFile holds what the engine does not know.
	parkedFile = "parked.gob"
	// parkedTTL is how long a parked model waits for its client.
	parkedTTL = 24 * time.Hour
)

// parkedModel is parkedFile.
type parkedModel struct {
	Next    int64 // the number to carry out next
	ViaLoad bool
	Unsaved bool
	Results []parkedResult
	Queue   []parkedJob
}

// parkedJob is a request that was promised and not carried out yet.
type parkedJob struct {
	Seq        int64
	Type, Hash string
	Created    time.Time
	Op         operation
}

// parkedResult is a settled future.
type parkedResult struct {
	ID, Type, Hash             string
	Result                     any // nil if it failed
	Code                       Code
	Message                    string
	Created, Started, Finished time.Time
}

func init() {
	for _, v := range []any{
		&engine.ForwardBackwardOutput{}, wire.CreateModelResult{}, wire.OptimStepResult{}, wire.SaveWeightsResult{},
		wire.LoadWeightsResult{}, json.RawMessage{},
	} {
		gob.Register(v)
	}
}

// park keeps a model beyond the server's end. It takes no more requests.
func (m *model) park(ctx context.Context) error {
	m.mu.Lock()
	if m.retired {
		m.mu.Unlock()
		return m.retire(ctx, stateAfterUnload) // it was ending anyway
	}
	m.retired, m.parking, m.given = true, true, newError(Unavailable, "the server is shutting down")
	if !m.running {
		m.abandonLocked()
	}
	m.mu.Unlock()
	select {
	case <-m.drained:
	case <-ctx.Done():
		return fmt.Errorf("park %s: its request in hand took too long: %w", m.id, ctx.Err())
	}
	var failed error
	m.ended.Do(func() {
		after := stateAfterLoss
		if m.em != nil {
			if err := m.r.writeParked(ctx, m); err != nil {
				failed = fmt.Errorf("park %s: %w", m.id, err)
			} else {
				after = func(*model) metastore.RunState { return metastore.RunParked }
			}
		}
		m.conclude(ctx, after)
	})
	return errors.Join(failed, m.endErr)
}

func (r *Registry) writeParked(ctx context.Context, m *model) error {
	ttl := parkedTTL
	c, err := r.writeFiles(ctx, m, SaveRequest{Kind: parkedKind, Name: parkedName, TTL: &ttl}, true, func(w *blobFiles) error {
		f, err := w.Create(parkedFile)
		if err != nil {
			return err
		}
		err = gob.NewEncoder(f).Encode(parkedModel{
			Next: m.next, ViaLoad: m.viaLoad, Unsaved: m.unsaved, Results: r.futures.settled(m.id + requestMark), Queue: m.queued(),
		})
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return err
	}
	_, err = r.meta.CommitCheckpoint(ctx, c, true, nil)
	return err
}

// queued lists the requests in the queue of a model that is drained.
func (m *model) queued() (queue []parkedJob) {
	for seq, j := range m.jobs {
		queue = append(queue, parkedJob{seq, j.future.Type, j.future.hash, j.future.created, j.op})
	}
	return queue
}

// settled lists the futures that were carried out and whose ids begin so.
func (s *futures) settled(prefix string) []parkedResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []parkedResult
	for id, f := range s.byID {
		if f.elem == nil || !strings.HasPrefix(id, prefix) || CodeOf(f.err) == Unavailable {
			continue
		}
		p := parkedResult{ID: id, Type: f.Type, Hash: f.hash, Result: f.result, Created: f.created, Started: f.started, Finished: f.finished}
		if f.err != nil {
			p.Result, p.Code, p.Message = nil, CodeOf(f.err), f.err.Error()
		}
		out = append(out, p)
	}
	return out
}

// unparking is a model on its way back, for all who wait for it.
type unparking struct {
	done chan struct{}
	m    *model
	err  error
}

// unpark brings a parked model back, once for all who ask at the same time.
func (r *Registry) unpark(ctx context.Context, run metastore.Run) (*model, error) {
	r.mu.Lock()
	if m := r.models[run.ID]; m != nil {
		r.mu.Unlock()
		return m, nil
	}
	u := r.unparking[run.ID]
	if u == nil && r.closed {
		r.mu.Unlock()
		return nil, newError(Unavailable, "the server is shutting down")
	}
	if u == nil {
		u = &unparking{done: make(chan struct{})}
		r.unparking[run.ID] = u
		r.work.Go(func() {
			u.m, u.err = r.restore(r.ctx, run)
			r.mu.Lock()
			if u.err == nil {
				r.models[run.ID] = u.m
			}
			delete(r.unparking, run.ID)
			closing := r.closed
			r.mu.Unlock()
			if u.err == nil && closing { // while it was on its way
				u.err = errors.Join(newError(Unavailable, "the server is shutting down"), u.m.park(context.WithoutCancel(r.ctx)))
			}
			if u.err == nil {
				u.m.mu.Lock()
				u.m.start()
				u.m.mu.Unlock()
			}
			close(u.done)
		})
	}
	r.mu.Unlock()
	select {
	case <-u.done:
		return u.m, u.err
	case <-ctx.Done():
		return nil, classify(ctx.Err())
	}
}

// restore loads a parked model and makes its run live. Whoever asked may have
// looked before another did the same.
func (r *Registry) restore(ctx context.Context, run metastore.Run) (*model, error) {
	if err := r.activeSession(ctx, run.Owner, run.SessionID); err != nil {
		return nil, err
	}
	c, err := r.meta.Checkpoint(ctx, run.ID, parkedKind, parkedName)
	if err != nil && CodeOf(err) != NotFound {
		return nil, classify(err)
	}
	if err != nil || r.expired(c) {
		state := metastore.RunEnded
		if run.Unsaved {
			state = metastore.RunCorrupted
		}
		switch ended, err := r.endParked(ctx, run, state); {
		case err != nil:
			return nil, classify(err)
		case !ended:
			return nil, r.taken(ctx, run.ID)
		}
		return nil, notLoaded(run.ID)
	}
	p, err := r.readParked(ctx, c)
	if err != nil {
		return nil, classify(fmt.Errorf("bring back %s: %w", run.ID, err))
	}
	em, err := r.engine.NewModel(ctx, engineConfig(run.LoRA, run.Seed))
	if err != nil {
		return nil, classify(fmt.Errorf("bring back %s: %w", run.ID, err))
	}
	if err := em.Load(ctx, r.files(ctx, c.Files), true); err != nil {
		return nil, classify(errors.Join(fmt.Errorf("bring back %s: %w", run.ID, err), em.Close()))
	}
	// From here on the run is live, and lost if this server is killed.
	self := r.servers.self()
	ours, err := r.meta.MoveRun(ctx, run.ID, holding(run), metastore.Holding{State: metastore.RunLive, Server: self})
	if err != nil {
		return nil, classify(errors.Join(err, em.Close()))
	}
	if !ours {
		_ = em.Close()
		return nil, r.taken(ctx, run.ID)
	}
	if err := r.meta.DeleteCheckpoint(ctx, c.ID); err != nil {
		r.log.Warn("a parked model's files were not removed", "run", run.ID, "error", err)
	}
	now := r.now().UTC()
	for _, res := range p.Results {
		r.futures.restore(res, run.Owner, run.SessionID)
	}
	r.log.Info("brought a parked model back", "run", run.ID, "next_request", p.Next, "queued", len(p.Queue))
	m := &model{
		r: r, id: run.ID, owner: run.Owner, sessionID: run.SessionID, server: self, lora: run.LoRA, viaLoad: p.ViaLoad,
		em: em, next: p.Next, top: p.Next, jobs: map[int64]*job{}, drained: make(chan struct{}),
		unsaved: p.Unsaved, lastRequest: now, flushed: now,
	}
	for _, q := range p.Queue {
		f := &Future{ID: requestID(run.ID, q.Seq), Type: q.Type, Owner: run.Owner, SessionID: run.SessionID, hash: q.Hash}
		r.accept(ctx, f)
		f, _ = r.futures.add(f)
		f.created = q.Created
		m.jobs[q.Seq] = &job{f, q.Op}
		m.top = max(m.top, q.Seq+1)
	}
	return m, nil
}

func holding(run metastore.Run) metastore.Holding {
	return metastore.Holding{State: run.State, Server: run.Server}
}

// endParked ends a parked run, unless it is none any more.
func (r *Registry) endParked(ctx context.Context, run metastore.Run, state metastore.RunState) (bool, error) {
	return r.meta.MoveRun(ctx, run.ID, holding(run), metastore.Holding{State: state, Server: run.Server})
}

// taken is the error for a parked run that somebody else was faster with.
func (r *Registry) taken(ctx context.Context, id string) error {
	run, err := r.meta.Run(ctx, id)
	if err != nil {
		return classify(err)
	}
	if err := r.heldElsewhere(ctx, run); err != nil {
		return err
	}
	return notLoaded(id)
}

func (r *Registry) readParked(ctx context.Context, c metastore.Checkpoint) (p parkedModel, err error) {
	for _, f := range c.Files {
		if f.Name != parkedFile {
			continue
		}
		var body io.ReadCloser
		if body, err = r.blobs.OpenRange(ctx, f.Digest, 0, -1); err != nil {
			return p, err
		}
		defer body.Close()
		return p, gob.NewDecoder(body).Decode(&p)
	}
	return p, fmt.Errorf("there is no %s: %w", parkedFile, blobstore.ErrNotFound)
}

// restore adds a future as it was when its model was parked.
func (s *futures) restore(p parkedResult, owner, session string) {
	f := &Future{ID: p.ID, Type: p.Type, Owner: owner, SessionID: session, hash: p.Hash}
	if _, added := s.add(f); !added {
		return
	}
	f.created, f.started = p.Created, p.Started
	var err error
	if p.Message != "" {
		err = &Error{Code: p.Code, Message: p.Message}
	}
	s.complete(f, p.Result, err)
}

// dropParked ends the parked runs of a session that is over.
func (r *Registry) dropParked(ctx context.Context, session string) error {
	runs, err := r.meta.SessionRuns(ctx, session)
	if err != nil {
		return classify(err)
	}
	for _, run := range runs {
		if run.State != metastore.RunParked {
			continue
		}
		ended, err := r.endParked(ctx, run, metastore.RunEnded)
		if err != nil {
			return classify(err)
		}
		if !ended {
			continue // a server that has just brought it back will hear of the session's end
		}
		c, err := r.meta.Checkpoint(ctx, run.ID, parkedKind, parkedName)
		if err == nil {
			err = r.meta.DeleteCheckpoint(ctx, c.ID)
		}
		if err != nil && CodeOf(err) != NotFound {
			return classify(err)
		}
	}
	return nil
}

func notLoaded(id string) *Error {
	return newError(Gone, "model %q is no longer loaded; create a training client from its last checkpoint to go on", id)
}
