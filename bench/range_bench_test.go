package bench

import (
	"io"
	"net/http"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
	"github.com/tinkex/tinkex/tinkextest"
)

// BenchmarkRange is what a download pays for each range that it asks for,
// besides the bytes: there is one of them.
func BenchmarkRange(b *testing.B) {
	dir := b.TempDir()
	stores, err := seed.OpenDir(b.Context(), dir)
	if err != nil {
		b.Fatal(err)
	}
	defer stores.Close()
	const run, owner = "5eed5eed-0000-4000-8000-000000000000:train:0", "tml:user:bench"
	if err := stores.Key(b.Context(), tinkextest.Key, owner); err != nil {
		b.Fatal(err)
	}
	_, err = stores.Checkpoint(b.Context(), metastore.Checkpoint{RunID: run, Kind: metastore.KindTraining, Name: "a", Owner: owner},
		seed.TrainingFiles(10_000, 20_000, 1)...)
	if err != nil {
		b.Fatal(err)
	}
	rest, err := tinkex.NewRestClient(tinkextest.NewServerWith(b, tinkextest.Options{DataDir: dir}).Options())
	if err != nil {
		b.Fatal(err)
	}
	defer rest.Close()
	path, err := tinkex.ParseTinkerPath("tinker://" + run + "/weights/a")
	if err != nil {
		b.Fatal(err)
	}
	url, err := rest.ArchiveURL(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url.URL, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Range", "bytes=5000-5000")
	for b.Loop() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || n != 1 || resp.StatusCode != http.StatusPartialContent {
			b.Fatalf("%s, %d bytes: %v", resp.Status, n, err)
		}
	}
}
