package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// Manifest is what a checkpoint consists of, as a server that knows says.
type Manifest struct {
	Path TinkerPath
	// Digest identifies the content: equal files give equal digests.
	Digest    string
	SizeBytes int64 // of all files
	// Expires is when the files' URLs end.
	Expires time.Time
	Files   []ManifestFile
}

// ManifestFile is a file of a checkpoint.
type ManifestFile struct {
	Name      string
	SizeBytes int64
	SHA256    string // 64 lower-case hexadecimal digits
	// URL is where the file alone can be fetched, in ranges if need be and
	// without credentials, until the manifest's Expires.
	URL string
}

var sha256Digits = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Manifest returns a checkpoint's files with their digests and signed URLs. It
// is an extension of this project's server: on others, as for a checkpoint that
// is not there, it fails with ErrNotFound, and ArchiveURL is the way.
func (c *RestClient) Manifest(ctx context.Context, path TinkerPath) (Manifest, error) {
	op := "read the manifest of " + path.String()
	if err := path.Validate(); err != nil {
		return Manifest{}, withOp(op, err)
	}
	var m wire.Manifest
	err := c.t.json(ctx, &call{
		op: op, method: http.MethodGet, extension: true,
		path: checkpointURL(path) + "/manifest",
	}, nil, &m)
	if err != nil {
		return Manifest{}, err
	}
	out := Manifest{Path: path, Digest: m.Digest, Expires: m.Expires, Files: make([]ManifestFile, len(m.Files))}
	for i, f := range m.Files {
		target, err := c.t.resolve(f.URL)
		switch {
		case err != nil:
		case !sha256Digits.MatchString(f.SHA256):
			err = fmt.Errorf("%q is not a SHA-256", f.SHA256)
		case f.SizeBytes < 0:
			err = fmt.Errorf("%d bytes", f.SizeBytes)
		}
		if err != nil {
			return Manifest{}, &Error{Op: op, Category: CategoryServer, Err: err, Message: fmt.Sprintf("the server's manifest makes no sense: file %q: %v", clean(f.Name, 200), err)}
		}
		out.Files[i] = ManifestFile{Name: f.Name, SizeBytes: f.SizeBytes, SHA256: f.SHA256, URL: target}
		out.SizeBytes += f.SizeBytes
	}
	if m.TinkerPath == "" || m.Digest == "" {
		return Manifest{}, &Error{Op: op, Category: CategoryServer, Message: "the server's answer is not a manifest"}
	}
	return out, nil
}

// resolve makes a URL that the server gave absolute.
func (t *transport) resolve(s string) (string, error) {
	base, err := url.Parse(t.base)
	if err != nil {
		return "", err
	}
	u, err := base.Parse(s)
	if err != nil || s == "" || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q is not a URL to fetch from", s)
	}
	return u.String(), nil
}
