package tinkex

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const someDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func importClient(t *testing.T, h http.HandlerFunc, opts Options) (*RestClient, *fakeClock) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	clk := newFakeClock()
	opts.BaseURL, opts.APIKey = srv.URL, testKey
	c, err := newRestClient(opts, clk.clock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, clk
}

// A body that is read as it is sent is sent whole with every attempt.
func TestUploadBlobIsRetriedFromItsStart(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	var attempts atomic.Int32
	c, clk := importClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.Path != "/tinkex/v1/blobs/"+someDigest || r.Header.Get("X-API-Key") != testKey || r.ContentLength != int64(len(content)) {
			t.Errorf("%s %s of %d bytes, %v", r.Method, r.URL.Path, r.ContentLength, r.Header)
		}
		switch attempts.Add(1) {
		case 1: // answered before it was read
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case 2: // cut in the middle
			_, _ = io.CopyN(io.Discard, r.Body, 5000)
			panic(http.ErrAbortHandler)
		}
		if b, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%d bytes came, %v", len(b), err)
		}
		w.WriteHeader(http.StatusNoContent)
	}, Options{})
	if err := c.UploadBlob(t.Context(), Blob{someDigest, int64(len(content))}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if attempts.Load() != 3 || len(clk.slept()) != 2 {
		t.Errorf("%d attempts, waited %v", attempts.Load(), clk.slept())
	}
}

// The timeout of an upload is for silence, not for the whole.
func TestUploadBlobThatStalls(t *testing.T) {
	release := make(chan struct{})
	c, _ := importClient(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 10)
		<-release
	}, Options{Timeout: 50 * time.Millisecond, MaxRetries: -1})
	defer close(release)
	err := c.UploadBlob(t.Context(), Blob{someDigest, 64 << 20}, zeros{})
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "no answer within") {
		t.Errorf("error %v", err)
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

// What cannot be read here is not tried again.
func TestUploadBlobThatCannotBeRead(t *testing.T) {
	c, clk := importClient(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, Options{})
	err := c.UploadBlob(t.Context(), Blob{someDigest, 100}, bytes.NewReader([]byte("too short")))
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "read what is to be sent") || len(clk.slept()) != 0 {
		t.Errorf("error %v after waits of %v", err, clk.slept())
	}
	if err := c.UploadBlob(t.Context(), Blob{"../x", 0}, bytes.NewReader(nil)); !errors.Is(err, ErrInvalidPath) {
		t.Errorf("a digest that is a path: %v", err)
	}
	if err := c.UploadBlob(t.Context(), Blob{someDigest, 0}, bytes.NewReader(nil)); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestServersWithoutImports(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		c, _ := importClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }, Options{})
		_, missing := c.MissingBlobs(t.Context(), nil)
		_, imported := c.ImportCheckpoint(t.Context(), ImportRequest{Name: "a"})
		for what, err := range map[string]error{
			"missing": missing, "import": imported,
			"upload": c.UploadBlob(t.Context(), Blob{someDigest, 1}, bytes.NewReader([]byte("x"))),
		} {
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "does not offer imports") {
				t.Errorf("%d to %s: %v", status, what, err)
			}
		}
	}
	c, _ := importClient(t, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusNotFound, map[string]string{"detail": "run_id: no such run"})
	}, Options{})
	if _, err := c.ImportCheckpoint(t.Context(), ImportRequest{Name: "a", RunID: "r"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no such run") {
		t.Errorf("a run that is not there: %v", err)
	}
	c, _ = importClient(t, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, map[string]string{}) }, Options{})
	if _, err := c.MissingBlobs(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "uploads of 0 bytes") {
		t.Errorf("an answer without part_bytes: %v", err)
	}
}

func TestImportRequestOnTheWire(t *testing.T) {
	var got recorded
	c, _ := importClient(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = recorded{method: r.Method, path: r.URL.Path, header: r.Header, body: b}
		writeJSON(w, http.StatusOK, ImportResult{TrainingRunID: "r"})
	}, Options{})
	res, err := c.ImportCheckpoint(t.Context(), ImportRequest{
		Name: "a", Types: []CheckpointType{Sampler}, TTL: 1500 * time.Millisecond,
		Files: []ImportFile{{Name: "f", Blob: Blob{"aa", 3}, Parts: []Blob{{"bb", 1}, {"cc", 2}}}},
	})
	if err != nil || res.TrainingRunID != "r" || got.path != "/tinkex/v1/imports" || got.header.Get("X-Idempotency-Key") == "" {
		t.Errorf("%+v, %v; sent %+v", res, err, got)
	}
	const want = `{"name":"a","types":["sampler_weights"],"ttl_seconds":2,"files":[{"name":"f","sha256":"aa","size_bytes":3,"parts":[{"sha256":"bb","size_bytes":1},{"sha256":"cc","size_bytes":2}]}]}`
	if string(got.body) != want {
		t.Errorf("sent %s, want %s", got.body, want)
	}
}
