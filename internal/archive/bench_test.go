package archive

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

const benchSize = 256 << 20

func benchTar(b *testing.B) *Body {
	path := filepath.Join(b.TempDir(), "blob")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for range benchSize >> 20 {
		if _, err := f.Write(random(1, 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
	return mustNew(b, []Entry{fileEntry("model.bin", path, benchSize)})
}

func BenchmarkServe(b *testing.B) {
	a := benchTar(b)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := Serve(w, r, a, `"tag"`, someTime, ""); err != nil {
			b.Error(err)
		}
	}))
	defer server.Close()
	b.SetBytes(a.Size())
	for b.Loop() {
		resp, err := http.Get(server.URL)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != a.Size() {
			b.Fatal(n, err)
		}
		resp.Body.Close()
	}
}

func BenchmarkExtract(b *testing.B) {
	a := benchTar(b)
	b.SetBytes(a.Size())
	for b.Loop() {
		r, w := io.Pipe()
		go func() {
			_, err := a.WriteRange(b.Context(), w, 0, -1)
			w.CloseWithError(err)
		}()
		dir, err := os.MkdirTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Extract(b.Context(), r, dir, ExtractOptions{}); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(dir)
	}
}

func BenchmarkNew(b *testing.B) {
	entries := make([]Entry, 100)
	for i := range entries {
		entries[i] = hugeEntry(string(rune('a'+i%26))+string(rune('a'+i/26))+".bin", 1<<30, nil)
	}
	for b.Loop() {
		mustNew(b, entries)
	}
}
