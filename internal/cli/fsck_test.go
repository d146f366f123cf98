package cli

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/fsck"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/tinkextest"
)

// ownServer is a server with a data directory and four checkpoints of two
// runs. It runs until it is closed.
type ownServer struct {
	*tinkextest.Server
	t    *testing.T
	dir  string
	svc  *tinkex.ServiceClient
	runs [2]*tinkex.TrainingClient
}

func newOwnServer(t *testing.T) *ownServer {
	t.Helper()
	s := &ownServer{t: t, dir: t.TempDir()}
	s.Server = tinkextest.NewServerWith(t, tinkextest.Options{DataDir: s.dir})
	t.Setenv("TINKER_BASE_URL", s.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	var err error
	if s.svc, err = tinkex.NewServiceClient(s.Options()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.svc.Close() })
	for i := range s.runs {
		seed := int64(i)
		tc, err := s.svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2, Seed: &seed})
		if err != nil {
			t.Fatal(err)
		}
		s.runs[i] = tc
		trainOnce(t, tc, i)
		s.save(i, "first")
		if _, err := tc.SaveWeightsForSampler(t.Context(), "first", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// trainOnce takes a step, which is the same one for the same number.
func trainOnce(t *testing.T, tc *tinkex.TrainingClient, n int) {
	t.Helper()
	data := []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(1+n, 2),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints([]int{2, 3}), "weights": tinkex.Floats([]float32{1, 1})},
	}}
	pass := tc.ForwardBackward(t.Context(), data, tinkex.CrossEntropy, nil)
	step := tc.OptimStep(t.Context(), tinkex.AdamParams{LearningRate: 1e-3})
	if _, err := pass.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := step.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *ownServer) save(run int, name string) {
	s.t.Helper()
	if _, err := s.runs[run].SaveState(s.t.Context(), name, tinkex.SaveOptions{}).Await(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// blob is the place of a checkpoint's file.
func (s *ownServer) blob(run int, kind metastore.Kind, file string) string {
	s.t.Helper()
	meta, err := node.Stores{DataDir: s.dir}.OpenMeta(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer meta.Close()
	c, err := meta.Checkpoint(s.t.Context(), s.runs[run].RunID(), kind, "first")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range c.Files {
		if f.Name == file {
			return filepath.Join(s.dir, "blobs", "sha256", f.Digest.String()[:2], f.Digest.String())
		}
	}
	s.t.Fatalf("no %s in %+v", file, c.Files)
	return ""
}

func (s *ownServer) sql(query string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.dir, metaFile)+"?_pragma=busy_timeout(10000)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		s.t.Fatal(err)
	}
}

// damage damages the store in five ways.
func (s *ownServer) damage() {
	s.t.Helper()
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	must(os.Remove(s.blob(0, metastore.KindTraining, engine.OptimizerFile)))
	path := s.blob(1, metastore.KindTraining, "adapter_model.safetensors")
	b, err := os.ReadFile(path)
	must(err)
	b[len(b)/2] ^= 1
	must(os.WriteFile(path, b, 0o600))
	s.sql(`UPDATE checkpoints SET size_bytes = size_bytes + 1 WHERE run_id = '` + s.runs[0].RunID() + `' AND kind = 'sampler_weights'`)
	s.sql(`UPDATE totals SET n = n + 1 WHERE list = 'runs'`)
	must(os.WriteFile(filepath.Join(s.dir, "blobs", "sha256", "copy.tmp"), []byte("x"), 0o600))
}

func TestFsck(t *testing.T) {
	s := newOwnServer(t)
	dir := "--data-dir=" + s.dir
	path := func(run int, kind string) string { return "tinker://" + s.runs[run].RunID() + "/" + kind + "/first" }

	r := run(t, "fsck", dir).want(t, exitDone, []string{"clean: 4 checkpoints, "}, nil)
	if r.stderr != "" {
		t.Errorf("stderr: %s", r.stderr)
	}
	run(t, "fsck", dir, "--quick").want(t, exitDone, []string{"clean: 4 checkpoints", "looked at, not read"}, nil)

	optimizer := s.blob(0, metastore.KindTraining, engine.OptimizerFile)
	kept, err := os.ReadFile(optimizer)
	if err != nil {
		t.Fatal(err)
	}
	s.damage()
	r = run(t, "fsck", dir).want(t, exitFailed, []string{
		"wrong_counter: runs of owner ", "missing_blob: blob " + filepath.Base(optimizer) + " is missing", engine.OptimizerFile,
		"damaged_blob: blob ", "wrong_size: the size of " + path(0, "sampler_weights"), "stray_file: ", "copy.tmp",
		path(1, "weights"), path(1, "sampler_weights"), "\n5 faults: 4 checkpoints",
	}, []string{"fsck --repair"})
	if strings.Contains(r.stdout, "repair  ") {
		t.Errorf("something was repaired:\n%s", r.stdout)
	}
	t.Log("\n" + r.stdout)

	report := decode[fsck.Report](t, run(t, "fsck", dir, "--repair", "-f", "json").want(t, exitFailed, []string{"{"}, nil))
	if len(report.Faults) != 5 || len(report.Quarantined) != 3 {
		t.Errorf("the repair: %+v", report)
	}
	// The running server takes note at once: what is hidden is not there.
	run(t, "checkpoint", "info", path(0, "weights")).want(t, exitNotFound, nil, []string{"not found"})
	run(t, "checkpoint", "info", path(0, "sampler_weights")).want(t, exitDone, []string{"first"}, nil)
	run(t, "fsck", dir).want(t, exitDone, []string{
		"clean: 1 checkpoint,", "in quarantine: " + path(0, "weights"), engine.OptimizerFile, "at " + optimizer,
	}, []string{"backup", "--discard"})

	if err := os.WriteFile(optimizer, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "fsck", dir).want(t, exitDone, []string{"'tinkex fsck --repair' brings it back"}, nil)
	run(t, "fsck", dir, "--repair").want(t, exitDone, []string{"back from quarantine: " + path(0, "weights"), "clean: 2 checkpoints"}, nil)
	run(t, "checkpoint", "info", path(0, "weights")).want(t, exitDone, []string{"first"}, nil)

	run(t, "fsck", dir, "--discard", path(0, "weights")).want(t, exitNotFound, nil, []string{"no such checkpoint in quarantine"})
	run(t, "fsck", dir, "--discard", path(1, "weights"), "--discard", path(1, "sampler_weights")).
		want(t, exitDone, []string{"clean: 2 checkpoints"}, []string{"Discarded " + path(1, "weights"), "'tinkex gc'"})

	// The server works on.
	s.save(1, "second")
	run(t, "fsck", dir).want(t, exitDone, []string{"clean: 3 checkpoints"}, nil)
}

func TestFsckProgress(t *testing.T) {
	s := newOwnServer(t)
	env := Env{StderrTerminal: true}
	if r := tinkexWith(t, env, "fsck", "--data-dir", s.dir).want(t, exitDone, []string{"clean"}, nil); !strings.Contains(r.stderr, "blobs") {
		t.Errorf("no progress on a terminal: %q", r.stderr)
	}
	if r := tinkexWith(t, env, "fsck", "--data-dir", s.dir, "-f", "json"); r.stderr != "" {
		t.Errorf("progress beside JSON: %q", r.stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tinkexWith(t, Env{Context: ctx}, "fsck", "--data-dir", s.dir).want(t, exitInterrupted, nil, nil)
}

// TestLookingAfterNothing: no command makes a data directory, or takes one
// that is not there for one in good order.
func TestLookingAfterNothing(t *testing.T) {
	dir := t.TempDir()
	for _, cmd := range []string{"fsck", "gc", "du"} {
		run(t, cmd, "--data-dir", dir).want(t, exitUsage, nil, []string{"there is no tinkex.db in " + dir})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v was made, %v", entries, err)
	}
}

func TestGC(t *testing.T) {
	s := newOwnServer(t)
	dir := "--data-dir=" + s.dir
	run(t, "checkpoint", "delete", "-y", "tinker://"+s.runs[0].RunID()+"/weights/first").want(t, exitDone, nil, nil)
	run(t, "gc", dir).want(t, exitDone, []string{"Removed 0 unreferenced blobs, 0 B."}, []string{"1 more blob", "--grace"})
	run(t, "gc", dir, "--dry-run", "--grace", "0").want(t, exitDone, []string{"Would remove 1 unreferenced blob, "}, nil)
	run(t, "gc", dir, "--grace", "0").want(t, exitUsage, nil, []string{"a server is using " + s.dir})
	run(t, "gc", dir, "--grace", "-1s").want(t, exitUsage, nil, []string{"negative"})
	trainOnce(t, s.runs[0], 0) // the model that is parked is another one
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	type counts struct {
		DryRun           bool `json:"dry_run"`
		Blobs, KeptBlobs int
		Bytes            int64
	}
	if c := decode[counts](t, run(t, "gc", dir, "--grace", "0", "-f", "json")); c.DryRun || c.Blobs != 1 || c.Bytes == 0 {
		t.Errorf("removed %+v", c)
	}
	run(t, "gc", dir, "--grace", "0").want(t, exitDone, []string{"Removed 0 unreferenced blobs"}, nil)
	run(t, "fsck", dir).want(t, exitDone, []string{"clean: 5 checkpoints"}, nil) // three, and two parked models
}

// TestBesideServer: the commands leave a server that saves and deletes alone.
func TestBesideServer(t *testing.T) {
	s := newOwnServer(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			name := fmt.Sprint(i)
			if _, err := s.runs[i%2].SaveState(context.WithoutCancel(t.Context()), name, tinkex.SaveOptions{}).Await(t.Context()); err != nil {
				t.Error(err)
				return
			}
			if i%3 == 0 {
				p := tinkex.TinkerPath{RunID: s.runs[i%2].RunID(), Type: tinkex.Training, Name: name}
				if err := s.svc.RestClient().DeleteCheckpoint(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for saving := true; saving; {
		select {
		case <-done:
			saving = false
		default:
		}
		run(t, "fsck", "--repair", "--data-dir", s.dir).want(t, exitDone, []string{"clean"}, nil)
		run(t, "gc", "--grace", "1m", "--data-dir", s.dir).want(t, exitDone, []string{"Removed 0 "}, nil)
	}
}

func TestDu(t *testing.T) {
	s := newOwnServer(t)
	other := s.Options()
	other.APIKey = "tml-other"
	svc, err := tinkex.NewServiceClient(other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	seed := int64(0) // the same weights as the first run's
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2, Seed: &seed})
	if err != nil {
		t.Fatal(err)
	}
	trainOnce(t, tc, 0)
	if _, err := tc.SaveWeightsForSampler(t.Context(), "x", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
		t.Fatal(err)
	}

	run(t, "du").want(t, exitDone, []string{"Run", "Freed", s.runs[0].RunID(), s.runs[1].RunID(), "total"}, nil)
	run(t, "du", "--limit", "1").want(t, exitDone, []string{"total"}, []string{"1 of 2; --limit 0 shows all."})
	type usage struct {
		Groups     []tinkex.UsageGroup
		Total      tinkex.Space
		TotalCount int `json:"total_count"`
	}
	mine := decode[usage](t, run(t, "du", "--by", "owner", "-f", "json"))
	if len(mine.Groups) != 1 || mine.Total.Checkpoints != 4 || mine.Groups[0].ExclusiveBytes != mine.Total.PhysicalBytes {
		t.Errorf("one's own: %+v", mine)
	}
	// Seen from the inside, a part of it is shared with the other owner.
	all := decode[usage](t, run(t, "du", "--by", "owner", "-f", "json", "--limit", "0", "--data-dir", s.dir))
	if len(all.Groups) != 2 || all.Total.Checkpoints != 5 || all.Total.PhysicalBytes != mine.Total.PhysicalBytes ||
		all.Groups[1].ExclusiveBytes != 0 || all.Groups[0].ExclusiveBytes >= mine.Total.PhysicalBytes {
		t.Errorf("everybody's: %+v", all)
	}
	run(t, "du", "--by", "colour").want(t, exitUsage, nil, []string{"use owner, run or kind"})
	run(t, "du", "--limit", "-1").want(t, exitUsage, nil, []string{"negative"})
	t.Setenv("TINKER_API_KEY", "tml-nobody")
	if r := run(t, "du"); r.code != exitDone || r.stdout != "" || !strings.Contains(r.stderr, "No checkpoints.") {
		t.Errorf("of nobody: %+v", r)
	}
	if b := run(t, "du", "-f", "json").stdout; !bytes.Contains([]byte(b), []byte(`"groups": []`)) {
		t.Errorf("of nobody: %s", b)
	}
}
