package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/archive"
)

// DownloadOptions configures Download. The zero value downloads into the
// working directory and replaces nothing.
type DownloadOptions struct {
	// Dir is the directory in which the checkpoint's own is made. It is made
	// if it is not there. Empty is the working directory.
	Dir string
	// Force replaces a directory that is there already, once the new one is
	// complete.
	Force bool
	// Progress is called, from one goroutine, whenever bytes have arrived.
	Progress func(Progress)
	// HTTPClient fetches the signed URL. Nil is http.DefaultClient.
	HTTPClient *http.Client
}

// Progress says how far a download is.
type Progress struct {
	Path tinkex.TinkerPath
	// Bytes have arrived of Total; Total is -1 if the server does not say.
	// They count the archive as it travels, which is a little more than its
	// files.
	Bytes, Total int64
}

// Downloaded is a checkpoint on disk.
type Downloaded struct {
	Dir   string
	Files []File
	// SizeBytes is the sum of the files' sizes.
	SizeBytes int64
}

// File is one file of a downloaded checkpoint.
type File struct {
	Name   string
	Size   int64 // bytes
	SHA256 string
}

// ArchiveClient is what Download needs of a *tinkex.RestClient.
type ArchiveClient interface {
	ArchiveURL(ctx context.Context, path tinkex.TinkerPath) (tinkex.ArchiveURL, error)
}

// Download fetches a checkpoint and unpacks it into opts.Dir/<path.DirName()>,
// as its bytes arrive and in constant memory. The directory appears, complete,
// by one rename; until then the files grow in a hidden one beside it, which is
// removed if the download fails.
//
// A directory that is there already is tinkex.ErrExists, unless opts.Force is
// set: then the old one stays until the new one is complete. An archive whose
// members could end up elsewhere is refused.
func Download(ctx context.Context, client ArchiveClient, path tinkex.TinkerPath, opts DownloadOptions) (Downloaded, error) {
	d, err := download(ctx, client, path, opts)
	if err != nil {
		return Downloaded{}, fmt.Errorf("download %s: %w", path, err)
	}
	return d, nil
}

func download(ctx context.Context, client ArchiveClient, path tinkex.TinkerPath, opts DownloadOptions) (d Downloaded, err error) {
	if err := path.Validate(); err != nil {
		return d, err
	}
	parent := opts.Dir
	if parent == "" {
		parent = "."
	}
	target := filepath.Join(parent, path.DirName())
	if _, err := os.Lstat(target); err == nil && !opts.Force {
		return d, &tinkex.Error{Category: tinkex.CategoryUser, Message: target + " already exists", Err: tinkex.ErrExists}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return d, err
	}
	u, err := client.ArchiveURL(ctx, path)
	if err != nil {
		return d, err
	}
	partial, err := os.MkdirTemp(parent, "."+path.DirName()+".partial-")
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	if err := os.Chmod(partial, 0o755); err != nil {
		return d, err
	}
	body, total, err := fetch(ctx, opts.HTTPClient, u.URL)
	if err != nil {
		return d, err
	}
	defer body.Close()
	files, err := archive.Extract(ctx, &progressReader{r: body, report: opts.Progress, now: Progress{Path: path, Total: total}}, partial, archive.ExtractOptions{Sync: true})
	if err != nil {
		return d, err
	}
	for _, f := range files {
		d.Files = append(d.Files, File{Name: f.Name, Size: f.Size, SHA256: fmt.Sprintf("%x", f.SHA256)})
		d.SizeBytes += f.Size
	}
	d.Dir = target
	return d, replaceDir(partial, target)
}

// fetch opens the archive. The URL carries its own permission, so no
// credential is sent with it.
func fetch(ctx context.Context, client *http.Client, url string) (io.ReadCloser, int64, error) {
	if client == nil {
		client = http.DefaultClient
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, &tinkex.Error{Op: "fetch the archive", Category: tinkex.CategoryServer, Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, &tinkex.Error{Op: "fetch the archive", Status: resp.StatusCode, Category: tinkex.CategoryServer}
	}
	return resp.Body, resp.ContentLength, nil
}

// replaceDir puts a complete directory where another may be, such that at any
// instant one of the two is there.
func replaceDir(from, to string) error {
	old := from + ".old"
	switch err := os.Rename(to, old); {
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(from, to)
	case err != nil:
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return errors.Join(err, os.Rename(old, to))
	}
	return os.RemoveAll(old)
}

type progressReader struct {
	r      io.Reader
	report func(Progress)
	now    Progress
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.now.Bytes += int64(n)
	if p.report != nil && n > 0 {
		p.report(p.now)
	}
	return n, err
}
