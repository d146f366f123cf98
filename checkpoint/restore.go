package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/mirror"
)

// RestoreOptions configures Restore. The zero value restores everything, each
// run into one that stands for it.
type RestoreOptions struct {
	// Selection is what to restore, of what the mirror has; the zero Selection
	// is everything. RunID is the run's id on the server it was mirrored from.
	Selection Selection
	// ToRun is a run of the caller's to restore into, of the same base model
	// and rank.
	ToRun string
	// Overwrite replaces checkpoints of the same name that have other files.
	Overwrite bool
	// TTL is how long the restored checkpoints live. Zero is for ever: when the
	// mirrored ones expire or have expired does not matter.
	TTL time.Duration
	// DryRun finds out what is selected, and asks the server nothing.
	DryRun bool
	// Jobs is how many uploads are on their way at once. If less than or equal
	// to 0, DefaultImportJobs.
	Jobs int
	// Progress is called, by one goroutine at a time, whenever there is some.
	Progress func(RestoreProgress)
}

// RestoreProgress says how far a restore is.
type RestoreProgress struct {
	Done, Failed, Total int
	// SentBytes were sent so far.
	SentBytes int64
}

// Restored is what came of a restore. Each selected checkpoint is in one of
// the lists.
type Restored struct {
	Mirror string // without secrets
	// Restored were made, with DryRun: would be.
	Restored []RestoredCheckpoint
	// Present were there already, with the same files.
	Present []RestoredCheckpoint
	Failed  []MirrorFailure
	Left    []tinkex.TinkerPath // not come to, or not finished, when ctx ended
	// SentBytes had to be sent; the server had the others.
	SentBytes int64
}

// RestoredCheckpoint is a checkpoint and what it was.
type RestoredCheckpoint struct {
	Origin tinkex.TinkerPath
	Path   tinkex.TinkerPath // zero with DryRun
	// SizeBytes is the sum of its files' sizes.
	SizeBytes int64
}

// RestoreClient is what Restore needs of a *tinkex.RestClient.
type RestoreClient interface {
	BlobClient
	RestoreCheckpoint(ctx context.Context, req tinkex.RestoreRequest) (tinkex.RestoreResult, error)
}

// Restore makes checkpoints, on a server of this project, of what a mirror
// has: training states with their optimizer and weights to sample from, under
// their names, with their times and metadata, in runs that stand for those
// they were in. Each tells in its metadata, under restored_from, where it
// comes from. They are private and live for ever, whatever they were.
//
// Only what the server does not have is sent, and every byte is checked. A
// second Restore changes nothing, and one that was interrupted goes on where
// it stopped.
//
// One failure does not end the others. The error is nil, a *PartialError, ctx's
// or, if nothing could be done at all, another one; what was done is in the
// result either way.
func Restore(ctx context.Context, client RestoreClient, from string, opts RestoreOptions) (Restored, error) {
	r := &restoring{client: client, opts: opts}
	r.out.Mirror = blobstore.Redact(from)
	if err := r.do(ctx, from); err != nil {
		return r.out, fmt.Errorf("restore from %s: %w", r.out.Mirror, err)
	}
	if len(r.out.Failed) > 0 {
		e := &PartialError{Op: "restore from " + r.out.Mirror, Total: r.progress.Total}
		for _, f := range r.out.Failed {
			e.Errs = append(e.Errs, f.Err)
		}
		return r.out, e
	}
	return r.out, nil
}

// restoring is a Restore at work. One checkpoint comes after the other, so
// that those which share files send them once; what is sent of one is sent in
// parallel.
type restoring struct {
	client   RestoreClient
	opts     RestoreOptions
	from     *mirror.Mirror
	out      Restored
	progress RestoreProgress
}

func (r *restoring) do(ctx context.Context, from string) (err error) {
	if err := r.opts.Selection.Validate(); err != nil {
		return err
	}
	if r.from, err = mirror.Open(ctx, from); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.from.Close()) }()
	list, err := r.selected(ctx)
	if err != nil {
		return err
	}
	if r.opts.DryRun {
		for _, c := range list {
			r.out.Restored = append(r.out.Restored, RestoredCheckpoint{Origin: c.path, SizeBytes: c.size})
		}
		return nil
	}
	var limits tinkex.MissingBlobs
	if len(list) > 0 {
		// First of all, whether there is somewhere to restore to.
		if limits, err = r.client.MissingBlobs(ctx, nil); err != nil {
			return err
		}
	}
	inARow := 0
	var stop error
	for _, c := range list {
		if ctx.Err() != nil {
			r.out.Left = append(r.out.Left, c.path)
			continue
		}
		done, created, err := RestoredCheckpoint{}, false, stop
		if err == nil {
			done, created, err = r.one(ctx, c, limits.PartBytes)
		}
		switch {
		case err == nil && created:
			r.out.Restored = append(r.out.Restored, done)
		case err == nil:
			r.out.Present = append(r.out.Present, done)
		case ctx.Err() != nil:
			r.out.Left = append(r.out.Left, c.path)
			continue
		default:
			r.out.Failed = append(r.out.Failed, MirrorFailure{c.path, fmt.Errorf("%s: %w", c.path, err)})
			if inARow++; inARow >= hopeless || errors.Is(err, tinkex.ErrUnauthorized) {
				stop = ErrNotTried
			}
			r.report(func(p *RestoreProgress) { p.Failed++ })
			continue
		}
		inARow = 0
		r.report(func(p *RestoreProgress) { p.Done++ })
	}
	return ctx.Err()
}

func (r *restoring) report(change func(*RestoreProgress)) {
	change(&r.progress)
	if r.opts.Progress != nil {
		r.opts.Progress(r.progress)
	}
}

// inMirror is a checkpoint of the mirror, as briefly as there may be many.
type inMirror struct {
	path tinkex.TinkerPath
	time time.Time
	size int64
}

// selected lists what to restore, the oldest first.
func (r *restoring) selected(ctx context.Context) ([]inMirror, error) {
	var list []inMirror
	for f, err := range r.from.Records(ctx) {
		if err != nil {
			return nil, err
		}
		if f.Err != nil {
			// It may be one of those that are meant.
			return nil, fmt.Errorf("%w; see what is damaged with 'tinkex checkpoint mirror verify', and mirror again", f.Err)
		}
		c := f.Record.Checkpoint
		c.TinkerPath = f.Record.TinkerPath
		if c.BaseModel == "" {
			c.BaseModel = f.Record.Weights.BaseModel
		}
		if r.opts.Selection.Match(c) {
			list = append(list, inMirror{path: f.Record.Path(), time: c.Time, size: f.Record.SizeBytes()})
		}
	}
	slices.SortFunc(list, func(a, b inMirror) int {
		if c := a.time.Compare(b.time); c != 0 {
			return c
		}
		return strings.Compare(a.path.String(), b.path.String())
	})
	r.progress.Total = len(list)
	return list, nil
}

// one restores a checkpoint.
func (r *restoring) one(ctx context.Context, c inMirror, partBytes int64) (RestoredCheckpoint, bool, error) {
	out := RestoredCheckpoint{Origin: c.path, SizeBytes: c.size}
	rec, err := r.from.Record(ctx, c.path)
	if err != nil {
		return out, false, err
	}
	req, err := r.request(rec)
	if err != nil {
		return out, false, err
	}
	im := &importer{client: r.client, opts: ImportOptions{Jobs: r.opts.Jobs}}
	sent := int64(0)
	im.opts.Progress = func(p ImportProgress) {
		r.report(func(now *RestoreProgress) { now.SentBytes += p.Sent - sent })
		sent = p.Sent
	}
	for try := 1; ; try++ {
		n, files, err := r.send(ctx, im, rec, partBytes)
		r.out.SentBytes += n
		if err != nil {
			return out, false, err
		}
		req.Files = files
		result, err := r.client.RestoreCheckpoint(ctx, req)
		if err == nil {
			out.Path, err = result.Checkpoint.Path()
			return out, result.Created, err
		}
		// What was there when it was asked for may be too old by now. A name
		// that is taken is the same sort of error.
		if try > 1 || !errors.Is(err, tinkex.ErrConflict) {
			return out, false, err
		}
		if again, askErr := r.client.MissingBlobs(ctx, blobsOf(rec)); askErr != nil || len(again.Missing) == 0 {
			return out, false, err
		}
	}
}

func (r *restoring) request(rec mirror.Record) (tinkex.RestoreRequest, error) {
	w := rec.Weights
	if w.LoRARank == nil {
		w.LoRARank = rec.Run.LoRARank
	}
	if !w.IsLoRA || w.LoRARank == nil || w.BaseModel == "" {
		return tinkex.RestoreRequest{}, errors.New("it is no LoRA adapter of a known base model and rank, and a server of this project keeps nothing else")
	}
	return tinkex.RestoreRequest{
		Origin: rec.Path(), RunID: r.opts.ToRun, BaseModel: w.BaseModel, LoRARank: *w.LoRARank,
		TrainAttn: w.TrainAttn, TrainMLP: w.TrainMLP, TrainUnembed: w.TrainUnembed,
		RunMetadata: rec.Run.UserMetadata, LastRequestTime: rec.Run.LastRequestTime,
		Time: rec.Checkpoint.Time, UserMetadata: rec.Checkpoint.UserMetadata,
		TTL: r.opts.TTL, Overwrite: r.opts.Overwrite,
	}, nil
}

func blobsOf(rec mirror.Record) []tinkex.Blob {
	out := make([]tinkex.Blob, len(rec.Files))
	for i, f := range rec.Files {
		out[i] = tinkex.Blob{SHA256: f.SHA256, SizeBytes: f.Size}
	}
	return out
}

// send sends those files that the server does not have.
func (r *restoring) send(ctx context.Context, im *importer, rec mirror.Record, partBytes int64) (sent int64, files []tinkex.ImportFile, err error) {
	blobs := blobsOf(rec)
	answer, err := r.client.MissingBlobs(ctx, blobs)
	if err != nil {
		return 0, nil, err
	}
	im.files = nil
	byName := map[string]*sourceFile{}
	for i, f := range rec.Files {
		if slices.Contains(answer.Missing, f.SHA256) && f.Size > 0 {
			src := r.source(ctx, f)
			im.files = append(im.files, src)
			byName[f.Name] = src
		}
		files = append(files, tinkex.ImportFile{Name: f.Name, Blob: blobs[i]})
	}
	if len(im.files) == 0 {
		return 0, files, nil
	}
	if err := im.hash(ctx, partBytes); err != nil {
		return 0, nil, missingBytes(err)
	}
	for i := range files {
		src := byName[files[i].Name]
		if src == nil {
			continue
		}
		if src.blob.SHA256 != files[i].Blob.SHA256 {
			return 0, nil, src.changed()
		}
		files[i].Parts = src.parts
	}
	sent, err = im.send(ctx)
	return sent, files, missingBytes(err)
}

// source is a file of the mirror.
func (r *restoring) source(ctx context.Context, f mirror.File) *sourceFile {
	return &sourceFile{
		name: f.Name, size: f.Size,
		open: func() (io.ReaderAt, func()) {
			b := &blobReader{ctx: ctx, s: r.from.Blobs(), d: f.Digest()}
			return b, b.close
		},
		same: func() bool { return true }, // every byte is compared
		changed: func() error {
			return fmt.Errorf("%s: the mirror's bytes of it are damaged: %w; mirror it again after 'tinkex checkpoint mirror verify --repair'", f.Name, ErrDigest)
		},
	}
}

// missingBytes says what to do about bytes that the mirror lacks.
func missingBytes(err error) error {
	if errors.Is(err, blobstore.ErrNotFound) {
		return fmt.Errorf("the mirror has lost bytes of it, mirror it again if it is still there: %w", err)
	}
	return err
}

// blobReader reads a blob at any place, as a stream for as long as each read
// begins where the one before ended.
type blobReader struct {
	ctx context.Context
	s   blobstore.Store
	d   blobstore.Digest

	mu sync.Mutex
	r  io.ReadCloser
	at int64
}

func (b *blobReader) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil || b.at != off {
		b.drop()
		r, err := b.s.OpenRange(b.ctx, b.d, off, -1)
		if err != nil {
			return 0, err
		}
		b.r, b.at = r, off
	}
	n, err := io.ReadFull(b.r, p)
	b.at += int64(n)
	if err != nil {
		b.drop()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
	}
	return n, err
}

func (b *blobReader) drop() {
	if b.r != nil {
		_ = b.r.Close() // it was only read
		b.r = nil
	}
}

func (b *blobReader) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop()
}
