package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/durable"
	"github.com/tinkex/tinkex/internal/transfer"
)

// ErrDigest: a file's bytes are not those that its SHA-256 promises.
var ErrDigest = errors.New("the SHA-256 does not match")

// filesAtOnce is how many files of a checkpoint are written at once. Each is
// hashed by one processor at a time.
const filesAtOnce = 4

// fetchFiles brings the files of a manifest, and returns them in its order,
// with those that are not wanted.
func (d *download) fetchFiles(ctx context.Context, part *partial, client ManifestClient, m tinkex.Manifest) ([]File, error) {
	all := make([]string, len(m.Files))
	for i, f := range m.Files {
		all[i] = f.Name
	}
	if err := checkNames(all); err != nil {
		return nil, err
	}
	switch {
	case part.state.Digest == m.Digest:
	case part.state.Digest != "" && part.hasBytes():
		return nil, fmt.Errorf("%w: the checkpoint is another one than the one begun before", errStartOver)
	default:
		if err := part.clear(); err != nil {
			return nil, err
		}
		part.state.Digest = m.Digest
		if err := part.save(); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(part.files())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	wanted := m.Files
	if d.skip != nil {
		wanted = slices.DeleteFunc(slices.Clone(m.Files), d.skip)
	}
	names, total := make([]string, len(wanted)), int64(0)
	for i, f := range wanted {
		names[i] = f.Name
		total += f.SizeBytes
		if err := root.MkdirAll(filepath.FromSlash(path.Dir(f.Name)), 0o755); err != nil {
			return nil, err
		}
	}
	d.progress.begin(total)
	urls := &fileURLs{client: client, manifest: m}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(filesAtOnce)
	for _, f := range wanted {
		g.Go(func() error {
			if err := d.fetchFile(ctx, root, urls, f); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := removeOthers(root, names); err != nil {
		return nil, err
	}
	for _, dir := range directoriesOf(names) {
		if err := durable.SyncDir(filepath.Join(part.files(), filepath.FromSlash(dir))); err != nil {
			return nil, err
		}
	}
	files := make([]File, len(m.Files))
	for i, f := range m.Files {
		files[i] = File{Name: f.Name, Size: f.SizeBytes, SHA256: f.SHA256}
	}
	return files, nil
}

// directoriesOf lists the directories that files are in, but for the root,
// children first.
func directoriesOf(names []string) []string {
	var dirs []string
	for _, name := range names {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	slices.Reverse(dirs)
	return dirs
}

// removeOthers removes what no manifest accounts for.
func removeOthers(root *os.Root, names []string) error {
	known := map[string]bool{}
	for _, n := range names {
		known[n] = true
	}
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || known[name] {
			return err
		}
		return root.Remove(filepath.FromSlash(name))
	})
}

// fileURLs are a manifest's URLs, renewed for all files at once.
type fileURLs struct {
	client ManifestClient

	mu       sync.Mutex
	manifest tinkex.Manifest
}

// of returns a file's URL, if it can be one other than the refused one.
func (u *fileURLs) of(ctx context.Context, name, refused string) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if url := u.find(name); refused == "" || url != refused {
		return url, nil
	}
	m, err := u.client.Manifest(ctx, u.manifest.Path)
	if err != nil {
		return "", err
	}
	if m.Digest != u.manifest.Digest {
		return "", fmt.Errorf("%w: the checkpoint was overwritten", transfer.ErrChanged)
	}
	u.manifest = m
	return u.find(name), nil
}

func (u *fileURLs) find(name string) string {
	for _, f := range u.manifest.Files {
		if f.Name == name {
			return f.URL
		}
	}
	return ""
}

// fetchFile brings one file, from where an earlier download left it. What does
// not have the right digest in the end is fetched once more, whole.
func (d *download) fetchFile(ctx context.Context, root *os.Root, urls *fileURLs, f tinkex.ManifestFile) error {
	if info, err := root.Lstat(filepath.FromSlash(f.Name)); err == nil && !info.Mode().IsRegular() {
		if err := root.RemoveAll(filepath.FromSlash(f.Name)); err != nil {
			return err
		}
	}
	w, err := root.OpenFile(filepath.FromSlash(f.Name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer w.Close()
	o := transfer.Object{
		Name: f.Name, Size: f.SizeBytes,
		Locate: func(ctx context.Context, refused string) (string, error) { return urls.of(ctx, f.Name, refused) },
	}
	h := sha256.New()
	have, err := d.continueFile(ctx, w, f.SizeBytes, h)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := d.fetchRest(ctx, o, w, have, h)
		if errors.Is(err, transfer.ErrNoRanges) && have > 0 {
			d.notice(f.Name + " is fetched from its beginning: " + err.Error())
		} else if err != nil {
			return err
		} else if got := hex.EncodeToString(h.Sum(nil)); got == f.SHA256 {
			return w.Sync()
		} else if err = fmt.Errorf("%w: it is %s instead of %s", ErrDigest, got, f.SHA256); try > 1 {
			// Nobody is to go on from it.
			return errors.Join(err, w.Truncate(0))
		} else {
			d.notice(f.Name + " is fetched once more: " + err.Error())
			have = f.SizeBytes
		}
		if err := restartFile(w, h); err != nil {
			return err
		}
		d.progress.lost(have)
		have = 0
	}
}

func restartFile(w *os.File, h hash.Hash) error {
	h.Reset()
	return w.Truncate(0)
}

// continueFile hashes what is there of a file and returns how much that is.
func (d *download) continueFile(ctx context.Context, w *os.File, size int64, h hash.Hash) (int64, error) {
	info, err := w.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > size {
		return 0, restartFile(w, h)
	}
	have := info.Size()
	if have < size {
		have = durable.Aligned(have)
	}
	if err := hashFile(ctx, io.LimitReader(w, have), h, d.progress.resumed); err != nil {
		return 0, err
	}
	return have, w.Truncate(have)
}

// hashFile reads on to the end, and says after each piece how long it was.
func hashFile(ctx context.Context, r io.Reader, h hash.Hash, did func(n int64)) error {
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		did(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fetchRest appends the bytes from an offset on. What has arrived is hashed and
// written side by side.
func (d *download) fetchRest(ctx context.Context, o transfer.Object, w *os.File, offset int64, h hash.Hash) error {
	r, err := d.remote.Open(ctx, o, offset, d.progress.arrived)
	if err != nil {
		return err
	}
	defer r.Close()
	dst, err := durable.NewAppender(w, offset)
	if err != nil {
		return err
	}
	toHash, toWrite := make(chan piece, piecesAhead), make(chan piece, piecesAhead)
	var failed atomic.Bool
	var g errgroup.Group
	g.Go(func() error {
		for p := range toHash {
			h.Write(p.bytes)
			p.done()
		}
		return nil
	})
	g.Go(func() (err error) {
		for p := range toWrite {
			if err == nil {
				_, err = dst.Write(p.bytes)
				failed.Store(err != nil)
			}
			p.done()
		}
		return err
	})
	for !failed.Load() {
		var b []byte
		var release func()
		if b, release, err = r.Take(); err != nil {
			break
		}
		p := piece{bytes: b, release: release, users: new(atomic.Int32)}
		p.users.Store(2)
		toHash <- p
		toWrite <- p
		offset += int64(len(b))
	}
	close(toHash)
	close(toWrite)
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != io.EOF { //nolint:errorlint // the end itself
		return err
	}
	if offset != o.Size {
		return fmt.Errorf("%d bytes arrived instead of %d", offset, o.Size)
	}
	return nil
}

// piecesAhead is how far hashing and writing may be apart.
const piecesAhead = 4

// piece is a part of the window that is hashed and written.
type piece struct {
	bytes   []byte
	release func()
	users   *atomic.Int32
}

func (p piece) done() {
	if p.users.Add(-1) == 0 {
		p.release()
	}
}
