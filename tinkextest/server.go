package tinkextest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/seed"
)

// BaseModel is the base model that a Server offers.
const BaseModel = "tinkex/tiny"

// Key is a credential that a Server accepts. Any other that starts with
// "tml-" is accepted as well and is another owner.
const Key = "tml-test"

// TB is what this package needs of a *testing.T, *testing.B or *testing.F. Fatalf
// does not return.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Options configures a Server. The zero value works.
type Options struct {
	// DataDir keeps everything in a directory, so that a later Server can go
	// on from it. Empty keeps everything in memory.
	DataDir string
	// Logger receives the server's log. Nil discards it.
	Logger *slog.Logger
	// Now is the server's clock, for tests of what expires; see Clock. Nil is
	// time.Now.
	Now func() time.Time
	// PollTimeout is how long the server lets a client wait for a result
	// before the client has to ask again. Zero is 35 s.
	PollTimeout time.Duration
	// URLTTL is how long signed URLs are valid. Zero is one hour.
	URLTTL time.Duration
	// SessionTimeout is how long a silent session's models are kept. Zero is
	// one hour.
	SessionTimeout time.Duration
}

// Server is a running server. Its methods may be called from several goroutines,
// those that take a TB as that TB's own methods may.
type Server struct {
	// URL is what clients use as their base URL.
	URL    string
	now    func() time.Time
	stores seed.Stores
	node   *node.Node
	http   *httptest.Server
	faults faults
	made   atomic.Int64 // what seeding has named by itself
	closed atomic.Bool
}

// NewServer starts a server that is stopped when the test ends.
func NewServer(t TB) *Server {
	t.Helper()
	return NewServerWith(t, Options{})
}

// NewServerWith is NewServer with options.
func NewServerWith(t TB, opts Options) *Server {
	t.Helper()
	s, err := Start(opts)
	if err != nil {
		t.Fatalf("tinkextest: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("tinkextest: stop the server: %v", err)
		}
	})
	return s
}

// Start starts a server that runs until Close, for a TestMain whose tests share
// it.
func Start(opts Options) (*Server, error) {
	n, err := node.Open(context.Background(), node.Options{
		Stores: node.Stores{DataDir: opts.DataDir}, Version: tinkex.Version, Logger: opts.Logger, Now: opts.Now,
		PollTimeout: opts.PollTimeout, URLTTL: opts.URLTTL, SessionTimeout: opts.SessionTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	s := &Server{node: n, stores: seed.Stores{Meta: n.Meta, Blobs: n.Blobs}, now: opts.Now}
	if s.now == nil {
		s.now = time.Now
	}
	s.http = httptest.NewServer(s.faults.before(n))
	s.URL = s.http.URL
	return s, nil
}

// Options configures a client of the server with Key.
func (s *Server) Options() tinkex.Options { return s.OptionsFor(Key) }

// OptionsFor configures a client of the server with another key.
func (s *Server) OptionsFor(key string) tinkex.Options {
	return tinkex.Options{BaseURL: s.URL, APIKey: key}
}

// RestClient returns a client with Key that is closed when the test ends.
func (s *Server) RestClient(t TB) *tinkex.RestClient {
	t.Helper()
	return s.RestClientFor(t, Key)
}

// RestClientFor is RestClient with another key.
func (s *Server) RestClientFor(t TB, key string) *tinkex.RestClient {
	t.Helper()
	c, err := tinkex.NewRestClient(s.OptionsFor(key))
	if err != nil {
		t.Fatalf("tinkextest: make a client: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("tinkextest: close a client: %v", err)
		}
	})
	return c
}

// ServiceClient returns a client with Key that is closed when the test ends.
func (s *Server) ServiceClient(t TB) *tinkex.ServiceClient {
	t.Helper()
	return s.ServiceClientFor(t, Key)
}

// ServiceClientFor is ServiceClient with another key.
func (s *Server) ServiceClientFor(t TB, key string) *tinkex.ServiceClient {
	t.Helper()
	c, err := tinkex.NewServiceClient(s.OptionsFor(key))
	if err != nil {
		t.Fatalf("tinkextest: make a client: %v", err)
	}
	t.Cleanup(func() {
		// A server that the test closed before cannot be told that the session
		// ended, and one whose clock went on takes the session's token for
		// expired. Neither is a failure.
		if err := c.Close(); err != nil && !s.closed.Load() && !errors.Is(err, tinkex.ErrUnauthorized) {
			t.Errorf("tinkextest: close a client: %v", err)
		}
	})
	return c
}

// Close stops the server before the test ends. It may be called more than
// once.
func (s *Server) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.node.Drain()
	s.http.Close()
	return s.node.Close(context.Background())
}
