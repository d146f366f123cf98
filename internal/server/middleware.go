package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
			requestID:   newRequestID(),
			host:        r.Host,
			scheme:      "http",
			officialSDK: r.Header.Get(wire.HeaderOfficialSDK) != "",
			accept:      r.Header.Get("Accept"),
		}
		if r.TLS != nil {
			c.scheme = "https"
		}
		from := r.Header.Get(headerForwarded)
		if from != "" {
			if id := r.Header.Get(wire.HeaderRequestID); requestIDs.MatchString(id) {
				c.requestID = id
			}
		}
		w.Header().Set(wire.HeaderRequestID, c.requestID)
		rec := &statusRecorder{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler { //nolint:errorlint // a panic value
				panic(p)
			}
			broken := false
			if p != nil {
				s.log.Error("panic", "request_id", c.requestID, "panic", p, "stack", string(debug.Stack()))
				if broken = rec.status != 0; !broken {
					writeError(rec, http.StatusInternalServerError, "internal error; the server's log has it under request id "+c.requestID)
				}
			}
			s.log.Debug("request", "request_id", c.requestID, "method", r.Method, "path", r.URL.Path,
				"status", rec.status, "owner", c.owner, "duration", time.Since(began))
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

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// statusRecorder remembers the status for the log and keeps the way to the
// connection open: ReadFrom lets local files go out by sendfile.
type statusRecorder struct {
	http.ResponseWriter
	status int
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
	return w.ResponseWriter.Write(p)
}

func (w *statusRecorder) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return io.Copy(w.ResponseWriter, src)
}

func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
