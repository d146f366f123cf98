package durable

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
)

// Whatever the pieces are, the file is their concatenation.
func TestAppender(t *testing.T) {
	content := make([]byte, 1<<20+12345)
	_, _ = rand.Read(content)
	for name, pieces := range map[string][]int{
		"whole blocks":           {256 << 10},
		"one piece":              {len(content)},
		"odd pieces":             {10_000},
		"blocks, then odd":       {64 << 10, 64 << 10, 1, 64 << 10},
		"less than a block each": {100},
	} {
		for _, from := range []int{0, 4096, 5000} {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, content[:from], 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			a, err := NewAppender(f, int64(from))
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len(content))
			for i, at := 0, from; at < len(content); i++ {
				n := copy(buf[:min(pieces[i%len(pieces)], len(buf))], content[at:])
				if m, err := a.Write(buf[:n]); m != n || err != nil {
					t.Fatalf("%s from %d: wrote %d of %d: %v", name, from, m, n, err)
				}
				at += n
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s from %d: %d bytes, which differ from what was written (%v)", name, from, len(got), err)
			}
		}
	}
}

func TestAppenderOnReadOnlyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := NewAppender(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(make([]byte, 8192)); err == nil {
		t.Error("wrote to a file opened for reading")
	}
}
