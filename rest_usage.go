package tinkex

import (
	"context"
	"net/http"
)

// Usage tells what the caller's checkpoints take: the visible ones and the
// snapshots that sampling sessions sample from. Whether others have files with
// the same content makes no difference to the answer. It is an extension of
// this project's server; on others it fails with ErrNotFound.
func (c *RestClient) Usage(ctx context.Context, by UsageBy, opts ListOptions) (Usage, error) {
	op := "read usage by " + clean(string(by), 20)
	query, err := opts.query(op)
	if err != nil {
		return Usage{}, err
	}
	query.Set("by", string(by))
	var out Usage
	err = c.t.json(ctx, &call{op: op, method: http.MethodGet, extension: true, path: "/usage", query: query}, nil, &out)
	if err == nil && out.By != by {
		err = &Error{Op: op, Category: CategoryServer, Message: "the server's answer is not the usage that was asked for"}
	}
	if err != nil {
		return Usage{}, err
	}
	return out, nil
}
