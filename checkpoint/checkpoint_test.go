package checkpoint_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// saved trains nothing and saves a checkpoint on a server of its own.
func saved(t *testing.T) (*tinkex.RestClient, tinkex.TinkerPath) {
	t.Helper()
	svc, err := tinkex.NewServiceClient(tinkextest.NewServer(t).Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tc.SaveState(t.Context(), "a", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return svc.RestClient(), c.Path
}

// onlyEntry checks that a directory holds one visible or hidden entry, or none.
func onlyEntry(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the directory holds %q, want %q", got, want)
	}
}

func TestDownload(t *testing.T) {
	client, path := saved(t)
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	var last checkpoint.Progress
	opts := checkpoint.DownloadOptions{Dir: dir, Progress: func(p checkpoint.Progress) {
		if p.Bytes < last.Bytes || p.Path != path {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
	}}
	d, err := checkpoint.Download(t.Context(), client, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	if d.Dir != filepath.Join(dir, path.DirName()) || len(d.Files) != 4 || last.Bytes != last.Total || last.Total != d.SizeBytes || !d.Verified || d.Fetched != d.SizeBytes {
		t.Errorf("downloaded %+v, progress ended at %+v", d, last)
	}
	c, err := client.GetCheckpoint(t.Context(), path)
	if err != nil || *c.SizeBytes != d.SizeBytes {
		t.Errorf("the server says %v bytes, downloaded %d (%v)", c.SizeBytes, d.SizeBytes, err)
	}
	for _, f := range d.Files {
		if info, err := os.Stat(filepath.Join(d.Dir, f.Name)); err != nil || info.Size() != f.Size {
			t.Errorf("%s: %v, %v", f.Name, info, err)
		}
	}
	onlyEntry(t, dir, path.DirName())

	// What is there is not replaced unasked.
	marker := filepath.Join(d.Dir, "marker")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Download(t.Context(), client, path, opts); !errors.Is(err, tinkex.ErrExists) {
		t.Errorf("onto an existing directory: %v", err)
	}
	last = checkpoint.Progress{}
	opts.Force = true
	if _, err := checkpoint.Download(t.Context(), client, path, opts); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old directory is still there: %v", err)
	}
	onlyEntry(t, dir, path.DirName())
}

func TestDownloadRefusesBadPaths(t *testing.T) {
	client, path := saved(t)
	dir := t.TempDir()
	for _, p := range []tinkex.TinkerPath{{}, {RunID: path.RunID, Type: tinkex.Training, Name: "../x"}, {RunID: "..", Type: tinkex.Training, Name: "x"}} {
		if _, err := checkpoint.Download(t.Context(), client, p, checkpoint.DownloadOptions{Dir: dir}); !errors.Is(err, tinkex.ErrInvalidPath) {
			t.Errorf("%v: %v", p, err)
		}
	}
	none := path
	none.Name = "none"
	if _, err := checkpoint.Download(t.Context(), client, none, checkpoint.DownloadOptions{Dir: dir}); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("unknown checkpoint: %v", err)
	}
	onlyEntry(t, dir, "")
}

// archiveAt is an ArchiveClient whose archive is at a URL.
type archiveAt string

func (u archiveAt) ArchiveURL(context.Context, tinkex.TinkerPath) (tinkex.ArchiveURL, error) {
	return tinkex.ArchiveURL{URL: string(u)}, nil
}

// tarOf is an archive of files, each given by its name and its content.
func tarOf(files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		_ = w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))})
		_, _ = io.WriteString(w, files[i+1])
	}
	_ = w.Close()
	return b.Bytes()
}

func TestFailedDownloadLeavesWhatWasThere(t *testing.T) {
	path := tinkex.TinkerPath{RunID: "run", Type: tinkex.Training, Name: "a"}
	good := tarOf("adapter_config.json", strings.Repeat("x", 100_000))
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		says    string
	}{
		"truncated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(good)))
			_, _ = w.Write(good[:len(good)/2])
		}, "EOF"},
		"cut without a length": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(good[:len(good)/2])
		}, ""},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "403"},
		"not an archive": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Repeat("<html>an error page</html>", 100))
		}, ""},
		"leaves the directory": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(tarOf("../../escaped", "x"))
		}, "escaped"},
		"our own file": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(tarOf(checkpoint.ManifestFile, "{}"))
		}, "kept for the download's own"},
		"our own file on systems where case does not count": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(tarOf("adapter_config.json", "{}", strings.ToUpper(checkpoint.ManifestFile), "{}"))
		}, "kept for the download's own"},
		"a directory in our own file's place": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(tarOf(checkpoint.ManifestFile+"/x", "{}"))
		}, "kept for the download's own"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(tc.handler)
			defer srv.Close()
			dir := t.TempDir()
			old := filepath.Join(dir, path.DirName())
			if err := os.Mkdir(old, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := checkpoint.Download(t.Context(), archiveAt(srv.URL), path, checkpoint.DownloadOptions{Dir: dir, Force: true, Retries: -1})
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "download "+path.String()) {
				t.Errorf("error %v", err)
			}
			onlyEntry(t, dir, path.DirName())
		})
	}
}

func TestDownloadThatIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	}))
	defer srv.Close()
	dir := t.TempDir()
	_, err := checkpoint.Download(ctx, archiveAt(srv.URL), tinkex.TinkerPath{RunID: "run", Type: tinkex.Training, Name: "a"}, checkpoint.DownloadOptions{Dir: dir})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	onlyEntry(t, dir, "")
}

func TestDownloadToWhereItCannotGo(t *testing.T) {
	client, path := saved(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Download(t.Context(), client, path, checkpoint.DownloadOptions{Dir: file}); err == nil {
		t.Error("downloaded into a file")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("permissions do not bind here")
	}
	locked := t.TempDir()
	if err := os.Chmod(locked, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Download(t.Context(), client, path, checkpoint.DownloadOptions{Dir: locked}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("into a read-only directory: %v", err)
	}
}

// weights is a WeightsInfoClient with one answer.
type weights tinkex.WeightsInfo

func (w weights) WeightsInfo(context.Context, tinkex.TinkerPath) (tinkex.WeightsInfo, error) {
	return tinkex.WeightsInfo(w), nil
}

func TestValidateCompatibility(t *testing.T) {
	rank := 8
	lora := weights{BaseModel: "base", IsLoRA: true, LoRARank: &rank}
	path := tinkex.TinkerPath{RunID: "run", Type: tinkex.Training, Name: "a"}
	for name, tc := range map[string]struct {
		info weights
		want checkpoint.Requirements
		err  error
		says string
	}{
		"nothing asked":   {lora, checkpoint.Requirements{}, nil, ""},
		"all fit":         {lora, checkpoint.Requirements{Rank: 8, BaseModel: "base"}, nil, ""},
		"another rank":    {lora, checkpoint.Requirements{Rank: 16}, checkpoint.ErrRankMismatch, "expected rank 16, it has rank 8"},
		"another base":    {lora, checkpoint.Requirements{BaseModel: "other"}, checkpoint.ErrBaseModelMismatch, "expected other, it has base"},
		"not LoRA":        {weights{BaseModel: "base"}, checkpoint.Requirements{}, checkpoint.ErrNotLoRA, "full weights"},
		"rank not told":   {weights{BaseModel: "base", IsLoRA: true}, checkpoint.Requirements{Rank: 8}, checkpoint.ErrRankMismatch, "does not tell"},
		"rank not needed": {weights{BaseModel: "base", IsLoRA: true}, checkpoint.Requirements{}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			info, err := checkpoint.ValidateCompatibility(t.Context(), tc.info, path, tc.want)
			if !errors.Is(err, tc.err) || info.BaseModel != "base" {
				t.Fatalf("%+v, %v", info, err)
			}
			var mismatch *checkpoint.MismatchError
			if tc.err != nil && (!errors.As(err, &mismatch) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error %v", err)
			}
		})
	}
	client, made := saved(t)
	if _, err := checkpoint.ValidateCompatibility(t.Context(), client, made, checkpoint.Requirements{Rank: 4, BaseModel: tinkextest.BaseModel}); err != nil {
		t.Error(err)
	}
	made.Name = "none"
	if _, err := checkpoint.ValidateCompatibility(t.Context(), client, made, checkpoint.Requirements{}); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("unknown checkpoint: %v", err)
	}
}
