package blobstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
)

func TestFolderStrays(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	blob := blobstoretest.Put(t, s, []byte("blob"))
	shard := filepath.Join(dir, "blobs", "sha256", blob.Digest.String()[:2])
	strays := func() (found []string) {
		for stray, err := range s.(blobstore.Inspector).Strays(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, stray.Path)
		}
		slices.Sort(found)
		return found
	}
	if found := strays(); len(found) > 0 {
		t.Fatalf("strays are %v, want none", found)
	}
	upper := bytes.ToUpper([]byte(blob.Digest.String()))
	want := []string{
		filepath.Join(dir, "blobs", "notes.txt"),
		filepath.Join(dir, "blobs", "sha256", "ABC"),
		filepath.Join(dir, "blobs", "sha256", "notes.txt"),
		filepath.Join(shard, string(upper)+".bak"),
		filepath.Join(shard, "notes.txt"),
	}
	slices.Sort(want)
	for _, path := range want {
		if err := os.WriteFile(path, []byte("stray"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := strays()
	if !slices.Equal(found, want) {
		t.Fatalf("strays are\n%v\nwant\n%v", found, want)
	}
	// Two of one name do not get into each other's way, and bytes are kept.
	places := map[string]bool{}
	for _, path := range found {
		where, err := s.(blobstore.Inspector).PutAside(t.Context(), blobstore.Stray{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(where); err != nil || string(b) != "stray" {
			t.Errorf("%s holds %q, %v", where, b, err)
		}
		places[where] = true
	}
	if len(places) != len(want) {
		t.Errorf("%d places for %d strays", len(places), len(want))
	}
	if found := strays(); len(found) > 0 {
		t.Errorf("strays are still %v", found)
	}
	if got := blobstoretest.Get(t, s, blob.Digest); string(got) != "blob" {
		t.Errorf("the blob is %q", got)
	}
	if _, err := s.(blobstore.Inspector).PutAside(t.Context(), blobstore.Stray{Path: want[0]}); err == nil {
		t.Error("what is not there can be put aside")
	}
}

// TestFolderQuarantineKeepsBytes: whoever investigates finds what was there.
func TestFolderQuarantineKeepsBytes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	blob := blobstoretest.Put(t, s, []byte("blob"))
	path := filepath.Join(dir, "blobs", "sha256", blob.Digest.String()[:2], blob.Digest.String())
	if err := os.WriteFile(path, []byte("blub"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := s.Stat(t.Context(), blob.Digest)
	if err != nil {
		t.Fatal(err)
	}
	where, err := s.Quarantine(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(where); err != nil || string(b) != "blub" {
		t.Errorf("%s holds %q, %v", where, b, err)
	}
}
