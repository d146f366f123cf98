package hfhub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/hfhub"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
)

var ctx = context.Background()

// client is one that does not wait, and notes how long it would have.
func client(t *testing.T, s *hubtest.Server, change ...func(*hfhub.Options)) (*hfhub.Client, *waits) {
	t.Helper()
	w := &waits{}
	opts := hfhub.Options{Endpoint: s.URL, Token: hubtest.Token, Wait: w.wait}
	for _, c := range change {
		c(&opts)
	}
	c, err := hfhub.New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (w *waits) wait(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, d)
	return ctx.Err()
}

func file(name, content string) hfhub.File {
	return hfhub.File{Path: name, Size: int64(len(content)), Content: strings.NewReader(content)}
}

func random(n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return string(b)
}

var repo = hfhub.RepoID{Namespace: hubtest.User, Name: "adapter"}

func push(t *testing.T, c *hfhub.Client, opts hfhub.CommitOptions, files ...hfhub.File) hfhub.Commit {
	t.Helper()
	if opts.Summary == "" {
		opts.Summary = "a commit"
	}
	out, err := c.Commit(ctx, repo, files, opts)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantFiles(t *testing.T, s *hubtest.Server, revision string, want ...hfhub.File) {
	t.Helper()
	got := s.Files(repo.String(), revision)
	if len(got) != len(want) {
		t.Errorf("branch %s has %d files, want %d", revision, len(got), len(want))
	}
	for _, f := range want {
		b := make([]byte, f.Size)
		_, _ = f.Content.ReadAt(b, 0)
		if got[f.Path] != string(b) {
			t.Errorf("%s has %d bytes, and not those that were pushed (%d)", f.Path, len(got[f.Path]), f.Size)
		}
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	for name, partBytes := range map[string]int64{"whole": 0, "in parts": 1000, "in one part less a byte": 4999} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hubtest.New(t)
			s.PartBytes = partBytes
			c, _ := client(t, s)
			if user, err := c.WhoAmI(ctx); user != hubtest.User || err != nil {
				t.Fatalf("the token is %q's (%v)", user, err)
			}
			if created, err := c.CreateRepo(ctx, repo, true); !created || err != nil {
				t.Fatalf("created: %t, %v", created, err)
			}
			if created, err := c.CreateRepo(ctx, repo, false); created || err != nil || !s.Private(repo.String()) {
				t.Fatalf("created once more: %t, %v, private %t", created, err, s.Private(repo.String()))
			}
			files := []hfhub.File{
				file("model.safetensors", random(5000)), file("same.safetensors", random(5000)),
				file("empty.safetensors", ""), file("sub/config.json", `{"a": 1}`),
			}
			var sent, total int64
			out := push(t, c, hfhub.CommitOptions{Progress: func(s, n int64) { sent, total = s, n }}, files...)
			if out.Unchanged || out.Sent != 5000 || sent != 5000 || total != 5000 || out.ID == "" || !strings.Contains(out.URL, out.ID) {
				t.Errorf("%+v, progress %d of %d", out, sent, total)
			}
			wantFiles(t, s, "main", files...)

			// Again, nothing happens; with one file changed, only that is sent.
			if again := push(t, c, hfhub.CommitOptions{}, files...); !again.Unchanged || again.ID != out.ID || again.Sent != 0 {
				t.Errorf("again: %+v, the first was %s", again, out.ID)
			}
			files[3] = file("sub/config.json", `{"a": 2}`)
			if again := push(t, c, hfhub.CommitOptions{}, files...); again.Unchanged || again.ID == out.ID || again.Sent != 0 {
				t.Errorf("changed: %+v", again)
			}
			wantFiles(t, s, "main", files...)
		})
	}
}

func TestBranchAndPullRequest(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	s.AddRepo(repo.String(), false, map[string]string{"README.md": "old"})
	c, _ := client(t, s)
	if _, err := c.Info(ctx, repo, "some/branch"); !errors.Is(err, hfhub.ErrNoRevision) {
		t.Errorf("a branch that is not there: %v", err)
	}
	for range 2 {
		if err := c.CreateBranch(ctx, repo, "some/branch"); err != nil {
			t.Fatal(err)
		}
	}
	push(t, c, hfhub.CommitOptions{Revision: "some/branch"}, file("README.md", "new"))
	wantFiles(t, s, "some/branch", file("README.md", "new"))
	wantFiles(t, s, "main", file("README.md", "old"))
	out := push(t, c, hfhub.CommitOptions{CreatePR: true}, file("README.md", "proposed"))
	if !strings.Contains(out.PullRequestURL, "/discussions/1") {
		t.Errorf("%+v", out)
	}
	wantFiles(t, s, "main", file("README.md", "old"))
	wantFiles(t, s, "refs/pr/1", file("README.md", "proposed"))
	b, err := c.ReadFile(ctx, repo, "some/branch", "README.md", 2)
	if err != nil || string(b) != "ne" {
		t.Errorf("read %q, %v", b, err)
	}
	// Somebody else was faster.
	info, err := c.Info(ctx, repo, "main")
	if err != nil {
		t.Fatal(err)
	}
	push(t, c, hfhub.CommitOptions{Parent: info.Commit}, file("README.md", "theirs"))
	if _, err := c.Commit(ctx, repo, []hfhub.File{file("README.md", "ours")}, hfhub.CommitOptions{Parent: info.Commit, Summary: "x"}); !errors.Is(err, hfhub.ErrMoved) {
		t.Errorf("a branch that moved: %v", err)
	}
}

func unavailable(header, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(header, value)
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	files := []hfhub.File{file("model.safetensors", random(5000)), file("README.md", "x")}
	broken := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, tc := range map[string]struct {
		fail  func(s *hubtest.Server)
		waits int
		least time.Duration // of the first wait
	}{
		"whoami-limited":     {func(s *hubtest.Server) { s.Fail("GET", "whoami", 0, 2, unavailable("Retry-After", "7")) }, 2, 7 * time.Second},
		"the limit's window": {func(s *hubtest.Server) { s.Fail("GET", "whoami", 0, 1, unavailable("RateLimit", `"api";r=0;t=55`)) }, 1, 56 * time.Second},
		"preupload":          {func(s *hubtest.Server) { s.Fail("POST", "preupload", 0, 3, broken) }, 3, 0},
		"batch":              {func(s *hubtest.Server) { s.Fail("POST", "objects/batch", 0, 1, broken) }, 1, 0},
		"a part":             {func(s *hubtest.Server) { s.Fail("PUT", "/part/", 2, 2, broken) }, 2, 0},
		"a connection":       {func(s *hubtest.Server) { s.Fail("PUT", "/part/", 1, 1, cut) }, 1, 0},
		"complete":           {func(s *hubtest.Server) { s.Fail("POST", "/complete/", 0, 1, broken) }, 1, 0},
		"verify":             {func(s *hubtest.Server) { s.Fail("POST", "/verify", 0, 1, broken) }, 1, 0},
		"commit":             {func(s *hubtest.Server) { s.Fail("POST", "/commit/", 0, 1, broken) }, 1, 0},
		"a lost commit":      {func(s *hubtest.Server) { s.Lose("POST", "/commit/") }, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hubtest.New(t)
			s.PartBytes = 700
			s.AddRepo(repo.String(), true, nil)
			tc.fail(s)
			c, w := client(t, s)
			if _, err := c.WhoAmI(ctx); err != nil {
				t.Fatal(err)
			}
			info, err := c.Info(ctx, repo, "")
			if err != nil {
				t.Fatal(err)
			}
			var last int64
			push(t, c, hfhub.CommitOptions{Parent: info.Commit, Progress: func(sent, _ int64) { last = sent }}, files...)
			wantFiles(t, s, "main", files...)
			if len(w.all) != tc.waits || w.all[0] < tc.least {
				t.Errorf("waited %v, want %d times, %v at least", w.all, tc.waits, tc.least)
			}
			if last != 5000 {
				t.Errorf("progress ended at %d of 5000", last)
			}
		})
	}
}

// What does not help is not tried, and what was not made sure of is not done
// twice.
func TestNoRetries(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fail func(s *hubtest.Server)
		opts hfhub.CommitOptions
		want string
	}{
		"refused": {func(s *hubtest.Server) {
			s.Fail("POST", "preupload", 0, 1, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) })
		}, hfhub.CommitOptions{}, "HTTP 400"},
		"wait of an hour":   {func(s *hubtest.Server) { s.Fail("POST", "preupload", 0, 1, unavailable("Retry-After", "3600")) }, hfhub.CommitOptions{}, "HTTP 429"},
		"lost pull request": {func(s *hubtest.Server) { s.Lose("POST", "/commit/") }, hfhub.CommitOptions{CreatePR: true}, "HTTP 502"},
		"too often": {func(s *hubtest.Server) {
			s.Fail("POST", "preupload", 0, 99, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		}, hfhub.CommitOptions{}, "HTTP 500"},
		"not an answer": {func(s *hubtest.Server) {
			s.Fail("POST", "preupload", 0, 1, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
		}, hfhub.CommitOptions{}, "not what was expected"},
		"no mode": {func(s *hubtest.Server) {
			s.Fail("POST", "preupload", 0, 1, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"files": []}`) })
		}, hfhub.CommitOptions{}, "does not say how README.md is to come"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hubtest.New(t)
			s.AddRepo(repo.String(), true, nil)
			tc.fail(s)
			c, w := client(t, s)
			tc.opts.Summary = "x"
			_, err := c.Commit(ctx, repo, []hfhub.File{file("README.md", "x")}, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if want := map[bool]int{true: hfhub.DefaultRetries}[name == "too often"]; len(w.all) != want {
				t.Errorf("waited %v", w.all)
			}
		})
	}
}

// The token goes to the endpoint alone, and neither it nor a signature is in
// what people read.
func TestNothingIsGivenAway(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	s.PartBytes = 1000
	s.AddRepo(repo.String(), true, map[string]string{"README.md": "x"})
	var logged bytes.Buffer
	c, _ := client(t, s, func(o *hfhub.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	fmt.Fprintf(&logged, "%+v %#v\n", c, c)
	push(t, c, hfhub.CommitOptions{}, file("model.safetensors", random(3000)))
	// An LFS file is read from storage.
	if b, err := c.ReadFile(ctx, repo, "main", "model.safetensors", 10); err != nil || string(b) != random(3000)[:10] {
		t.Errorf("%q, %v", b, err)
	}
	stored := 0
	for _, r := range s.Requests() {
		_, with := r.Header["Authorization"]
		if r.Storage {
			stored++
		}
		if signed := r.Storage || strings.HasPrefix(r.Path, "/lfs/complete"); with == signed {
			t.Errorf("%s %s: with the token: %t", r.Method, r.Path, with)
		}
	}
	if stored != 4 {
		t.Errorf("%d requests to storage, want 3 parts and a download", stored)
	}
	s.Fail("PUT", "/part/", 0, 100, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := c.Commit(ctx, repo, []hfhub.File{file("other.safetensors", random(3001))}, hfhub.CommitOptions{Summary: "x"})
	if err == nil || !strings.Contains(err.Error(), "other.safetensors") {
		t.Errorf("%v", err)
	}
	fmt.Fprintln(&logged, err)
	for _, secret := range []string{hubtest.Token, "signature"} {
		if strings.Contains(logged.String(), secret) {
			t.Errorf("%q is told:\n%s", secret, logged.String())
		}
	}
	if !strings.Contains(logged.String(), "asked again") {
		t.Errorf("retries are not logged:\n%s", logged.String())
	}
}

// zeros is a file of any size that takes no memory.
type zeros struct{ size int64 }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), z.size-off))
	clear(p[:n])
	if n < len(p) {
		return n, errors.New("past the end")
	}
	return n, nil
}

// TestMemoryDoesNotGrowWithTheFile pushes what is sixteen times larger than
// what may be allocated for it.
func TestMemoryDoesNotGrowWithTheFile(t *testing.T) {
	s := hubtest.New(t)
	const size = 128 << 20
	s.AddRepo(repo.String(), true, nil)
	c, _ := client(t, s)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	push(t, c, hfhub.CommitOptions{}, hfhub.File{Path: "model.safetensors", Size: size, Content: zeros{size}})
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > size/16 {
		t.Errorf("%d MiB were allocated", got>>20)
	}
	if s.StoredBytes() != size {
		t.Errorf("storage has %d bytes", s.StoredBytes())
	}
}

func TestStalledUpload(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	s.AddRepo(repo.String(), true, nil)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	s.Fail("PUT", "/put/", 0, 1, func(http.ResponseWriter, *http.Request) { <-over })
	// Of the tries that follow, none may be without a byte for as long.
	c, w := client(t, s, func(o *hfhub.Options) { o.StallTimeout = time.Second })
	// More than sockets hold.
	const size = 64 << 20
	push(t, c, hfhub.CommitOptions{}, hfhub.File{Path: "model.safetensors", Size: size, Content: zeros{size}})
	if len(w.all) == 0 || s.StoredBytes() != size {
		t.Errorf("waited %v, storage has %d bytes", w.all, s.StoredBytes())
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	s.AddRepo(repo.String(), true, nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.Fail("PUT", "/put/", 0, 1, func(http.ResponseWriter, *http.Request) { cancel() })
	c, _ := client(t, s)
	_, err := c.Commit(ctx, repo, []hfhub.File{file("model.safetensors", random(5000))}, hfhub.CommitOptions{Summary: "x"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	wantFiles(t, s, "main")
}

func TestAccess(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	s.AddUser("hf_other", "other")
	s.AddRepo("other/private", true, nil)
	s.AddRepo("other/public", false, nil)
	c, _ := client(t, s)
	if _, err := c.Info(ctx, hfhub.RepoID{Namespace: "other", Name: "private"}, ""); !errors.Is(err, hfhub.ErrNotFound) {
		t.Errorf("somebody else's private repository: %v", err)
	}
	if _, err := c.CreateRepo(ctx, hfhub.RepoID{Namespace: "other", Name: "new"}, true); err == nil || !strings.Contains(err.Error(), "HTTP 403") {
		t.Errorf("somebody else's namespace: %v", err)
	}
	// It may not be made, but it is there.
	if created, err := c.CreateRepo(ctx, hfhub.RepoID{Namespace: "other", Name: "public"}, true); created || err != nil {
		t.Errorf("somebody else's public repository: %t, %v", created, err)
	}
	wrong, _ := client(t, s, func(o *hfhub.Options) { o.Token = "hf_wrong" })
	if _, err := wrong.WhoAmI(ctx); err == nil || !strings.Contains(err.Error(), "HTTP 401") || strings.Contains(err.Error(), "hf_wrong") {
		t.Errorf("a wrong token: %v", err)
	}
}

func TestCardProblems(t *testing.T) {
	t.Parallel()
	c, _ := client(t, hubtest.New(t))
	for card, want := range map[string][2]int{
		"---\na: b\n---\n":     {0, 0},
		"no front matter":      {0, 1},
		"---\nnonsense\n---\n": {1, 0},
	} {
		problems, warnings, err := c.CardProblems(ctx, card)
		if err != nil || len(problems) != want[0] || len(warnings) != want[1] {
			t.Errorf("%q: %q, %q, %v", card, problems, warnings, err)
		}
	}
}

func TestParseRepoID(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{
		"me/my-adapter": true, "my-adapter": true, "a.b_c/0": true, "_x_": true,
		"": false, "/": false, "me/": false, "/x": false, "a/b/c": false, "-x": false, "x-": false, ".x": false, "x.": false,
		"a--b": false, "a..b": false, "a b": false, "x.git": false, "café": false, "me/" + strings.Repeat("x", 97): false, "https://huggingface.co/me/x": false,
	} {
		id, err := hfhub.ParseRepoID(s)
		if (err == nil) != ok || err != nil && !errors.Is(err, hfhub.ErrRepoID) {
			t.Errorf("%q: %v, %v", s, id, err)
		}
	}
	if id, _ := hfhub.ParseRepoID("me/my-adapter"); id.String() != "me/my-adapter" {
		t.Error(id)
	}
}

func TestCheckRevision(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{
		"main": true, "weights-0001": true, "a/b": true, "refs/pr/1": true, "v1.0": true,
		"": false, "-x": false, "a b": false, "a..b": false, "a:b": false, "x/": false, "/x": false, "x.lock": false, "a//b": false, "@{u}": false, ".x": false,
	} {
		if err := hfhub.CheckRevision(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestBadPaths(t *testing.T) {
	t.Parallel()
	s := hubtest.New(t)
	c, _ := client(t, s)
	for _, p := range []string{"", "/x", "../x", "a/../b", "a//b", ".git/config", `a\b`} {
		if _, err := c.Commit(ctx, repo, []hfhub.File{file(p, "x")}, hfhub.CommitOptions{Summary: "x"}); err == nil || len(s.Requests()) > 0 {
			t.Errorf("%q: %v after %d requests", p, err, len(s.Requests()))
		}
	}
}

func TestFindToken(t *testing.T) {
	home := t.TempDir()
	write := func(parts ...string) string {
		name := filepath.Join(append([]string{home}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("  hf_"+strings.Join(parts, "_")+" \r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	write(".cache", "huggingface", "token")
	write("xdg", "huggingface", "token")
	write("hfhome", "token")
	write("elsewhere")
	for _, tc := range []struct{ env, want string }{
		{"", "hf_.cache_huggingface_token"},
		{"XDG_CACHE_HOME=" + home + "/xdg", "hf_xdg_huggingface_token"},
		{"XDG_CACHE_HOME=~/xdg", "hf_xdg_huggingface_token"},
		{"XDG_CACHE_HOME=" + home + "/xdg HF_HOME=$BASE/hfhome", "hf_hfhome_token"},
		{"HF_HOME=~/hfhome HF_TOKEN_PATH=~/elsewhere", "hf_elsewhere"},
		{"HF_HOME=~/hfhome HUGGING_FACE_HUB_TOKEN=hf_older", "hf_older"},
		{"HF_TOKEN=\thf_new\r\n HUGGING_FACE_HUB_TOKEN=hf_older", "hf_new"},
		// As the Python package has it: one that is empty is passed over, one of
		// white space only is not.
		{"HF_TOKEN= HUGGING_FACE_HUB_TOKEN=hf_older", "hf_older"},
		{"HF_TOKEN=\t HUGGING_FACE_HUB_TOKEN=hf_older HF_HOME=~/hfhome", "hf_hfhome_token"},
		{"HF_HOME=~/nowhere", ""},
		{"HF_TOKEN=hf_a\tb", ""},
	} {
		t.Run(tc.env, func(t *testing.T) {
			noTokens(t)
			t.Setenv("HOME", home)
			t.Setenv("USERPROFILE", home)
			t.Setenv("BASE", home)
			for kv := range strings.SplitSeq(tc.env, " ") {
				if name, value, ok := strings.Cut(kv, "="); ok {
					t.Setenv(name, value)
				}
			}
			got, err := hfhub.FindToken(ctx, hfhub.Options{})
			if got != tc.want || (err != nil) != (tc.want == "") || err != nil && !errors.Is(err, hfhub.ErrNoToken) {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hf_") {
				t.Errorf("the error shows it: %v", err)
			}
		})
	}
}

func TestEndpoint(t *testing.T) {
	for _, bad := range []string{"huggingface.co", "ftp://x", "https://user:secret@hub", "https://hub?x=secret", "https://", "://"} {
		t.Setenv("HF_ENDPOINT", bad)
		_, err := hfhub.New(ctx, hfhub.Options{Token: "hf_x"})
		if !errors.Is(err, hfhub.ErrMalformedEndpoint) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	t.Setenv("HF_ENDPOINT", "https://hub.example/hf/")
	c, err := hfhub.New(ctx, hfhub.Options{Token: "hf_x"})
	if err != nil || c.RepoURL(repo) != "https://hub.example/hf/someone/adapter" {
		t.Errorf("%v, %v", c, err)
	}
}
