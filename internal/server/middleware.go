package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// caller is what is known of a request's sender.
type caller struct {
	owner       string
	requestID   string
	host        string
	scheme      string
	officialSDK bool
	accept      string
	// elsewhere is set once it is known that another server must answer.
	elsewhere *registry.Elsewhere
}

func (c *caller) passOn() bool { return c.elsewhere != nil }

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}

func ownerOf(ctx context.Context) string       { return callerOf(ctx).owner }
func requestIDOf(ctx context.Context) string   { return callerOf(ctx).requestID }
func fromOfficialSDK(ctx context.Context) bool { return callerOf(ctx).officialSDK }

// openPaths are those below the prefixes that need no credential: a path that
// ends in a slash stands for all below it. Signed URLs carry their own
// permission.
var openPaths = []string{
	wire.APIPrefix + "/healthz",
	wire.ExtensionPrefix + "/archives/",
	wire.ExtensionPrefix + "/files/",
	wire.ExtensionPrefix + "/traces/",
}

// needsCredential reports whether a path may be used by an authenticated
// caller only: everything of the protocol and its extensions that is not
// listed otherwise.
func needsCredential(path string) bool {
	if !strings.HasPrefix(path, wire.APIPrefix+"/") && !strings.HasPrefix(path, wire.ExtensionPrefix+"/") {
		return false
	}
	return !slices.ContainsFunc(openPaths, func(open string) bool {
		return path == open || strings.HasSuffix(open, "/") && strings.HasPrefix(path, open)
	})
}

// middleware is what every request goes through: an id, authentication where
// it is needed, decompression, one log line, and a panic's containment.
func (s *Server) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &caller{
			requestID:   requestID(r.Header.Get(wire.HeaderRequestID)),
			host:        r.Host,
			scheme:      "http",
			officialSDK: r.Header.Get(wire.HeaderOfficialSDK) != "",
			accept:      r.Header.Get("Accept"),
		}
		if r.TLS != nil {
			c.scheme = "https"
		}
		from := r.Header.Get(headerForwarded)
		w.Header().Set(wire.HeaderRequestID, c.requestID)
		rec := &statusRecorder{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler { //nolint:errorlint // a panic value
				s.logRequest(r, c, rec, time.Since(began), true)
				panic(p)
			}
			broken := false
			if p != nil {
				s.log.ErrorContext(r.Context(), "panic", "request_id", c.requestID, "panic", p, "stack", string(debug.Stack()))
				if broken = rec.status != 0; !broken {
					writeError(rec, http.StatusInternalServerError, "internal error; the server's log has it under request id "+c.requestID)
				}
			}
			s.logRequest(r, c, rec, time.Since(began), p != nil)
			if broken {
				// What was sent must not look like the whole answer.
				panic(http.ErrAbortHandler)
			}
		}()

		if from != "" && !s.reg.IsServer(from) {
			misdirected(rec)
			return
		}
		if needsCredential(r.URL.Path) {
			owner, err := s.auth.authenticate(r.Context(), r.Header)
			if err != nil {
				s.refuse(rec, r, err)
				return
			}
			c.owner = owner
		}
		if r.Header.Get("Content-Encoding") == "zstd" {
			body, err := decompress(r.Body)
			if errors.Is(err, errBodyTooLarge) {
				writeError(rec, http.StatusRequestEntityTooLarge, err.Error())
				return
			}
			if err != nil {
				writeError(rec, http.StatusBadRequest, "body: not zstd: "+err.Error())
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.ContentLength = int64(len(body))
			r.Header.Del("Content-Encoding")
		}
		if from == "" && s.reg.Shared() && mayBeElsewhere(r) {
			s.serveOrForward(rec, r, c, next)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

var errBodyTooLarge = fmt.Errorf("body: decompressed it exceeds %d bytes", maxTrainingBody)

// decompress reads a zstd body, up to the largest that any operation takes.
func decompress(r io.Reader) ([]byte, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	body, err := io.ReadAll(io.LimitReader(d, maxTrainingBody+1))
	if err == nil && len(body) > maxTrainingBody {
		err = errBodyTooLarge
	}
	return body, err
}

// refuse answers a request that was not authenticated.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var denied *authError
	if !errors.As(err, &denied) {
		status, detail := s.describe(r.Context(), err)
		writeError(w, status, detail)
		return
	}
	// RFC 6750; the official client renews its JWT on invalid_token.
	challenge := "Bearer"
	if denied.invalidToken {
		challenge += ` error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	writeError(w, http.StatusUnauthorized, denied.reason)
}

// quiet routes are asked for again and again by machines.
var quiet = []string{"/healthz", "/readyz", wire.APIPrefix + "/healthz", wire.APIPrefix + "/session_heartbeat"}

// logRequest writes the one line that every request has. It names the route
// and the path, never the query, and stands for the owner by a hash.
func (s *Server) logRequest(r *http.Request, c *caller, rec *statusRecorder, took time.Duration, broken bool) {
	level := slog.LevelInfo
	if slices.Contains(quiet, r.URL.Path) {
		level = slog.LevelDebug
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	status := rec.status
	if status == 0 && !broken {
		status = http.StatusOK
	}
	attrs := []slog.Attr{
		slog.String("request_id", c.requestID), slog.String("method", r.Method), slog.String("route", s.Route(r)),
		slog.String("path", r.URL.Path), slog.Int("status", status), slog.Float64("duration_ms", float64(took.Microseconds())/1000), slog.Int64("bytes", rec.bytes),
	}
	if c.owner != "" {
		attrs = append(attrs, slog.String("owner", registry.OwnerInLog(c.owner)))
	}
	if broken {
		attrs = append(attrs, slog.Bool("broken_off", true))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// maxRequestID bounds the ids that are taken over from a request.
const maxRequestID = 128

// requestID takes over the id that a client or a proxy gave a request, if it
// is one: of letters, digits, dots, hyphens and underscores, and no credential
// that came into the wrong header.
func requestID(given string) string {
	if given == "" || len(given) > maxRequestID || strings.HasPrefix(given, keyPrefix) || strings.HasPrefix(given, jwtPrefix) {
		return newRequestID()
	}
	for _, c := range []byte(given) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return newRequestID()
		}
	}
	return given
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// statusRecorder remembers status and size for the log and keeps the way to
// the connection open: ReadFrom lets local files go out by sendfile.
type statusRecorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *statusRecorder) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusRecorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *statusRecorder) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
