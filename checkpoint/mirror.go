package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/mirror"
	"github.com/tinkex/tinkex/internal/retention"
	"github.com/tinkex/tinkex/internal/transfer"
)

// Why a mirror was refused; test with errors.Is.
var (
	// ErrOtherAccount: the target holds the checkpoints of another account.
	ErrOtherAccount = errors.New("the target belongs to another account")
	// ErrNoMirror: there is no mirror in that place.
	ErrNoMirror = mirror.ErrNoMirror
)

// MirrorLockedError says that another mirror to the same target is running,
// and whose.
type MirrorLockedError = mirror.LockedError

// MirrorOptions configures Mirror. The zero value mirrors everything and
// removes nothing.
type MirrorOptions struct {
	// Selection is what to mirror; the zero Selection is all of the caller's
	// checkpoints.
	Selection Selection
	// DryRun finds out what there is to do, and does nothing.
	DryRun bool
	// Prune removes from the mirror those of the selection that are no longer
	// on the server, and bytes that nothing refers to any more. Without, what
	// has expired or was deleted on the server stays: that is what a mirror
	// is for.
	Prune bool
	// PruneAll lets Prune leave nothing at all; otherwise that is
	// ErrKeepsNothing.
	PruneAll bool
	// Rebind makes a target that belongs to another account this one's. What
	// is in it stays.
	Rebind bool
	// WorkDir is where downloads grow before they are sent to a bucket, and
	// from where they go on after an interruption. Empty is a directory in the
	// user's cache. Directories as targets need none.
	WorkDir string
	// Download says how bytes are fetched. Its Dir, Force and Progress are not
	// used.
	Download DownloadOptions
	// Progress is called by one goroutine at a time, whenever there is some.
	Progress func(MirrorProgress)
}

// MirrorProgress says how far a mirror is: with the checkpoints that have to
// be fetched, and their bytes.
type MirrorProgress struct {
	Done, Failed, Total int
	// Bytes are dealt with of TotalBytes, fetched or found to be there.
	Bytes, TotalBytes int64
}

// Mirrored is what came of a mirror. Each selected checkpoint is counted in
// Unchanged or in one of Added, Updated, Gone, Failed and Left.
type Mirrored struct {
	Target   string // without secrets
	Selected int
	// Unchanged were mirrored before.
	Unchanged int
	// Added were fetched. With DryRun they are what would be, with what the
	// server says of their sizes.
	Added []MirroredCheckpoint
	// Updated had their bytes there; what is known of them, such as when they
	// expire, has changed.
	Updated []tinkex.TinkerPath
	// Gone were no longer on the server when they were to be fetched.
	Gone   []tinkex.TinkerPath
	Failed []MirrorFailure
	// Left were not come to, or not finished, when ctx ended.
	Left []tinkex.TinkerPath
	// FetchedBytes came over the network.
	FetchedBytes int64
	// Pruned were removed from the mirror, and with them FreedBytes.
	Pruned     []tinkex.TinkerPath
	FreedBytes int64
}

// Nothing reports whether all was as it should be and nothing had to be done.
func (m Mirrored) Nothing() bool {
	return m.Unchanged == m.Selected && len(m.Pruned) == 0 && m.FreedBytes == 0
}

// MirroredCheckpoint is a checkpoint that is in the mirror now.
type MirroredCheckpoint struct {
	Path      tinkex.TinkerPath
	SizeBytes int64
	// Fetched is what came over the network: less than SizeBytes where files
	// were there already.
	Fetched int64
	// Verified: the server gave digests, and every file has the one it should
	// have.
	Verified bool
}

// MirrorFailure is a checkpoint that could not be mirrored or restored.
type MirrorFailure struct {
	Path tinkex.TinkerPath
	Err  error
}

// MirrorClient is what Mirror needs of a *tinkex.RestClient. One that is a
// ManifestClient as well lets it fetch only those files that it does not have.
type MirrorClient interface {
	ListClient
	ArchiveClient
	WeightsInfoClient
	ListTrainingRuns(ctx context.Context, opts tinkex.ListRunsOptions) (tinkex.TrainingRunList, error)
	BaseURL() string
}

// Mirror brings a mirror up to date: a directory, or a part of a bucket given
// by a URL such as s3://BUCKET?region=REGION&prefix=PATH/, that keeps the
// caller's checkpoints with all that is known of them, for Restore.
//
// What is there already costs no more than its line in the server's list. Of
// the others only files are fetched that no checkpoint of the mirror has, as
// Download does it: in parallel, verified, and going on where an earlier
// Mirror was interrupted. A checkpoint's record appears when all of its bytes
// are there, so the mirror is whole at any time, also after a crash. Nothing
// is removed from it, whatever happens on the server, unless Prune is set.
//
// A target belongs to the account that was mirrored to it first; that of
// another one is ErrOtherAccount. While one Mirror runs, another one to the
// same target fails at once with a *MirrorLockedError.
//
// One failure does not end the others. The error is nil, a *PartialError, ctx's
// or, if nothing could be done at all, another one; what was done is in the
// result either way.
func Mirror(ctx context.Context, client MirrorClient, target string, opts MirrorOptions) (Mirrored, error) {
	w := &mirroring{client: client, opts: opts, notice: func(tinkex.TinkerPath, string) {}, runs: map[string]*runOnce{}}
	w.out.Target = blobstore.Redact(target)
	var talk sync.Mutex
	if tell := opts.Download.Notice; tell != nil {
		w.notice = func(p tinkex.TinkerPath, message string) {
			talk.Lock()
			defer talk.Unlock()
			tell(p, message)
		}
	}
	if err := w.do(ctx, target); err != nil {
		return w.out, fmt.Errorf("mirror to %s: %w", w.out.Target, err)
	}
	if len(w.out.Failed) > 0 {
		e := &PartialError{Op: "mirror to " + w.out.Target, Total: w.out.Selected}
		for _, f := range w.out.Failed {
			e.Errs = append(e.Errs, f.Err)
		}
		return w.out, e
	}
	return w.out, nil
}

// mirroring is a Mirror at work.
type mirroring struct {
	client MirrorClient
	opts   MirrorOptions
	notice func(tinkex.TinkerPath, string)

	to      *mirror.Mirror
	source  mirror.Source
	remote  *transfer.Client
	partial string
	present map[string]struct{} // tinker paths on the server, for Prune

	blobs claims

	mu       sync.Mutex
	out      Mirrored
	progress MirrorProgress
	stop     error // why no more are tried
	inARow   int   // failures since the last success
	runs     map[string]*runOnce
}

// runOnce is a training run that is asked for once.
type runOnce struct {
	once sync.Once
	run  tinkex.TrainingRun
	err  error
}

func (w *mirroring) do(ctx context.Context, target string) (err error) {
	if err := w.opts.Selection.Validate(); err != nil {
		return err
	}
	open := mirror.Create
	if w.opts.DryRun {
		open = mirror.Peek
	}
	if w.to, err = open(ctx, target); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.to.Close()) }()
	w.out.Target = w.to.String()
	if !w.opts.DryRun {
		held, release, err := w.to.Lock(ctx)
		if err != nil {
			return err
		}
		defer release()
		ctx = held
	}
	if err := w.identify(ctx); err != nil {
		return err
	}
	if !w.opts.DryRun {
		if err := w.blobs.load(ctx, w.to.Blobs()); err != nil {
			return err
		}
	}
	todo, err := w.plan(ctx)
	if err != nil {
		return err
	}
	if w.opts.DryRun {
		for _, c := range todo {
			w.out.Added = append(w.out.Added, MirroredCheckpoint{Path: pathOf(c), SizeBytes: max(sizeOf(c), 0)})
		}
		return nil
	}
	if err := w.bind(ctx); err != nil {
		return err
	}
	w.partial = w.to.PartialDir(w.workDir())
	if err := w.fetchAll(ctx, todo); err != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if !w.opts.Prune {
		return nil
	}
	return w.prune(ctx)
}

// pathOf is the path of a checkpoint whose path was parsed before.
func pathOf(c tinkex.Checkpoint) tinkex.TinkerPath {
	p, _ := c.Path()
	return p
}

// identify finds out who the caller is, as far as servers say, and compares
// that with whose the mirror is.
func (w *mirroring) identify(ctx context.Context) error {
	w.source.BaseURL = w.client.BaseURL()
	runs, err := w.client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
	if err != nil {
		return err
	}
	if len(runs.TrainingRuns) > 0 {
		w.source.Owner = runs.TrainingRuns[0].ModelOwner
	}
	is, bound := w.to.Source()
	if !bound || w.opts.Rebind || is == w.source {
		return nil
	}
	return fmt.Errorf("%w: it holds checkpoints of %s, and you are %s", ErrOtherAccount, account(is), account(w.source))
}

func account(s mirror.Source) string {
	if s.Owner == "" {
		return "an account without training runs at " + s.BaseURL
	}
	return s.Owner + " at " + s.BaseURL
}

// bind makes the mirror the caller's. Who has no runs has nothing to mirror.
func (w *mirroring) bind(ctx context.Context) error {
	if is, bound := w.to.Source(); bound && is == w.source || w.source.Owner == "" {
		return nil
	}
	return w.to.SetSource(ctx, w.source, time.Now())
}

// recordsAtOnce is how many records are read at once: buckets take their time
// for each.
const recordsAtOnce = 32

// plan lists what is selected and returns what has to be fetched, those that
// expire soonest first.
func (w *mirroring) plan(ctx context.Context) ([]tinkex.Checkpoint, error) {
	known, err := w.to.Known(ctx)
	if err != nil {
		return nil, err
	}
	w.present = map[string]struct{}{}
	seen := map[tinkex.TinkerPath]bool{}
	var todo []tinkex.Checkpoint
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(recordsAtOnce)
	var listing error
	for c, err := range w.opts.Selection.Considered(ctx, w.client) {
		if err != nil {
			listing = err
			break
		}
		if w.opts.Prune {
			w.present[c.TinkerPath] = struct{}{}
		}
		if !w.opts.Selection.Match(c) {
			continue
		}
		p, err := c.Path()
		if err != nil {
			listing = fmt.Errorf("the server lists %q: %w", c.TinkerPath, err)
			break
		}
		if seen[p] {
			continue
		}
		seen[p] = true
		w.out.Selected++
		if !known.Of(p) {
			w.mu.Lock()
			todo = append(todo, c)
			w.mu.Unlock()
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			fetch, err := w.compare(gctx, c, p)
			if fetch {
				w.mu.Lock()
				todo = append(todo, c)
				w.mu.Unlock()
			}
			return err
		})
	}
	// A failure to read records is also what ends the listing.
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if listing != nil {
		return nil, listing
	}
	slices.SortFunc(w.out.Updated, func(a, b tinkex.TinkerPath) int { return retention.CompareNames(a.String(), b.String()) })
	Sort(todo, ByExpiry, false)
	return todo, nil
}

// compare reports whether a checkpoint that has a record has to be fetched
// nevertheless. If only what is known of it has changed, the record is written
// anew.
func (w *mirroring) compare(ctx context.Context, c tinkex.Checkpoint, p tinkex.TinkerPath) (fetch bool, err error) {
	r, err := w.to.Record(ctx, p)
	switch {
	case errors.Is(err, mirror.ErrDamaged):
		w.notice(p, "mirrored again: "+err.Error())
		return true, nil
	case errors.Is(err, mirror.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	}
	was := r.Checkpoint
	if !was.Time.Equal(c.Time) || sizeOf(was) != sizeOf(c) {
		return true, nil
	}
	if !w.opts.DryRun && slices.ContainsFunc(r.Files, func(f mirror.File) bool { return !w.blobs.has(f.Digest(), f.Size) }) {
		w.notice(p, "mirrored again: the mirror has lost bytes of it")
		return true, nil
	}
	if !saysTheSame(was, c) {
		if !w.opts.DryRun {
			r.Checkpoint = c
			if err := w.to.Put(ctx, r); err != nil {
				return false, err
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.out.Updated = append(w.out.Updated, p)
		return false, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Unchanged++
	return false, nil
}

// saysTheSame compares what can change about a checkpoint's bytes' company.
func saysTheSame(a, b tinkex.Checkpoint) bool {
	if a.Public != b.Public || len(a.UserMetadata) != len(b.UserMetadata) || (a.ExpiresAt == nil) != (b.ExpiresAt == nil) {
		return false
	}
	for k, v := range a.UserMetadata {
		if got, ok := b.UserMetadata[k]; !ok || got != v {
			return false
		}
	}
	return a.ExpiresAt == nil || a.ExpiresAt.Equal(*b.ExpiresAt)
}

// fetchAll fetches checkpoints, several at once.
func (w *mirroring) fetchAll(ctx context.Context, todo []tinkex.Checkpoint) error {
	if len(todo) == 0 {
		return w.sweepPartials(nil)
	}
	if err := os.MkdirAll(w.partial, 0o700); err != nil {
		return err
	}
	o := w.opts.Download
	w.remote = transfer.New(transfer.Options{
		HTTPClient: o.HTTPClient, Jobs: o.Jobs, StallTimeout: o.StallTimeout,
		Retries: o.Retries, RetryDelay: o.RetryDelay, Logger: o.Logger,
	})
	defer w.remote.Close()
	w.progress.Total = len(todo)
	for _, c := range todo {
		w.progress.TotalBytes += max(sizeOf(c), 0)
	}
	w.report(func() {})
	results := make([]itemResult, len(todo))
	var g errgroup.Group
	g.SetLimit(checkpointsAtOnce)
	for i, c := range todo {
		g.Go(func() error {
			results[i] = w.one(ctx, c)
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	var pending []string
	for i, r := range results {
		p := pathOf(todo[i])
		switch {
		case r.err == nil && r.gone:
			w.out.Gone = append(w.out.Gone, p)
		case r.err == nil:
			w.out.Added = append(w.out.Added, r.MirroredCheckpoint)
		case ctx.Err() != nil && (errors.Is(r.err, ctx.Err()) || errors.Is(r.err, context.Cause(ctx))):
			w.out.Left = append(w.out.Left, p)
			pending = append(pending, partialOf(p))
		default:
			w.out.Failed = append(w.out.Failed, MirrorFailure{p, fmt.Errorf("%s: %w", p, r.err)})
			pending = append(pending, partialOf(p))
		}
		w.out.FetchedBytes += r.fetched
	}
	return w.sweepPartials(pending)
}

func (w *mirroring) workDir() string {
	if w.opts.WorkDir != "" {
		return w.opts.WorkDir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "tinkex", "mirror")
}

// full reports whether there is no room for anything else either.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// partialOf names the directory in which a checkpoint's files grow.
func partialOf(p tinkex.TinkerPath) string { return mirror.FileName(p.String()) }

// sweepPartials removes what was begun of checkpoints that are complete or no
// longer on the server. What another selection began stays.
func (w *mirroring) sweepPartials(pending []string) error {
	if w.opts.Selection.Filters() || w.opts.Selection.RunID != "" {
		return nil
	}
	entries, err := os.ReadDir(w.partial)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !slices.ContainsFunc(pending, func(name string) bool { return e.Name() == partialDirName(name) }) {
			if err := os.RemoveAll(filepath.Join(w.partial, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

type itemResult struct {
	MirroredCheckpoint
	gone    bool
	fetched int64 // also what did not lead anywhere
	err     error
}

// one brings a checkpoint into the mirror.
func (w *mirroring) one(ctx context.Context, c tinkex.Checkpoint) (r itemResult) {
	w.mu.Lock()
	stop := w.stop
	w.mu.Unlock()
	it := &item{w: w, path: pathOf(c), size: max(sizeOf(c), 0)}
	switch {
	case ctx.Err() != nil:
		r.err = context.Cause(ctx)
	case stop != nil:
		r.err = stop
	default:
		r.MirroredCheckpoint, r.err = it.bring(ctx, c)
		r.fetched = it.fetched
		if errors.Is(r.err, tinkex.ErrNotFound) || errors.Is(r.err, tinkex.ErrGone) {
			// Not every server has every request, so this alone says little.
			if listed, err := w.listed(ctx, it.path); err == nil && !listed {
				w.notice(it.path, "no longer on the server")
				r.gone, r.err = true, nil
			}
		}
	}
	if r.err != nil && ctx.Err() != nil {
		r.err = context.Cause(ctx)
	}
	w.report(func() {
		w.progress.Bytes += it.size - it.reported
		switch {
		case r.err == nil:
			w.inARow = 0
			w.progress.Done++
		case ctx.Err() == nil:
			w.progress.Failed++
			w.inARow++
			if w.inARow >= hopeless || errors.Is(r.err, tinkex.ErrUnauthorized) || full(r.err) {
				w.stop = ErrNotTried
			}
		}
	})
	return r
}

func (w *mirroring) report(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	if w.opts.Progress != nil {
		w.opts.Progress(w.progress)
	}
}

func (w *mirroring) listed(ctx context.Context, p tinkex.TinkerPath) (bool, error) {
	_, ok, err := w.find(ctx, p)
	if errors.Is(err, tinkex.ErrNotFound) {
		return false, nil
	}
	return ok, err
}

// find returns what the list of its run says about a checkpoint.
func (w *mirroring) find(ctx context.Context, p tinkex.TinkerPath) (tinkex.Checkpoint, bool, error) {
	list, err := w.client.ListRunCheckpoints(ctx, p.RunID)
	if err != nil {
		return tinkex.Checkpoint{}, false, err
	}
	for _, c := range list.Checkpoints {
		if c.TinkerPath == p.String() {
			return c, true, nil
		}
	}
	return tinkex.Checkpoint{}, false, nil
}

func (w *mirroring) run(ctx context.Context, id string) (tinkex.TrainingRun, error) {
	w.mu.Lock()
	r := w.runs[id]
	if r == nil {
		r = new(runOnce)
		w.runs[id] = r
	}
	w.mu.Unlock()
	r.once.Do(func() { r.run, r.err = w.client.GetTrainingRun(ctx, id) })
	return r.run, r.err
}

// item is a checkpoint on its way into the mirror.
type item struct {
	w        *mirroring
	path     tinkex.TinkerPath
	size     int64 // what it counts for in the progress
	reported int64
	fetched  int64
	others   []<-chan struct{} // blobs that other items are bringing
}

// attempts is how often a checkpoint is begun anew because it is another one
// than was listed, or because the other item that was to bring a blob failed.
const attempts = 5

func (it *item) bring(ctx context.Context, c tinkex.Checkpoint) (MirroredCheckpoint, error) {
	w, out := it.w, MirroredCheckpoint{Path: it.path}
	info, err := w.client.WeightsInfo(ctx, it.path)
	if err != nil {
		return out, err
	}
	run, err := w.run(ctx, it.path.RunID)
	if err != nil {
		return out, err
	}
	run.LastCheckpoint, run.LastSamplerCheckpoint = nil, nil // they have records of their own
	for try := 1; try <= attempts; try++ {
		files, verified, err := it.fetch(ctx)
		if err != nil {
			return out, err
		}
		if again, err := it.wait(ctx, files); again || err != nil {
			if err != nil {
				return out, err
			}
			continue
		}
		r := mirror.Record{
			TinkerPath: it.path.String(), MirroredAt: time.Now().UTC().Truncate(time.Second), Source: w.source,
			Checkpoint: c, Run: run, Weights: info, DigestsFromServer: verified, Files: files,
		}
		if size := sizeOf(c); verified && size >= 0 && size != r.SizeBytes() {
			// It was overwritten after it had been listed.
			now, ok, err := w.find(ctx, it.path)
			switch {
			case err != nil:
				return out, err
			case !ok:
				return out, &tinkex.Error{Category: tinkex.CategoryUser, Message: "it was deleted meanwhile", Err: tinkex.ErrNotFound}
			}
			if c = now; sizeOf(c) != r.SizeBytes() {
				continue
			}
			r.Checkpoint = c
		}
		if err := w.to.Put(ctx, r); err != nil {
			return out, err
		}
		out.SizeBytes, out.Fetched, out.Verified = r.SizeBytes(), it.fetched, verified
		return out, nil
	}
	return out, fmt.Errorf("it changed each of the %d times it was fetched", attempts)
}

// fetch brings those bytes into the mirror that it has not and that nobody
// else is bringing.
func (it *item) fetch(ctx context.Context) (_ []mirror.File, verified bool, err error) {
	w := it.w
	part, err := openPartial(ctx, filepath.Join(w.partial, partialOf(it.path)), func(string) {})
	if err != nil {
		return nil, false, err
	}
	defer w.blobs.giveUp(it)
	d := &download{
		path: it.path, client: w.client, remote: w.remote,
		notice: func(message string) { w.notice(it.path, message) },
		skip:   func(f tinkex.ManifestFile) bool { return w.blobs.claim(it, f) },
	}
	before := it.fetched
	d.progress.report = func(now Progress) {
		w.report(func() {
			n := min(now.Bytes, it.size)
			w.progress.Bytes += n - it.reported
			it.reported = n
		})
	}
	files, verified, err := d.fetchAll(ctx, part)
	it.fetched = before + d.progress.fetched.Load()
	out := make([]mirror.File, len(files))
	if err == nil {
		for i, f := range files {
			out[i] = mirror.File(f)
		}
		err = it.adopt(ctx, part, out)
	}
	return out, verified, errors.Join(err, part.close(err == nil))
}

// adopt moves what was fetched into the mirror.
func (it *item) adopt(ctx context.Context, part *partial, files []mirror.File) error {
	for _, f := range files {
		path := filepath.Join(part.files(), filepath.FromSlash(f.Name))
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			continue // it was skipped
		}
		d := f.Digest()
		if !it.w.blobs.has(d, f.Size) {
			if err := blobstore.PutFile(ctx, it.w.to.Blobs(), path, d, f.Size); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		it.w.blobs.add(d, f.Size)
	}
	return nil
}

// wait waits for those files that others are bringing, and reports whether any
// is still not there.
func (it *item) wait(ctx context.Context, files []mirror.File) (again bool, err error) {
	for _, done := range it.others {
		select {
		case <-done:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	it.others = nil
	return slices.ContainsFunc(files, func(f mirror.File) bool { return !it.w.blobs.has(f.Digest(), f.Size) }), nil
}

// claims knows which blobs the mirror has and who is bringing which. Items
// finish their own claims before they wait for others', so that they cannot
// wait for each other for ever.
type claims struct {
	mu   sync.Mutex
	have map[blobstore.Digest]int64 // sizes
	busy map[blobstore.Digest]*claim
}

type claim struct {
	by   *item
	done chan struct{}
}

// load finds out what the mirror has.
func (c *claims) load(ctx context.Context, s blobstore.Store) error {
	c.have, c.busy = map[blobstore.Digest]int64{}, map[blobstore.Digest]*claim{}
	for info, err := range s.All(ctx) {
		if err != nil {
			return err
		}
		c.have[info.Digest] = info.Size
	}
	return nil
}

func (c *claims) has(d blobstore.Digest, size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.have[d]
	return ok && n == size
}

// add notes a blob that is there now.
func (c *claims) add(d blobstore.Digest, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.have[d] = size
	if b := c.busy[d]; b != nil {
		close(b.done)
		delete(c.busy, d)
	}
}

// claim reports whether an item need not bring a file. If it has to, others
// need not.
func (c *claims) claim(it *item, f tinkex.ManifestFile) (skip bool) {
	d, err := blobstore.ParseDigest(f.SHA256)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.have[d]; ok && n == f.SizeBytes {
		return true
	}
	if b := c.busy[d]; b != nil {
		if b.by != it {
			it.others = append(it.others, b.done)
		}
		return b.by != it
	}
	c.busy[d] = &claim{it, make(chan struct{})}
	return false
}

// giveUp ends the claims of an item that were not fulfilled.
func (c *claims) giveUp(it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d, b := range c.busy {
		if b.by == it {
			close(b.done)
			delete(c.busy, d)
		}
	}
}

// prune removes records of what is no longer on the server, then the blobs
// that nothing refers to.
func (w *mirroring) prune(ctx context.Context) error {
	type found struct {
		key  string
		path tinkex.TinkerPath
	}
	var vanished []found
	kept := 0
	used := map[blobstore.Digest]struct{}{}
	for f, err := range w.to.Records(ctx) {
		if err != nil {
			return err
		}
		if f.Err != nil {
			return fmt.Errorf("prune: nothing is removed while a record is damaged, because it cannot be told what it refers to: %w", f.Err)
		}
		s := w.opts.Selection
		if _, there := w.present[f.Record.TinkerPath]; !there && f.Record.Source == w.source && s.Match(f.Record.Checkpoint) {
			vanished = append(vanished, found{f.Key, f.Record.Path()})
			continue
		}
		kept++
		for _, file := range f.Record.Files {
			used[file.Digest()] = struct{}{}
		}
	}
	if kept == 0 && len(vanished) > 0 && !w.opts.PruneAll {
		return fmt.Errorf("prune: %w: none of the %d mirrored checkpoints is on the server any more", ErrKeepsNothing, len(vanished))
	}
	for _, f := range vanished {
		if err := w.to.Remove(ctx, f.key); err != nil {
			return err
		}
		w.out.Pruned = append(w.out.Pruned, f.path)
	}
	// Nobody else writes here, so age says nothing. Clocks may differ.
	before := time.Now().Add(24 * time.Hour)
	for info, err := range w.to.Blobs().All(ctx) {
		if err != nil {
			return err
		}
		if _, ok := used[info.Digest]; ok {
			continue
		}
		gone, err := w.to.Blobs().Delete(ctx, info.Digest, before)
		if err != nil {
			return err
		}
		if gone {
			w.out.FreedBytes += info.Size
		}
	}
	return nil
}
