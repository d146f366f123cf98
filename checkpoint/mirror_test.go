package checkpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	_ "github.com/tinkex/tinkex/checkpoint/buckets"
	"github.com/tinkex/tinkex/internal/s3test"
	"github.com/tinkex/tinkex/tinkextest"
)

func TestMain(m *testing.M) { os.Exit(s3test.Run(m)) }

// source is a server with a run of two steps, saved as both kinds after each.
type mirrored struct {
	t    *testing.T
	srv  *tinkextest.Server
	svc  *tinkex.ServiceClient
	tc   *tinkex.TrainingClient
	rest *tinkex.RestClient
}

func toBeMirrored(t *testing.T, opts tinkextest.Options) *mirrored {
	t.Helper()
	srv := tinkextest.NewServerWith(t, opts)
	m := &mirrored{t: t, srv: srv, svc: client(t, srv, tinkextest.Key)}
	m.rest = m.svc.RestClient()
	var err error
	m.tc, err = m.svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{
		Rank: 4, Seed: ptr(int64(1)), SkipMLP: true, UserMetadata: map[string]string{"purpose": "mirror"},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.step("a")
	m.step("b")
	return m
}

// step takes a step and saves it as both kinds.
func (m *mirrored) step(name string) {
	m.t.Helper()
	step(m.t, m.tc)
	m.save(name)
}

func (m *mirrored) save(name string) {
	m.t.Helper()
	o := tinkex.SaveOptions{Overwrite: true, UserMetadata: map[string]string{"note": name}}
	for _, save := range []func(context.Context, string, tinkex.SaveOptions) *tinkex.Future[*tinkex.SavedCheckpoint]{m.tc.SaveState, m.tc.SaveWeightsForSampler} {
		if _, err := save(m.t.Context(), name, o).Await(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *mirrored) path(kind tinkex.CheckpointType, name string) tinkex.TinkerPath {
	return tinkex.TinkerPath{RunID: m.tc.RunID(), Type: kind, Name: name}
}

func mirror(t *testing.T, c checkpoint.MirrorClient, to string, opts checkpoint.MirrorOptions) checkpoint.Mirrored {
	t.Helper()
	if opts.WorkDir == "" {
		opts.WorkDir = t.TempDir()
	}
	opts.Download.Retries, opts.Download.RetryDelay = 2, time.Millisecond
	got, err := checkpoint.Mirror(t.Context(), c, to, opts)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// counts makes what came of a mirror comparable.
func counts(m checkpoint.Mirrored) [7]int {
	return [7]int{m.Selected, m.Unchanged, len(m.Added), len(m.Updated), len(m.Gone), len(m.Failed), len(m.Pruned)}
}

// whole checks that a mirror is intact and has so many checkpoints.
func whole(t *testing.T, target string, checkpoints int) checkpoint.MirrorVerification {
	t.Helper()
	v, err := checkpoint.VerifyMirror(t.Context(), target, checkpoint.MirrorVerifyOptions{})
	if err != nil || !v.Intact() || v.Checkpoints != checkpoints || v.Blobs == 0 {
		t.Errorf("the mirror is %+v, %v, want %d checkpoints", v, err, checkpoints)
	}
	return v
}

// onlyProtocol is a server that lacks this project's extensions.
func onlyProtocol(t *testing.T, srv *tinkextest.Server) *tinkex.RestClient {
	t.Helper()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Signed URLs of archives are no part of the interface.
		if strings.HasPrefix(r.URL.Path, "/tinkex/v1") && !strings.HasPrefix(r.URL.Path, "/tinkex/v1/archives/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	c, err := tinkex.NewRestClient(tinkex.Options{BaseURL: front.URL, APIKey: tinkextest.Key, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// targets are where mirrors are tested: a directory and a bucket.
func targets(t *testing.T) map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"directory": func(t *testing.T) string { return filepath.Join(t.TempDir(), "deep", "mirror") },
		"bucket":    func(t *testing.T) string { return s3test.Bucket(t) + "&prefix=some/where/" },
	}
}

func TestMirrorAndRestore(t *testing.T) {
	for name, target := range targets(t) {
		for _, extended := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "", false: " without extensions"}[extended], func(t *testing.T) {
				t.Parallel()
				testMirrorAndRestore(t, target(t), extended)
			})
		}
	}
}

func testMirrorAndRestore(t *testing.T, to string, extended bool) {
	m := toBeMirrored(t, tinkextest.Options{})
	rest := m.rest
	if !extended {
		rest = onlyProtocol(t, m.srv)
	}
	got := mirror(t, rest, to, checkpoint.MirrorOptions{DryRun: true})
	if counts(got) != [7]int{4, 0, 4} {
		t.Errorf("to be done: %+v", got)
	}
	got = mirror(t, rest, to, checkpoint.MirrorOptions{})
	if counts(got) != [7]int{4, 0, 4} || got.FetchedBytes == 0 {
		t.Errorf("the first mirror: %+v", got)
	}
	var logical int64
	for _, c := range got.Added {
		logical += c.SizeBytes
		if c.Verified != extended {
			t.Errorf("%s was verified: %v", c.Path, c.Verified)
		}
	}
	v := whole(t, to, 4)
	// The adapters of both kinds are the same files, and fetched once where
	// the server tells their digests.
	if len(v.Extra) > 0 || v.Bytes >= logical || extended && got.FetchedBytes != v.Bytes {
		t.Errorf("%d bytes of %d were fetched for %d: %+v", got.FetchedBytes, logical, v.Bytes, v)
	}
	if got := mirror(t, rest, to, checkpoint.MirrorOptions{}); counts(got) != [7]int{4, 4} || got.FetchedBytes != 0 || !got.Nothing() {
		t.Errorf("once more: %+v", got)
	}

	// Training goes on here, and there from the mirror.
	other := tinkextest.NewServer(t)
	there := client(t, other, "tml-other")
	want := []float64{step(t, m.tc), step(t, m.tc), step(t, m.tc)}
	restored, err := checkpoint.Restore(t.Context(), there.RestClient(), to, checkpoint.RestoreOptions{})
	if err != nil || len(restored.Restored) != 4 || len(restored.Present) != 0 {
		t.Fatalf("restored %+v, %v", restored, err)
	}
	if restored.SentBytes != v.Bytes {
		t.Errorf("%d bytes were sent for %d", restored.SentBytes, v.Bytes)
	}
	paths := map[string]tinkex.TinkerPath{}
	for _, c := range restored.Restored {
		paths[c.Origin.CheckpointID()] = c.Path
		if c.Path.CheckpointID() != c.Origin.CheckpointID() || c.Path.RunID == c.Origin.RunID {
			t.Errorf("%s became %s", c.Origin, c.Path)
		}
	}
	if losses := resume(t, there, paths["weights/b"], true); !slices.Equal(losses, want) {
		t.Errorf("the losses are %v, and %v uninterrupted", losses, want)
	}
	if losses := resume(t, there, paths["weights/b"], false); slices.Equal(losses, want) {
		t.Error("without its optimizer the run goes on as with it")
	}
	if a, b := sample(t, m.svc, m.path(tinkex.Sampler, "b")), sample(t, there, paths["sampler_weights/b"]); !equal(a, b) {
		t.Errorf("samples differ: %v, %v", a, b)
	}
	checkRestored(t, m, there.RestClient(), paths)

	// Nothing is left to do, for anybody.
	restored, err = checkpoint.Restore(t.Context(), there.RestClient(), to, checkpoint.RestoreOptions{})
	if err != nil || len(restored.Restored) != 0 || len(restored.Present) != 4 || restored.SentBytes != 0 {
		t.Errorf("restored again %+v, %v", restored, err)
	}
}

func equal(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// checkRestored compares what servers say of checkpoints and their copies.
func checkRestored(t *testing.T, m *mirrored, there *tinkex.RestClient, paths map[string]tinkex.TinkerPath) {
	t.Helper()
	list, err := m.rest.ListRunCheckpoints(t.Context(), m.tc.RunID())
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range list.Checkpoints {
		order = append(order, c.CheckpointID)
		path := paths[c.CheckpointID]
		got, err := there.GetCheckpoint(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Time.Equal(c.Time) || *got.SizeBytes != *c.SizeBytes || got.Public || got.ExpiresAt != nil || got.BaseModel != c.BaseModel ||
			got.UserMetadata["note"] != c.UserMetadata["note"] || got.UserMetadata["restored_from"] != c.TinkerPath {
			t.Errorf("%+v became %+v", c, got)
		}
		p, err := c.Path()
		if err != nil {
			t.Fatal(err)
		}
		was, err1 := m.rest.WeightsInfo(t.Context(), p)
		is, err2 := there.WeightsInfo(t.Context(), path)
		if err1 != nil || err2 != nil || !equal(was, is) {
			t.Errorf("%+v, %v became %+v, %v", was, err1, is, err2)
		}
	}
	all, err := there.ListCheckpoints(t.Context(), tinkex.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range all.Checkpoints {
		if c.CheckpointID != order[i] {
			t.Errorf("place %d of the list has %s, want %s", i, c.CheckpointID, order[i])
		}
	}
	run, err := there.GetTrainingRun(t.Context(), paths["weights/b"].RunID)
	if err != nil || run.BaseModel != tinkextest.BaseModel || *run.LoRARank != 4 || run.UserMetadata["purpose"] != "mirror" ||
		run.UserMetadata["restored_from"] != "tinker://"+m.tc.RunID() {
		t.Errorf("the run is %+v, %v", run, err)
	}
}

func TestMirrorKeepsUp(t *testing.T) {
	t.Parallel()
	clk := new(clock)
	m := toBeMirrored(t, tinkextest.Options{Now: clk.now})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})

	// A new one costs only its own bytes; one of which only the description
	// changed, none.
	m.step("c")
	if err := m.rest.SetTTL(t.Context(), m.path(tinkex.Training, "a"), time.Hour); err != nil {
		t.Fatal(err)
	}
	got := mirror(t, m.rest, to, checkpoint.MirrorOptions{})
	if counts(got) != [7]int{6, 3, 2, 1} || got.Updated[0] != m.path(tinkex.Training, "a") {
		t.Errorf("with c: %+v", got)
	}
	// One that was overwritten is another one.
	step(t, m.tc)
	m.save("b")
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); counts(got) != [7]int{6, 4, 2} || got.FetchedBytes == 0 {
		t.Errorf("with another b: %+v", got)
	}
	// What is saved again as it is costs no download.
	m.save("b")
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); counts(got) != [7]int{6, 4, 2} || got.FetchedBytes != 0 {
		t.Errorf("with the same b: %+v", got)
	}
	whole(t, to, 6)

	// What is gone from the server stays.
	clk.ahead.Store(int64(2 * time.Hour))
	if err := m.rest.DeleteCheckpoint(t.Context(), m.path(tinkex.Sampler, "c")); err != nil {
		t.Fatal(err)
	}
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); counts(got) != [7]int{4, 4} {
		t.Errorf("after a deletion and an expiry: %+v", got)
	}
	whole(t, to, 6)
	there := client(t, tinkextest.NewServer(t), "tml-other").RestClient()
	restored, err := checkpoint.Restore(t.Context(), there, to, checkpoint.RestoreOptions{
		Selection: checkpoint.Selection{Name: "weights/a"}, TTL: time.Hour,
	})
	if err != nil || len(restored.Restored) != 1 {
		t.Fatalf("restored %+v, %v", restored, err)
	}
	if c, err := there.GetCheckpoint(t.Context(), restored.Restored[0].Path); err != nil || c.ExpiresAt == nil || c.ExpiresAt.Before(time.Now()) {
		t.Errorf("it is %+v, %v", c, err)
	}

	// Unless one asks for it, of a selection only.
	got = mirror(t, m.rest, to, checkpoint.MirrorOptions{Prune: true, Selection: checkpoint.Selection{Name: "c"}})
	if counts(got) != [7]int{1, 1, 0, 0, 0, 0, 1} || got.Pruned[0] != m.path(tinkex.Sampler, "c") {
		t.Errorf("pruned of c: %+v", got)
	}
	got = mirror(t, m.rest, to, checkpoint.MirrorOptions{Prune: true})
	if counts(got) != [7]int{4, 4, 0, 0, 0, 0, 1} || got.Pruned[0] != m.path(tinkex.Training, "a") || got.FreedBytes == 0 {
		t.Errorf("pruned: %+v", got)
	}
	if v := whole(t, to, 4); len(v.Extra) > 0 {
		t.Errorf("what nothing refers to is still there: %v", v.Extra)
	}
	// Nor all of it by accident.
	for _, c := range []tinkex.TinkerPath{m.path(tinkex.Sampler, "a"), m.path(tinkex.Training, "b"), m.path(tinkex.Sampler, "b"), m.path(tinkex.Training, "c")} {
		if err := m.rest.DeleteCheckpoint(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{Prune: true}); !errors.Is(err, checkpoint.ErrKeepsNothing) {
		t.Errorf("pruned everything: %v", err)
	}
	whole(t, to, 4)
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{Prune: true, PruneAll: true}); len(got.Pruned) != 4 {
		t.Errorf("pruned all: %+v", got)
	}
}

func TestMirrorOfASelection(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	got := mirror(t, m.rest, to, checkpoint.MirrorOptions{Selection: checkpoint.Selection{
		RunID: m.tc.RunID(), Types: []tinkex.CheckpointType{tinkex.Training}, Name: "b",
	}})
	if counts(got) != [7]int{1, 0, 1} || got.Added[0].Path != m.path(tinkex.Training, "b") {
		t.Errorf("mirrored %+v", got)
	}
	if _, err := checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{Selection: checkpoint.Selection{Name: "["}}); err == nil || !strings.Contains(err.Error(), "pattern") {
		t.Errorf("a malformed pattern: %v", err)
	}
}

func TestMirrorBelongsToAnAccount(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})

	other := client(t, m.srv, "tml-other")
	elsewhere := toBeMirrored(t, tinkextest.Options{})
	if _, err := other.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*tinkex.RestClient{
		"another key": other.RestClient(), "another server": elsewhere.rest, "a key without runs": client(t, m.srv, "tml-empty").RestClient(),
	} {
		_, err := checkpoint.Mirror(t.Context(), c, to, checkpoint.MirrorOptions{})
		if !errors.Is(err, checkpoint.ErrOtherAccount) || !strings.Contains(err.Error(), m.srv.URL) {
			t.Errorf("%s: %v", name, err)
		}
		_, err = checkpoint.Mirror(t.Context(), c, to, checkpoint.MirrorOptions{DryRun: true})
		if !errors.Is(err, checkpoint.ErrOtherAccount) {
			t.Errorf("%s, dry run: %v", name, err)
		}
	}
	if got := mirror(t, elsewhere.rest, to, checkpoint.MirrorOptions{Rebind: true}); len(got.Added) != 4 {
		t.Errorf("after all: %+v", got)
	}
	whole(t, to, 8)
	if _, err := checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{}); !errors.Is(err, checkpoint.ErrOtherAccount) {
		t.Errorf("it still belongs to the first: %v", err)
	}
	// Of what is another account's, nothing is known to be gone.
	if got := mirror(t, elsewhere.rest, to, checkpoint.MirrorOptions{Prune: true}); len(got.Pruned) != 0 {
		t.Errorf("pruned %v", got.Pruned)
	}
	// No secret is in it.
	err := filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), tinkextest.Key) {
			t.Errorf("%s tells the key: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMirrorRefusesOtherPlaces(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.tex"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	future := t.TempDir()
	if err := os.WriteFile(filepath.Join(future, "tinkex-mirror.json"), []byte(`{"format": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"":                                "no target",
		full:                              "thesis.tex",
		future:                            "format 2",
		filepath.Join(full, "thesis.tex"): "",
		"ftp://somewhere":                 "ftp",
		"s3://user:secret@bucket":         "credentials",
	} {
		for _, dry := range []bool{true, false} {
			_, err := checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{DryRun: dry})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q (dry run: %v): %v", to, dry, err)
			}
		}
	}
	onlyEntry(t, full, "thesis.tex")
	nowhere := filepath.Join(t.TempDir(), "nothing")
	for _, dir := range []string{nowhere, full} {
		if _, err := checkpoint.VerifyMirror(t.Context(), dir, checkpoint.MirrorVerifyOptions{}); !errors.Is(err, checkpoint.ErrNoMirror) {
			t.Errorf("verify %s: %v", dir, err)
		}
		if _, err := checkpoint.Restore(t.Context(), m.rest, dir, checkpoint.RestoreOptions{}); !errors.Is(err, checkpoint.ErrNoMirror) {
			t.Errorf("restore from %s: %v", dir, err)
		}
	}
	onlyEntry(t, full, "thesis.tex")
	if got := mirror(t, m.rest, nowhere, checkpoint.MirrorOptions{DryRun: true}); len(got.Added) != 4 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run made the directory: %v", err)
	}
}

// While one mirror runs, another one fails at once and says who has the lock.
func TestTwoMirrorsAtOnce(t *testing.T) {
	for name, target := range targets(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := toBeMirrored(t, tinkextest.Options{})
			to := target(t)
			var once sync.Once
			var second error
			opts := checkpoint.MirrorOptions{WorkDir: t.TempDir()}
			opts.Progress = func(checkpoint.MirrorProgress) {
				once.Do(func() {
					_, second = checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{WorkDir: t.TempDir()})
				})
			}
			mirror(t, m.rest, to, opts)
			var locked *checkpoint.MirrorLockedError
			if !errors.As(second, &locked) || locked.Holder.PID != os.Getpid() || locked.Holder.Host == "" || !strings.Contains(second.Error(), locked.Holder.Host) {
				t.Errorf("the second one: %v", second)
			}
			if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); got.Unchanged != 4 {
				t.Errorf("after the first: %+v", got)
			}
		})
	}
}

// damage changes a byte of the largest blob of a mirror and removes another.
func damage(t *testing.T, dir string) (damaged, removed string) {
	t.Helper()
	var blobs []string
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			blobs = append(blobs, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	size := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	slices.SortFunc(blobs, func(a, b string) int { return int(size(b) - size(a)) })
	f, err := os.OpenFile(blobs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 5000); err != nil {
		t.Fatal(err)
	}
	b[0]++
	if _, err := f.WriteAt(b, 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(blobs[1]); err != nil {
		t.Fatal(err)
	}
	return filepath.Base(blobs[0]), filepath.Base(blobs[1])
}

func TestDamagedMirror(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})
	damaged, removed := damage(t, to)
	if err := os.WriteFile(filepath.Join(to, "blobs", "sha256", "00", "notes"), nil, 0o600); err != nil {
		if err := os.MkdirAll(filepath.Join(to, "blobs", "sha256", "00"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, "blobs", "sha256", "00", "notes"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := checkpoint.VerifyMirror(t.Context(), to, checkpoint.MirrorVerifyOptions{})
	if err != nil || v.Intact() || len(v.Missing) == 0 || len(v.Damaged) == 0 || len(v.Extra) != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, f := range v.Missing {
		if f.SHA256 != removed {
			t.Errorf("missing: %+v", f)
		}
	}
	for _, f := range v.Damaged {
		if f.SHA256 != damaged {
			t.Errorf("damaged: %+v", f)
		}
	}
	// Nothing of it gets anywhere.
	there := client(t, tinkextest.NewServer(t), "tml-other").RestClient()
	restored, err := checkpoint.Restore(t.Context(), there, to, checkpoint.RestoreOptions{})
	var partial *checkpoint.PartialError
	if !errors.As(err, &partial) || len(restored.Failed) == 0 || len(restored.Failed)+len(restored.Restored) != 4 {
		t.Errorf("restored %+v, %v", restored, err)
	}
	if !errors.Is(err, checkpoint.ErrDigest) {
		t.Errorf("the damage is not told: %v", err)
	}
	// The cure.
	v, err = checkpoint.VerifyMirror(t.Context(), to, checkpoint.MirrorVerifyOptions{Repair: true})
	if err != nil || len(v.PutAside) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); len(got.Added) == 0 || len(got.Added)+got.Unchanged != 4 {
		t.Errorf("mirrored again: %+v", got)
	}
	whole(t, to, 4)
	restored, err = checkpoint.Restore(t.Context(), there, to, checkpoint.RestoreOptions{})
	if err != nil || len(restored.Restored)+len(restored.Present) != 4 {
		t.Errorf("restored %+v, %v", restored, err)
	}

	// A record that says nothing is another matter.
	records, err := filepath.Glob(filepath.Join(to, "checkpoints", "*", "weights_a-*.json"))
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	if err := os.WriteFile(records[0], []byte(`{"format": 1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := checkpoint.VerifyMirror(t.Context(), to, checkpoint.MirrorVerifyOptions{}); err != nil || len(v.Records) != 1 || v.Intact() {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := checkpoint.Mirror(t.Context(), m.rest, to, checkpoint.MirrorOptions{Prune: true, Selection: checkpoint.Selection{Name: "b"}}); err == nil || !strings.Contains(err.Error(), "damaged record") {
		t.Errorf("pruned: %v", err)
	}
	if got := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); counts(got) != [7]int{4, 3, 1} || got.FetchedBytes != 0 {
		t.Errorf("mirrored again: %+v", got)
	}
	whole(t, to, 4)
}

// failing answers some requests with an error.
type failing struct {
	*tinkex.RestClient
	fail func(tinkex.TinkerPath) error
}

func (f failing) WeightsInfo(ctx context.Context, p tinkex.TinkerPath) (tinkex.WeightsInfo, error) {
	if err := f.fail(p); err != nil {
		return tinkex.WeightsInfo{}, err
	}
	return f.RestClient.WeightsInfo(ctx, p)
}

func TestMirrorWithFailures(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	broken := errors.New("broken")
	bad := m.path(tinkex.Training, "a")
	c := failing{m.rest, func(p tinkex.TinkerPath) error {
		if p == bad {
			return broken
		}
		return nil
	}}
	got, err := checkpoint.Mirror(t.Context(), c, to, checkpoint.MirrorOptions{})
	var partial *checkpoint.PartialError
	if !errors.As(err, &partial) || !errors.Is(err, broken) || counts(got) != [7]int{4, 0, 3, 0, 0, 1} || got.Failed[0].Path != bad {
		t.Errorf("%+v, %v", got, err)
	}
	whole(t, to, 3)

	// A server that denies what it lists is broken; what it no longer lists is
	// gone.
	missing := &tinkex.Error{Status: http.StatusNotFound, Category: tinkex.CategoryUser, Err: tinkex.ErrNotFound}
	c.fail = func(tinkex.TinkerPath) error { return missing }
	if got, err := checkpoint.Mirror(t.Context(), c, to, checkpoint.MirrorOptions{}); err == nil || len(got.Failed) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	c.fail = func(p tinkex.TinkerPath) error {
		if err := m.rest.DeleteCheckpoint(t.Context(), p); err != nil {
			t.Error(err)
		}
		return missing
	}
	if got, err := checkpoint.Mirror(t.Context(), c, to, checkpoint.MirrorOptions{}); err != nil || counts(got) != [7]int{4, 3, 0, 0, 1} {
		t.Errorf("%+v, %v", got, err)
	}
}

// A mirror that is given up leaves what it has, says what is left, and the next
// one goes on from there.
func TestMirrorGivenUp(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int32
	c := failing{m.rest, func(tinkex.TinkerPath) error {
		if asked.Add(1) == 4 {
			cancel()
			return ctx.Err()
		}
		return nil
	}}
	got, err := checkpoint.Mirror(ctx, c, to, checkpoint.MirrorOptions{})
	if !errors.Is(err, context.Canceled) || len(got.Left) == 0 || len(got.Left)+len(got.Added) != 4 || len(got.Failed) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if again := mirror(t, m.rest, to, checkpoint.MirrorOptions{}); len(again.Added) != len(got.Left) || again.Unchanged != len(got.Added) {
		t.Errorf("first %+v, then %+v", got, again)
	}
	whole(t, to, 4)
}

// unmanifested is a client of a server that tells no manifests.
type unmanifested struct{ checkpoint.MirrorClient }

// What was begun is gone on with: in the middle of a file, or after the last
// member of an archive that was complete.
func TestMirrorGoesOn(t *testing.T) {
	all := sources(t)
	s := all[0]
	sizes := map[string]int64{"manifest": s.size, "archive": all[1].size} // what is transferred at most
	rest, ok := s.client.(*tinkex.RestClient)
	if !ok {
		t.Fatal("not a client of a server")
	}
	for name, c := range map[string]checkpoint.MirrorClient{"manifest": rest, "archive": unmanifested{rest}} {
		t.Run(name, func(t *testing.T) {
			var to string
			interrupted := func() (checkpoint.Mirrored, error) {
				to = t.TempDir()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				opts := checkpoint.MirrorOptions{Download: hasty("")}
				opts.Download.Jobs = 64
				opts.Progress = func(p checkpoint.MirrorProgress) {
					enough := p.Bytes > p.TotalBytes*3/4
					if name == "archive" { // once there is a state to go on from
						states, err := filepath.Glob(filepath.Join(to, "partial", ".*.partial", "state.json"))
						enough = err == nil && len(states) > 0
					}
					if enough {
						cancel()
					}
				}
				s.server.set(slowly(), func(int64) bool { return true })
				defer s.server.set(nil, nil)
				return checkpoint.Mirror(ctx, c, to, opts)
			}
			first, err := interrupted()
			for tries := 1; err == nil && tries < 20; tries++ { // it was done before that was seen
				first, err = interrupted()
			}
			if !errors.Is(err, context.Canceled) || len(first.Left) != 1 {
				t.Fatalf("not interrupted: %+v, %v", first, err)
			}
			got := mirror(t, c, to, checkpoint.MirrorOptions{})
			if len(got.Added) != 1 || got.FetchedBytes >= sizes[name] {
				t.Errorf("%d bytes of %d were fetched: %+v", got.FetchedBytes, sizes[name], got)
			}
			whole(t, to, 1)
			if left, err := os.ReadDir(filepath.Join(to, "partial")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A mirror may be on a medium that cannot be written to.
func TestReadingAMirrorWritesNothing(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})
	tree := func() (all []string) {
		err := filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			all = append(all, path+" "+info.ModTime().String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := tree()
	whole(t, to, 4)
	there := client(t, tinkextest.NewServer(t), "tml-other").RestClient()
	if _, err := checkpoint.Restore(t.Context(), there, to, checkpoint.RestoreOptions{}); err != nil {
		t.Error(err)
	}
	mirror(t, m.rest, to, checkpoint.MirrorOptions{DryRun: true})
	if after := tree(); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}

func TestRestoreInto(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})
	there := client(t, tinkextest.NewServer(t), "tml-other")
	tc, err := there.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4, SkipMLP: true})
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := there.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 8})
	if err != nil {
		t.Fatal(err)
	}
	a := checkpoint.Selection{Name: "weights/a"}
	rest := there.RestClient()
	for run, want := range map[string]string{wrong.RunID(): "rank", "nowhere": "not found", m.tc.RunID(): "not found"} {
		if _, err := checkpoint.Restore(t.Context(), rest, to, checkpoint.RestoreOptions{Selection: a, ToRun: run}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("into %s: %v", run, err)
		}
	}
	if _, err := tc.SaveState(t.Context(), "a", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = checkpoint.Restore(t.Context(), rest, to, checkpoint.RestoreOptions{Selection: a, ToRun: tc.RunID()})
	if !errors.Is(err, tinkex.ErrConflict) {
		t.Errorf("in place of another one: %v", err)
	}
	got, err := checkpoint.Restore(t.Context(), rest, to, checkpoint.RestoreOptions{Selection: a, ToRun: tc.RunID(), Overwrite: true})
	if err != nil || len(got.Restored) != 1 || got.Restored[0].Path.RunID != tc.RunID() || got.SentBytes != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := checkpoint.Restore(t.Context(), rest, to, checkpoint.RestoreOptions{Selection: a, ToRun: tc.RunID()}); err != nil || len(got.Present) != 1 {
		t.Errorf("again: %+v, %v", got, err)
	}
	if _, err := checkpoint.Restore(t.Context(), onlyProtocol(t, m.srv), to, checkpoint.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "tinkex serve") {
		t.Errorf("to a server without imports: %v", err)
	}
}

// What somebody else restored, or has in a mirror, is no way to their bytes.
func TestRestoreKeepsOwnersApart(t *testing.T) {
	t.Parallel()
	m := toBeMirrored(t, tinkextest.Options{})
	to := t.TempDir()
	mirror(t, m.rest, to, checkpoint.MirrorOptions{})
	srv := tinkextest.NewServer(t)
	var runs []string
	for _, key := range []string{"tml-one", "tml-two"} {
		got, err := checkpoint.Restore(t.Context(), client(t, srv, key).RestClient(), to, checkpoint.RestoreOptions{})
		if err != nil || len(got.Restored) != 4 || got.SentBytes == 0 {
			t.Errorf("%s: %+v, %v", key, got, err)
		}
		runs = append(runs, got.Restored[0].Path.RunID)
	}
	if runs[0] == runs[1] {
		t.Error("both owners have one run")
	}
}
