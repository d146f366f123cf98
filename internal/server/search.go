package server

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

func (s *Server) searchSessions(ctx context.Context, in *bodyOf[wire.SearchSessionsRequest]) (*reply[wire.SearchSessionsResponse], error) {
	b, owner := in.Body, ownerOf(ctx)
	out := wire.SearchSessionsResponse{Sessions: []wire.SessionSummary{}}
	if o := b.Owner; o != nil && o.Type == "user" {
		if len(o.OwnerURNs) == 0 {
			return nil, failure(http.StatusBadRequest, "owner.owner_urns: expected 1 to 10 owners")
		}
		// One sees one's own sessions only, however they are asked for.
		if !slices.Contains(o.OwnerURNs, owner) {
			return replyWith(out), nil
		}
	}
	q := registry.SessionQuery{ID: b.SessionID, Within: b.ProjectIDs, Metadata: b.UserMetadata, Limit: b.Limit}
	if b.DisplayName != "" {
		q.Words = strings.Fields(b.DisplayName)
	}
	if b.Statuses != nil {
		q.State = statusQuery(b.Statuses)
	}
	if c := b.Cursor; c != nil {
		q.After = &metastore.SessionPlace{CreatedAt: c.LastCreatedAt, ID: c.LastSessionID}
	}
	found, next, err := s.reg.SearchSessions(ctx, owner, q)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	for _, f := range found {
		out.Sessions = append(out.Sessions, summaryOf(f))
	}
	if next != nil {
		out.NextCursor = &wire.SessionCursor{LastCreatedAt: next.CreatedAt.UTC(), LastSessionID: next.ID}
	}
	return replyWith(out), nil
}

// statusQuery matches any of the statuses. Sessions here are neither cancelled
// nor failed by the server.
func statusQuery(wanted []wire.StatusQuery) func(registry.SessionState, string) bool {
	return func(state registry.SessionState, reason string) bool {
		return slices.ContainsFunc(wanted, func(q wire.StatusQuery) bool {
			switch q.Type {
			case wire.StatusActive:
				return state == registry.SessionActive
			case wire.StatusClientFinished:
				return state == registry.SessionFinished && (q.Reasons == nil || slices.Contains(q.Reasons, reason))
			}
			return false
		})
	}
}

func summaryOf(f registry.FoundSession) wire.SessionSummary {
	out := wire.SessionSummary{
		SessionID: f.ID, CreatedAt: f.CreatedAt.UTC(), Owner: f.Owner, ProjectID: f.ProjectID,
		CheckpointsCount: f.Usage.Checkpoints, CheckpointStorageBytes: f.Usage.Bytes,
		UserMetadata: stringsOf(f.UserMetadata),
	}
	if f.DisplayName != "" {
		out.DisplayName = &f.DisplayName
	}
	switch f.State {
	case registry.SessionActive:
		out.Status = &wire.SessionStatus{Type: wire.StatusActive}
	case registry.SessionFinished:
		out.Status = &wire.SessionStatus{Type: wire.StatusClientFinished, Reason: &wire.FinishReason{Type: f.FinishReason}}
		if f.FinishDetail != "" {
			out.Status.Detail = &f.FinishDetail
		}
	}
	return out
}
