package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// Servers that share their stores pass requests for a live model, and for the
// results of what was asked of one, on to the server that holds it, as they
// came: the other one authenticates the caller itself. A request is passed on
// once.

// headerForwarded names the server that a request was passed on to. Whoever
// sends it gains nothing: all it does is to have a request answered here.
const headerForwarded = "X-Tinkex-Forwarded-To"

// mayBeElsewhere reports whether a request can be about a model: the operations
// of the protocol that take one, or a result's id, in a body of limited size.
func mayBeElsewhere(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, wire.APIPrefix+"/")
}

// serveOrForward has this server answer, unless it finds that another one must.
func (s *Server) serveOrForward(w *statusRecorder, r *http.Request, c *caller, next http.Handler) {
	var body bytes.Buffer
	in := r.Body
	r.Body = teeBody{io.TeeReader(in, &body), in}
	held := &heldAnswer{ResponseWriter: w, caller: c}
	next.ServeHTTP(held, r)
	if !c.passOn() {
		return
	}
	for name := range w.Header() {
		if name != http.CanonicalHeaderKey(wire.HeaderRequestID) {
			w.Header().Del(name)
		}
	}
	r.Body = io.NopCloser(&body)
	r.ContentLength = int64(body.Len())
	s.peers.ServeHTTP(w, r)
}

type teeBody struct {
	io.Reader
	io.Closer
}

// heldAnswer drops what is answered once another server is to answer.
type heldAnswer struct {
	http.ResponseWriter
	caller *caller
}

func (h *heldAnswer) WriteHeader(status int) {
	if !h.caller.passOn() {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *heldAnswer) Write(p []byte) (int, error) {
	if h.caller.passOn() {
		return len(p), nil
	}
	return h.ResponseWriter.Write(p)
}

func (h *heldAnswer) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// newPeers makes the way to the other servers, for requests that are passed on.
// Who asked for what a silent one holds is told to do so again after a while.
func newPeers(log *slog.Logger, transport http.RoundTripper, again time.Duration) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			c := callerOf(r.In.Context())
			u, err := url.Parse(c.elsewhere.URL)
			if err != nil {
				u = &url.URL{Scheme: "http"} // fails, and says so
			}
			r.SetURL(u)
			r.Out.Host = r.In.Host // for the URLs that are handed out
			r.Out.Header.Set(headerForwarded, c.elsewhere.Server)
			r.Out.Header.Set(wire.HeaderRequestID, c.requestID)
		},
		Transport: transport,
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(wire.HeaderRequestID) // ours, and set
			if resp.StatusCode == http.StatusMisdirectedRequest {
				return errMisdirected
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			c := callerOf(r.Context())
			if errors.Is(err, context.Canceled) {
				err = context.Cause(r.Context())
			}
			log.WarnContext(r.Context(), "another server did not answer", "request_id", c.requestID, "server", c.elsewhere.Server, "url", c.elsewhere.URL, "error", err)
			w.Header().Set("Retry-After", retryAfter(again))
			writeError(w, http.StatusServiceUnavailable, "the server that holds this model does not answer; ask again in a moment")
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// newPeerTransport makes the connections to the other servers.
func newPeerTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}
}

var errMisdirected = errors.New("another server than expected answers there: are the URLs right that servers are told to advertise?")

func misdirected(w http.ResponseWriter) {
	writeError(w, http.StatusMisdirectedRequest, "this is not the server that the request was passed on to")
}
