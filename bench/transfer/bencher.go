//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/pyvenv"
	"github.com/tinkex/tinkex/internal/seed"
)

const (
	key   = "tml-bench"
	owner = "tml:user:bench"
	runID = "5eed5eed-0000-4000-8000-000000000000:train:0"
)

// bencher holds what all parts need.
type bencher struct {
	size, linkSize, largeSize int64
	rounds                    int

	dir     string // scratch, removed at the end
	binary  string
	venv    string
	noVenv  error // why there is no venv
	version string
}

// seeded is a checkpoint in a data directory.
type seeded struct {
	dataDir string
	path    tinkex.TinkerPath
	// external has the same files, for the published command.
	external tinkex.TinkerPath
	files    []metastore.File
	size     int64
}

func (b *bencher) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (b *bencher) open(ctx context.Context, parent string) (err error) {
	if b.dir, err = os.MkdirTemp(parent, "tinkex-bench-"); err != nil {
		return err
	}
	if b.binary, err = harness.Build(ctx, b.dir); err != nil {
		return err
	}
	if b.venv, b.noVenv = pyvenv.Dir(); b.noVenv == nil {
		b.version, b.noVenv = pyvenv.Version(b.venv)
	}
	return nil
}

func (b *bencher) close() error { return os.RemoveAll(b.dir) }

// about says what was measured with and on.
func (b *bencher) about(ctx context.Context) string {
	first := func(name string, args ...string) string {
		out, _ := exec.CommandContext(ctx, name, args...).Output()
		line, _, _ := bytes.Cut(out, []byte("\n"))
		return string(line)
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	with := []string{fmt.Sprintf("%d CPUs", runtime.NumCPU()), "Linux " + strings.TrimSpace(string(kernel)), runtime.Version()}
	for _, v := range []string{b.version, first("aria2c", "--version"), first("tar", "--version")} {
		if v != "" {
			with = append(with, v)
		}
	}
	curl, _, _ := strings.Cut(first("curl", "--version"), " (")
	return "Measured with " + strings.Join(append(with, curl), ", ") + "."
}

// free checks that the scratch disk has room, and says what is missing.
func (b *bencher) free(need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(b.dir, &st); err != nil {
		return err
	}
	if have := int64(st.Bavail) * st.Bsize; have < need {
		return fmt.Errorf("%s has %s free, %s are needed; choose another -dir or a smaller size",
			b.dir, humanize.Bytes(uint64(have)), humanize.Bytes(uint64(need)))
	}
	return nil
}

// seed makes a checkpoint of random bytes, a third of them the adapter, in a
// data directory of its own.
func (b *bencher) seed(ctx context.Context, name string, size int64) (_ *seeded, err error) {
	b.say("seeding %s", humanize.Bytes(uint64(size)))
	s := &seeded{dataDir: filepath.Join(b.dir, "data-"+name)}
	stores, err := seed.OpenDir(ctx, s.dataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	if err := stores.Key(ctx, key, owner); err != nil {
		return nil, err
	}
	c, err := stores.Checkpoint(ctx, metastore.Checkpoint{RunID: runID, Kind: metastore.KindTraining, Name: name, Owner: owner},
		seed.TrainingFiles(size/3, size-size/3, uint64(size))...)
	if err != nil {
		return nil, err
	}
	s.files, s.size = c.Files, c.SizeBytes
	if _, err = stores.Checkpoint(ctx, metastore.Checkpoint{RunID: runID, Kind: metastore.KindExternal, Name: name, Owner: owner, Files: c.Files}); err != nil {
		return nil, err
	}
	if s.path, err = tinkex.ParseTinkerPath("tinker://" + runID + "/weights/" + name); err != nil {
		return nil, err
	}
	s.external, err = tinkex.ParseTinkerPath("tinker://" + runID + "/external_weights/" + name)
	return s, err
}

func (s *seeded) remove() error { return os.RemoveAll(s.dataDir) }

// verify checks that a checkpoint's files are in out with the bytes they should
// have.
func (s *seeded) verify(out string) error {
	dir, err := arrived(out)
	if err != nil {
		return err
	}
	for _, f := range s.files {
		if err := verifyFile(dir, f); err != nil {
			return err
		}
	}
	return nil
}

// arrived is where the files are: in out, or in the one visible directory that it
// holds.
func arrived(out string) (string, error) {
	entries, err := os.ReadDir(out)
	if err != nil {
		return "", err
	}
	if visible := dropHidden(entries); len(visible) == 1 && visible[0].IsDir() {
		return filepath.Join(out, visible[0].Name()), nil
	}
	return out, nil
}

func verifyFile(dir string, want metastore.File) error {
	f, err := os.Open(filepath.Join(dir, want.Name))
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want.Digest.String() {
		return fmt.Errorf("%s arrived with other bytes: SHA-256 %s, want %s", want.Name, got, want.Digest)
	}
	return nil
}

func dropHidden(entries []os.DirEntry) []os.DirEntry {
	var visible []os.DirEntry
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			visible = append(visible, e)
		}
	}
	return visible
}

// archiveURL asks a server for the signed URL of the checkpoint's tar.
func archiveURL(ctx context.Context, url string, path tinkex.TinkerPath) (string, error) {
	rest, err := tinkex.NewRestClient(tinkex.Options{BaseURL: url, APIKey: key})
	if err != nil {
		return "", err
	}
	defer rest.Close()
	u, err := rest.ArchiveURL(ctx, path)
	return u.URL, err
}
