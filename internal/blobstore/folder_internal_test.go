package blobstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/durable"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	got := make(chan error)
	go func() {
		release, err := lock(context.Background(), path)
		if err == nil {
			release()
		}
		got <- err
	}()
	time.Sleep(5 * time.Millisecond)
	release()
	if err := <-got; err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestNoLocks(t *testing.T) {
	for _, err := range []error{errors.ErrUnsupported, syscall.ENOSYS, syscall.ENOTSUP, syscall.ENOLCK,
		&os.PathError{Op: "lock", Path: "x", Err: errors.ErrUnsupported}} {
		if !durable.NoLocks(err) {
			t.Errorf("%v means that there are no locks", err)
		}
	}
	for _, err := range []error{nil, os.ErrNotExist, syscall.EACCES, context.Canceled} {
		if durable.NoLocks(err) {
			t.Errorf("%v does not mean that there are no locks", err)
		}
	}
	if runtime.GOOS != "windows" && durable.NoLocks(syscall.EPERM) {
		t.Error("a lack of permission is taken for a lack of locks")
	}
}

func TestShardLocks(t *testing.T) {
	l := newShardLocks(t.TempDir())
	release, err := l.lock(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := l.lock(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the same shard: %v", err)
	}
	other, err := l.lock(t.Context(), 8)
	if err != nil {
		t.Errorf("another shard: %v", err)
	} else {
		other()
	}
	release()
	release, err = l.lock(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	release()

	l = newShardLocks(filepath.Join(t.TempDir(), "missing"))
	for range 2 { // the failure must not keep the shard
		if _, err := l.lock(t.Context(), 7); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without a directory: %v", err)
		}
	}
}

func TestAbandoned(t *testing.T) {
	now, old := time.Now(), time.Now().Add(-abandonedAfter-time.Hour)
	for _, test := range []struct {
		name      string
		dir       time.Time
		files     []time.Time
		abandoned bool
	}{
		{"new and empty", now, nil, false},
		{"old and empty", old, nil, true},
		{"old with old files", old, []time.Time{old, old}, true},
		{"old with a file being written", old, []time.Time{old, now}, false},
		{"new with an old file", now, []time.Time{old}, false},
	} {
		dir := filepath.Join(t.TempDir(), "opener")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, modTime := range test.files {
			f, err := os.CreateTemp(dir, "blob-*")
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if err := os.Chtimes(f.Name(), modTime, modTime); err != nil {
				t.Fatal(err)
			}
			if got := abandoned(f.Name()); got != modTime.Equal(old) {
				t.Errorf("%s: a file of %v: %v", test.name, modTime, got)
			}
		}
		if err := os.Chtimes(dir, test.dir, test.dir); err != nil {
			t.Fatal(err)
		}
		if got := abandoned(dir); got != test.abandoned {
			t.Errorf("%s: %v", test.name, got)
		}
	}
	if !abandoned(filepath.Join(t.TempDir(), "missing")) {
		t.Error("what is not there is not abandoned")
	}
}
