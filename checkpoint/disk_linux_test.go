package checkpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tinkex/tinkex/checkpoint"
)

// mounted is a file system of its own, of some bytes.
func mounted(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the right to mount a file system is needed: %v", err)
		}
		t.Skipf("SKIPPED: a full disk takes the right to mount one: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestDiskFull(t *testing.T) {
	for _, s := range sources(t) {
		dir := mounted(t, "size=2m")
		_, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "download "+s.path.String()) || !strings.Contains(err.Error(), ".safetensors") {
			t.Errorf("%s: %v", s.name, err)
		}
		if v := visible(t, dir); v != nil {
			t.Errorf("%s: there is %v", s.name, v)
		}
		// With room made, the same directory will do.
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
		d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
		if err != nil {
			t.Fatalf("%s, with room made: %v", s.name, err)
		}
		intact(t, d.Dir, d.Files)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	s := sources(t)[0]
	dir := mounted(t, "size=64m")
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64m"); err != nil {
		t.Fatal(err)
	}
	_, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

// The old copy of an interrupted replacement that cannot be put back is left
// where it is: it may be the only one.
func TestReplacedCopyThatCannotBePutBack(t *testing.T) {
	s := sources(t)[0]
	dir := t.TempDir()
	replaced := filepath.Join(dir, "."+s.path.DirName()+".partial", "replaced")
	if err := os.MkdirAll(replaced, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", replaced, "tmpfs", 0, "size=1m"); err != nil { // which nothing can rename
		t.Skipf("SKIPPED: it takes the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(replaced, unix.MNT_DETACH) })
	old := filepath.Join(replaced, "old")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir)); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(old); err != nil {
		t.Errorf("the old copy is gone: %v", err)
	}
}
