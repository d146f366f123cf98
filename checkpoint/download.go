package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/transfer"
)

// DownloadOptions configures Download and DownloadAll. The zero value
// downloads into the working directory and replaces nothing.
type DownloadOptions struct {
	// Dir is the directory in which the checkpoint's own is made. It is made
	// if it is not there. Empty is the working directory.
	Dir string
	// Force replaces a directory that is there already, once the new one is
	// complete and verified.
	Force bool
	// Jobs is how many connections are read from at once, for all checkpoints
	// together. If less than or equal to 0, 8.
	Jobs int
	// Progress is called as bytes arrive, from one goroutine at a time.
	Progress func(Progress)
	// Notice is called with what people should know of a download that goes on,
	// such as that it began anew, from one goroutine at a time.
	Notice func(path tinkex.TinkerPath, message string)
	// HTTPClient fetches the signed URLs, without credentials. Nil is one of the
	// download's own, which keeps to HTTP/1.1 so that each job has a connection.
	HTTPClient *http.Client
	// StallTimeout is how long a connection may bring next to nothing before
	// another is tried. If less than or equal to 0, 30 s.
	StallTimeout time.Duration
	// Retries is how often in a row a request may fail before the download does.
	// Zero is 8, negative is never.
	Retries int
	// RetryDelay is the first wait between two tries, which doubles from one to
	// the next up to 15 s. If less than or equal to 0, half a second.
	RetryDelay time.Duration
	// Logger hears of retries. Nil discards.
	Logger *slog.Logger
}

// Progress says how far a download is.
type Progress struct {
	Path tinkex.TinkerPath
	// Bytes are there of Total; Total is -1 if the server does not say. Where
	// the server gives no manifest they count the archive, which is a little
	// more than its files. Bytes falls only when a download begins anew.
	Bytes, Total int64
	// Resumed is how many of Bytes an earlier download had fetched.
	Resumed int64
}

// Downloaded is a checkpoint on disk.
type Downloaded struct {
	Path  tinkex.TinkerPath
	Dir   string
	Files []File
	// SizeBytes is the sum of the files' sizes.
	SizeBytes int64
	// Fetched is how many bytes came over the network for it.
	Fetched int64
	// Verified: the server gave digests, and every file has the one it should
	// have. Without, the files are as they arrived: the archive was whole, and
	// the headers of safetensors files agree with their lengths.
	Verified bool
}

// File is one file of a downloaded checkpoint.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size_bytes"`
	SHA256 string `json:"sha256"` // of what is on disk, 64 hexadecimal digits
}

// ArchiveClient is what Download needs of a *tinkex.RestClient.
type ArchiveClient interface {
	ArchiveURL(ctx context.Context, path tinkex.TinkerPath) (tinkex.ArchiveURL, error)
}

// ManifestClient is implemented by clients of servers that tell what a
// checkpoint consists of. Download asks an ArchiveClient that is one for the
// manifest first.
type ManifestClient interface {
	Manifest(ctx context.Context, path tinkex.TinkerPath) (tinkex.Manifest, error)
}

// Download fetches a checkpoint into opts.Dir/<path.DirName()>, in parallel and
// in constant memory.
//
// From a server that gives a manifest, the files are fetched as such and each
// is checked against its SHA-256 while it is written; from others, the archive
// is unpacked as it arrives, and one whose members could end up elsewhere is
// refused.
//
// The directory appears, complete and flushed to disk, by one rename. Until
// then the files grow in a hidden one beside it, .<name>.partial, which stays
// when the download fails: the next one goes on from there, after having read
// and checked what is in it. Two downloads of the same checkpoint into the same
// directory take turns.
//
// A directory that is there already is tinkex.ErrExists, unless opts.Force is
// set: then the old one stays until the new one takes its place.
func Download(ctx context.Context, client ArchiveClient, path tinkex.TinkerPath, opts DownloadOptions) (Downloaded, error) {
	r := DownloadAll(ctx, client, []tinkex.TinkerPath{path}, opts)[0]
	return r.Downloaded, r.Err
}

// DownloadResult is what became of one download of several.
type DownloadResult struct {
	Downloaded
	Err error
}

// checkpointsAtOnce is how many checkpoints of several are worked on at once.
const checkpointsAtOnce = 4

// DownloadAll is Download for several checkpoints, which share the jobs. Its
// results are in the order of the paths; one failure does not end the others.
func DownloadAll(ctx context.Context, client ArchiveClient, paths []tinkex.TinkerPath, opts DownloadOptions) []DownloadResult {
	remote := opts.transfer()
	defer remote.Close()
	results := make([]DownloadResult, len(paths))
	var talk sync.Mutex
	var g errgroup.Group
	g.SetLimit(checkpointsAtOnce)
	for i, p := range paths {
		g.Go(func() error {
			d := newDownload(client, remote, p, opts, &talk)
			results[i].Path = p
			got, err := d.run(ctx, opts.Dir)
			if err != nil {
				results[i].Err = fmt.Errorf("download %s: %w", p, err)
				return nil
			}
			results[i].Downloaded = got
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	return results
}

func (o DownloadOptions) transfer() *transfer.Client {
	return transfer.New(transfer.Options{
		HTTPClient: o.HTTPClient, Jobs: o.Jobs, StallTimeout: o.StallTimeout,
		Retries: o.Retries, RetryDelay: o.RetryDelay, Logger: o.Logger,
	})
}

// newDownload is one of several that take turns when they talk.
func newDownload(client ArchiveClient, remote *transfer.Client, p tinkex.TinkerPath, opts DownloadOptions, talk *sync.Mutex) *download {
	d := &download{path: p, client: client, remote: remote, force: opts.Force, patient: opts.Retries >= 0, cutAt: -1, notice: func(string) {}}
	if opts.Notice != nil {
		d.notice = func(message string) {
			talk.Lock()
			defer talk.Unlock()
			opts.Notice(p, message)
		}
	}
	if opts.Progress != nil {
		d.progress.report = func(now Progress) {
			talk.Lock()
			defer talk.Unlock()
			now.Path = p
			opts.Progress(now)
		}
	}
	return d
}

// download is one checkpoint on its way.
type download struct {
	path     tinkex.TinkerPath
	client   ArchiveClient
	remote   *transfer.Client
	force    bool
	notice   func(string)
	progress tracker
	byDigest bool  // the server gave a manifest
	patient  bool  // what fails may be tried again
	cutAt    int64 // where an archive of unknown length ended too early, or -1
	// skip, if not nil, says which files of a manifest are not wanted.
	skip func(tinkex.ManifestFile) bool

	// What an export does differently: where it goes instead of into a
	// directory of its name, which files are left out, whether the others are
	// worth fetching, and what is done to them before the directory appears.
	target     string
	leftOut    func(name string) bool
	checkFiles func(names []string) error
	prepare    func(dir string, files []File) ([]File, error)
}

// restarts is how often a checkpoint may change while it is being fetched.
const restarts = 3

func (d *download) run(ctx context.Context, parent string) (Downloaded, error) {
	if err := d.path.Validate(); err != nil {
		return Downloaded{}, err
	}
	if parent == "" {
		parent = "."
	}
	target := filepath.Join(parent, d.path.DirName())
	if d.target != "" {
		var err error
		if target, err = filepath.Abs(d.target); err != nil {
			return Downloaded{}, err
		}
		parent = filepath.Dir(target)
	}
	if err := d.checkTarget(target); err != nil {
		return Downloaded{}, err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Downloaded{}, err
	}
	part, err := openPartial(ctx, target, d.notice)
	if err != nil {
		return Downloaded{}, err
	}
	got, err := d.into(ctx, part, target)
	return got, errors.Join(err, part.close(err == nil))
}

// checkTarget refuses what is in the way, before anything is fetched.
func (d *download) checkTarget(target string) error {
	switch info, err := os.Lstat(target); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return &tinkex.Error{Category: tinkex.CategoryUser, Message: target + " is in the way: it is not a directory; choose another output directory", Err: tinkex.ErrExists}
	case !d.force:
		return &tinkex.Error{Category: tinkex.CategoryUser, Message: target + " already exists", Err: tinkex.ErrExists}
	case d.target != "":
		return checkReplaceable(target)
	}
	return nil
}

// checkReplaceable refuses to replace a directory that somebody named and that
// holds something else than a checkpoint.
func checkReplaceable(target string) error {
	entries, err := os.ReadDir(target)
	if err != nil || len(entries) == 0 {
		return err
	}
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ManifestFile }) {
		return &tinkex.Error{Category: tinkex.CategoryUser, Err: tinkex.ErrInvalid, Message: fmt.Sprintf(
			"%s is not replaced: there is no %s in it, so it holds something else than a checkpoint; choose another directory", target, ManifestFile)}
	}
	return nil
}

func (d *download) into(ctx context.Context, part *partial, target string) (Downloaded, error) {
	// Whoever had the partial directory before may have finished.
	if err := d.checkTarget(target); err != nil {
		return Downloaded{}, err
	}
	got := Downloaded{Path: d.path, Dir: target}
	var err error
	if got.Files, got.Verified, err = d.fetchAll(ctx, part); err != nil {
		return Downloaded{}, err
	}
	if d.prepare != nil {
		// From here on nothing can go on from what is there.
		part.state = partialState{Format: partialFormat}
		if err := part.save(); err != nil {
			return Downloaded{}, err
		}
		if got.Files, err = d.prepare(part.files(), got.Files); err != nil {
			return Downloaded{}, err
		}
	}
	for _, f := range got.Files {
		got.SizeBytes += f.Size
	}
	got.Fetched = d.progress.fetched.Load()
	m := savedManifest{
		Format: manifestFormat, Path: d.path.String(), DownloadedAt: time.Now().UTC().Truncate(time.Second),
		DigestsFromServer: got.Verified, Files: got.Files,
	}
	if err := m.write(part.files()); err != nil {
		return Downloaded{}, err
	}
	// Somebody else, who knows nothing of our lock, may have been there.
	if err := d.checkTarget(target); err != nil {
		return Downloaded{}, err
	}
	if err := part.finish(target); err != nil {
		return Downloaded{}, err
	}
	d.progress.end()
	return got, nil
}

// fetchAll brings all files into the partial directory, however often the
// checkpoint changes meanwhile.
func (d *download) fetchAll(ctx context.Context, part *partial) (files []File, verified bool, err error) {
	for try := 1; ; try++ {
		files, verified, err = d.fetch(ctx, part)
		if err == nil {
			return files, verified, nil
		}
		if ctx.Err() != nil || !errors.Is(err, transfer.ErrChanged) && !errors.Is(err, errStartOver) || try > restarts {
			return nil, false, err
		}
		if !d.byDigest || errors.Is(err, errStartOver) {
			d.notice("starting over: " + err.Error())
			if err := part.clear(); err != nil {
				return nil, false, err
			}
		} else {
			// The files are known by their digests, so what is there of them is
			// what it should be, unless the manifest is another one now.
			d.notice("reading the manifest again: " + err.Error())
		}
		d.progress.restart()
	}
}

// errStartOver: what is there of the download is of no use.
var errStartOver = errors.New("what was downloaded before cannot be continued")

// fetch brings all files into the partial directory.
func (d *download) fetch(ctx context.Context, part *partial) (files []File, verified bool, err error) {
	if c, ok := d.client.(ManifestClient); ok {
		m, err := c.Manifest(ctx, d.path)
		if d.byDigest = err == nil; d.byDigest {
			if err := d.choose(&m); err != nil {
				return nil, true, err
			}
			files, err = d.fetchFiles(ctx, part, c, m)
			return files, true, err
		}
		if !noManifest(err) {
			return nil, false, err
		}
		var e *tinkex.Error
		if errors.As(err, &e) && e.Status == 0 {
			d.notice("the archive is fetched instead of the files, without digests: " + err.Error())
		}
	}
	files, err = d.fetchArchive(ctx, part)
	return files, false, err
}

// choose takes out of a manifest what is not fetched.
func (d *download) choose(m *tinkex.Manifest) error {
	if d.checkFiles == nil {
		return nil
	}
	names := make([]string, len(m.Files))
	for i, f := range m.Files {
		names[i] = f.Name
	}
	if err := d.checkFiles(names); err != nil {
		return err
	}
	m.Files = slices.DeleteFunc(slices.Clone(m.Files), func(f tinkex.ManifestFile) bool { return d.leftOut(f.Name) })
	m.SizeBytes = 0
	for _, f := range m.Files {
		m.SizeBytes += f.SizeBytes
	}
	return nil
}

// noManifest reports whether err is how a server without manifests answers.
// That the checkpoint is not there either shows when the archive is asked for.
func noManifest(err error) bool {
	var e *tinkex.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout ||
		e.Status == 0 && e.Category == tinkex.CategoryServer && !errors.Is(err, context.Canceled)
}

// checkNames refuses what the archive's rules refuse, and what our own file
// would be mistaken for or have in its way.
func checkNames(names []string) error {
	if err := archive.CheckNames(names); err != nil {
		return err
	}
	if err := archive.CheckNames(append(slices.Clip(names), ManifestFile)); err != nil {
		return fmt.Errorf("a file has the name %s, in whatever letters, or is in a directory of that name, which is kept for the download's own: %w", ManifestFile, err)
	}
	return nil
}
