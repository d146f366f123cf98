package blobstore_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
)

func TestReadFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := blobstore.ReadFolder(dir); err == nil {
		t.Error("a directory without blobs is a store")
	}
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	info := blobstoretest.Put(t, s, []byte("some bytes"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := blobstore.ReadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := blobstoretest.Get(t, r, info.Digest); string(got) != "some bytes" {
		t.Errorf("read %q", got)
	}
	n := 0
	for _, err := range r.All(t.Context()) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("All yields %d blobs", n)
	}
	_, create := r.Create(t.Context())
	_, remove := r.Delete(t.Context(), info.Digest, time.Now().Add(time.Hour))
	_, aside := r.Quarantine(t.Context(), info)
	for what, err := range map[string]error{
		"Create": create, "Delete": remove, "Quarantine": aside, "Check": r.Check(t.Context()),
		"PutFile": blobstore.PutFile(t.Context(), r, filepath.Join(dir, "x"), info.Digest, info.Size),
	} {
		if err == nil {
			t.Errorf("%s changes it", what)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Stat(t.Context(), info.Digest); err == nil {
		t.Error("it goes on after Close")
	}
}
