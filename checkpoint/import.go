package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/mirror"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// The files of an adapter directory that are imported.
const (
	adapterConfig  = "adapter_config.json"
	adapterWeights = "adapter_model.safetensors"
	optimizerState = "optimizer_state.safetensors"

	adapterPickle = "adapter_model.bin"
)

// DefaultImportJobs is how many uploads Import has on their way at once.
const DefaultImportJobs = 8

// ImportOptions configures Import. Name is required.
type ImportOptions struct {
	// Name is that of the checkpoints.
	Name string
	// Types are tinkex.Training, tinkex.Sampler or both. Nil is both: they
	// share their files.
	Types []tinkex.CheckpointType
	// BaseModel is the server's base model that the adapter is for. It is
	// needed if adapter_config.json does not say.
	BaseModel string
	// RunID is a run of the caller's to import into, of the same base model
	// and rank. Empty makes a run of its own.
	RunID string
	// Overwrite replaces checkpoints of that name in the run.
	Overwrite bool
	// TTL is how long the checkpoints live. Zero is for ever.
	TTL          time.Duration
	UserMetadata map[string]string
	// Jobs is how many uploads are on their way at once. If less than or equal
	// to 0, DefaultImportJobs.
	Jobs int
	// Progress is called, by one goroutine at a time, whenever there is some.
	Progress func(ImportProgress)
}

// ImportProgress says how far an import is. Bytes are hashed first, then those
// that the server does not have are sent.
type ImportProgress struct {
	Hashed, Total int64
	Sent          int64
	ToSend        int64 // -1 until it is known
}

// Imported is an adapter that became checkpoints.
type Imported struct {
	TrainingRunID string
	Checkpoints   []tinkex.Checkpoint
	Files         []File
	// SentBytes had to be sent; the server had the others.
	SentBytes int64
	// Ignored are the names in the directory that are no part of an adapter.
	Ignored []string
}

// BlobClient is the part of a *tinkex.RestClient that sends bytes.
type BlobClient interface {
	MissingBlobs(ctx context.Context, blobs []tinkex.Blob) (tinkex.MissingBlobs, error)
	UploadBlob(ctx context.Context, blob tinkex.Blob, r io.ReaderAt) error
}

// ImportClient is what Import needs of a *tinkex.RestClient.
type ImportClient interface {
	BlobClient
	ImportCheckpoint(ctx context.Context, req tinkex.ImportRequest) (tinkex.ImportResult, error)
}

// Import makes checkpoints of a PEFT adapter directory: adapter_config.json,
// adapter_model.safetensors and, if it is there, optimizer_state.safetensors
// of this project's making. Links to such files are followed, as caches of
// model hubs are made of them; whatever else there is, is left alone and named
// in the result.
//
// Files are hashed in parallel, and only what the server does not have is
// sent: after a failure, Import done again goes on where it stopped. The
// checkpoints appear when everything is there, or not at all. Memory does not
// grow with the files.
func Import(ctx context.Context, client ImportClient, dir string, opts ImportOptions) (Imported, error) {
	im := &importer{client: client, opts: opts, now: ImportProgress{ToSend: -1}}
	out, err := im.do(ctx, client, dir)
	for _, f := range im.opened {
		f.Close()
	}
	if err != nil {
		return Imported{}, fmt.Errorf("import %s: %w", dir, err)
	}
	return out, nil
}

// importer is one import on its way.
type importer struct {
	client BlobClient
	opts   ImportOptions
	files  []*sourceFile
	opened []*os.File

	mu  sync.Mutex
	now ImportProgress
}

// sourceFile is a file to be sent.
type sourceFile struct {
	name string
	size int64
	// open starts a reading of it, which close ends. Several may go on at once.
	open func() (r io.ReaderAt, closer func())
	// same reports whether it is still as it was at first, and changed is the
	// error of one that is not.
	same    func() bool
	changed func() error

	blob  tinkex.Blob
	parts []tinkex.Blob // nil if it is one blob
}

func (im *importer) do(ctx context.Context, client ImportClient, dir string) (Imported, error) {
	var out Imported
	if err := tinkex.ValidateName(im.opts.Name); err != nil {
		return out, err
	}
	if err := im.open(dir, &out); err != nil {
		return out, err
	}
	// First of all, whether there is somewhere to import to.
	limits, err := im.client.MissingBlobs(ctx, nil)
	if err != nil {
		return out, err
	}
	if err := im.hash(ctx, limits.PartBytes); err != nil {
		return out, err
	}
	for _, f := range im.files {
		out.Files = append(out.Files, File{Name: f.name, Size: f.blob.SizeBytes, SHA256: f.blob.SHA256})
	}
	for try := 1; ; try++ {
		result, sent, err := im.sendConfig(ctx, client, limits.PartBytes)
		out.SentBytes += sent
		if err == nil && result == nil {
			sent, err = im.send(ctx)
			out.SentBytes += sent
			if err != nil {
				return out, err
			}
			result, err = im.ask(ctx, client)
		}
		if err == nil {
			out.TrainingRunID, out.Checkpoints = result.TrainingRunID, result.Checkpoints
			return out, nil
		}
		// What was there when it was asked for may be too old by now. A name
		// that is taken is the same sort of error.
		if try > 1 || !errors.Is(err, tinkex.ErrConflict) {
			return out, err
		}
		if again, askErr := im.missing(ctx); askErr != nil || len(again) == 0 {
			return out, err
		}
	}
}

// sendConfig sends the configuration alone if the rest is much, and asks for the
// import: the server refuses what it can tell from that, a base model that it
// does not have among it, before the rest is on its way. There is a result only
// if the rest has come meanwhile by another way.
func (im *importer) sendConfig(ctx context.Context, client ImportClient, much int64) (result *tinkex.ImportResult, sent int64, err error) {
	todo, err := im.missing(ctx)
	if err != nil {
		return nil, 0, err
	}
	im.willSend(todo)
	var first []upload
	var rest int64
	for _, u := range todo {
		if u.file.name == adapterConfig {
			first = append(first, u)
		} else {
			rest += u.blob.SizeBytes
		}
	}
	if rest <= much {
		return nil, 0, nil
	}
	if sent, err = im.uploadAll(ctx, first); err != nil {
		return nil, sent, err
	}
	result, err = im.ask(ctx, client)
	if err != nil && !errors.Is(err, tinkex.ErrInvalid) {
		err = nil // most likely, that the rest is missing; it is found again when that is there
	}
	return result, sent, err
}

func (im *importer) ask(ctx context.Context, client ImportClient) (*tinkex.ImportResult, error) {
	result, err := client.ImportCheckpoint(ctx, im.request())
	if err != nil {
		return nil, err
	}
	return &result, nil
}

func (im *importer) request() tinkex.ImportRequest {
	req := tinkex.ImportRequest{
		Name: im.opts.Name, Types: im.opts.Types, BaseModel: im.opts.BaseModel, RunID: im.opts.RunID,
		Overwrite: im.opts.Overwrite, TTL: im.opts.TTL, UserMetadata: im.opts.UserMetadata,
	}
	for _, f := range im.files {
		req.Files = append(req.Files, tinkex.ImportFile{Name: f.name, Blob: f.blob, Parts: f.parts})
	}
	return req
}

// refuse is the error of a directory that is no adapter's.
func refuse(format string, args ...any) error {
	return &tinkex.Error{Category: tinkex.CategoryUser, Message: fmt.Sprintf(format, args...), Err: tinkex.ErrInvalid}
}

// open finds and opens the files, and checks what can be checked here before
// gigabytes are on their way.
func (im *importer) open(dir string, out *Imported) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	known := []string{adapterConfig, adapterWeights, optimizerState}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
		// Of the mark that ends a checkpoint the server makes its own, and
		// what is hidden is no adapter's.
		if !slices.Contains(known, e.Name()) && e.Name() != completeFile && !strings.HasPrefix(e.Name(), ".") {
			out.Ignored = append(out.Ignored, e.Name())
		}
	}
	switch {
	case names[mirror.HeaderFile]:
		return refuse("it is a mirror: bring its checkpoints back with 'tinkex checkpoint restore --from %s' or Restore", dir)
	case !names[adapterConfig]:
		return refuse("there is no %s: a PEFT adapter directory was expected", adapterConfig)
	case !names[adapterWeights] && names[adapterPickle]:
		return refuse("%s is a pickle, which can run code when it is read: convert it to %s first, "+
			"with PEFT's save_pretrained(..., safe_serialization=True)", adapterPickle, adapterWeights)
	case !names[adapterWeights]:
		return refuse("there is no %s", adapterWeights)
	}
	for _, name := range known {
		if !names[name] {
			continue
		}
		path := filepath.Join(dir, name)
		// Before it is opened: to open a pipe is to wait for its other end.
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return refuse("%s is no file", name)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		im.opened = append(im.opened, f)
		if info, err = f.Stat(); err != nil {
			return err
		}
		im.files = append(im.files, fileSource(name, f, info))
		im.now.Total += info.Size()
		if name == adapterConfig {
			err = checkConfig(f, info.Size())
		} else {
			_, err = safetensors.Open(f, info.Size())
		}
		if err != nil {
			return refuse("%s: %v", name, err)
		}
	}
	return nil
}

// maxConfig is the server's bound on adapter_config.json.
const maxConfig = 1 << 20

// checkConfig finds out what is not a LoRA adapter's configuration at all; the
// rest is for the server to judge.
func checkConfig(f io.ReaderAt, size int64) error {
	if size > maxConfig {
		return fmt.Errorf("%d bytes are more than %d", size, maxConfig)
	}
	var c struct {
		PeftType string `json:"peft_type"`
	}
	if err := json.NewDecoder(io.NewSectionReader(f, 0, size)).Decode(&c); err != nil {
		return err
	}
	if !strings.EqualFold(c.PeftType, "LORA") {
		return fmt.Errorf("peft_type is %q, expected LORA", c.PeftType)
	}
	return nil
}

// fileSource is a file on disk, as it was when it was opened.
func fileSource(name string, f *os.File, info fs.FileInfo) *sourceFile {
	return &sourceFile{
		name: name, size: info.Size(),
		open: func() (io.ReaderAt, func()) { return f, func() {} },
		same: func() bool {
			now, err := f.Stat()
			return err == nil && now.Size() == info.Size() && now.ModTime().Equal(info.ModTime())
		},
		changed: func() error {
			return refuse("%s changed while it was read; import it again when nothing writes to it", name)
		},
	}
}

// hashChunk is how much of a file is in memory while it is hashed.
const hashChunk = 1 << 20

func (im *importer) hash(ctx context.Context, partBytes int64) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range im.files {
		g.Go(func() error { return im.hashFile(ctx, f, partBytes) })
	}
	return g.Wait()
}

// hashFile computes the digests of a file and, if it has to be sent in parts,
// of these, the two side by side in one pass.
func (im *importer) hashFile(ctx context.Context, f *sourceFile, partBytes int64) error {
	size := f.size
	src, done := f.open()
	defer done()
	whole, part := sha256.New(), sha256.New()
	inParts := size > partBytes
	buf := make([]byte, hashChunk)
	var parts []tinkex.Blob
	for at, inPart := int64(0), int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(int64(len(buf)), size-at, partBytes-inPart)
		if _, err := src.ReadAt(buf[:n], at); err != nil {
			if errors.Is(err, io.EOF) {
				return f.changed()
			}
			return err
		}
		var wg sync.WaitGroup
		if inParts {
			wg.Go(func() { part.Write(buf[:n]) })
		}
		whole.Write(buf[:n])
		wg.Wait()
		at, inPart = at+n, inPart+n
		if inParts && (inPart == partBytes || at == size) {
			parts = append(parts, tinkex.Blob{SHA256: digest(part), SizeBytes: inPart})
			part.Reset()
			inPart = 0
		} else if inPart == partBytes {
			inPart = 0
		}
		im.report(func(p *ImportProgress) { p.Hashed += n })
	}
	if !f.same() {
		return f.changed()
	}
	f.blob, f.parts = tinkex.Blob{SHA256: digest(whole), SizeBytes: size}, parts
	return nil
}

func digest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func (im *importer) report(change func(*ImportProgress)) {
	im.mu.Lock()
	defer im.mu.Unlock()
	change(&im.now)
	if im.opts.Progress != nil {
		im.opts.Progress(im.now)
	}
}

// upload is a piece of a file that is to be sent.
type upload struct {
	file   *sourceFile
	part   int // -1 for the whole
	blob   tinkex.Blob
	offset int64
}

func (u *upload) String() string {
	if u.part < 0 {
		return u.file.name
	}
	return fmt.Sprintf("part %d of %d of %s", u.part+1, len(u.file.parts), u.file.name)
}

// missing lists what the server does not have, nothing twice. Of a file that
// it has, no part is needed.
func (im *importer) missing(ctx context.Context) ([]upload, error) {
	var ask []tinkex.Blob
	for _, f := range im.files {
		ask = append(append(ask, f.blob), f.parts...)
	}
	answer, err := im.client.MissingBlobs(ctx, ask)
	if err != nil {
		return nil, err
	}
	missing := make(map[string]bool, len(answer.Missing))
	for _, d := range answer.Missing {
		missing[d] = true
	}
	var out []upload
	take := func(u upload) {
		if missing[u.blob.SHA256] && u.blob.SizeBytes > 0 {
			out = append(out, u)
			delete(missing, u.blob.SHA256)
		}
	}
	for _, f := range im.files {
		if f.parts == nil {
			take(upload{f, -1, f.blob, 0})
			continue
		}
		if !missing[f.blob.SHA256] {
			continue
		}
		at := int64(0)
		for i, p := range f.parts {
			take(upload{f, i, p, at})
			at += p.SizeBytes
		}
	}
	return out, nil
}

// send sends what is missing.
func (im *importer) send(ctx context.Context) (sent int64, err error) {
	todo, err := im.missing(ctx)
	if err != nil {
		return 0, err
	}
	im.willSend(todo)
	return im.uploadAll(ctx, todo)
}

func (im *importer) willSend(todo []upload) {
	im.report(func(p *ImportProgress) {
		p.ToSend = p.Sent
		for _, u := range todo {
			p.ToSend += u.blob.SizeBytes
		}
	})
}

func (im *importer) uploadAll(ctx context.Context, todo []upload) (sent int64, err error) {
	jobs := im.opts.Jobs
	if jobs <= 0 {
		jobs = DefaultImportJobs
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	var mu sync.Mutex
	for _, u := range todo {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := im.upload(ctx, u); err != nil {
				return err
			}
			mu.Lock()
			sent += u.blob.SizeBytes
			mu.Unlock()
			return nil
		})
	}
	return sent, g.Wait()
}

func (im *importer) upload(ctx context.Context, u upload) error {
	if !u.file.same() {
		return u.file.changed()
	}
	src, done := u.file.open()
	defer done()
	counted := &countedReader{im: im, r: io.NewSectionReader(src, u.offset, u.blob.SizeBytes)}
	err := im.client.UploadBlob(ctx, u.blob, counted)
	counted.settle(u.blob.SizeBytes, err == nil)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A file can change without a trace in its times.
	if h := sha256.New(); errors.Is(err, tinkex.ErrInvalid) || errors.Is(err, io.ErrUnexpectedEOF) {
		_, readErr := io.Copy(h, io.NewSectionReader(src, u.offset, u.blob.SizeBytes))
		if readErr != nil || digest(h) != u.blob.SHA256 {
			return u.file.changed()
		}
	}
	return fmt.Errorf("%s: %w", &u, err)
}

// countedReader reports the bytes that are sent, however often they are.
type countedReader struct {
	im *importer
	r  io.ReaderAt

	mu   sync.Mutex
	far  int64 // reported
	done bool
}

func (c *countedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	if more := off + int64(n) - c.far; more > 0 && !c.done {
		c.far += more
		c.im.report(func(p *ImportProgress) { p.Sent += more })
	}
	return n, err
}

// settle makes what was reported what came of it.
func (c *countedReader) settle(size int64, arrived bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	if !arrived {
		size = 0
	}
	if size != c.far {
		c.im.report(func(p *ImportProgress) { p.Sent += size - c.far })
	}
}
