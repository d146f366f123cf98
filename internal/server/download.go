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
		path := fill(fileRoute, c.RunID, string(c.Kind), c.Name, f.Digest.String(), f.Name)
		urls[f.Name] = s.signedURL(ctx, path, expires)
	}
	return replyWith(wire.ExternalWeightsURLs{URLs: urls, Expires: expires}), nil
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
		entries[i] = archive.Entry{
			Name: f.Name, Size: f.Size, ModTime: c.CreatedAt, Digest: f.Digest.String(),
			Open: func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
				return s.reg.OpenFile(ctx, f, offset, length)
			},
		}
	}
	tar, err := archive.New(entries)
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
			s.sendFile(w, r, f, c.CreatedAt)
			return
		}
	}
	writeError(w, http.StatusGone, "the checkpoint was overwritten since this URL was made; ask for a new one")
}

// sendFile serves one file, or ranges of it.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, f metastore.File, modTime time.Time) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+f.Digest.String()+`"`)
	content := &fileContent{ctx: r.Context(), reg: s.reg, file: f}
	defer content.close()
	http.ServeContent(w, r, "", modTime, content)
	s.endTransfer(r, content.err)
}

// endTransfer breaks the connection of an answer that cannot be finished, so
// that the client does not take what it got for the whole.
func (s *Server) endTransfer(r *http.Request, err error) {
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		s.log.Warn("a download broke off", "request_id", requestIDOf(r.Context()), "path", r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// fileContent reads a checkpoint's file from wherever it was sought to.
type fileContent struct {
	ctx    context.Context
	reg    *registry.Registry
	file   metastore.File
	offset int64
	open   io.ReadCloser
	err    error // why reading failed, if it did
}

func (c *fileContent) Read(p []byte) (int, error) {
	if c.offset >= c.file.Size {
		return 0, io.EOF
	}
	if c.open == nil {
		if c.open, c.err = c.reg.OpenFile(c.ctx, c.file, c.offset, -1); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.open.Read(p)
	c.offset += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *fileContent) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.file.Size
	}
	if offset != c.offset {
		c.close()
	}
	c.offset = offset
	return offset, nil
}

func (c *fileContent) close() {
	if c.open != nil {
		_ = c.open.Close()
		c.open = nil
	}
}
