// Package tinkextest gives tests a real Tinkex server, as net/http/httptest
// gives them an HTTP one: embedded, on a free port of the loopback interface,
// with the built-in tiny model, gone when the test ends.
package tinkextest

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/node"
)

// BaseModel is the base model that a Server offers.
const BaseModel = "tinkex/tiny"

// Key is a credential that a Server accepts. Any other that starts with
// "tml-" is accepted as well and is another owner.
const Key = "tml-test"

// Options configures a Server. The zero value works.
type Options struct {
	// DataDir keeps everything in a directory, so that a later Server can go
	// on from it. Empty keeps everything in memory.
	DataDir string
	// Logger receives the server's log. Nil discards it.
	Logger *slog.Logger
	// Now is the server's clock, for tests of what expires. Nil is time.Now.
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

// Server is a running server.
type Server struct {
	// URL is what clients use as their base URL.
	URL  string
	node *node.Node
	http *httptest.Server
}

// NewServer starts a server that is stopped when the test ends.
func NewServer(t testing.TB) *Server { return NewServerWith(t, Options{}) }

// NewServerWith is NewServer with options.
func NewServerWith(t testing.TB, opts Options) *Server {
	t.Helper()
	n, err := node.Open(context.Background(), node.Options{
		Stores: node.Stores{DataDir: opts.DataDir}, Version: tinkex.Version, Logger: opts.Logger, Now: opts.Now,
		PollTimeout: opts.PollTimeout, URLTTL: opts.URLTTL, SessionTimeout: opts.SessionTimeout,
	})
	if err != nil {
		t.Fatalf("tinkextest: start a server: %v", err)
	}
	s := &Server{node: n, http: httptest.NewServer(n)}
	s.URL = s.http.URL
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("tinkextest: stop the server: %v", err)
		}
	})
	return s
}

// Options configures a client of the server with Key.
func (s *Server) Options() tinkex.Options { return tinkex.Options{BaseURL: s.URL, APIKey: Key} }

// Close stops the server before the test ends. It may be called more than
// once.
func (s *Server) Close() error {
	if s.node == nil {
		return nil
	}
	n := s.node
	s.node = nil
	n.Drain()
	s.http.Close()
	return n.Close(context.Background())
}
