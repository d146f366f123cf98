package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// RestClient manages what is stored on the server: checkpoints, training runs,
// sessions. It opens no session and has no background work; it is safe for
// concurrent use.
//
// Answers of a server that knows nothing of an id and of one whose owner is
// someone else are the same: ErrNotFound.
type RestClient struct {
	t     *transport
	owned bool
}

// NewRestClient returns a client of its own. Like NewServiceClient it does no
// I/O. The key is sent as it is; only a server that refuses it is asked
// whether it wants the key exchanged for a token, so that one request is one
// round trip.
func NewRestClient(opts Options) (*RestClient, error) {
	return newRestClient(opts, systemClock())
}

func newRestClient(opts Options, clk clock) (*RestClient, error) {
	t, err := newTransport(opts, clk)
	if err != nil {
		return nil, err
	}
	return &RestClient{t: t, owned: true}, nil
}

// String names the server.
func (c *RestClient) String() string { return fmt.Sprintf("tinkex.RestClient(%s)", c.t.server()) }

// BaseURL is the server's address, as the client was configured with it. It
// carries no credential.
func (c *RestClient) BaseURL() string { return c.t.server() }

// Close closes the connections of a client that NewRestClient returned; later
// requests fail with ErrClosed. A ServiceClient's RestClient is closed with
// the ServiceClient, and this does nothing.
func (c *RestClient) Close() error {
	if !c.owned {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := c.t.close(ctx)
	c.t.closeConnections()
	return err
}

// ServerCapabilities lists the base models on offer.
func (c *RestClient) ServerCapabilities(ctx context.Context) (ServerCapabilities, error) {
	return get[ServerCapabilities](ctx, c.t, "read server capabilities", "/get_server_capabilities", nil)
}

// ListOptions selects a page of a list.
type ListOptions struct {
	// Limit is how many items to return at most. 0: the server's default, 100
	// checkpoints or 20 of anything else.
	Limit int
	// Offset is how many items to skip, of the newest first.
	Offset int
}

func (o ListOptions) query(op string) (url.Values, error) {
	if o.Limit < 0 || o.Offset < 0 {
		return nil, invalid(op, "limit %d or offset %d is negative", o.Limit, o.Offset)
	}
	q := url.Values{}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Offset > 0 {
		q.Set("offset", strconv.Itoa(o.Offset))
	}
	return q, nil
}

// AccessScope is whose things a list or a lookup includes.
type AccessScope string

// The scopes. Empty is ScopeOwned.
const (
	ScopeOwned      AccessScope = "owned"
	ScopeAccessible AccessScope = "accessible" // also what others share with the caller
)

func (s AccessScope) addTo(q url.Values) {
	if s != "" {
		q.Set("access_scope", string(s))
	}
}

func get[T any](ctx context.Context, t *transport, op, path string, query url.Values) (out T, err error) {
	err = t.json(ctx, &call{op: op, method: http.MethodGet, path: path, query: query}, nil, &out)
	return out, err
}

// checkID refuses ids that could not be one segment of a URL's path. Their
// form is otherwise the server's business.
func checkID(what, id string) error {
	if reason := checkSegment(id, what, ":"); reason != "" {
		return invalidPath(id, "%s", reason)
	}
	return nil
}
