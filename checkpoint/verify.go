package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/internal/mirror"
)

// ManifestFile is the file that Download keeps beside a checkpoint's own, for
// Verify.
const ManifestFile = ".tinkex-manifest.json"

// savedManifest is ManifestFile.
type savedManifest struct {
	Format       int       `json:"format"`
	Path         string    `json:"tinker_path"`
	DownloadedAt time.Time `json:"downloaded_at"`
	// DigestsFromServer: the digests are the server's, and the files had them.
	// Otherwise they are of what arrived.
	DigestsFromServer bool   `json:"digests_from_server"`
	Files             []File `json:"files"`
}

const manifestFormat = 1

func (m savedManifest) write(dir string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, ManifestFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func readManifest(dir string) (savedManifest, error) {
	var m savedManifest
	b, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", ManifestFile, err)
	}
	if m.Format != manifestFormat {
		return m, fmt.Errorf("%s has format %d, which this version does not know", ManifestFile, m.Format)
	}
	names := make([]string, len(m.Files))
	for i, f := range m.Files {
		names[i] = f.Name
	}
	return m, checkNames(names)
}

// ErrNotIntact: a directory is not what was downloaded.
var ErrNotIntact = errors.New("the checkpoint is not intact")

// Verification is what Verify found. The lists name files by their paths in the
// directory.
type Verification struct {
	Dir string
	// Path is the checkpoint's, empty if there is no manifest to say.
	Path string
	// Digests says what the files were compared with.
	Digests DigestSource
	Checked int   // files that were read
	Bytes   int64 // in them

	Missing []string
	Changed []Fault // another size or digest than the manifest's, or no file
	Extra   []string
	Damaged []Fault // wrong whatever the manifest says: safetensors headers that do not agree with their files
}

// DigestSource is where the digests that files are compared with come from.
type DigestSource string

// The sources.
const (
	// DigestsFromServer: the server gave them when the checkpoint was downloaded.
	DigestsFromServer DigestSource = "server"
	// DigestsOfArrival: the server gave none; they are of what arrived, so they
	// tell what has changed on disk since.
	DigestsOfArrival DigestSource = "download"
	// NoDigests: there is no manifest. Only the files' own structure is checked.
	NoDigests DigestSource = "none"
)

// Fault is what is wrong with a file.
type Fault struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Intact reports whether nothing is missing, changed or damaged. Files that
// somebody added do not count.
func (v Verification) Intact() bool {
	return len(v.Missing) == 0 && len(v.Changed) == 0 && len(v.Damaged) == 0
}

// VerifyOptions configures VerifyWith. The zero value works.
type VerifyOptions struct {
	// Progress, if not nil, is told how many bytes have been read, in one call
	// at a time.
	Progress func(bytes int64)
}

// Verify reads every file of a downloaded checkpoint again and compares it
// with the manifest kept beside it. It returns an error only if it could not
// look; what it found is in the Verification.
func Verify(ctx context.Context, dir string) (Verification, error) {
	return VerifyWith(ctx, dir, VerifyOptions{})
}

// VerifyWith is Verify with options.
func VerifyWith(ctx context.Context, dir string, opts VerifyOptions) (Verification, error) {
	v := Verification{Dir: dir, Digests: NoDigests}
	present, err := listFiles(dir)
	if err != nil {
		return v, fmt.Errorf("verify %s: %w", dir, err)
	}
	if slices.Contains(present, mirror.HeaderFile) {
		return v, fmt.Errorf("verify %s: it is a mirror: 'tinkex checkpoint mirror verify --to %s' or VerifyMirror reads it", dir, dir)
	}
	m, err := readManifest(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !slices.Contains(present, completeFile) && !slices.Contains(present, "adapter_config.json") {
			return v, fmt.Errorf("verify %s: it is not a checkpoint: there is neither %s nor adapter_config.json", dir, ManifestFile)
		}
		if !slices.Contains(present, completeFile) {
			v.Missing = append(v.Missing, completeFile)
		}
	case err != nil:
		return v, fmt.Errorf("verify %s: %w", dir, err)
	default:
		v.Path, v.Digests = m.Path, DigestsOfArrival
		if m.DigestsFromServer {
			v.Digests = DigestsFromServer
		}
	}
	if err := v.compare(ctx, m, present, opts.reading()); err != nil {
		return v, fmt.Errorf("verify %s: %w", dir, err)
	}
	return v, nil
}

// reading returns what is told of each piece that has been read.
func (o VerifyOptions) reading() func(n int64) {
	if o.Progress == nil {
		return func(int64) {}
	}
	var mu sync.Mutex
	var sum int64
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		sum += n
		o.Progress(sum)
	}
}

// listFiles lists everything in a directory but directories and our own file.
func listFiles(dir string) ([]string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errors.New("it is not a directory")
	}
	var names []string
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && name != ManifestFile {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

func (v *Verification) compare(ctx context.Context, m savedManifest, present []string, read func(n int64)) error {
	want := map[string]File{}
	for _, f := range m.Files {
		want[f.Name] = f
		if !slices.Contains(present, f.Name) {
			v.Missing = append(v.Missing, f.Name)
		}
	}
	faults := make([]struct {
		changed, damaged string
		size             int64
		checked          bool
	}, len(present))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range present {
		f, known := want[name]
		if !known && v.Digests != NoDigests {
			v.Extra = append(v.Extra, name)
			continue
		}
		g.Go(func() error {
			out := &faults[i]
			size, sum, err := digestOf(ctx, filepath.Join(v.Dir, filepath.FromSlash(name)), read)
			switch {
			case errors.Is(err, errNotPlain) && known:
				out.changed = err.Error()
				return nil
			case errors.Is(err, errNotPlain):
				out.damaged = err.Error()
				return nil
			case err != nil:
				return err
			}
			out.size, out.checked = size, true
			switch {
			case !known:
			case size != f.Size:
				out.changed = fmt.Sprintf("it has %d bytes instead of %d", size, f.Size)
			case sum != f.SHA256:
				out.changed = fmt.Sprintf("its SHA-256 is %s instead of %s", sum, f.SHA256)
			}
			if err := checkSafetensors(v.Dir, name); err != nil {
				out.damaged = err.Error()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, f := range faults {
		if f.changed != "" {
			v.Changed = append(v.Changed, Fault{present[i], f.changed})
		}
		if f.damaged != "" {
			v.Damaged = append(v.Damaged, Fault{present[i], f.damaged})
		}
		if f.checked {
			v.Checked++
			v.Bytes += f.size
		}
	}
	return nil
}

var errNotPlain = errors.New("it is not a plain file")

// digestOf reads a file, and says after each piece how long it was. What is not
// a plain file is errNotPlain: links are not followed.
func digestOf(ctx context.Context, path string, read func(n int64)) (int64, string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, "", err
	}
	if !info.Mode().IsRegular() {
		return 0, "", errNotPlain
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	if err := hashFile(ctx, f, h, read); err != nil {
		return 0, "", fmt.Errorf("%s: %w", path, err)
	}
	return info.Size(), hex.EncodeToString(h.Sum(nil)), nil
}
