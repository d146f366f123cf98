package registry

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/metastore"
)

// liveSession is what a server remembers of a session between requests.
type liveSession struct {
	owner     string
	project   string
	lastSeen  time.Time // last heartbeat or request
	persisted time.Time // last heartbeat written to the metastore
}

// heartbeatWrite is how often a heartbeat is worth a write. It is far below
// SessionTimeout, which is all a heartbeat is for.
const heartbeatWrite = time.Minute

// NewSession describes a session to be created.
type NewSession struct {
	Tags         []string
	UserMetadata map[string]any
	SDKVersion   string
	ProjectID    string
	DisplayName  string
}

// CreateSession opens a session and returns its id.
func (r *Registry) CreateSession(ctx context.Context, owner string, n NewSession) (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	now := r.now().UTC()
	s := metastore.Session{
		ID: id.String(), Owner: owner, CreatedAt: now, LastHeartbeat: now,
		Tags: n.Tags, UserMetadata: n.UserMetadata, SDKVersion: n.SDKVersion,
		ProjectID: n.ProjectID, DisplayName: n.DisplayName,
	}
	if err := r.meta.CreateSession(ctx, s); err != nil {
		return "", classify(err)
	}
	r.mu.Lock()
	r.sessions[s.ID] = &liveSession{owner: owner, project: n.ProjectID, lastSeen: now, persisted: now}
	r.mu.Unlock()
	return s.ID, nil
}

// activeSession finds a session that the owner may work in.
func (r *Registry) activeSession(ctx context.Context, owner, id string) error {
	now := r.now().UTC()
	r.mu.Lock()
	live, ok := r.sessions[id]
	if ok && live.owner == owner {
		live.lastSeen = now
	}
	r.mu.Unlock()
	if ok {
		if live.owner != owner {
			return newError(NotFound, "session %q not found", id)
		}
		return nil
	}
	s, err := r.Session(ctx, owner, id)
	if err != nil {
		return err
	}
	if s.FinishedAt != nil {
		return newError(Gone, "session %q has finished", id)
	}
	r.mu.Lock()
	r.sessions[id] = &liveSession{owner: owner, project: s.ProjectID, lastSeen: now, persisted: s.LastHeartbeat}
	r.mu.Unlock()
	return nil
}

// Heartbeat keeps a session alive. A finished session is Gone.
func (r *Registry) Heartbeat(ctx context.Context, owner, id string) error {
	if err := r.activeSession(ctx, owner, id); err != nil {
		return err
	}
	now := r.now().UTC()
	r.mu.Lock()
	live := r.sessions[id]
	write := live != nil && now.Sub(live.persisted) >= heartbeatWrite
	if write {
		live.persisted = now
	}
	r.mu.Unlock()
	if write {
		return classify(r.meta.TouchSession(ctx, id, now))
	}
	return nil
}

// FinishSession ends a session: its models are dropped once their accepted
// requests are done, and nothing more is accepted. The first reason stays.
func (r *Registry) FinishSession(ctx context.Context, owner, id, reason, detail string) error {
	if _, err := r.Session(ctx, owner, id); err != nil {
		return err
	}
	if err := r.meta.FinishSession(ctx, id, r.now().UTC(), reason, detail); err != nil {
		return classify(err)
	}
	r.dropSession(id, stateAfterUnload)
	return r.dropParked(ctx, id)
}

// dropSession forgets a session and lets its models end.
func (r *Registry) dropSession(id string, after func(*model) metastore.RunState) {
	r.mu.Lock()
	delete(r.sessions, id)
	var models []*model
	for _, m := range r.models {
		if m.sessionID == id {
			models = append(models, m)
		}
	}
	r.mu.Unlock()
	for _, m := range models {
		r.work.Go(func() {
			if err := m.retire(r.ctx, after); err != nil {
				r.log.Error("end of a training run", "run", m.id, "error", err)
			}
		})
	}
}

// Session returns a session of the owner's.
func (r *Registry) Session(ctx context.Context, owner, id string) (metastore.Session, error) {
	s, err := r.meta.Session(ctx, id)
	if err != nil {
		if CodeOf(err) == NotFound {
			return s, newError(NotFound, "session %q not found", id)
		}
		return s, classify(err)
	}
	if s.Owner != owner {
		return metastore.Session{}, newError(NotFound, "session %q not found", id)
	}
	return s, nil
}

// Sessions lists the owner's sessions, newest first.
func (r *Registry) Sessions(ctx context.Context, owner string, p metastore.Page) ([]metastore.Session, int, error) {
	s, n, err := r.meta.Sessions(ctx, owner, p)
	return s, n, classify(err)
}

// SessionContents lists the ids of a session's runs and samplers.
func (r *Registry) SessionContents(ctx context.Context, id string) (runs, samplers []string, err error) {
	rs, err := r.meta.SessionRuns(ctx, id)
	if err != nil {
		return nil, nil, classify(err)
	}
	for _, run := range rs {
		runs = append(runs, run.ID)
	}
	ss, err := r.meta.SessionSamplers(ctx, id)
	if err != nil {
		return nil, nil, classify(err)
	}
	for _, s := range ss {
		samplers = append(samplers, s.ID)
	}
	return runs, samplers, nil
}

// SetSessionProject moves a session into a project.
func (r *Registry) SetSessionProject(ctx context.Context, owner, id, project string) error {
	if _, err := r.Session(ctx, owner, id); err != nil {
		return err
	}
	return classify(r.meta.SetSessionProject(ctx, id, project))
}
