package tinkex

import (
	"context"
	"iter"
	"net/url"
)

// ListSessions returns a page of the caller's session ids, newest first.
func (c *RestClient) ListSessions(ctx context.Context, opts ListOptions) (SessionList, error) {
	const op = "list sessions"
	query, err := opts.query(op)
	if err != nil {
		return SessionList{}, err
	}
	return get[SessionList](ctx, c.t, op, "/sessions", query)
}

// AllSessions iterates over the caller's session ids, newest first, page by
// page.
func (c *RestClient) AllSessions(ctx context.Context, opts PageOptions) iter.Seq2[string, error] {
	return pages(ctx, "list sessions", opts, func(id string) string { return id },
		func(ctx context.Context, limit, offset int) (page[string], error) {
			list, err := c.ListSessions(ctx, ListOptions{Limit: limit, Offset: offset})
			if err != nil {
				return page[string]{}, err
			}
			return page[string]{items: list.Sessions, total: -1}, nil
		})
}

// GetSession returns what a session of the caller's created.
func (c *RestClient) GetSession(ctx context.Context, sessionID string) (Session, error) {
	op := "get session " + clean(sessionID, 200)
	if err := checkID("session id", sessionID); err != nil {
		return Session{}, withOp(op, err)
	}
	return get[Session](ctx, c.t, op, "/sessions/"+url.PathEscape(sessionID), nil)
}

// GetSampler returns what a sampling session of the caller's samples from.
func (c *RestClient) GetSampler(ctx context.Context, samplerID string) (SamplerInfo, error) {
	op := "get sampler " + clean(samplerID, 200)
	if err := checkID("sampler id", samplerID); err != nil {
		return SamplerInfo{}, withOp(op, err)
	}
	return get[SamplerInfo](ctx, c.t, op, "/samplers/"+url.PathEscape(samplerID), nil)
}
