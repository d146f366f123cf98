package node_test

import (
	"archive/tar"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
)

// ranges reads a URL by ranges, as who knows what is where would.
type ranges struct {
	o   *observed
	url string
	at  int64
	all int64 // bytes that were asked for
}

func (r *ranges) Read(p []byte) (int, error) {
	status, _, body := r.o.send(http.MethodGet, r.url, "Range", fmt.Sprintf("bytes=%d-%d", r.at, r.at+int64(len(p))-1))
	if status == http.StatusRequestedRangeNotSatisfiable {
		return 0, io.EOF
	}
	if status != http.StatusPartialContent {
		return 0, fmt.Errorf("status %d", status)
	}
	r.at, r.all = r.at+int64(len(body)), r.all+int64(len(body))
	return copy(p, body), nil
}

func (r *ranges) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent {
		return 0, fmt.Errorf("whence %d", whence)
	}
	r.at += offset
	return r.at, nil
}

// What a checkpoint of 100 GB costs to ask for, to look at and to read a part of
// is what one of a kilobyte costs. On disk there is a hole in its place.
func TestHugeCheckpointCostsWhatASmallOneDoes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files here have no holes by themselves")
	}
	const huge = 100 << 30
	dir := t.TempDir()
	stores, err := seed.OpenDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]tinkex.TinkerPath{}
	for i, name := range []string{"small", "huge"} {
		file, err := stores.File(t.Context(), seed.File{Name: "adapter_model.bin", Body: strings.NewReader(strings.Repeat(name, 200))})
		if err != nil {
			t.Fatal(err)
		}
		if name == "huge" {
			file.Size = huge
			digest := file.Digest.String()
			if err := os.Truncate(filepath.Join(dir, "blobs", "sha256", digest[:2], digest), huge); err != nil {
				t.Fatal(err)
			}
		}
		run := fmt.Sprintf("huge:train:%d", i)
		c := metastore.Checkpoint{RunID: run, Kind: metastore.KindTraining, Name: name, Owner: "me", Files: []metastore.File{file}}
		if _, err := stores.Checkpoint(t.Context(), c, seed.File{Name: "checkpoint_complete", Body: strings.NewReader("")}); err != nil {
			t.Fatal(err)
		}
		paths[name] = tinkex.TinkerPath{RunID: run, Type: tinkex.Training, Name: name}
	}
	if err := stores.Key(t.Context(), "tml-test", "me"); err != nil {
		t.Fatal(err)
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	o := observe(t, dir, nil)
	rest := o.client(tinkex.Options{}).RestClient()

	// The best of many, in turn: a busy machine is as busy for both.
	cost := map[string]time.Duration{"small": time.Hour, "huge": time.Hour}
	for range 15 {
		for name, path := range paths {
			start := time.Now()
			u, err := rest.ArchiveURL(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			m, err := rest.Manifest(t.Context(), path)
			if err != nil || len(m.Files) != 2 {
				t.Fatalf("%+v, %v", m, err)
			}
			status, header, _ := o.send(http.MethodHead, u.URL)
			size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
			if status != http.StatusOK || err != nil || header.Get("ETag") == "" {
				t.Fatalf("%d, %v, %v", status, header, err)
			}
			if status, _, body := o.send(http.MethodGet, u.URL, "Range", fmt.Sprintf("bytes=%d-", size-2000)); status != http.StatusPartialContent || len(body) != 2000 {
				t.Fatalf("%d, %d bytes", status, len(body))
			}
			cost[name] = min(cost[name], time.Since(start))
		}
	}
	if cost["huge"] > 4*cost["small"]+5*time.Millisecond {
		t.Errorf("100 GB took %v, a kilobyte %v", cost["huge"], cost["small"])
	}

	// Whoever skips what is in the files sees an archive like any other.
	u, err := rest.ArchiveURL(t.Context(), paths["huge"])
	if err != nil {
		t.Fatal(err)
	}
	r := &ranges{o: o, url: u.URL}
	archive := tar.NewReader(r)
	var members []string
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, fmt.Sprintf("%s %d %v", h.Name, h.Size, h.Format == tar.FormatPAX))
	}
	want := []string{fmt.Sprintf("adapter_model.bin %d true", int64(huge)), "checkpoint_complete 0 false"}
	if !slices.Equal(members, want) || r.all > 10_000 {
		t.Errorf("%q in %d bytes, want %q", members, r.all, want)
	}
}
