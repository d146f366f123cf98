package registry

import "time"

// A session's timeline is kept in memory, the newest requests of it, for the
// sessions that were active last.
const (
	traceEvents   = 20_000
	traceSessions = 64
)

type trace struct {
	events []TraceEvent
	last   time.Time
}

// TraceEvent is one request's life.
type TraceEvent struct {
	RequestID, Type            string
	Created, Started, Finished time.Time
	Failed                     bool
}

// record adds a completed request to its session's timeline. s.mu is held.
func (s *futures) record(f *Future) {
	if f.SessionID == "" {
		return
	}
	t := s.traces[f.SessionID]
	if t == nil {
		if len(s.traces) >= traceSessions {
			oldest := ""
			for id, t := range s.traces {
				if oldest == "" || t.last.Before(s.traces[oldest].last) {
					oldest = id
				}
			}
			delete(s.traces, oldest)
		}
		t = &trace{}
		s.traces[f.SessionID] = t
	}
	if len(t.events) >= traceEvents {
		t.events = append(t.events[:0], t.events[traceEvents/2:]...)
	}
	t.events = append(t.events, TraceEvent{
		RequestID: f.ID, Type: f.Type,
		Created: f.created, Started: f.started, Finished: f.finished,
		Failed: f.err != nil,
	})
	t.last = f.finished
}

// Trace returns what this server did of a session's timeline, in the order of
// completion. It starts when this server did, and is empty for a session it has
// not seen.
func (r *Registry) Trace(sessionID string) []TraceEvent {
	r.futures.mu.Lock()
	defer r.futures.mu.Unlock()
	if t := r.futures.traces[sessionID]; t != nil {
		return append([]TraceEvent(nil), t.events...)
	}
	return nil
}
