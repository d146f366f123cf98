//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/wire"
)

// client sends requests to a server, over connections that it keeps.
type client struct {
	url  string
	pid  int // the server's
	http *http.Client
	w    *world
	next [purposes]atomic.Int64 // the next checkpoint of those that are used once
}

func newClient(srv *harness.Server, w *world, connections int) *client {
	return &client{url: srv.URL, pid: srv.PID, w: w, http: &http.Client{
		Transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections},
		Timeout:   time.Minute,
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// request is a request of an owner's.
type request struct {
	owner        int
	method, path string
	body         string
	want         int // status
}

// send returns the answer's body, and how long it took to get all of it.
func (c *client) send(ctx context.Context, r request) ([]byte, time.Duration, error) {
	var body io.Reader
	if r.body != "" {
		body = bytes.NewReader([]byte(r.body))
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.url+wire.APIPrefix+r.path, body)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set(wire.HeaderAPIKey, c.w.key[r.owner])
	if r.body != "" {
		req.Header.Set("Content-Type", wire.ContentTypeJSON)
	}
	began := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, err
	}
	answer, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode != r.want {
		err = fmt.Errorf("%s %s: %s: %.200s", r.method, r.path, resp.Status, answer)
	}
	return answer, took, err
}

// kindOfRequest is one sort of request, among many sorts.
type kindOfRequest struct {
	name string
	// share of the requests of many clients, in percent.
	share int
	// make chooses what to ask for.
	make func(c *client, random *rand.Rand) request
}

// pageSize is the protocol's default, which the published client asks for
// unless it lists everything; then it asks for walkSize at a time.
const (
	pageSize = 100
	walkSize = 1000
)

// deep is the offset up to which a page's cost is promised.
const deep = 10_000

var requests = []kindOfRequest{
	{"first page of 100", 25, func(c *client, random *rand.Rand) request { return page(c.someOwner(random), pageSize, 0) }},
	{"page of 100 at offset 10,000", 5, func(c *client, random *rand.Rand) request {
		return page(0, pageSize, min(deep, len(c.w.first)/2))
	}},
	{"page of 100 anywhere", 10, func(c *client, random *rand.Rand) request {
		i := c.some(random)
		return page(c.w.ownerOf(i), pageSize, random.IntN(c.w.checkpoints/len(c.w.owners)/4))
	}},
	{"page of 1,000 anywhere", 2, func(c *client, random *rand.Rand) request {
		return page(0, walkSize, random.IntN(max(len(c.w.first)/2, 1)))
	}},
	{"a run's list", 13, func(c *client, random *rand.Rand) request {
		i := c.some(random)
		return request{c.w.ownerOf(i), http.MethodGet, c.runPath(i) + "/checkpoints", "", http.StatusOK}
	}},
	{"a run", 15, func(c *client, random *rand.Rand) request {
		i := c.some(random)
		return request{c.w.ownerOf(i), http.MethodGet, c.runPath(i), "", http.StatusOK}
	}},
	{"weights_info", 15, func(c *client, random *rand.Rand) request {
		i := c.some(random)
		return request{c.w.ownerOf(i), http.MethodPost, "/weights_info", fmt.Sprintf(`{"tinker_path":"tinker://%s/%s/%s"}`,
			c.w.runs[c.w.run[i]].ID, kindOf(i), nameOf(i)), http.StatusOK}
	}},
	{"publish", 10, func(c *client, _ *rand.Rand) request {
		i := c.once(toPublish)
		return request{c.w.ownerOf(i), http.MethodPost, c.checkpointPath(i) + "/publish", "", http.StatusNoContent}
	}},
	{"delete", 5, func(c *client, _ *rand.Rand) request {
		i := c.once(forDelete)
		return request{c.w.ownerOf(i), http.MethodDelete, c.checkpointPath(i), "", http.StatusNoContent}
	}},
}

func page(owner, limit, offset int) request {
	return request{owner, http.MethodGet, fmt.Sprintf("/checkpoints?limit=%d&offset=%d", limit, offset), "", http.StatusOK}
}

func (c *client) runPath(i int) string {
	return "/training_runs/" + url.PathEscape(c.w.runs[c.w.run[i]].ID)
}

func (c *client) checkpointPath(i int) string {
	return fmt.Sprintf("%s/checkpoints/%s/%s", c.runPath(i), kindOf(i), nameOf(i))
}

// some is any checkpoint that stays.
func (c *client) some(random *rand.Rand) int {
	return random.IntN(c.w.checkpoints/purposes)*purposes + random.IntN(ending)
}

// someOwner is any owner, those who have more the more often.
func (c *client) someOwner(random *rand.Rand) int { return c.w.ownerOf(c.some(random)) }

// once is a checkpoint for a purpose that none has served before, all over the
// place.
func (c *client) once(purpose int) int {
	const step = 1_000_003 // prime
	groups := c.w.checkpoints / purposes
	return int(c.next[purpose].Add(1)*step%int64(groups))*purposes + purpose
}

// walk fetches all pages of an owner's list and returns how long each took.
// Items must be told once each, and be as many as the total says.
func (c *client) walk(ctx context.Context, owner, size int) ([]time.Duration, error) {
	var took []time.Duration
	seen := map[string]bool{}
	for offset := 0; ; {
		answer, d, err := c.send(ctx, page(owner, size, offset))
		if err != nil {
			return nil, err
		}
		var list struct {
			Checkpoints []struct {
				TinkerPath string `json:"tinker_path"`
			}
			Cursor struct {
				TotalCount int `json:"total_count"`
			}
		}
		if err := json.Unmarshal(answer, &list); err != nil {
			return nil, err
		}
		for _, k := range list.Checkpoints {
			seen[k.TinkerPath] = true
		}
		offset += len(list.Checkpoints)
		if len(seen) != offset {
			return nil, fmt.Errorf("up to offset %d a walk has met %d checkpoints", offset, len(seen))
		}
		if len(list.Checkpoints) == size {
			took = append(took, d) // whole pages are compared
		}
		if len(list.Checkpoints) < size {
			if total := list.Cursor.TotalCount; total != offset {
				return nil, fmt.Errorf("a walk ends at %d, the total is %d", offset, total)
			}
			return took, nil
		}
	}
}

// percentile is the value that p percent of all do not exceed.
func percentile(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(all))
	return s[min(int(float64(len(s))*p/100), len(s)-1)]
}
