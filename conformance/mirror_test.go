package conformance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
)

// withoutExtensions is a server as others are: the protocol, archives, and
// nothing under /tinkex/v1.
func withoutExtensions(t *testing.T, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tinkex/v1/") && !strings.HasPrefix(r.URL.Path, "/tinkex/v1/archives/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

// What the published SDK saved on one server goes on, with the published SDK,
// on another one that was filled from a mirror: step by step as if nothing had
// happened, whether or not the first server has this project's extensions.
func TestMirroredRunGoesOnInThePublishedSDK(t *testing.T) {
	t.Parallel()
	venv(t)
	const key = "tml-mirror"
	a, b := serve(t, t.TempDir()).url, serve(t, t.TempDir()).url
	d := script(t, a, key, "mirror", map[string]any{"steps": 3})
	for name, from := range map[string]string{"tinkex serve": a, "another server": withoutExtensions(t, a)} {
		to := filepath.Join(t.TempDir(), "mirror")
		if out := must(t, from, key, tinkexBinary, "checkpoint", "mirror", "--to", to); out != d.at("path").str()+"\n" {
			t.Errorf("%s: mirrored %q", name, out)
		}
		if out := must(t, from, key, tinkexBinary, "checkpoint", "mirror", "--to", to); out != "" {
			t.Errorf("%s: mirrored again %q", name, out)
		}
		owner := key + strings.ReplaceAll(name, " ", "-")
		path := strings.TrimSpace(must(t, b, owner, tinkexBinary, "checkpoint", "restore", "--from", to))
		if !strings.HasSuffix(path, "/weights/for-go") || path == d.at("path").str() {
			t.Errorf("%s: restored %q", name, path)
		}
		script(t, b, owner, "mirror", map[string]any{"load": path, "steps": 3}).at("losses").same(d.at("losses"))
	}
}

// A mirror that is killed at any moment, however often, is whole: every
// checkpoint that it has is complete. It goes on from where it was.
func TestMirrorSurvivesKills(t *testing.T) {
	t.Parallel()
	const (
		key         = "tml-kills"
		checkpoints = 24
		size        = 3 << 20
	)
	data := t.TempDir()
	stores, err := seed.OpenDir(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := stores.Key(t.Context(), key, "killer"); err != nil {
		t.Fatal(err)
	}
	for i := range checkpoints / 2 {
		c := metastore.Checkpoint{RunID: "kills:train:0", Kind: metastore.KindTraining, Name: fmt.Sprint(i), Owner: "killer"}
		made, err := stores.Checkpoint(t.Context(), c, seed.TrainingFiles(size/3, size-size/3, uint64(i))...)
		if err != nil {
			t.Fatal(err)
		}
		c.Kind, c.Files = metastore.KindSampler, append(made.Files[:2:2], made.Files[3])
		if _, err := stores.Checkpoint(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	server := serve(t, data).url
	for name, from := range map[string]string{"by files": server, "by archives": withoutExtensions(t, server)} {
		t.Run(name, func(t *testing.T) { killMirrors(t, from, key, checkpoints, 12) })
	}
}

func killMirrors(t *testing.T, from, key string, checkpoints, kills int) {
	to := filepath.Join(t.TempDir(), "mirror")
	mirror := func() *exec.Cmd {
		cmd := exec.Command(tinkexBinary, "checkpoint", "mirror", "--to", to)
		cmd.Env = environ(from, key)
		return cmd
	}
	// check looks at the mirror as it was left, and returns how much is in it.
	check := func() int {
		t.Helper()
		v, err := checkpoint.VerifyMirror(t.Context(), to, checkpoint.MirrorVerifyOptions{})
		switch {
		case errors.Is(err, checkpoint.ErrNoMirror):
			return 0 // it had not even begun
		case err != nil || !v.Intact():
			t.Fatalf("a killed mirror is %+v, %v", v, err)
		}
		return v.Checkpoints
	}
	landed, complete, had := 0, 0, 0
	for landed < kills {
		cmd := mirror()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-time.After(time.Duration(20+rand.IntN(300)) * time.Millisecond):
			_ = cmd.Process.Kill()
			<-done
			if !cmd.ProcessState.Exited() {
				landed++
			}
		case err := <-done:
			if err != nil {
				t.Fatalf("an undisturbed run: %v", err)
			}
		}
		n := check()
		if n < had {
			t.Errorf("the mirror had %d checkpoints, and now %d", had, n)
		}
		if had = n; n == checkpoints {
			complete++
			had = 0
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := mirror()
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("after the last kill: %v\n%s", err, text)
	}
	if n := check(); n != checkpoints {
		t.Errorf("in the end there are %d checkpoints", n)
	}
	for _, dir := range []string{"partial", "staging"} {
		// Of the last one, which ended as it should, nothing is left; of what it
		// found, neither.
		if left, err := os.ReadDir(filepath.Join(to, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	t.Logf("%d kills, %d mirrors that were complete meanwhile", landed, complete)
}
