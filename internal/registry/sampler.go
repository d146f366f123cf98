package registry

import (
	"container/list"
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

// NewSampler describes a sampling session to be opened, on weights or on a
// base model.
type NewSampler struct {
	SessionID   string
	Seq         int64 // chosen by the client, unique within the session
	BaseModel   string
	From        *Ref
	RequestHash string
}

func samplerID(session string, seq int64) string { return fmt.Sprintf("%s:sample:%d", session, seq) }

// CreateSampler opens a sampling session and returns its id.
func (r *Registry) CreateSampler(ctx context.Context, owner string, n NewSampler) (string, error) {
	if err := r.activeSession(ctx, owner, n.SessionID); err != nil {
		return "", err
	}
	base, path, err := r.samplerSource(ctx, owner, n.BaseModel, n.From)
	if err != nil {
		return "", err
	}
	return r.createSampler(ctx, owner, n.SessionID, n.Seq, base, path, n.RequestHash)
}

// samplerSource checks what is to be sampled from.
func (r *Registry) samplerSource(ctx context.Context, owner, base string, from *Ref) (baseModel, path string, err error) {
	if from != nil {
		c, err := r.Readable(ctx, owner, *from)
		if err != nil {
			return "", "", err
		}
		if base != "" && base != c.LoRA.BaseModel {
			return "", "", newError(Invalid, "base_model: %q is not %q, which %s was trained on", base, c.LoRA.BaseModel, from)
		}
		base, path = c.LoRA.BaseModel, from.String()
	}
	if base == "" {
		return "", "", newError(Invalid, "base_model or model_path is required")
	}
	_, err = r.baseModel(base)
	return base, path, err
}

func (r *Registry) createSampler(ctx context.Context, owner, session string, seq int64, base, path, hash string) (string, error) {
	id := samplerID(session, seq)
	err := r.meta.CreateSampler(ctx, metastore.Sampler{
		ID: id, SessionID: session, Seq: seq, Owner: owner,
		BaseModel: base, ModelPath: path, RequestHash: hash, CreatedAt: r.now().UTC(),
	})
	if CodeOf(err) == Conflict {
		old, err := r.meta.Sampler(ctx, id)
		if err != nil {
			return "", classify(err)
		}
		if old.RequestHash != hash {
			return "", newError(Conflict, "sampling_session_seq_id: %d was already used by another request of session %q", seq, session)
		}
		return id, nil
	}
	return id, classify(err)
}

// Sampler returns a sampling session of the owner's. The path of an unlisted
// snapshot is nobody's business and left out.
func (r *Registry) Sampler(ctx context.Context, owner, id string) (metastore.Sampler, error) {
	s, err := r.sampler(ctx, owner, id)
	if ref, ok := parseRef(s.ModelPath); ok && strings.HasPrefix(ref.Name, "~") {
		s.ModelPath = ""
	}
	return s, err
}

func (r *Registry) sampler(ctx context.Context, owner, id string) (metastore.Sampler, error) {
	s, err := r.meta.Sampler(ctx, id)
	if err != nil && CodeOf(err) != NotFound {
		return s, classify(err)
	}
	if err != nil || s.Owner != owner {
		return metastore.Sampler{}, newError(NotFound, "sampler %q not found", id)
	}
	return s, nil
}

// SampleTarget says what to sample from: a sampling session, or directly
// weights or a base model.
type SampleTarget struct {
	SamplerID string
	Seq       *int64
	BaseModel string
	From      *Ref
}

// Sample starts a sampling request. Requests of one session run in any order.
// Its future's result is an *engine.SampleOutput.
func (r *Registry) Sample(ctx context.Context, owner string, t SampleTarget, hash string, req *engine.SampleRequest) (*Future, error) {
	f := &Future{Type: "Sample", Owner: owner, hash: hash}
	var s metastore.Sampler
	var err error
	if t.SamplerID != "" {
		if s, err = r.sampler(ctx, owner, t.SamplerID); err != nil {
			return nil, err
		}
		if t.Seq == nil {
			return nil, newError(Invalid, "seq_id: required with sampling_session_id")
		}
		if err := r.activeSession(ctx, owner, s.SessionID); err != nil {
			return nil, err
		}
		f.ID, f.SessionID = r.here(requestID(s.ID, *t.Seq)), s.SessionID
	} else {
		s.BaseModel, s.ModelPath, err = r.samplerSource(ctx, owner, t.BaseModel, t.From)
		if err != nil {
			return nil, err
		}
		id, err := uuid.NewRandom()
		if err != nil {
			return nil, err
		}
		f.ID = r.here("sample-" + id.String())
	}
	for i := range req.NumSamples {
		f.SequenceIDs = append(f.SequenceIDs, fmt.Sprintf("%s:%d", f.ID, i))
	}
	if old, ok := r.futures.get(f.ID); ok {
		if old.hash != hash {
			return nil, newError(Conflict, "seq_id: %d was already used by another request of sampler %q", *t.Seq, s.ID)
		}
		return old, nil
	}
	open, err := r.samplers.acquire(ctx, s)
	if err != nil {
		return nil, classify(err)
	}
	if err := open.sampler.Check(req); err != nil {
		r.samplers.release(open)
		return nil, classify(err)
	}
	run, cancel := context.WithCancel(r.ctx)
	f.cancel = cancel
	r.accept(ctx, f)
	f, added := r.futures.add(f)
	if !added {
		cancel()
		r.samplers.release(open)
		return f, nil
	}
	r.work.Go(func() {
		defer cancel()
		defer r.samplers.release(open)
		select {
		case r.samplers.slots <- struct{}{}:
			defer func() { <-r.samplers.slots }()
		case <-run.Done():
			r.futures.complete(f, nil, run.Err())
			return
		}
		out, err := open.sampler.Sample(r.futures.start(run, f), req)
		r.futures.complete(f, out, err)
	})
	return f, nil
}

// idleSamplers is how many engine samplers are kept open for the next request.
const idleSamplers = 8

// samplers keeps engine samplers open between requests, so that a sampler's
// weights are read once and not for every request.
type samplers struct {
	r     *Registry
	slots chan struct{} // bounds the requests that compute at once

	mu   sync.Mutex
	open map[string]*openSampler // by what they sample from
	idle *list.List              // of *openSampler, longest idle first
}

type openSampler struct {
	key     string
	ready   chan struct{}
	sampler engine.Sampler
	err     error
	users   int
	elem    *list.Element
}

func newSamplers(r *Registry) *samplers {
	return &samplers{r: r, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), open: map[string]*openSampler{}, idle: list.New()}
}

// acquire opens what s samples from, or finds it open.
func (p *samplers) acquire(ctx context.Context, s metastore.Sampler) (*openSampler, error) {
	key, files, err := p.source(ctx, s)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	o, ok := p.open[key]
	if ok {
		if o.elem != nil {
			p.idle.Remove(o.elem)
			o.elem = nil
		}
	} else {
		o = &openSampler{key: key, ready: make(chan struct{})}
		p.open[key] = o
	}
	o.users++
	p.mu.Unlock()
	if !ok {
		// Not torn by one client's leaving: others may already wait for it.
		o.sampler, o.err = p.r.engine.NewSampler(context.WithoutCancel(ctx), s.BaseModel, files)
		close(o.ready)
	}
	<-o.ready
	if o.err != nil {
		p.release(o)
		return nil, o.err
	}
	return o, nil
}

// source says where a sampler's weights are, and what identifies them.
func (p *samplers) source(ctx context.Context, s metastore.Sampler) (string, fs.FS, error) {
	if s.ModelPath == "" {
		return "base:" + s.BaseModel, nil, nil
	}
	ref, ok := parseRef(s.ModelPath)
	if !ok {
		return "", nil, fmt.Errorf("sampler %s: bad model path %q", s.ID, s.ModelPath)
	}
	c, err := p.r.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name)
	if CodeOf(err) == NotFound && err != nil || err == nil && p.r.expired(c) {
		return "", nil, newError(NotFound, "checkpoint %s, which sampler %q samples from, no longer exists", ref, s.ID)
	}
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("checkpoint:%d", c.ID), p.r.files(context.WithoutCancel(ctx), c.Files), nil
}

// release gives a sampler back and closes the longest idle one if there are
// too many.
func (p *samplers) release(o *openSampler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.users--
	if o.users > 0 {
		return
	}
	if o.err != nil {
		delete(p.open, o.key)
		return
	}
	o.elem = p.idle.PushBack(o)
	if p.idle.Len() > idleSamplers {
		p.evict(p.idle.Front())
	}
}

// evict closes an idle sampler. p.mu is held.
func (p *samplers) evict(e *list.Element) {
	o := p.idle.Remove(e).(*openSampler)
	delete(p.open, o.key)
	if err := o.sampler.Close(); err != nil {
		p.r.log.Warn("closing a sampler", "sampler", o.key, "error", err)
	}
}

func (p *samplers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e := p.idle.Front(); e != nil; e = p.idle.Front() {
		p.evict(e)
	}
}
