package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
	"github.com/tinkex/tinkex/tinkextest"
)

const seededRun = "11111111-2222-4333-8444-555555555555:train:0"

// seeded is a server with n training checkpoints step-1 to step-<n> of one run,
// an hour apart, the last one an hour ago. All share one file of 1000 bytes.
func seeded(t *testing.T, n int) *tinkextest.Server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := seed.OpenDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const owner = "tml:user:seed"
	if err := s.Key(t.Context(), tinkextest.Key, owner); err != nil {
		t.Fatal(err)
	}
	c := metastore.Checkpoint{RunID: seededRun, Kind: metastore.KindTraining, Owner: owner}
	for i := 1; i <= n; i++ {
		c.Name, c.CreatedAt = fmt.Sprintf("step-%d", i), time.Now().UTC().Add(-time.Duration(n-i+1)*time.Hour)
		var files []seed.File
		if i == 1 {
			files = []seed.File{{Name: "adapter_model.safetensors", Body: strings.NewReader(strings.Repeat("x", 1000))}}
		}
		made, err := s.Checkpoint(t.Context(), c, files...)
		if err != nil {
			t.Fatal(err)
		}
		c.Files = made.Files
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	srv := tinkextest.NewServerWith(t, tinkextest.Options{DataDir: dir})
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	return srv
}

func seededPath(n int) string { return fmt.Sprintf("tinker://%s/weights/step-%d", seededRun, n) }

// through makes the commands reach the server through a handler, which gets the
// request that the server would have got and says whether it has answered.
func through(t *testing.T, srv *tinkextest.Server, answer func(http.ResponseWriter, *http.Request) bool) {
	t.Helper()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	t.Setenv("TINKER_BASE_URL", front.URL)
}

func listedNames(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, append([]string{"-f", "json", "checkpoint", "list"}, args...)...).want(t, exitDone, []string{"checkpoints"}, nil)
	var out []string
	for _, c := range decode[checkpointListJSON](t, r).Checkpoints {
		out = append(out, c.CheckpointID[strings.IndexByte(c.CheckpointID, '/')+1:])
	}
	return strings.Join(out, " ")
}

func TestListFiltersAndSorts(t *testing.T) {
	w := newWorld(t, "step-9", "step-10", "sampler:step-10")
	run(t, "checkpoint", "publish", w.path("step-9")).want(t, exitDone, nil, nil)
	run(t, "checkpoint", "set-ttl", w.path("step-10"), "--ttl", "2h").want(t, exitDone, nil, nil)
	for want, args := range map[string]string{
		"step-10 step-10 step-9": "",
		"step-9":                 "--public",
		"step-10 step-10":        "--private --sort created",
		"step-10":                "--expiring 3h",
		"":                       "--expiring 1h",
		"step-9 step-10 step-10": "--sort name",
		"step-10 step-9":         "--name weights/* --sort name -r",
		"step-9 step-10":         "--type weights --reverse",
		"step-10 ":               "--sort expires --limit 1 --name *",
	} {
		if got := listedNames(t, strings.Fields(args)...); got != strings.TrimSpace(want) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	for args, want := range map[string]int{
		"--public=false":                 2,
		"--private=false":                1,
		"--public --private=false":       1,
		"--base-model tinkex/*":          3,
		"--base-model Qwen/*":            0,
		"--metadata note=step-9":         1,
		"--min-size 1":                   3,
		"--min-size 1GB":                 0,
		"--max-size 1GB":                 3,
		"--after 1h --before 2099-01-01": 3,
		"--type weights,sampler":         3,
	} {
		got := decode[checkpointListJSON](t, run(t, append([]string{"-f", "json", "checkpoint", "list", "--limit", "1"}, strings.Fields(args)...)...))
		if got.MatchedCount != want || got.TotalCount != 3 || got.ListedCount != min(want, 1) || len(got.Checkpoints) != min(want, 1) {
			t.Errorf("%s: %+v", args, got.listTotals)
		}
		if want > 0 && got.ListedBytes != *got.Checkpoints[0].SizeBytes {
			t.Errorf("%s: %d bytes are listed", args, got.ListedBytes)
		}
	}
	run(t, "checkpoint", "list", "--private").want(t, exitDone, []string{"/step-10"}, []string{"2 checkpoints, "})
	run(t, "checkpoint", "list", "--private", "--limit", "1").want(t, exitDone, []string{"/step-10"}, []string{"1 checkpoint and more, ", "--limit 0"})
	run(t, "checkpoint", "list", "--name", "none").want(t, exitDone, nil, []string{"No checkpoints match, of 3."})
	run(t, "checkpoint", "list", "--offset", "9").want(t, exitDone, nil, []string{"No checkpoints after the first 9."})
	r := run(t, "checkpoint", "list", "--paths", "--type", "weights")
	if r.stdout != w.path("step-10")+"\n"+w.path("step-9")+"\n" {
		t.Errorf("paths are\n%s", r.stdout)
	}
}

func TestListedJSONIsAsIfPrintedAtOnce(t *testing.T) {
	w := newWorld(t, "a", "sampler:b", "c")
	for _, args := range [][]string{{}, {"--limit", "0"}, {"--run-id", w.run}, {"--name", "none"}, {"--sort", "name"}} {
		r := run(t, append([]string{"-f", "json", "checkpoint", "list"}, args...)...)
		var again strings.Builder
		a := &app{Env: Env{Stdout: &again}}
		if err := a.printJSON(decode[checkpointListJSON](t, r)); err != nil {
			t.Fatal(err)
		}
		if again.String() != r.stdout {
			t.Errorf("%v: written\n%s\nwant\n%s", args, r.stdout, again.String())
		}
	}
}

func TestListThatBreaksOffIsNoDocument(t *testing.T) {
	srv := seeded(t, 3)
	pages := 0
	through(t, srv, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/tinkex/v1/checkpoints" {
			return false
		}
		if pages++; pages > 1 {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprintf(w, "{\"tinker_path\": %q, \"checkpoint_type\": \"training\"}\n{\"next\": \"there\"}\n", seededPath(1))
		return true
	})
	r := run(t, "-f", "json", "checkpoint", "list", "--limit", "0").want(t, exitNotFound, []string{seededPath(1)}, []string{"403"})
	if json.Valid([]byte(r.stdout)) {
		t.Errorf("half a list looks like a whole one:\n%s", r.stdout)
	}
	pages = 0
	run(t, "checkpoint", "list", "--limit", "0").want(t, exitNotFound, []string{seededPath(1)}, []string{"403"})
}

func TestInfoShowsFilesAndOrigin(t *testing.T) {
	w := newWorld(t, "a")
	path, err := tinkex.ParseTinkerPath(w.path("a"))
	if err != nil {
		t.Fatal(err)
	}
	tc, err := w.svc.CreateTrainingClientFromStateWithOptimizer(t.Context(), path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	saved, err := tc.SaveState(t.Context(), "b", tinkex.SaveOptions{UserMetadata: map[string]string{"evil": "\x1b[2J"}}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := w.svc.RestClient().Manifest(t.Context(), saved.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Run resumed from     " + w.path("a"), "you only", "Digest", m.Digest, "never", `\x1b[2J`}
	for _, f := range m.Files {
		want = append(want, f.Name, f.SHA256)
	}
	run(t, "checkpoint", "info", saved.Path.String()).want(t, exitDone, want, nil)
	type seen struct {
		ReadableBy  string              `json:"readable_by"`
		ResumedFrom string              `json:"resumed_from"`
		TrainingRun *tinkex.TrainingRun `json:"training_run"`
		Digest      string              `json:"digest"`
		SizeBytes   int64               `json:"size_bytes"`
		Files       []infoFile          `json:"files"`
	}
	got := decode[seen](t, run(t, "-f", "json", "checkpoint", "info", saved.Path.String()))
	if got.ResumedFrom != w.path("a") || got.ReadableBy != "owner" || got.TrainingRun.TrainingRunID != tc.RunID() || len(got.Files) != len(m.Files) || got.Digest != m.Digest || got.Files[0].SHA256 != m.Files[0].SHA256 {
		t.Errorf("%+v", got)
	}
	// Others see the files of what is public, and nothing of the run.
	run(t, "checkpoint", "publish", saved.Path.String()).want(t, exitDone, nil, nil)
	got = decode[seen](t, run(t, "-f", "json", "checkpoint", "info", saved.Path.String(), "--api-key", "tml-else"))
	if got.ResumedFrom != "" || got.TrainingRun != nil || got.ReadableBy != "everybody" || len(got.Files) != len(m.Files) || got.SizeBytes != m.SizeBytes {
		t.Errorf("others see %+v", got)
	}
	// A server without manifests tells the rest.
	through(t, w.srv, func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/tinkex/") {
			return false
		}
		http.NotFound(rw, r)
		return true
	})
	r := run(t, "checkpoint", "info", saved.Path.String()).want(t, exitDone, []string{saved.Path.String(), "rank 4"}, nil)
	if strings.Contains(r.stdout, "SHA-256") {
		t.Errorf("files from nowhere:\n%s", r.stdout)
	}
}

func TestBulkDelete(t *testing.T) {
	srv := seeded(t, 12)
	// Two cannot be deleted, and one is deleted by somebody else in between.
	through(t, srv, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/step-3"), strings.HasSuffix(r.URL.Path, "/step-4"):
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"detail": "not now"}`)
		case strings.HasSuffix(r.URL.Path, "/step-5"):
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"detail": "Not found"}`)
		default:
			return false
		}
		return true
	})
	// No terminal, no consent.
	run(t, "checkpoint", "delete", "--run", "latest").want(t, exitUsage, nil, []string{"Delete 12 checkpoints of 12 KiB for good?", "and 2 more", "--yes"})
	tty := Env{StdinTerminal: true, StderrTerminal: true, Stdin: strings.NewReader("y\n")}
	r := tinkexWith(t, tty, "checkpoint", "delete", "--run", "latest", "--name", "step-?").want(t, exitPartly, nil, []string{
		"Delete 9 checkpoints of 8.8 KiB for good?", "deleting", "9 / 9",
		"step-3: not now (HTTP 403", "step-4: not now", "Deleted 6 of 9 checkpoints; 1 had gone already; 2 failed.",
	})
	if strings.Contains(r.stderr, "step-5: ") {
		t.Errorf("what had gone already is a failure:\n%s", r.stderr)
	}
	if strings.Count(r.stderr, "The key may not do that.") != 1 {
		t.Errorf("what to do is not said once:\n%s", r.stderr)
	}
	if got := listedNames(t, "--sort", "name"); got != "step-3 step-4 step-5 step-10 step-11 step-12" {
		t.Errorf("left are %s", got)
	}
	in := Env{Stdin: strings.NewReader(seededPath(10) + "\n# a comment\n\n  " + seededPath(1) + "\n" + seededPath(10) + "\n")}
	got := decode[deletedJSON](t, tinkexWith(t, in, "-f", "json", "checkpoint", "delete", "-", "-y").want(t, exitDone, []string{"deleted"}, nil))
	if !slices.Equal(got.Deleted, []string{seededPath(10)}) || !slices.Equal(got.Gone, []string{seededPath(1)}) || len(got.Failed) != 0 {
		t.Errorf("from standard input: %+v", got)
	}
	tinkexWith(t, Env{}, "checkpoint", "delete", "-", "-y").want(t, exitDone, nil, []string{"no paths on standard input"})
	in = Env{Stdin: strings.NewReader(seededPath(1) + "\n" + seededPath(2) + "\n")}
	tinkexWith(t, in, "checkpoint", "delete", "-", "-y").want(t, exitDone, nil, []string{"Deleted 0 of 2 checkpoints; 2 had gone already.", "None of them is there.", "tinkex profile show"})
	run(t, "checkpoint", "delete", seededPath(99), "-y").want(t, exitNotFound, nil, []string{"It does not exist, has expired, or belongs to another key."})
	run(t, "checkpoint", "delete", "--all-runs", "--name", "step-1?", "-y").want(t, exitDone, nil, []string{"Deleted 2 of 2 checkpoints."})
	// If all fail the reason decides.
	run(t, "checkpoint", "delete", "--all-runs", "--name", "step-[34]", "-y").want(t, exitNotFound, nil, []string{"not now", "Deleted 0 of 2 checkpoints; 2 failed."})
}

// What was given up is counted, not listed: it would hide why.
func TestBulkDeleteThatIsGivenUp(t *testing.T) {
	srv := seeded(t, 200)
	through(t, srv, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"detail": "not now"}`)
		return true
	})
	r := run(t, "checkpoint", "delete", "--run", "latest", "-y").want(t, exitNotFound, nil, []string{"not now (HTTP 403", "Deleted 0 of 200 checkpoints; 200 failed."})
	tried := strings.Count(r.stderr, "not now")
	if want := fmt.Sprintf("tinkex: %d more were not tried, because too many others had failed\n", 200-tried); !strings.Contains(r.stderr, want) || tried == 200 {
		t.Errorf("%d were tried:\n%s", tried, r.stderr)
	}
}

func TestInterruptedDeleteSaysHowToGoOn(t *testing.T) {
	srv := seeded(t, 80)
	ctx, cancel := context.WithCancel(t.Context())
	var deletions atomic.Int64
	through(t, srv, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && deletions.Add(1) == 5 {
			cancel()
		}
		return false
	})
	tinkexWith(t, Env{Context: ctx}, "checkpoint", "delete", "--run", "latest", "-y").want(t, exitInterrupted, nil,
		[]string{" of 80 checkpoints", "not come to, or not known to be done.\nTo go on, run:\n  tinkex checkpoint delete --run 11111111-2222-4333-8444-555555555555:train:0 -y", "interrupted"})
	run(t, "checkpoint", "delete", "--run", "latest", "-y").want(t, exitDone, nil, []string{"Deleted"})
	run(t, "checkpoint", "list").want(t, exitDone, nil, []string{"No checkpoints."})
}

// Of named paths, those that are done are not named again: they would fail.
func TestInterruptedDeleteOfPathsNamesTheOthers(t *testing.T) {
	srv := seeded(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	through(t, srv, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete || strings.HasSuffix(r.URL.Path, "/step-2") {
			return false
		}
		<-r.Context().Done()
		return true
	})
	screen := &interrupting{at: "1 / 3", interrupt: cancel}
	code := Main([]string{"checkpoint", "delete", seededPath(1), seededPath(2), seededPath(3), "-y"}, Env{
		Context: ctx, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: screen, StderrTerminal: true,
	})
	got := screen.said.String()
	want := "Deleted 1 of 3 checkpoints; 2 not come to, or not known to be done.\nTo go on, run:\n  tinkex checkpoint delete " + seededPath(1) + " " + seededPath(3) + " -y\n"
	if code != exitInterrupted || !screen.seen || !strings.Contains(got, want) {
		t.Errorf("exit code %d, %q, want %q in it", code, got, want)
	}
}

// Until the server has answered, the bar says how much there is to do.
func TestDeleteBarBeginsWithTheTotal(t *testing.T) {
	srv := seeded(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	through(t, srv, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		<-r.Context().Done()
		return true
	})
	screen := &interrupting{at: "0 / 3", interrupt: cancel}
	code := Main([]string{"checkpoint", "delete", "--run", "latest", "-y"}, Env{
		Context: ctx, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: screen, StderrTerminal: true,
	})
	got := screen.said.String()
	if code != exitInterrupted || !screen.seen || !strings.Contains(got, "Deleted 0 of 3 checkpoints; 3 not come to, or not known to be done.") {
		t.Errorf("exit code %d, %q", code, got)
	}
}

// interrupting is a screen that interrupts once something is on it. Its command
// writes one thing at a time.
type interrupting struct {
	said      bytes.Buffer
	at        string
	seen      bool
	interrupt func()
}

func (w *interrupting) Write(p []byte) (int, error) {
	w.said.Write(p)
	if !w.seen && strings.Contains(w.said.String(), w.at) {
		w.seen = true
		w.interrupt()
	}
	return len(p), nil
}

func TestConfirmEndsWithAnInterruption(t *testing.T) {
	seeded(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	stdin := readerFunc(func([]byte) (int, error) {
		cancel()
		<-t.Context().Done() // nobody answers
		return 0, errors.New("closed")
	})
	tinkexWith(t, Env{Context: ctx, StdinTerminal: true, Stdin: stdin}, "checkpoint", "delete", seededPath(1)).want(t, exitInterrupted, nil, []string{"interrupted"})
	if got := listedNames(t); got != "step-1" {
		t.Errorf("left are %q", got)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestPruneCommand(t *testing.T) {
	seeded(t, 12)
	run(t, "checkpoint", "publish", seededPath(2)).want(t, exitDone, nil, nil)
	args := []string{"checkpoint", "prune", "--run", "latest", "--keep-last", "2", "--keep-every", "5"}
	r := run(t, append(args, "--dry-run")...).want(t, exitDone,
		[]string{"latest, keep-last 1 of 2", "keep-last 2 of 2", "keep-every: 5", "public", "no rule keeps it"},
		[]string{"Would delete 7 checkpoints, freeing 0 B, and keep 5."})
	if lines := strings.Split(strings.TrimSpace(r.stdout), "\n"); len(lines) != 13 ||
		!strings.HasPrefix(lines[1], "keep") || !strings.HasSuffix(lines[1], "/step-12") || !strings.HasPrefix(lines[4], "delete") || !strings.HasSuffix(lines[12], "/step-1") {
		t.Errorf("not a line for each, newest first:\n%s", r.stdout)
	}
	if got := listedNames(t); strings.Count(got, "step") != 12 {
		t.Fatalf("a dry run left %s", got)
	}
	run(t, args...).want(t, exitUsage, nil, []string{"Delete 7 of 12 checkpoints for good, freeing 0 B?", "--yes"})
	tinkexWith(t, Env{StdinTerminal: true, Stdin: strings.NewReader("no\n")}, args...).want(t, exitFailed, nil, []string{"nothing was done"})
	plan := decode[pruneJSON](t, run(t, append(args, "-n", "-f", "json")...).want(t, exitDone, []string{"keep"}, nil))
	if !plan.DryRun || len(plan.Keep) != 5 || len(plan.Remove) != 7 || !plan.Freed.Exact || len(plan.Deleted) != 0 || plan.Keep[0].Reasons[0] != "latest" || plan.Keep[0].TinkerPath != seededPath(12) {
		t.Errorf("plan %+v", plan)
	}
	tty := Env{StdinTerminal: true, StderrTerminal: true, Stdin: strings.NewReader("y\n")}
	tinkexWith(t, tty, args...).want(t, exitDone, nil, []string{"reading manifests", "12 / 12", "7 / 7", "Deleted 7 of 7 checkpoints, freeing 0 B."})
	run(t, args...).want(t, exitDone, nil, []string{"Nothing to delete, of 5 checkpoints."})
	if got := listedNames(t); got != "step-12 step-11 step-10 step-5 step-2" {
		t.Errorf("left are %s", got)
	}
	run(t, "checkpoint", "prune", "--keep-last", "1", "--name", "none").want(t, exitDone, nil, []string{"No checkpoints match."})
	empty := decode[map[string]json.RawMessage](t, run(t, "-f", "json", "checkpoint", "prune", "--keep-last", "1", "--name", "none"))
	for _, list := range []string{"keep", "remove", "deleted", "already_gone", "failed"} {
		if string(empty[list]) != "[]" {
			t.Errorf("%s is %s", list, empty[list])
		}
	}
	all := []string{"checkpoint", "prune", "--keep-within", "1m", "--include-latest", "--include-public", "-y"}
	run(t, all...).want(t, exitUsage, nil, []string{"keep nothing of the 5 checkpoints", "--all"})
	run(t, append(all, "--all")...).want(t, exitDone, nil, []string{"Deleted 5 of 5 checkpoints, freeing 1000 B."})
}

// Without a question too, deleting is shown and not only what comes before it.
func TestPruneShowsBothPhases(t *testing.T) {
	seeded(t, 12)
	run(t, "checkpoint", "prune", "--keep-last", "2", "-y", "--progress", "lines").want(t, exitDone, nil,
		[]string{"reading manifests: done, 12 of 12", "deleting: done, 10 of 10", "Deleted 10 of 10 checkpoints"})
}

func TestPruneWithoutManifestsAndWithFailures(t *testing.T) {
	srv := seeded(t, 4)
	through(t, srv, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/tinkex/"):
			http.NotFound(w, r)
		case r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/step-2"):
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"detail": "not now"}`)
		default:
			return false
		}
		return true
	})
	args := []string{"checkpoint", "prune", "--keep-last", "1"}
	run(t, append(args, "-n")...).want(t, exitDone, []string{"latest"}, []string{"Would delete 3 checkpoints, freeing up to 2.9 KiB (shared files may remain), and keep 1."})
	run(t, append(args, "-y")...).want(t, exitPartly, nil, []string{"step-2: not now", "Deleted 2 of 3 checkpoints; 1 failed."})
	got := decode[pruneJSON](t, run(t, append(args, "-y", "-f", "json")...).want(t, exitNotFound, []string{"not now"}, nil))
	if len(got.Failed) != 1 || got.Failed[0].TinkerPath != seededPath(2) {
		t.Errorf("%+v", got)
	}
}
