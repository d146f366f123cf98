package cli

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
	"github.com/tinkex/tinkex/tinkextest"
)

// TestThreeDownloadsInterruptedAndResumed: Ctrl-C in the middle of three
// downloads says how to go on, leaves nothing to be seen, and the same command
// fetches the rest only.
func TestThreeDownloadsInterruptedAndResumed(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	stores, err := seed.OpenDir(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	const owner = "tml:user:seed"
	if err := stores.Key(t.Context(), tinkextest.Key, owner); err != nil {
		t.Fatal(err)
	}
	const megabyte, size = 1 << 20, 9 << 20 // about, of each
	for i, name := range []string{"step-1", "step-2", "step-3"} {
		c := metastore.Checkpoint{RunID: seededRun, Kind: metastore.KindTraining, Name: name, Owner: owner}
		if _, err := stores.Checkpoint(t.Context(), c, seed.TrainingFiles(size/3, size*2/3, uint64(10*i))...); err != nil {
			t.Fatal(err)
		}
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	srv := tinkextest.NewServerWith(t, tinkextest.Options{DataDir: data})
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	var answers atomic.Int64
	var quiet atomic.Bool
	through(t, srv, func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/tinkex/v1/files/") || quiet.Load() || answers.Add(1) <= 8 {
			return false
		}
		<-r.Context().Done() // no more before Ctrl-C
		return true
	})

	out := t.TempDir()
	ctx, interrupt := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for ctx.Err() == nil && bytesIn(out) < 3*megabyte {
			time.Sleep(5 * time.Millisecond)
		}
		interrupt()
	}()
	// The second of them is named twice.
	args := []string{"checkpoint", "download", seededPath(1), seededPath(2), seededPath(3), seededPath(2), "-o", out}
	r := tinkexWith(t, Env{Context: ctx}, args...)
	interrupt()
	<-watching
	r.want(t, exitInterrupted, nil, []string{"The same command goes on from here:"})
	if seen := visibleIn(t, out); len(seen) > 0 {
		t.Errorf("there is %q", seen)
	}
	if bytesIn(out) < megabyte {
		t.Fatalf("only %d bytes were kept", bytesIn(out))
	}

	quiet.Store(true)
	r = run(t, append([]string{"-f", "json"}, args...)...).want(t, exitDone, []string{`"downloaded"`, `"failed": []`}, nil)
	got := decode[downloadedJSON](t, r)
	if len(got.Downloaded) != 3 {
		t.Fatalf("downloaded %+v", got)
	}
	var fetched, total int64
	for i, d := range got.Downloaded {
		fetched, total = fetched+d.FetchedBytes, total+d.SizeBytes
		if d.TinkerPath != seededPath(i+1) || d.Destination != filepath.Join(out, seededRun+"_weights_"+filepath.Base(d.TinkerPath)) || !d.Verified || len(d.Files) != 4 {
			t.Errorf("downloaded %+v", d)
		}
		run(t, "checkpoint", "verify", d.Destination).want(t, exitDone, []string{"intact"}, nil)
	}
	if fetched > total-megabyte {
		t.Errorf("%d of %d bytes were fetched again", fetched, total)
	}
	if seen := visibleIn(t, out); len(seen) != 3 {
		t.Errorf("there is %q", seen)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// bytesIn is how many bytes the files below a directory have.
func bytesIn(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil // what has just been removed does not count
	})
	return n
}

// visibleIn lists what is in a directory and not hidden.
func visibleIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestVerifyExitCodes: what is found decides, and JSON tells it apart.
func TestVerifyExitCodes(t *testing.T) {
	w := newWorld(t, "a")
	for name, tc := range map[string]struct {
		damage func(dir string) error
		code   int
		stdout []string
		stderr []string
		json   []string
	}{
		"missing": {func(dir string) error { return os.Remove(filepath.Join(dir, "adapter_config.json")) },
			exitFailed, []string{"NOT INTACT", "missing  adapter_config.json"}, []string{"--force"}, []string{`"missing": [`, `"adapter_config.json"`}},
		"changed": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte("{}"), 0o600)
		}, exitFailed, []string{"changed  adapter_config.json: it has 2 bytes instead of"}, []string{"--force"}, []string{`"changed": [`, `"reason": "it has 2 bytes instead of`}},
		"extra": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600) },
			exitDone, []string{"intact", "extra    notes"}, nil, []string{`"intact": true`, `"notes"`}},
		"no manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, ".tinkex-manifest.json")) },
			exitDone, []string{"intact", "only safetensors headers were checked"}, nil, []string{`"digests": "none"`}},
		"a manifest that is garbage": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, ".tinkex-manifest.json"), []byte("{"), 0o600)
		}, exitFailed, nil, []string{".tinkex-manifest.json is damaged"}, []string{`"verified": []`, "is damaged"}},
		"a link in a file's place": {func(dir string) error {
			if err := os.Remove(filepath.Join(dir, "adapter_config.json")); err != nil {
				return err
			}
			return os.Symlink("checkpoint_complete", filepath.Join(dir, "adapter_config.json"))
		}, exitFailed, []string{"NOT INTACT", "changed  adapter_config.json: it is not a plain file"}, []string{"--force"}, []string{`"changed": [`, `"reason": "it is not a plain file"`}},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			run(t, "checkpoint", "download", w.path("a"), "-o", out).want(t, exitDone, []string{out}, nil)
			dir := filepath.Join(out, visibleIn(t, out)[0])
			if err := tc.damage(dir); err != nil {
				t.Fatal(err)
			}
			run(t, "checkpoint", "verify", dir).want(t, tc.code, tc.stdout, tc.stderr)
			r := run(t, "-f", "json", "checkpoint", "verify", dir).want(t, tc.code, tc.json, nil)
			if r.stderr != "" {
				t.Errorf("stderr %q", r.stderr)
			}
		})
	}
}
