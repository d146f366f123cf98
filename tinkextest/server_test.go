package tinkextest_test

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

func list(t *testing.T, rest *tinkex.RestClient) []string {
	t.Helper()
	var ids []string
	for c, err := range rest.AllCheckpoints(t.Context(), tinkex.PageOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.CheckpointID)
	}
	return ids
}

func TestSeededRun(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	rest := srv.RestClient(t)
	first := srv.SeedRun(t, tinkextest.Run{Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))})
	from, err := tinkex.NewTinkerPath(first, tinkex.Training, "0001")
	if err != nil {
		t.Fatal(err)
	}
	const id = "11111111-2222-4333-8444-555555555555:train:3"
	if got := srv.SeedRun(t, tinkextest.Run{
		ID: id, BaseModel: "Qwen/Qwen3-8B", Rank: 16, SkipUnembed: true, UserMetadata: map[string]string{"team": "a"},
		ResumedFrom: from, Corrupted: true,
	}); got != id {
		t.Errorf("its id is %s, want %s", got, id)
	}
	run, err := rest.GetTrainingRun(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if run.BaseModel != "Qwen/Qwen3-8B" || run.LoRARank == nil || *run.LoRARank != 16 || !run.Corrupted ||
		run.UserMetadata["team"] != "a" || run.ResumedFrom != from.String() {
		t.Errorf("it is %+v", run)
	}
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: id})
	info, err := rest.WeightsInfo(t.Context(), path)
	if err != nil || info.TrainUnembed == nil || *info.TrainUnembed || info.TrainMLP == nil || !*info.TrainMLP || *info.LoRARank != 16 {
		t.Errorf("its checkpoint is %+v (%v)", info, err)
	}
	runs, err := rest.ListTrainingRuns(t.Context(), tinkex.ListRunsOptions{})
	if err != nil || len(runs.TrainingRuns) != 2 || runs.TrainingRuns[1].TrainingRunID != first ||
		!runs.TrainingRuns[1].LastRequestTime.Equal(time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)) {
		t.Errorf("the runs are %+v (%v)", runs.TrainingRuns, err)
	}
	session, err := rest.GetSession(t.Context(), strings.TrimSuffix(id, ":train:3"))
	if err != nil || !slices.Equal(session.TrainingRunIDs, []string{id}) {
		t.Errorf("the session is %+v (%v)", session, err)
	}
}

func TestSeededCheckpointIsAsAnyOther(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	rest := srv.RestClient(t)
	run := srv.SeedRun(t, tinkextest.Run{})
	old := time.Now().Add(-48 * time.Hour)
	for name, tc := range map[string]struct {
		seed     tinkextest.Checkpoint
		files    []string
		min, max int64
	}{
		"zero":    {tinkextest.Checkpoint{}, []string{"adapter_config.json", "adapter_model.safetensors", "optimizer_state.safetensors", "checkpoint_complete"}, 5_000, 15_000},
		"large":   {tinkextest.Checkpoint{RunID: run, Name: "large", SizeBytes: 3_000_000}, []string{"adapter_config.json", "adapter_model.safetensors", "optimizer_state.safetensors", "checkpoint_complete"}, 2_900_000, 3_100_000},
		"sampler": {tinkextest.Checkpoint{RunID: run, Name: "large", Type: tinkex.Sampler, SizeBytes: 200_000}, []string{"adapter_config.json", "adapter_model.safetensors", "checkpoint_complete"}, 190_000, 210_000},
		"files":   {tinkextest.Checkpoint{RunID: run, Name: "files", Files: map[string][]byte{"b": []byte("22"), "a": []byte("1")}}, []string{"a", "b"}, 3, 3},
		"described": {tinkextest.Checkpoint{
			RunID: run, Name: "described", Created: old, TTL: 100 * time.Hour, Public: true, UserMetadata: map[string]string{"loss": "0.5"},
		}, []string{"adapter_config.json", "adapter_model.safetensors", "optimizer_state.safetensors", "checkpoint_complete"}, 5_000, 15_000},
	} {
		t.Run(name, func(t *testing.T) {
			path := srv.SeedCheckpoint(t, tc.seed)
			c, err := rest.GetCheckpoint(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if *c.SizeBytes < tc.min || *c.SizeBytes > tc.max {
				t.Errorf("it has %d bytes, want between %d and %d", *c.SizeBytes, tc.min, tc.max)
			}
			if c.Public != tc.seed.Public || !reflect.DeepEqual(c.UserMetadata, tc.seed.UserMetadata) {
				t.Errorf("it is %+v", c)
			}
			if tc.seed.TTL > 0 && (c.ExpiresAt == nil || !c.Time.Equal(old.Truncate(time.Microsecond)) || c.ExpiresAt.Sub(c.Time) != tc.seed.TTL) {
				t.Errorf("saved %v, expires %v", c.Time, c.ExpiresAt)
			}
			d, err := checkpoint.Download(t.Context(), rest, path, checkpoint.DownloadOptions{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range d.Files {
				names = append(names, f.Name)
			}
			if !slices.Equal(names, tc.files) || !d.Verified {
				t.Errorf("the files are %v, want %v", names, tc.files)
			}
			if v, err := checkpoint.Verify(t.Context(), d.Dir); err != nil || !v.Intact() {
				t.Errorf("verify: %+v, %v", v, err)
			}
			if err := rest.DeleteCheckpoint(t.Context(), path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOwnersAreApart(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	const other = "tml-other"
	theirs := srv.SeedCheckpoint(t, tinkextest.Checkpoint{Key: other, Name: "theirs"})
	shared := srv.SeedCheckpoint(t, tinkextest.Checkpoint{Key: other, Name: "shared", Public: true})
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{Name: "mine"})
	rest := srv.RestClient(t)
	if got := list(t, rest); !slices.Equal(got, []string{"weights/mine"}) {
		t.Errorf("I have %v", got)
	}
	if got := list(t, srv.RestClientFor(t, other)); len(got) != 2 {
		t.Errorf("they have %v", got)
	}
	if _, err := rest.WeightsInfo(t.Context(), theirs); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("their private one gives %v", err)
	}
	if _, err := rest.WeightsInfo(t.Context(), shared); err != nil {
		t.Error(err)
	}
}

func TestClockExpires(t *testing.T) {
	t.Parallel()
	clock := tinkextest.NewClock(time.Time{})
	srv := tinkextest.NewServerWith(t, tinkextest.Options{Now: clock.Now})
	rest := srv.RestClient(t)
	// A session whose token expires meanwhile ends without a complaint.
	if _, err := srv.ServiceClient(t).SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{Name: "keeps"})
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{Name: "goes", TTL: time.Hour})
	clock.Advance(time.Hour - time.Second)
	if _, err := checkpoint.Download(t.Context(), rest, path, checkpoint.DownloadOptions{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if got := list(t, rest); len(got) != 2 {
		t.Errorf("before it expires there are %v", got)
	}
	clock.Advance(time.Second)
	if got := list(t, rest); !slices.Equal(got, []string{"weights/keeps"}) {
		t.Errorf("once it has expired there are %v", got)
	}
	if _, err := rest.ArchiveURL(t.Context(), path); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("once it has expired its archive is %v", err)
	}
}

func TestTrainedCheckpointTrainsOn(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	ctx := t.Context()
	training := tinkextest.Training{Rank: 2, Name: "a", TTL: time.Hour, Public: true, UserMetadata: map[string]string{"k": "v"}}
	path := srv.TrainCheckpoint(t, training)
	rest := srv.RestClient(t)
	c, err := rest.GetCheckpoint(ctx, path)
	if err != nil || path.Name != "a" || !c.Public || c.ExpiresAt == nil || c.UserMetadata["k"] != "v" {
		t.Errorf("it is %+v (%v)", c, err)
	}
	manifest := func(p tinkex.TinkerPath) map[string]string {
		m, err := rest.Manifest(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for _, f := range m.Files {
			files[f.Name] = f.SHA256
		}
		return files
	}
	again := srv.TrainCheckpoint(t, training)
	training.Steps = 2
	more := srv.TrainCheckpoint(t, training)
	if !reflect.DeepEqual(manifest(path), manifest(again)) {
		t.Error("the same training twice gives other weights")
	}
	if weights := "adapter_model.safetensors"; manifest(path)[weights] == manifest(more)[weights] {
		t.Error("another step changes nothing")
	}
	svc := srv.ServiceClientFor(t, "tml-other")
	tc, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-3}).Await(ctx); err != nil {
		t.Error(err)
	}
	sampler := srv.TrainCheckpoint(t, tinkextest.Training{Type: tinkex.Sampler, Text: "ab"})
	sc, err := srv.ServiceClient(t).CreateSamplingClient(ctx, tinkex.SamplerOptions{Path: sampler})
	if err != nil {
		t.Fatal(err)
	}
	out, err := sc.Sample(ctx, tinkex.Tokens('a'), tinkex.SampleOptions{Params: tinkex.SamplingParams{MaxTokens: 1}}).Await(ctx)
	if err != nil || len(out.Sequences) != 1 {
		t.Errorf("a sample of it is %+v (%v)", out, err)
	}
}

func TestFailNext(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{})
	opts := srv.Options()
	opts.MaxRetries = -1
	rest, err := tinkex.NewRestClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rest.Close() })
	ask := func() error {
		_, err := rest.WeightsInfo(t.Context(), path)
		return err
	}

	limited := srv.FailNext(2, tinkextest.Fault{Path: "/weights_info", Status: 429, RetryAfter: 1500 * time.Millisecond})
	full := srv.FailNext(1, tinkextest.Fault{Method: "POST", Detail: "the disk is full"})
	if _, err := rest.ListCheckpoints(t.Context(), tinkex.ListOptions{}); err != nil {
		t.Errorf("a request that no fault selects: %v", err)
	}
	for i := range 2 {
		err := ask()
		var e *tinkex.Error
		if !errors.Is(err, tinkex.ErrRateLimited) || !errors.As(err, &e) || e.RetryAfter != 2*time.Second {
			t.Errorf("request %d: %v", i, err)
		}
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "the disk is full (HTTP 503)") {
		t.Errorf("the second fault: %v", err)
	}
	if err := ask(); err != nil {
		t.Errorf("after the faults: %v", err)
	}
	if limited() != 2 || full() != 1 {
		t.Errorf("the faults took %d and %d requests", limited(), full())
	}

	srv.FailNext(-1, tinkextest.Fault{Path: "/weights_info", Drop: true})
	for range 3 {
		var e *tinkex.Error
		if err := ask(); !errors.As(err, &e) || e.Status != 0 {
			t.Errorf("a dropped request: %v", err)
		}
	}
}

// failing is a test that hears of failures.
type failing struct{ said string }

func (f *failing) Helper()                        {}
func (f *failing) Cleanup(func())                 {}
func (f *failing) Errorf(format string, a ...any) { f.said += fmt.Sprintf(format, a...) }
func (f *failing) Fatalf(format string, a ...any) {
	f.Errorf(format, a...)
	runtime.Goexit()
}

func said(f func(tinkextest.TB)) string {
	var t failing
	var done sync.WaitGroup
	done.Go(func() { f(&t) })
	done.Wait()
	return t.said
}

// A second server on a directory makes up names that the first one did not.
func TestSeedingGoesOnInADataDir(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]bool{}
	run := ""
	for range 3 {
		srv := tinkextest.NewServerWith(t, tinkextest.Options{DataDir: dir})
		if run == "" {
			run = srv.SeedRun(t, tinkextest.Run{})
		}
		for _, c := range []tinkextest.Checkpoint{{}, {RunID: run}, {RunID: run}} {
			path := srv.SeedCheckpoint(t, c).String()
			if seen[path] {
				t.Errorf("%s was made twice", path)
			}
			seen[path] = true
		}
		srv.SeedRun(t, tinkextest.Run{})
		if err := srv.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailuresAreClear(t *testing.T) {
	t.Parallel()
	srv := tinkextest.NewServer(t)
	taken := srv.SeedCheckpoint(t, tinkextest.Checkpoint{Name: "taken"})
	closed := tinkextest.NewServer(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	run := func(r tinkextest.Run) func(tinkextest.TB) { return func(t tinkextest.TB) { srv.SeedRun(t, r) } }
	seed := func(c tinkextest.Checkpoint) func(tinkextest.TB) {
		return func(t tinkextest.TB) { srv.SeedCheckpoint(t, c) }
	}
	train := func(tr tinkextest.Training) func(tinkextest.TB) {
		return func(t tinkextest.TB) { srv.TrainCheckpoint(t, tr) }
	}
	for name, tc := range map[string]struct {
		do   func(tinkextest.TB)
		says string
	}{
		"run id":         {run(tinkextest.Run{ID: "run-1"}), `seed a run: run "run-1": expected an id of the form "<session>:train:<n>"`},
		"run id unsafe":  {run(tinkextest.Run{ID: "a/b:train:0"}), `seed a run: the ID: invalid tinker path`},
		"run taken":      {run(tinkextest.Run{ID: taken.RunID}), "seed a run: there is a run " + taken.RunID + " already"},
		"run key":        {run(tinkextest.Run{Key: "abc"}), `seed a run: key "abc": malformed API key: expected "tml-..." or a JWT`},
		"run rank":       {run(tinkextest.Run{Rank: -1}), "seed a run: the Rank is -1"},
		"run flags":      {run(tinkextest.Run{SkipAttn: true, SkipMLP: true, SkipUnembed: true}), "leave nothing to train"},
		"name":           {seed(tinkextest.Checkpoint{Name: "a/b"}), "seed a checkpoint: the Name: invalid tinker path"},
		"name taken":     {seed(tinkextest.Checkpoint{RunID: taken.RunID, Name: "taken"}), "there is a checkpoint " + taken.String() + " already"},
		"no run":         {seed(tinkextest.Checkpoint{RunID: "x:train:0"}), `there is no run "x:train:0"; SeedRun makes one`},
		"run and key":    {seed(tinkextest.Checkpoint{RunID: taken.RunID, Key: "tml-a"}), "both RunID and Key"},
		"type":           {seed(tinkextest.Checkpoint{Type: "weights"}), `the Type is "weights"; expected tinkex.Training`},
		"files and size": {seed(tinkextest.Checkpoint{Files: map[string][]byte{"a": nil}, SizeBytes: 1}), "both Files and SizeBytes"},
		"no files":       {seed(tinkextest.Checkpoint{Files: map[string][]byte{}}), "the Files are empty"},
		"file name":      {seed(tinkextest.Checkpoint{Files: map[string][]byte{"../a": nil}}), `"../a" among the Files is not the name of a file`},
		"size":           {seed(tinkextest.Checkpoint{SizeBytes: -1}), "the SizeBytes is -1"},
		"ttl":            {seed(tinkextest.Checkpoint{TTL: -1}), "the TTL is -1ns"},
		"steps":          {train(tinkextest.Training{Steps: -1}), "train a checkpoint: the Steps is -1"},
		"text":           {train(tinkextest.Training{Text: "a"}), "at least two bytes"},
		"external":       {train(tinkextest.Training{Type: tinkex.External}), `the Type is "external"`},
		"bad name":       {train(tinkextest.Training{Name: "a b"}), "train a checkpoint: "},
		"closed":         {func(t tinkextest.TB) { closed.SeedCheckpoint(t, tinkextest.Checkpoint{}) }, "the server is closed"},
		"closed run":     {func(t tinkextest.TB) { closed.SeedRun(t, tinkextest.Run{}) }, "the server is closed"},
		"closed train":   {func(t tinkextest.TB) { closed.TrainCheckpoint(t, tinkextest.Training{}) }, "the server is closed"},
		"directory":      {func(t tinkextest.TB) { tinkextest.NewServerWith(t, tinkextest.Options{DataDir: "server_test.go"}) }, "tinkextest: start a server: data directory"},
		"client key":     {func(t tinkextest.TB) { srv.RestClientFor(t, "abc") }, "tinkextest: make a client: "},
	} {
		if got := said(tc.do); !strings.HasPrefix(got, "tinkextest: ") || !strings.Contains(got, tc.says) {
			t.Errorf("%s: it says %q, want %q", name, got, tc.says)
		}
	}
}

// Other modules can name every type of the package.
func TestNothingInternalIsShown(t *testing.T) {
	t.Parallel()
	var check func(typ reflect.Type, where string)
	check = func(typ reflect.Type, where string) {
		if strings.Contains(typ.PkgPath(), "/internal/") {
			t.Errorf("%s: %s", where, typ)
		}
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			check(typ.Elem(), where)
		case reflect.Func:
			for i := range typ.NumIn() {
				check(typ.In(i), where)
			}
			for i := range typ.NumOut() {
				check(typ.Out(i), where)
			}
		case reflect.Struct:
			if !strings.HasSuffix(typ.PkgPath(), "/tinkextest") {
				return
			}
			for i := range typ.NumField() {
				if f := typ.Field(i); f.IsExported() {
					check(f.Type, where+"."+f.Name)
				}
			}
		}
	}
	for _, v := range []any{
		tinkextest.NewServer, tinkextest.NewServerWith, tinkextest.Start, tinkextest.NewClock,
		tinkextest.Options{}, tinkextest.Run{}, tinkextest.Checkpoint{}, tinkextest.Training{}, tinkextest.Fault{},
	} {
		check(reflect.TypeOf(v), fmt.Sprintf("%T", v))
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[*tinkextest.Server](), reflect.TypeFor[*tinkextest.Clock]()} {
		for i := range typ.NumMethod() {
			check(typ.Method(i).Type, typ.Method(i).Name)
		}
	}
}
