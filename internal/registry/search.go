package registry

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/metastore"
)

// SessionState says what became of a session.
type SessionState int

// The states of a session.
const (
	SessionLost     SessionState = iota // it neither finished nor gave a sign of life lately
	SessionActive                       // it is running
	SessionFinished                     // its client said so
)

// SessionQuery selects sessions; zero fields do not restrict.
type SessionQuery struct {
	ID     string   // exact; with Words, either one is enough
	Words  []string // parts of the display name, whatever their case
	Within []string // projects
	// Metadata must all be there.
	Metadata map[string]string
	// State is asked last; nil is any.
	State func(state SessionState, reason string) bool
	After *metastore.SessionPlace
	Limit int
}

// FoundSession is a session with what it holds.
type FoundSession struct {
	metastore.Session
	State SessionState
	Usage metastore.Usage
}

// SearchSessions lists those of the owner's sessions that match, newest first,
// and where the next page starts, nil if this is the last one.
func (r *Registry) SearchSessions(ctx context.Context, owner string, q SessionQuery) ([]FoundSession, *metastore.SessionPlace, error) {
	const batch = 200
	var found []FoundSession
	after := q.After
	for {
		sessions, err := r.meta.SessionsAfter(ctx, owner, after, batch)
		if err != nil {
			return nil, nil, classify(err)
		}
		for _, s := range sessions {
			state := r.sessionState(s)
			if q.matches(s) && (q.State == nil || q.State(state, s.FinishReason)) {
				if len(found) == q.Limit {
					// There is one more.
					last := found[len(found)-1]
					return found, &metastore.SessionPlace{CreatedAt: last.CreatedAt, ID: last.ID}, r.addUsage(ctx, found)
				}
				found = append(found, FoundSession{Session: s, State: state})
			}
			after = &metastore.SessionPlace{CreatedAt: s.CreatedAt, ID: s.ID}
		}
		if len(sessions) < batch {
			return found, nil, r.addUsage(ctx, found)
		}
	}
}

func (q *SessionQuery) matches(s metastore.Session) bool {
	if q.ID != "" || q.Words != nil {
		byID := q.ID != "" && s.ID == q.ID
		name := strings.ToLower(s.DisplayName)
		byName := q.Words != nil && !slices.ContainsFunc(q.Words, func(w string) bool { return !strings.Contains(name, strings.ToLower(w)) })
		if !byID && !byName {
			return false
		}
	}
	if q.Within != nil && !slices.Contains(q.Within, s.ProjectID) {
		return false
	}
	for k, v := range maps.All(q.Metadata) {
		if s.UserMetadata[k] != v {
			return false
		}
	}
	return true
}

func (r *Registry) sessionState(s metastore.Session) SessionState {
	if s.FinishedAt != nil {
		return SessionFinished
	}
	seen := s.LastHeartbeat
	r.mu.Lock()
	if live := r.sessions[s.ID]; live != nil && live.lastSeen.After(seen) {
		seen = live.lastSeen
	}
	r.mu.Unlock()
	if seen.Before(r.now().Add(-r.sessionTimeout)) {
		return SessionLost
	}
	return SessionActive
}

func (r *Registry) addUsage(ctx context.Context, found []FoundSession) error {
	ids := make([]string, len(found))
	for i, s := range found {
		ids[i] = s.ID
	}
	usage, err := r.meta.SessionUsage(ctx, ids, r.now().UTC())
	if err != nil {
		return classify(err)
	}
	for i := range found {
		found[i].Usage = usage[found[i].ID]
	}
	return nil
}
