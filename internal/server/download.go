package server

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// Signed URLs. The checkpoint in them is addressed by its path and pinned to
// its content, so that a URL never serves other bytes than those it was made
// for, even if the checkpoint is overwritten meanwhile.
const (
	archiveRoute = "/tinkex/v1/archives/{run}/{kind}/{name}/{digest}"
	fileRoute    = "/tinkex/v1/files/{run}/{kind}/{name}/{digest}/{file}"
	traceRoute   = "/tinkex/v1/traces/{session}"
)

func (s *Server) downloadRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+archiveRoute, s.signed(s.serveArchive))
	mux.HandleFunc("GET "+fileRoute, s.signed(s.serveFile))
	mux.HandleFunc("GET "+traceRoute, s.signed(s.serveTrace))
}

// signedURL makes an absolute URL of an escaped path.
func (s *Server) signedURL(ctx context.Context, path string, expires time.Time) string {
	base := s.publicURL
	if base == "" {
		c := callerOf(ctx)
		base = c.scheme + "://" + c.host
	}
	return strings.TrimRight(base, "/") + path + "?" + s.sign.query(path, expires)
}

// fill puts values into a route's placeholders, in order.
func fill(route string, values ...string) string {
	parts := strings.Split(route, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i], values = url.PathEscape(values[0]), values[1:]
		}
	}
	return strings.Join(parts, "/")
}

func (s *Server) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := s.sign.verify(r.URL.EscapedPath(), r.URL.Query()); err != nil {
			writeError(w, http.StatusForbidden, err.Error())
			return
		}
		next(w, r)
	}
}

type redirect struct {
	Location string `header:"Location"`
	Expires  string `header:"Expires"`
	Body     wire.ArchiveURL
}

// archiveURL answers at once whatever the checkpoint's size: nothing is built.
// Clients that follow the redirect get the tar, those that read the body get
// the URL.
func (s *Server) archiveURL(ctx context.Context, in *CheckpointPath) (*redirect, error) {
	c, err := s.readable(ctx, in)
	if err != nil {
		return nil, err
	}
	ref := registry.Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}
	expires := s.urlExpiry(c)
	path := fill(archiveRoute, ref.RunID, string(ref.Kind), ref.Name, registry.ManifestDigest(c.Files))
	u := s.signedURL(ctx, path, expires)
	return &redirect{Location: u, Expires: expires.Format(http.TimeFormat), Body: wire.ArchiveURL{URL: u, Expires: expires}}, nil
}

func (s *Server) externalWeightsURLs(ctx context.Context, in *CheckpointPath) (*reply[wire.ExternalWeightsURLs], error) {
	c, err := s.readable(ctx, in)
	if err != nil {
		return nil, err
	}
	if c.Kind != metastore.KindExternal {
		return nil, failure(http.StatusBadRequest, "only external checkpoints have file URLs; save one with save_weights_external")
	}
	expires := s.urlExpiry(c)
	urls := map[string]string{}
	for _, f := range c.Files {
		urls[f.Name] = s.fileURL(ctx, c, f, expires)
	}
	return replyWith(wire.ExternalWeightsURLs{URLs: urls, Expires: expires}), nil
}

// manifest tells a checkpoint's files, and where each can be fetched by itself.
func (s *Server) manifest(ctx context.Context, in *CheckpointPath) (*reply[wire.Manifest], error) {
	c, err := s.readable(ctx, in)
	if err != nil {
		return nil, err
	}
	m := wire.Manifest{
		TinkerPath: registry.Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}.String(),
		Digest:     registry.ManifestDigest(c.Files), SizeBytes: c.SizeBytes,
		Expires: s.urlExpiry(c), Files: make([]wire.ManifestFile, len(c.Files)),
	}
	for i, f := range c.Files {
		m.Files[i] = wire.ManifestFile{Name: f.Name, SizeBytes: f.Size, SHA256: f.Digest.String(), URL: s.fileURL(ctx, c, f, m.Expires)}
	}
	return replyWith(m), nil
}

func (s *Server) fileURL(ctx context.Context, c metastore.Checkpoint, f metastore.File, expires time.Time) string {
	return s.signedURL(ctx, fill(fileRoute, c.RunID, string(c.Kind), c.Name, f.Digest.String(), f.Name), expires)
}

func (s *Server) readable(ctx context.Context, in *CheckpointPath) (metastore.Checkpoint, error) {
	ref, err := in.ref()
	if err != nil {
		return metastore.Checkpoint{}, err
	}
	c, err := s.reg.Readable(ctx, ownerOf(ctx), ref)
	return c, s.fail(ctx, err)
}

// urlExpiry is when a URL for a checkpoint ends: never after the checkpoint.
func (s *Server) urlExpiry(c metastore.Checkpoint) time.Time {
	at := s.now().Add(s.urlTTL).UTC().Truncate(time.Second)
	if c.ExpiresAt != nil && c.ExpiresAt.Before(at) {
		at = c.ExpiresAt.UTC().Truncate(time.Second)
	}
	return at
}

// pinned finds the checkpoint of a signed URL.
func (s *Server) pinned(w http.ResponseWriter, r *http.Request) (metastore.Checkpoint, bool) {
	ref := registry.Ref{RunID: r.PathValue("run"), Kind: metastore.Kind(r.PathValue("kind")), Name: r.PathValue("name")}
	c, err := s.reg.Any(r.Context(), ref)
	if err != nil {
		status, detail := s.describe(r.Context(), err)
		writeError(w, status, detail)
		return c, false
	}
	return c, true
}

func (s *Server) serveArchive(w http.ResponseWriter, r *http.Request) {
	c, ok := s.pinned(w, r)
	if !ok {
		return
	}
	if registry.ManifestDigest(c.Files) != r.PathValue("digest") {
		writeError(w, http.StatusGone, "the checkpoint was overwritten since this URL was made; ask for a new one")
		return
	}
	entries := make([]archive.Entry, len(c.Files))
	for i, f := range c.Files {
		entries[i] = s.entry(f, c.CreatedAt)
	}
	tar, err := archive.NewTar(entries)
	if err != nil {
		status, detail := s.describe(r.Context(), err)
		writeError(w, status, detail)
		return
	}
	s.endTransfer(r, archive.Serve(w, r, tar, "", c.CreatedAt, c.Name+".tar"))
}

func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	c, ok := s.pinned(w, r)
	if !ok {
		return
	}
	for _, f := range c.Files {
		if f.Name == r.PathValue("file") && f.Digest.String() == r.PathValue("digest") {
			w.Header().Set("Content-Type", "application/octet-stream")
			s.endTransfer(r, archive.Serve(w, r, archive.NewFile(s.entry(f, c.CreatedAt)), "", c.CreatedAt, ""))
			return
		}
	}
	writeError(w, http.StatusGone, "the checkpoint was overwritten since this URL was made; ask for a new one")
}

// entry is a file of a checkpoint as what is served.
func (s *Server) entry(f metastore.File, modTime time.Time) archive.Entry {
	return archive.Entry{
		Name: f.Name, Size: f.Size, ModTime: modTime, Digest: f.Digest.String(),
		Open: func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
			return s.reg.OpenFile(ctx, f, offset, length)
		},
	}
}

// endTransfer breaks the connection of an answer that cannot be finished, so
// that the client does not take what it got for the whole.
func (s *Server) endTransfer(r *http.Request, err error) {
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		s.log.WarnContext(r.Context(), "a download broke off", "request_id", requestIDOf(r.Context()), "path", r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}
