//go:build linux

package main

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// A measurement counts only if every byte arrived.
func TestVerify(t *testing.T) {
	s := &seeded{files: []metastore.File{
		{Name: "a", Size: 3, Digest: blobstore.Digest(sha256.Sum256([]byte("aaa")))},
		{Name: "b", Size: 0, Digest: blobstore.Digest(sha256.Sum256(nil))},
	}}
	for name, tt := range map[string]struct {
		files map[string]string
		good  bool
	}{
		"as they are":        {map[string]string{"a": "aaa", "b": ""}, true},
		"in a directory":     {map[string]string{"run_weights_x/a": "aaa", "run_weights_x/b": ""}, true},
		"beside hidden ones": {map[string]string{"x/a": "aaa", "x/b": "", ".archive.tar": "tar"}, true},
		"one missing":        {map[string]string{"a": "aaa"}, false},
		"one changed":        {map[string]string{"a": "aab", "b": ""}, false},
		"one cut short":      {map[string]string{"a": "aa", "b": ""}, false},
		"none":               {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			write(t, out, tt.files)
			if err := s.verify(out); (err == nil) != tt.good {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestPartialBytes(t *testing.T) {
	out := t.TempDir()
	write(t, out, map[string]string{
		".n.partial/a": "12345", ".n.partial/sub/b": "678", ".n.partial-77/c": "9", // ours, by either name
		".m.partial/a": "no", "n/a": "no",
	})
	// A file that has its length but not its bytes.
	hole, err := os.Create(filepath.Join(out, ".n.partial", "hole"))
	if err != nil {
		t.Fatal(err)
	}
	if err := hole.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	hole.Close()
	if got := partialBytes(out, "n"); got != 9 {
		t.Errorf("%v bytes are on disk, want 9", got)
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
