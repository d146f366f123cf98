package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// archiveTries and archiveWait are the official client's patience with a
// server that builds archives (tinker 0.30.4, resources/weights.py).
const (
	archiveTries = 6
	archiveWait  = 30 * time.Second
)

// ArchiveURL returns where a checkpoint's files can be fetched as one tar,
// without credentials, for a while. A server that has to build the archive
// first is asked again every 30 seconds, up to six times; the context bounds
// the wait.
func (c *RestClient) ArchiveURL(ctx context.Context, path TinkerPath) (ArchiveURL, error) {
	op := "get archive URL of " + path.String()
	if err := path.Validate(); err != nil {
		return ArchiveURL{}, withOp(op, err)
	}
	for try := 1; ; try++ {
		r, err := c.t.do(ctx, &call{
			op: op, method: http.MethodGet, path: checkpointURL(path) + "/archive", accept: wire.ContentTypeJSON,
			noRedirect: true, final: []int{http.StatusServiceUnavailable},
		})
		if err == nil {
			return c.t.archiveURL(op, r)
		}
		if r == nil || r.status != http.StatusServiceUnavailable || r.header.Get(wire.HeaderShouldRetry) == "false" || try == archiveTries {
			return ArchiveURL{}, err
		}
		wait := archiveWait
		if after := parseRetryAfter(r.header, c.t.clock.now()); after > 0 {
			wait = min(after, maxRetryAfter)
		}
		c.t.log.InfoContext(ctx, "the server is building the archive", "path", path, "asking_again_in", wait)
		if c.t.clock.sleep(ctx, wait) != nil {
			return ArchiveURL{}, interrupted(ctx, op)
		}
	}
}

// ArchiveURLByID is ArchiveURL for ids as ResolveCheckpoint takes them.
func (c *RestClient) ArchiveURLByID(ctx context.Context, runID, checkpointID string) (ArchiveURL, error) {
	path, err := c.ResolveCheckpoint(ctx, runID, checkpointID)
	if err != nil {
		return ArchiveURL{}, err
	}
	return c.ArchiveURL(ctx, path)
}

// archiveURL reads both forms of the answer: a redirect, or the URL as JSON.
func (t *transport) archiveURL(op string, r *reply) (ArchiveURL, error) {
	var out ArchiveURL
	if r.status >= 300 {
		out.URL = r.header.Get("Location")
		if expires, err := http.ParseTime(r.header.Get("Expires")); err == nil {
			out.Expires = expires
		}
	} else {
		body, err := decodeJSON[struct {
			URL     string   `json:"url"`
			Expires jsonTime `json:"expires"`
		}](r.body)
		if err != nil {
			return ArchiveURL{}, t.unreadable(op, r, err)
		}
		out = ArchiveURL{URL: body.URL, Expires: body.Expires.Time}
	}
	target, err := t.resolve(out.URL)
	if err != nil {
		return ArchiveURL{}, &Error{Op: op, Category: CategoryServer, Message: fmt.Sprintf("the server answered %d with no URL to fetch the archive from", r.status)}
	}
	out.URL = target
	return out, nil
}
