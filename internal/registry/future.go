package registry

import (
	"container/list"
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Results that were fetched are kept a little, for the client whose answer was
// lost on the way; results nobody fetched are kept longer. Both are bounded in
// bytes, oldest first.
const (
	fetchedTTL     = 2 * time.Minute
	fetchedBytes   = 16 << 20
	unfetchedTTL   = time.Hour
	unfetchedBytes = 256 << 20
)

// Future is a request that was accepted and its result, once there is one.
type Future struct {
	ID        string
	Type      string // the request's type, for traces
	Owner     string
	SessionID string
	// SequenceIDs identify a sampling request's sequences, in order.
	SequenceIDs []string

	hash string
	done chan struct{}

	// Written before done is closed, read after.
	result any
	err    error

	mu                         sync.Mutex
	created, started, finished time.Time
	cancel                     context.CancelFunc

	// begin and end are the observer's.
	begin func(context.Context) (context.Context, func(error))
	end   func(error)
	begun bool

	elem    *list.Element // guarded by futures.mu
	fetched bool
	size    int
}

// Done is closed when the result is there.
func (f *Future) Done() <-chan struct{} { return f.done }

// Result returns the result or the failure; it may be called once Done is closed.
func (f *Future) Result() (any, error) { return f.result, f.err }

// futures holds the results of this server's requests in memory. What must
// outlive the server is also recorded in the metastore.
type futures struct {
	now func() time.Time

	mu   sync.Mutex
	byID map[string]*Future
	// Completed futures, oldest first.
	fetched, unfetched   *list.List
	nFetched, nUnfetched int // bytes
	running              int // begun and not completed
	traces               map[string]*trace
}

func newFutures(now func() time.Time) *futures {
	return &futures{
		now:       now,
		byID:      map[string]*Future{},
		fetched:   list.New(),
		unfetched: list.New(),
		traces:    map[string]*trace{},
	}
}

// add registers a future under its id unless there is one already, which is
// then returned instead.
func (s *futures) add(f *Future) (*Future, bool) {
	f.done = make(chan struct{})
	f.created = s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.byID[f.ID]; ok {
		return old, false
	}
	s.byID[f.ID] = f
	return f, true
}

// get finds a future.
func (s *futures) get(id string) (*Future, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.byID[id]
	return f, ok
}

// start says that a future's request is carried out from now on, in the
// context that it returns.
func (s *futures) start(ctx context.Context, f *Future) context.Context {
	f.mu.Lock()
	f.started, f.begun = s.now(), true
	if f.begin != nil {
		ctx, f.end = f.begin(ctx)
	}
	f.mu.Unlock()
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	return ctx
}

// complete settles a future and wakes whoever waits for it.
func (s *futures) complete(f *Future, result any, err error) {
	if err != nil {
		result = nil // it may be a nil pointer of a result's type
	}
	f.result, f.err = result, classify(err)
	f.mu.Lock()
	f.finished = s.now()
	if f.started.IsZero() {
		f.started = f.finished
	}
	begun := f.begun
	if !begun && f.begin != nil {
		_, f.end = f.begin(context.Background())
	}
	if f.end != nil {
		f.end(f.err)
	}
	f.mu.Unlock()
	s.mu.Lock()
	if begun {
		s.running--
	}
	f.size = sizeOf(result)
	f.elem = s.unfetched.PushBack(f)
	s.nUnfetched += f.size
	s.record(f)
	s.trim()
	s.mu.Unlock()
	close(f.done)
}

// markFetched says that the result was handed to its client.
func (s *futures) markFetched(f *Future) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.elem == nil || f.fetched {
		return
	}
	s.unfetched.Remove(f.elem)
	s.nUnfetched -= f.size
	f.fetched = true
	f.elem = s.fetched.PushBack(f)
	s.nFetched += f.size
	s.trim()
}

// trim drops what is too old or too much. s.mu is held.
func (s *futures) trim() {
	now := s.now()
	drop := func(l *list.List, bytes *int, limit int, ttl time.Duration) {
		for e := l.Front(); e != nil; e = l.Front() {
			f := e.Value.(*Future)
			if *bytes <= limit && now.Sub(f.finished) < ttl {
				return
			}
			l.Remove(e)
			f.elem = nil
			*bytes -= f.size
			delete(s.byID, f.ID)
		}
	}
	drop(s.fetched, &s.nFetched, fetchedBytes, fetchedTTL)
	drop(s.unfetched, &s.nUnfetched, unfetchedBytes, unfetchedTTL)
}

// tidy is trim for the sweeper.
func (s *futures) tidy() {
	s.mu.Lock()
	s.trim()
	s.mu.Unlock()
}

// close fails whatever is still pending.
func (s *futures) close() {
	s.mu.Lock()
	var pending []*Future
	for _, f := range s.byID {
		if f.elem == nil {
			pending = append(pending, f)
		}
	}
	s.mu.Unlock()
	for _, f := range pending {
		select {
		case <-f.done:
		default:
			s.complete(f, nil, newError(Unavailable, "the server is shutting down"))
		}
	}
}

// sizeOf estimates what keeping a result costs, in bytes.
func sizeOf(result any) int {
	const overhead = 512
	n := overhead
	switch v := result.(type) {
	case *engine.ForwardBackwardOutput:
		for _, out := range v.Outputs {
			for _, t := range out {
				n += 4*len(t.F) + 8*len(t.I) + 64
			}
		}
	case *engine.SampleOutput:
		n += 4 * len(v.PromptLogprobs)
		for _, q := range v.Sequences {
			n += 8 * len(q.Tokens)
			for _, k := range q.TopKLogprobs {
				n += 8 * len(k)
			}
		}
		for _, k := range v.TopKPromptLogprobs {
			n += 8 * len(k)
		}
	}
	return n
}

// Retrieve returns a request's future: a pending one, or one with its result.
// Results of another owner's requests are not found; results that are no
// longer kept are gone, and the request must be made again.
func (r *Registry) Retrieve(ctx context.Context, owner, id string) (*Future, error) {
	if f, ok := r.futures.get(id); ok {
		if f.Owner != owner {
			return nil, newError(NotFound, "request %q not found", id)
		}
		return f, nil
	}
	// The promise may have been kept before a restart.
	res, err := r.meta.Result(ctx, id)
	if err == nil {
		s, err := r.meta.Session(ctx, res.SessionID)
		if err != nil || s.Owner != owner {
			return nil, newError(NotFound, "request %q not found", id)
		}
		f := &Future{ID: id, Owner: owner, SessionID: res.SessionID, done: make(chan struct{}), result: storedResult(res.Payload)}
		close(f.done)
		return f, nil
	}
	if err := r.promisedElsewhere(ctx, id); err != nil {
		return nil, err
	}
	// Ids say what they belong to, so that a lost promise can be told from one
	// never made.
	if target, _, ok := strings.Cut(id, requestMark); ok {
		known := false
		if run, err := r.meta.Run(ctx, target); err == nil {
			known = run.Owner == owner
			if known {
				if err := r.heldElsewhere(ctx, run); err != nil {
					return nil, err
				}
			}
			if known && run.State == metastore.RunParked {
				// Its results wait with it.
				if _, err := r.unpark(ctx, run); err != nil && CodeOf(err) != Gone {
					return nil, err
				}
				if f, ok := r.futures.get(id); ok {
					return f, nil
				}
			}
		} else if s, err := r.meta.Sampler(ctx, target); err == nil {
			known = s.Owner == owner
		}
		if known {
			return nil, newError(Gone, "the result of request %q is no longer kept; make the request again", id)
		}
	}
	if r.servers.shared && strings.Contains(id, serverMark) {
		return nil, newError(Gone, "the server that had request %q is gone; make the request again", id)
	}
	return nil, newError(NotFound, "request %q not found", id)
}

// promisedElsewhere is the error for a sampling request that another server
// has; nil if that is not so.
func (r *Registry) promisedElsewhere(ctx context.Context, id string) error {
	request, server, ok := strings.Cut(id, serverMark)
	if !ok {
		return nil
	}
	s, err := r.holder(ctx, server)
	if err != nil || s == nil {
		return err
	}
	return elsewhere("request "+request, *s)
}

// Fetched says that a future's result reached its client, which lets it be
// forgotten sooner.
func (r *Registry) Fetched(f *Future) { r.futures.markFetched(f) }

// Cancel gives up on a sampling request. Training requests are never torn:
// whether they count must not depend on timing.
func (r *Registry) Cancel(ctx context.Context, owner, id string) error {
	f, err := r.Retrieve(ctx, owner, id)
	if err != nil {
		return err
	}
	f.mu.Lock()
	cancel := f.cancel
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	return nil
}

// requestMark separates what a request belongs to from its number.
const requestMark = ":req:"

func requestID(target string, seq int64) string {
	return target + requestMark + strconv.FormatInt(seq, 10)
}
