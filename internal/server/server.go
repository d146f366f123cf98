// Package server speaks the Tinker protocol over HTTP: it decodes, authorises,
// calls package registry and encodes. It holds no state of its own.
//
// The paths under /api/v1 are the protocol's, as the published tinker Python
// package (0.38.0) calls them. What this project adds lives under /tinkex/v1.
package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// Options configures a Server. Registry and Meta are required.
type Options struct {
	Registry *registry.Registry
	Meta     metastore.Store // keys and secrets

	// PublicURL is how clients reach the server, for the URLs it hands out.
	// Empty takes it from each request's Host header.
	PublicURL string
	// Version is reported by /openapi.json.
	Version string
	// Logger receives one line per request, and failures. The line is at info
	// level, or at debug level if a machine asks again and again: heartbeats
	// and health. Nil discards them.
	Logger *slog.Logger
	// Health is asked by /readyz. Nil asks the registry for its stores.
	Health *health.Checker
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
	// PollTimeout is how long retrieve_future waits for a result before it
	// asks the client to come again. Zero is 35 s, within the official
	// client's 45.
	PollTimeout time.Duration
	// URLTTL is how long a signed URL is valid. Zero is one hour.
	URLTTL time.Duration
}

// Server is the protocol as an http.Handler.
type Server struct {
	reg       *registry.Registry
	auth      *authenticator
	sign      *signer
	log       *slog.Logger
	now       func() time.Time
	poll      time.Duration
	urlTTL    time.Duration
	publicURL string
	health    *health.Checker
	mux       *http.ServeMux
	handler   http.Handler
	transport http.RoundTripper // to other servers
	peers     *httputil.ReverseProxy
	patience  time.Duration // partPatience, except in tests
	draining  chan struct{}
}

// New builds the handler.
func New(ctx context.Context, opts Options) (*Server, error) {
	s := &Server{
		reg: opts.Registry, log: opts.Logger, now: opts.Now,
		poll: opts.PollTimeout, urlTTL: opts.URLTTL, publicURL: opts.PublicURL,
		health: opts.Health, patience: partPatience, draining: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.health == nil {
		s.health = health.New([]health.Check{{Name: "stores", Run: s.reg.Check}}, health.Options{Logger: s.log})
	}
	if s.poll == 0 {
		s.poll = 35 * time.Second
	}
	if s.urlTTL == 0 {
		s.urlTTL = time.Hour
	}
	var err error
	if s.auth, err = newAuthenticator(ctx, opts.Meta, s.now); err != nil {
		return nil, err
	}
	if s.sign, err = newSigner(ctx, opts.Meta, s.now); err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	s.mux = mux
	cfg := huma.DefaultConfig("Tinkex", opts.Version)
	cfg.Info.Description = "The Tinker wire protocol, served by Tinkex."
	cfg.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	cfg.AllowAdditionalPropertiesByDefault = true // newer clients send more
	cfg.Formats = map[string]huma.Format{wire.ContentTypeJSON: jsonFormat, "json": jsonFormat}
	cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", nil
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key": {Type: "apiKey", In: "header", Name: wire.HeaderAPIKey, Description: "An API key (tml-...) or a JWT"},
	}
	cfg.Security = []map[string][]string{{"key": {}}}
	// Stop conditions come in three forms, which their own decoder tells apart.
	cfg.Components.Schemas.RegisterTypeAlias(typeOf[wire.Stop](), typeOf[any]())
	api := humago.New(mux, cfg)
	s.healthOps(api)
	s.configOps(api)
	s.authOps(api)
	s.sessionOps(api)
	s.trainingOps(api)
	s.weightsOps(api)
	s.samplingOps(api)
	s.futureOps(api)
	s.runOps(api)
	s.checkpointOps(api)
	s.blobOps(api)
	s.importOps(api)
	s.usageOps(api)
	s.retentionOps(api)
	s.downloadRoutes(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, "no such endpoint: "+r.Method+" "+r.URL.Path)
	})
	s.transport = newPeerTransport()
	s.peers = newPeers(s.log, s.transport, s.reg.RetrySilent())
	s.handler = s.middleware(mux)
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Route returns the pattern that a request's path matches, without its method,
// or "" if there is none.
func (s *Server) Route(r *http.Request) string {
	pattern := r.Pattern
	if pattern == "" {
		_, pattern = s.mux.Handler(r)
	}
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	if pattern == "/" {
		return ""
	}
	return pattern
}

// Drain ends the waits of retrieve_future, now and from now on, so that a
// server that is to stop need not outwait them. It is called once.
func (s *Server) Drain() { close(s.draining) }

// writeError answers outside of huma as huma's errors are answered. What is
// unavailable may be asked for again in a second, if nothing else was said.
func writeError(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", wire.ContentTypeJSON)
	if status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", retryAfter(0))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(wire.ErrorBody{Detail: detail})
}
