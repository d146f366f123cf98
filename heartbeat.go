package tinkex

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// Heartbeats are the official client's (tinker 0.38.0,
// InternalClientHolder._session_heartbeat).
const (
	heartbeatPeriod  = 10 * time.Second
	heartbeatTimeout = 10 * time.Second
	// heartbeatWarning is how long heartbeats may fail before the log hears
	// of it, and how often it does then.
	heartbeatWarning = 2 * time.Minute
)

// heartbeat keeps a session alive until the client is closed or the server
// has ended the session.
func (s *ServiceClient) heartbeat(session string) {
	t := s.t
	ctx, stop := t.life.bind(context.Background())
	defer stop()
	alive := t.clock.now()
	warned := alive
	for t.clock.beat(ctx, heartbeatPeriod) == nil {
		err := t.json(ctx, &call{
			op: "session heartbeat", method: http.MethodPost, path: "/session_heartbeat",
			once: true, timeout: heartbeatTimeout,
		}, wire.HeartbeatRequest{SessionID: session, Type: "session_heartbeat"}, nil)
		now := t.clock.now()
		switch {
		case err == nil:
			alive, warned = now, now
		case errors.Is(err, ErrGone):
			t.log.Warn("the server has ended the session", "session", session, "error", err)
			return
		case ctx.Err() == nil && now.Sub(alive) > heartbeatWarning && now.Sub(warned) > heartbeatWarning:
			warned = now
			t.log.Warn("heartbeats are failing; the server may end the session", "session", session,
				"since", now.Sub(alive).Round(time.Second), "error", err)
		}
	}
}
