package hfhub

import (
	"bytes"
	"context"
	"crypto/sha1" // git's name for a blob
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// File is a file to be committed.
type File struct {
	Path string // in the repository, with slashes
	Size int64
	// SHA256 is its digest, 64 hexadecimal digits. Empty is found out.
	SHA256 string
	// Content is read as often as necessary, by several goroutines at once.
	Content io.ReaderAt
}

// CommitOptions says what a commit is to be.
type CommitOptions struct {
	// Revision is the branch. Empty is MainRevision.
	Revision string
	// Parent is the commit that the branch has to be at. Empty is any. A branch
	// that is elsewhere is ErrMoved.
	Parent string
	// Summary and Description are the message.
	Summary, Description string
	// CreatePR proposes the commit in a pull request instead.
	CreatePR bool
	// Progress is called, by one goroutine at a time, as files are sent.
	Progress func(sent, total int64)
}

// Commit is what became of files that were committed.
type Commit struct {
	ID, URL string
	// PullRequestURL is that of the pull request, if one was asked for.
	PullRequestURL string
	// Unchanged: the branch has these files, so there is nothing to commit. ID
	// is then the branch's.
	Unchanged bool
	// Sent is how many bytes had to be sent; the Hub had the others.
	Sent int64
}

// wayOf is how a file gets into the repository.
type wayOf struct {
	file *File
	lfs  bool
	sha  string // SHA-256, of LFS files
}

// preuploadFiles is how many files the Hub is asked about at once.
const preuploadFiles = 256

// sampleBytes is how much of each file it is shown.
const sampleBytes = 512

// Commit adds files to a branch that is there, in one commit.
//
// A file that the branch has already is left out; if all are, nothing is
// committed. Large files that the Hub has are not sent again, so a commit that
// failed goes on where it stopped when it is made again.
func (c *Client) Commit(ctx context.Context, repo RepoID, files []File, opts CommitOptions) (Commit, error) {
	if opts.Revision == "" {
		opts.Revision = MainRevision
	}
	for _, f := range files {
		if err := checkPath(f.Path); err != nil {
			return Commit{}, err
		}
	}
	var sent int64
	for n := 0; ; n++ {
		// An answer can be lost on the way: each try begins with what there is
		// still to be done.
		ways, err := c.ways(ctx, repo, files, opts)
		if err != nil {
			return Commit{}, err
		}
		if len(ways) == 0 {
			return c.asItIs(ctx, repo, opts, Commit{Unchanged: n == 0, Sent: sent})
		}
		more, err := c.upload(ctx, repo, ways, opts)
		sent += more
		if err != nil {
			return Commit{}, err
		}
		out, err := c.commit(ctx, repo, ways, opts)
		if err == nil {
			out.Sent = sent
			return out, nil
		}
		if ctx.Err() != nil {
			return Commit{}, ctx.Err()
		}
		var e *Error
		switch {
		case errors.Is(err, ErrMoved) && n > 0:
			// Perhaps by the try before this one.
			if left, waysErr := c.ways(ctx, repo, files, opts); waysErr == nil && len(left) == 0 {
				return c.asItIs(ctx, repo, opts, Commit{Sent: sent})
			}
			return Commit{}, err
		case opts.CreatePR && errors.As(err, &e) && e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable:
			return Commit{}, err // it may have been made, and is not to be made twice
		}
		if err := c.pause(ctx, err, n); err != nil {
			return Commit{}, err
		}
	}
}

func checkPath(p string) error {
	if p == "" || strings.HasPrefix(p, "/") || strings.Contains(p, "\\") {
		return fmt.Errorf("%q is no path in a repository", p)
	}
	for s := range strings.SplitSeq(p, "/") {
		if s == "" || s == "." || s == ".." || s == ".git" {
			return fmt.Errorf("%q is no path in a repository", p)
		}
	}
	return nil
}

// asItIs is the branch's own commit, which has all files.
func (c *Client) asItIs(ctx context.Context, repo RepoID, opts CommitOptions, out Commit) (Commit, error) {
	info, err := c.Info(ctx, repo, opts.Revision)
	if err != nil {
		return Commit{}, err
	}
	out.ID, out.URL = info.Commit, c.RepoURL(repo)+"/commit/"+info.Commit
	return out, nil
}

// ways asks the Hub how each file is to come, and leaves out those that are
// there or that the repository ignores.
func (c *Client) ways(ctx context.Context, repo RepoID, files []File, opts CommitOptions) ([]wayOf, error) {
	type asked struct {
		Path   string `json:"path"`
		Sample []byte `json:"sample"`
		Size   int64  `json:"size"`
	}
	type told struct {
		Path   string `json:"path"`
		Mode   string `json:"uploadMode"`
		Ignore bool   `json:"shouldIgnore"`
		OID    string `json:"oid"`
	}
	u := c.api(repo) + "/preupload/" + url.PathEscape(opts.Revision) + prQuery(opts)
	op := "ask how to upload to " + repo.String()
	var ways []wayOf
	for len(files) > 0 {
		chunk := files[:min(len(files), preuploadFiles)]
		files = files[len(chunk):]
		req := make([]asked, len(chunk))
		for i, f := range chunk {
			sample := make([]byte, min(f.Size, sampleBytes))
			if _, err := f.Content.ReadAt(sample, 0); err != nil && !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			req[i] = asked{f.Path, sample, f.Size}
		}
		var answer struct {
			Files []told `json:"files"`
		}
		if err := c.call(ctx, op, http.MethodPost, u, map[string]any{"files": req}, &answer); err != nil {
			return nil, err
		}
		byPath := map[string]told{}
		for _, t := range answer.Files {
			byPath[t.Path] = t
		}
		for i := range chunk {
			f := &chunk[i]
			t, ok := byPath[f.Path]
			if !ok || t.Mode != "lfs" && t.Mode != "regular" {
				return nil, &Error{Op: op, Message: fmt.Sprintf("the answer does not say how %s is to come", f.Path)}
			}
			if t.Ignore {
				continue
			}
			// Storage takes no empty objects.
			w := wayOf{file: f, lfs: t.Mode == "lfs" && f.Size > 0}
			var here string
			var err error
			if w.lfs {
				w.sha, err = f.sha256(ctx)
				here = w.sha
			} else {
				here, err = f.gitBlob()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			if t.OID == "" || t.OID != here {
				ways = append(ways, w)
			}
		}
	}
	return ways, nil
}

func prQuery(opts CommitOptions) string {
	if opts.CreatePR {
		return "?create_pr=1"
	}
	return ""
}

// sha256 is the file's digest. It is found out once.
func (f *File) sha256(ctx context.Context) (string, error) {
	if f.SHA256 != "" {
		return f.SHA256, nil
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < f.Size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Content.ReadAt(buf[:min(int64(len(buf)), f.Size-at)], at)
		h.Write(buf[:n])
		at += int64(n)
		if err != nil && (at < f.Size || !errors.Is(err, io.EOF)) {
			return "", err
		}
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return f.SHA256, nil
}

// maxRegular bounds a file that is committed with its content: the Hub itself
// has larger ones come as LFS files.
const maxRegular = 32 << 20

func (f *File) content() ([]byte, error) {
	if f.Size > maxRegular {
		return nil, fmt.Errorf("the Hub wants %d bytes in the commit itself, which is too much", f.Size)
	}
	b := make([]byte, f.Size)
	n, err := f.Content.ReadAt(b, 0)
	if n < len(b) {
		return nil, err
	}
	return b, nil
}

// gitBlob is git's name for the content.
func (f *File) gitBlob() (string, error) {
	b, err := f.content()
	if err != nil {
		return "", err
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(b))
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// line is one of a commit's.
type line struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

// commit makes the commit, once.
func (c *Client) commit(ctx context.Context, repo RepoID, ways []wayOf, opts CommitOptions) (Commit, error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	header := map[string]string{"summary": opts.Summary, "description": opts.Description}
	if opts.Parent != "" {
		header["parentCommit"] = opts.Parent
	}
	if err := enc.Encode(line{"header", header}); err != nil {
		return Commit{}, err
	}
	for _, w := range ways {
		l := line{"lfsFile", map[string]any{"path": w.file.Path, "algo": "sha256", "oid": w.sha, "size": w.file.Size}}
		if !w.lfs {
			b, err := w.file.content()
			if err != nil {
				return Commit{}, fmt.Errorf("%s: %w", w.file.Path, err)
			}
			l = line{"file", map[string]any{"path": w.file.Path, "encoding": "base64", "content": base64.StdEncoding.EncodeToString(b)}}
		}
		if err := enc.Encode(l); err != nil {
			return Commit{}, err
		}
	}
	var out struct {
		ID  string `json:"commitOid"`
		URL string `json:"commitUrl"`
		PR  string `json:"pullRequestUrl"`
	}
	u := c.api(repo) + "/commit/" + url.PathEscape(opts.Revision) + prQuery(opts)
	r := request{method: http.MethodPost, url: u, contentType: "application/x-ndjson", accept: "application/json"}
	if err := c.once(ctx, "commit to "+repo.String(), r, body.Bytes(), &out); err != nil {
		return Commit{}, err
	}
	return Commit{ID: out.ID, URL: out.URL, PullRequestURL: out.PR}, nil
}

// progress adds up what is sent.
type progress struct {
	mu          sync.Mutex
	done, total int64
	report      func(sent, total int64)
}

func (p *progress) sent(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.report != nil {
		p.report(p.done, p.total)
	}
}

// upload sends the LFS files that the Hub does not have, and returns how many
// bytes that were.
func (c *Client) upload(ctx context.Context, repo RepoID, ways []wayOf, opts CommitOptions) (int64, error) {
	var large []wayOf
	seen := map[string]bool{}
	for _, w := range ways {
		if w.lfs && !seen[w.sha] {
			seen[w.sha] = true
			large = append(large, w)
		}
	}
	var todo []lfsUpload
	for len(large) > 0 {
		chunk := large[:min(len(large), preuploadFiles)]
		large = large[len(chunk):]
		more, err := c.batch(ctx, repo, chunk, opts.Revision)
		if err != nil {
			return 0, err
		}
		todo = append(todo, more...)
	}
	if len(todo) == 0 {
		return 0, nil
	}
	p := &progress{report: opts.Progress}
	for _, u := range todo {
		p.total += u.file.Size
	}
	p.sent(0)
	// The parts of a file are sent side by side, one file after the other, so
	// that no more are on their way than there are jobs.
	for i := range todo {
		if err := c.uploadLFS(ctx, &todo[i], p); err != nil {
			return p.done, fmt.Errorf("upload %s: %w", todo[i].file.Path, err)
		}
	}
	return p.done, nil
}

// forEach calls f for 0 to n-1, as many at once as there are jobs.
func (c *Client) forEach(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(c.jobs)
	for i := range n {
		if working.Err() != nil {
			break
		}
		g.Go(func() error { return f(working, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
