package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// Any number of servers may work on the same stores. What is in these, each of
// them answers for; a live model is held by one of them, under a lease that it
// renews, and requests for the model are passed on to that one (see Elsewhere).
// The metadata decides who holds what: a server that does not renew its lease
// is removed by another one, in the transaction that ends its runs, and cannot
// renew it afterwards. It has lost its models then, however alive it is; until
// it has noticed, nobody else has them either, since models never move while
// they are live.

// DefaultLease is how long a server may be out of touch with the metadata
// before the others take it for dead, unless told otherwise.
const DefaultLease = 15 * time.Second

// renewals is how many times a lease is renewed while it lasts. One interval
// is kept back for noticing: a server is found to be dead within its lease.
const renewals = 4

// Elsewhere is what the errors wrap that tell that another server holds what a
// request is about.
type Elsewhere struct {
	Server string
	URL    string
}

func (e *Elsewhere) Error() string { return "server " + e.Server + " at " + e.URL }

// servers is what a server knows of itself and the others.
type servers struct {
	shared bool
	url    string
	lease  time.Duration

	mu     sync.Mutex
	id     string
	former map[string]bool // ids whose leases were lost
	others map[string]metastore.Server
}

func (s *servers) self() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// ServerID is the name under which this server holds models.
func (r *Registry) ServerID() string { return r.servers.self() }

// IsServer reports whether an id is this server's, or was.
func (r *Registry) IsServer(id string) bool {
	r.servers.mu.Lock()
	defer r.servers.mu.Unlock()
	return id == r.servers.id || r.servers.former[id]
}

// Shared reports whether other servers may work on the same stores.
func (r *Registry) Shared() bool { return r.servers.shared }

func (r *Registry) join(ctx context.Context, opts Options) error {
	s := &servers{shared: opts.Shared, url: opts.URL, lease: opts.Lease, former: map[string]bool{}}
	if s.lease == 0 {
		s.lease = DefaultLease
	}
	r.servers = s
	if err := r.enter(ctx); err != nil {
		return err
	}
	if opts.Shared {
		return nil // others may be at work; keepLease finds out
	}
	return r.endLost(ctx)
}

// enter joins under a new id.
func (r *Registry) enter(ctx context.Context) error {
	s := r.servers
	id := strings.ToLower(rand.Text()[:12])
	if err := r.meta.Join(ctx, id, s.url, s.granted(), !s.shared); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != "" {
		s.former[s.id] = true
	}
	s.id = id
	return nil
}

// RetrySilent is when whoever asked for what a silent server holds may ask
// again. That server is back or found dead within its lease and one interval,
// so a client that tries some ten times learns which, however long leases are.
func (r *Registry) RetrySilent() time.Duration { return r.servers.interval() }

func (s *servers) interval() time.Duration { return s.lease / renewals }
func (s *servers) granted() time.Duration  { return s.lease - s.interval() }

// keepLease renews the lease, ends the runs of servers that did not renew
// theirs, and follows what others do to the sessions of this server's models.
func (r *Registry) keepLease() {
	s := r.servers
	ticker := time.NewTicker(s.interval())
	defer ticker.Stop()
	metadata := contact{since: time.Now()}
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.renew()
		if err != nil && r.ctx.Err() == nil {
			r.log.Warn("the server's lease was not renewed", "lease", s.lease, "error", err)
		}
		if !metadata.lasts(time.Now(), err == nil, s.lease) {
			continue
		}
		if err := r.endLost(r.ctx); err != nil && r.ctx.Err() == nil {
			r.log.Error("end the runs of servers that are gone", "error", err)
		}
	}
}

// contact is what a server knows of its touch with the metadata.
type contact struct {
	since time.Time // zero while the metadata is out of reach
}

// lasts takes down whether the metadata was reached just now, and reports
// whether it has been in reach for a lease's time. While it is not, the others
// cannot renew their leases either: when it is back, they get that time to do so
// before their runs are ended.
func (c *contact) lasts(now time.Time, reached bool, lease time.Duration) bool {
	switch {
	case !reached:
		c.since = time.Time{}
	case c.since.IsZero():
		c.since = now
	}
	return reached && now.Sub(c.since) >= lease
}

func (r *Registry) renew() error {
	s := r.servers
	ctx, cancel := context.WithTimeout(r.ctx, s.interval())
	defer cancel()
	err := r.meta.RenewLease(ctx, s.self(), s.granted())
	if errors.Is(err, metastore.ErrNotFound) {
		r.log.Error("this server was taken for dead, as it did not renew its lease in time; the models that it held are lost", "lease", s.lease)
		if err = r.enter(ctx); err == nil {
			r.loseModels()
		}
	}
	if err == nil {
		_, err = r.readServers(ctx)
	}
	if err == nil {
		err = r.followSessions(ctx)
	}
	return err
}

// readServers asks who else is at work.
func (r *Registry) readServers(ctx context.Context) (map[string]metastore.Server, error) {
	all, err := r.meta.Servers(ctx)
	if err != nil {
		return nil, err
	}
	others := map[string]metastore.Server{}
	for _, s := range all {
		if !r.IsServer(s.ID) {
			others[s.ID] = s
		}
	}
	r.servers.mu.Lock()
	r.servers.others = others
	r.servers.mu.Unlock()
	return others, nil
}

// Others lists the other servers that are at work on the same stores, by their
// ids. If the metadata does not say, they are those that this server heard of
// last, beside the error.
func (r *Registry) Others(ctx context.Context) ([]Elsewhere, error) {
	if !r.servers.shared {
		return nil, nil
	}
	others, err := r.readServers(ctx)
	if err != nil {
		r.servers.mu.Lock()
		others = r.servers.others
		r.servers.mu.Unlock()
	}
	list := make([]Elsewhere, 0, len(others))
	for _, s := range others {
		list = append(list, Elsewhere{Server: s.ID, URL: s.URL})
	}
	slices.SortFunc(list, func(a, b Elsewhere) int { return strings.Compare(a.Server, b.Server) })
	return list, classify(err)
}

// endLost ends the runs of servers that are gone.
func (r *Registry) endLost(ctx context.Context) error {
	lost, err := r.meta.EndLostRuns(ctx)
	if lost > 0 {
		r.log.Warn("training runs lost steps that no checkpoint holds; resume them from their last checkpoint", "runs", lost)
	}
	return err
}

// loseModels lets go of all models: their runs were ended.
func (r *Registry) loseModels() {
	r.mu.Lock()
	models := make([]*model, 0, len(r.models))
	for _, m := range r.models {
		if m.server != r.servers.self() {
			models = append(models, m)
		}
	}
	r.mu.Unlock()
	for _, m := range models {
		r.work.Go(func() {
			m.quit(notLoaded(m.id))
			if err := m.retire(r.ctx, stateAfterLoss); err != nil && r.ctx.Err() == nil {
				r.log.Error("end of a training run", "run", m.id, "error", err)
			}
		})
	}
}

// holder finds the server that has, or had last, what a request is about. It
// is nil if that is this one or none that is still there.
func (r *Registry) holder(ctx context.Context, server string) (*metastore.Server, error) {
	if !r.servers.shared || server == "" || r.IsServer(server) {
		return nil, nil
	}
	r.servers.mu.Lock()
	s, ok := r.servers.others[server]
	r.servers.mu.Unlock()
	if !ok {
		others, err := r.readServers(ctx)
		if err != nil {
			return nil, classify(err)
		}
		if s, ok = others[server]; !ok {
			return nil, nil
		}
	}
	return &s, nil
}

// elsewhere is the error for a request about what another server holds.
func elsewhere(what string, s metastore.Server) error {
	if s.URL == "" {
		return newError(Unavailable, "%s is held by a server that the others cannot reach, since it was not told under which URL (tinkex serve --advertise)", what)
	}
	return newError(Unavailable, "%s is held by another server: %w", what, &Elsewhere{Server: s.ID, URL: s.URL})
}

// heldElsewhere is the error for a request about a run that another server
// holds or held last; nil if that is not so.
func (r *Registry) heldElsewhere(ctx context.Context, run metastore.Run) error {
	if run.State == metastore.RunParked {
		return nil
	}
	s, err := r.holder(ctx, run.Server)
	switch {
	case err != nil:
		return err
	case s != nil:
		return elsewhere("model "+run.ID, *s)
	case run.State == metastore.RunLive && !r.IsServer(run.Server):
		// Whether its steps were lost is for the metadata to say, soon.
		e := newError(Unavailable, "model %s was held by a server that does not answer any more; ask again in a moment", run.ID)
		e.RetryAfter = r.RetrySilent()
		return e
	}
	return nil
}

// A sampling request is carried out by the server that got it, whose id ends
// that of the request: any other one must know whom to ask for the result.
const serverMark = "@"

// here marks a request as this server's, if there may be others.
func (r *Registry) here(id string) string {
	if !r.servers.shared {
		return id
	}
	return id + serverMark + r.servers.self()
}

// followSessions makes of this server's sessions what has become of them: other
// servers, too, hear of them.
func (r *Registry) followSessions(ctx context.Context) error {
	r.mu.Lock()
	with := map[string]bool{}
	for _, m := range r.models {
		with[m.sessionID] = true
	}
	for id, s := range r.sessions {
		if !with[id] && r.now().Sub(s.persisted) >= r.servers.interval() {
			delete(r.sessions, id) // the next request asks the metadata
		}
	}
	r.mu.Unlock()
	for id := range with {
		s, err := r.meta.Session(ctx, id)
		if err != nil {
			return err
		}
		if s.FinishedAt != nil {
			r.dropSession(id, stateAfterUnload)
			continue
		}
		r.mu.Lock()
		if live := r.sessions[id]; live != nil && live.lastSeen.Before(s.LastHeartbeat) {
			live.lastSeen = s.LastHeartbeat
		}
		r.mu.Unlock()
	}
	return nil
}

// mayDo reports whether this server is the one that has a duty. It is, as long
// as it is there.
func (r *Registry) mayDo(ctx context.Context, duty string) (bool, error) {
	if !r.servers.shared {
		return true, nil
	}
	return r.meta.TakeDuty(ctx, duty, r.servers.self())
}
