package blobstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/s3test"
)

func putBlob(t *testing.T, s blobstore.Store) error {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write([]byte("bytes")); err != nil {
		return err
	}
	_, err = w.Commit(t.Context())
	return err
}

// wantOutage checks that an error is an outage, that the operator is told where
// and others are not.
func wantOutage(t *testing.T, err error, reason, where string) {
	t.Helper()
	down, ok := outage.Of(err)
	if !ok || down.Reason != reason {
		t.Errorf("error %v, want an outage: %s", err, reason)
		return
	}
	if !strings.Contains(err.Error(), where) || strings.Contains(down.Public(), where) {
		t.Errorf("%q tells the operator %q, and others %q", where, err, down.Public())
	}
}

func TestBucketOutage(t *testing.T) {
	t.Parallel()
	url, proxy := s3test.BucketBehind(t)
	s, err := blobstore.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for trouble, reason := range map[s3test.Trouble]string{s3test.Busy: "answers 503", s3test.Reset: "cannot be reached"} {
		proxy.Set(trouble)
		wantOutage(t, putBlob(t, s), reason, "127.0.0.1")
		wantOutage(t, s.Check(t.Context()), reason, "127.0.0.1")
		proxy.Set(s3test.None)
		if err := putBlob(t, s); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestFolderOutage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "volume")
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	away := dir + ".unmounted"
	if err := os.Rename(dir, away); err != nil {
		t.Skipf("SKIPPED: a folder in use cannot be moved here: %v", err)
	}
	wantOutage(t, putBlob(t, s), "is not there", dir)
	_, err = s.Stat(t.Context(), blobstore.Digest{})
	wantOutage(t, err, "is not there", dir)
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	if err := putBlob(t, s); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
