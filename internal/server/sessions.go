package server

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// Page is a list's part. Access scopes other than one's own add nothing here.
type Page struct {
	Limit       int    `query:"limit" minimum:"0" maximum:"10000" default:"20"`
	Offset      int    `query:"offset" minimum:"0" default:"0"`
	AccessScope string `query:"access_scope" enum:"owned,accessible" default:"owned"`
}

func (p Page) page() metastore.Page { return metastore.Page{Limit: p.Limit, Offset: p.Offset} }

// SessionPath is how REST paths address a session.
type SessionPath struct {
	Session     string `path:"session"`
	AccessScope string `query:"access_scope" enum:"owned,accessible" default:"owned"`
}

func (s *Server) sessionOps(api huma.API) {
	register(api, http.MethodPost, "/create_session", "create-session", "Open a session", s.createSession)
	register(api, http.MethodPost, "/session_heartbeat", "session-heartbeat", "Keep a session alive",
		func(ctx context.Context, in *bodyOf[wire.HeartbeatRequest]) (*reply[wire.Typed], error) {
			if err := s.reg.Heartbeat(ctx, ownerOf(ctx), in.Body.SessionID); err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(wire.Typed{Type: "session_heartbeat"}), nil
		})
	register(api, http.MethodGet, "/sessions", "list-sessions", "List one's sessions, newest first",
		func(ctx context.Context, in *Page) (*reply[tinkex.SessionList], error) {
			list, _, err := s.reg.Sessions(ctx, ownerOf(ctx), in.page())
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			out := tinkex.SessionList{Sessions: []string{}}
			for _, x := range list {
				out.Sessions = append(out.Sessions, x.ID)
			}
			return replyWith(out), nil
		})
	register(api, http.MethodPost, "/sessions/search", "search-sessions", "Find one's sessions, newest first", s.searchSessions)
	register(api, http.MethodGet, "/sessions/{session}", "get-session", "What a session holds",
		func(ctx context.Context, in *SessionPath) (*reply[tinkex.Session], error) {
			sess, err := s.reg.Session(ctx, ownerOf(ctx), in.Session)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			runs, samplers, err := s.reg.SessionContents(ctx, sess.ID)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(tinkex.Session{
				TrainingRunIDs: nonNil(runs), SamplerIDs: nonNil(samplers),
				UserMetadata: stringsOf(sess.UserMetadata), DisplayName: sess.DisplayName,
			}), nil
		})
	register(api, http.MethodPost, "/sessions/{session}/finish", "finish-session", "End a session",
		func(ctx context.Context, in *struct {
			SessionPath
			Body wire.FinishSessionRequest
		}) (*struct{}, error) {
			err := s.reg.FinishSession(ctx, ownerOf(ctx), in.Session, in.Body.Reason.Type, deref(in.Body.Detail))
			return nil, s.fail(ctx, err)
		}, status(http.StatusNoContent))
	register(api, http.MethodPut, "/sessions/{session}/project", "set-session-project", "Move a session into a project",
		func(ctx context.Context, in *struct {
			SessionPath
			Body wire.SetProjectRequest
		}) (*struct{}, error) {
			return nil, s.fail(ctx, s.reg.SetSessionProject(ctx, ownerOf(ctx), in.Session, in.Body.ProjectID))
		}, status(http.StatusNoContent))
	register(api, http.MethodGet, "/sessions/{session}/trace_export", "export-trace", "Where the session's timeline can be fetched as a Perfetto trace", s.exportTrace)
}

func (s *Server) createSession(ctx context.Context, in *bodyOf[wire.CreateSessionRequest]) (*reply[wire.CreateSessionResponse], error) {
	b := in.Body
	id, err := s.reg.CreateSession(ctx, ownerOf(ctx), registry.NewSession{
		Tags: b.Tags, UserMetadata: b.UserMetadata, SDKVersion: b.SDKVersion,
		ProjectID: deref(b.ProjectID), DisplayName: deref(b.DisplayName),
	})
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return replyWith(wire.CreateSessionResponse{Type: "create_session", SessionID: id}), nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func nonNil[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

// stringsOf makes user metadata what answers carry: strings. Other values are
// accepted in requests and shown as JSON.
func stringsOf(m map[string]any) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			continue
		}
		out[k] = string(b)
	}
	return out
}
