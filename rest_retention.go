package tinkex

import (
	"context"
	"net/http"

	"github.com/tinkex/tinkex/internal/wire"
)

// Retention policies on a server are an extension of this project's server. On
// others the methods of this file fail with ErrNotFound.

// Retention returns the caller's retention policy. There being none is
// ErrNotFound.
func (c *RestClient) Retention(ctx context.Context) (Retention, error) {
	return c.retention(ctx, &call{op: "read the retention policy", method: http.MethodGet}, nil)
}

// SetRetention makes a policy the caller's, in the place of another. The server
// applies it soon, and from then on periodically. One that would delete all there
// is now is ErrConflict unless it says All.
func (c *RestClient) SetRetention(ctx context.Context, policy RetentionPolicy) (Retention, error) {
	const op = "set the retention policy"
	w, err := policy.wire(op)
	if err != nil {
		return Retention{}, err
	}
	return c.retention(ctx, &call{op: op, method: http.MethodPut}, w)
}

// UnsetRetention removes the caller's policy: once it has returned, nothing is
// deleted because of it any more. There being none is ErrNotFound.
func (c *RestClient) UnsetRetention(ctx context.Context) error {
	return c.t.json(ctx, &call{op: "remove the retention policy", method: http.MethodDelete, extension: true, path: "/retention"}, nil, nil)
}

// PreviewRetention tells what a policy would do now, or with nil what the
// caller's would, and does nothing.
func (c *RestClient) PreviewRetention(ctx context.Context, policy *RetentionPolicy) (RetentionPlan, error) {
	const op = "preview a retention policy"
	var req wire.RetentionPreviewRequest
	if policy != nil {
		w, err := policy.wire(op)
		if err != nil {
			return RetentionPlan{}, err
		}
		req.Policy = &w
	}
	var out RetentionPlan
	err := c.t.json(ctx, &call{op: op, method: http.MethodPost, extension: true, path: "/retention/preview"}, req, &out)
	return out, err
}

func (c *RestClient) retention(ctx context.Context, call *call, in any) (Retention, error) {
	call.extension, call.path = true, "/retention"
	var w wire.Retention
	if err := c.t.json(ctx, call, in, &w); err != nil {
		return Retention{}, err
	}
	p, err := policyOf(w.Policy)
	if err != nil {
		return Retention{}, &Error{Op: call.op, Category: CategoryServer, Message: "the server's answer is no policy: " + err.Error(), Err: err}
	}
	return Retention{Policy: p, SetAt: w.SetAt, AppliedAt: w.AppliedAt, Removed: w.Removed, Refused: w.Refused}, nil
}
