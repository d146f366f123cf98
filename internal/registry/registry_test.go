package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

const (
	alice = "alice"
	bob   = "bob"
)

// clock is a clock that tests turn.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.at = c.at.Add(d)
	c.mu.Unlock()
}

// fixture is a registry on stores that outlive it.
type fixture struct {
	*Registry
	t     *testing.T
	meta  metastore.Store
	blobs blobstore.Store
	eng   engine.Engine
	clock *clock
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx := t.Context()
	meta, err := metastore.OpenSQLite(ctx, ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	eng, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = eng.Close() })
	f := &fixture{t: t, meta: meta, blobs: blobstore.NewMemory(), eng: eng, clock: newClock()}
	f.start()
	return f
}

// start opens a registry on the stores, as a server's start does. Its sweeps are
// the test's: what has expired by the test's clock stays until then.
func (f *fixture) start(change ...func(*Options)) {
	f.t.Helper()
	opts := Options{Meta: f.meta, Blobs: f.blobs, Engine: f.eng, Now: f.clock.now, GCInterval: -1, bySweepOnly: true}
	for _, c := range change {
		c(&opts)
	}
	r, err := New(f.t.Context(), opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Registry = r
	f.t.Cleanup(func() { _ = r.Close(context.Background()) })
}

func (f *fixture) session(owner string) string {
	f.t.Helper()
	id, err := f.CreateSession(f.t.Context(), owner, NewSession{})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

var tinyLoRA = metastore.LoRA{BaseModel: cpu.TinyModel, Rank: 4, TrainAttn: true}

// run creates a run and waits for its model.
func (f *fixture) run(owner, session string) string {
	f.t.Helper()
	fut, err := f.CreateRun(f.t.Context(), owner, NewRun{SessionID: session, LoRA: tinyLoRA, Seed: ptr(int64(1)), RequestHash: "create"})
	return must[wire.CreateModelResult](f.t, fut, err).ModelID
}

func ptr[T any](v T) *T { return &v }

// must waits for a future and returns its result.
func must[T any](t *testing.T, fut *Future, err error) T {
	t.Helper()
	result, err := wait(fut, err)
	if err != nil {
		t.Fatal(err)
	}
	return result.(T)
}

func wait(fut *Future, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	<-fut.Done()
	return fut.Result()
}

// wantCode checks an error's code and that it says the words.
func wantCode(t *testing.T, err error, code Code, words ...string) {
	t.Helper()
	if err == nil || CodeOf(err) != code {
		t.Fatalf("error %v has code %v, want %v", err, CodeOf(err), code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

func batch(text string) *engine.Batch {
	in := make([]int32, len(text)-1)
	target := make([]int64, len(text)-1)
	weights := make([]float32, len(text)-1)
	for i := range in {
		in[i], target[i], weights[i] = int32(text[i]), int64(text[i+1]), 1
	}
	shape := []int{len(in)}
	return &engine.Batch{Loss: "cross_entropy", Data: []engine.Datum{{Tokens: in, Inputs: map[string]engine.Tensor{
		"target_tokens": {DType: engine.Int64, Shape: shape, I: target},
		"weights":       {Shape: shape, F: weights},
	}}}}
}

var adam = engine.AdamParams{LearningRate: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-12}

// step trains one step and returns the loss before it.
func (f *fixture) step(owner, model string, seq int64) float64 {
	f.t.Helper()
	fb, err := f.ForwardBackward(f.t.Context(), owner, model, &seq, fmt.Sprint("fb", seq), batch("hello hello"))
	loss := must[*engine.ForwardBackwardOutput](f.t, fb, err).Metrics["loss:sum"]
	seq++
	os, err := f.OptimStep(f.t.Context(), owner, model, &seq, fmt.Sprint("os", seq), adam)
	must[wire.OptimStepResult](f.t, os, err)
	return loss
}

func (f *fixture) save(owner, model string, seq int64, s SaveRequest) (wire.SaveWeightsResult, error) {
	f.t.Helper()
	fut, err := f.Save(f.t.Context(), owner, model, &seq, fmt.Sprint("save", seq), s)
	result, err := wait(fut, err)
	if err != nil {
		return wire.SaveWeightsResult{}, err
	}
	return result.(wire.SaveWeightsResult), nil
}

func (f *fixture) mustSave(owner, model string, seq int64, s SaveRequest) Ref {
	f.t.Helper()
	result, err := f.save(owner, model, seq, s)
	if err != nil {
		f.t.Fatal(err)
	}
	ref, ok := parseRef(result.Path)
	if !ok {
		f.t.Fatalf("bad path %q", result.Path)
	}
	return ref
}

func (f *fixture) listed(owner string) []string {
	f.t.Helper()
	list, total, err := f.Checkpoints(f.t.Context(), owner, metastore.Page{Limit: 100})
	if err != nil {
		f.t.Fatal(err)
	}
	if total != len(list) {
		f.t.Errorf("total %d, listed %d", total, len(list))
	}
	var names []string
	for _, c := range list {
		names = append(names, string(c.Kind)+"/"+c.Name)
	}
	return names
}

func TestRequestsRunInOrderWhateverTheyArriveIn(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	ctx := t.Context()
	// The chunks of a batch arrive with the first one last.
	second, err := f.ForwardBackward(ctx, alice, model, ptr(int64(2)), "b", batch("second"))
	if err != nil {
		t.Fatal(err)
	}
	third, err := f.OptimStep(ctx, alice, model, ptr(int64(3)), "c", adam)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.Done():
		t.Fatal("request 2 ran before request 1 came")
	case <-time.After(20 * time.Millisecond):
	}
	first, err := f.ForwardBackward(ctx, alice, model, ptr(int64(1)), "a", batch("first"))
	must[*engine.ForwardBackwardOutput](t, first, err)
	must[*engine.ForwardBackwardOutput](t, second, nil)
	must[wire.OptimStepResult](t, third, nil)
	if second.started.Before(first.finished) || third.started.Before(second.finished) {
		t.Error("requests overlapped")
	}
}

func TestRetriedRequestIsCarriedOutOnce(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	ctx := t.Context()
	a, err := f.ForwardBackward(ctx, alice, model, ptr(int64(1)), "same", batch("hello"))
	must[*engine.ForwardBackwardOutput](t, a, err)
	b, err := f.ForwardBackward(ctx, alice, model, ptr(int64(1)), "same", batch("hello"))
	if err != nil || a != b {
		t.Fatalf("the retry got %v, %v; want the first future", b, err)
	}
	_, err = f.ForwardBackward(ctx, alice, model, ptr(int64(1)), "other", batch("other"))
	wantCode(t, err, Conflict, "seq_id", "1", "another request")
	_, err = f.ForwardBackward(ctx, alice, model, ptr(int64(0)), "zero", batch("other"))
	wantCode(t, err, Invalid, "seq_id", "0")
	_, err = f.ForwardBackward(ctx, alice, model, ptr(int64(2+seqWindow)), "far", batch("other"))
	wantCode(t, err, Invalid, "too far ahead")

	// A run is created once too.
	s := f.session(alice)
	n := NewRun{SessionID: s, LoRA: tinyLoRA, RequestHash: "x"}
	one, err := f.CreateRun(ctx, alice, n)
	must[wire.CreateModelResult](t, one, err)
	again, err := f.CreateRun(ctx, alice, n)
	if err != nil || one != again {
		t.Fatalf("create again: %v, %v", again, err)
	}
	n.RequestHash = "y"
	_, err = f.CreateRun(ctx, alice, n)
	wantCode(t, err, Conflict, "model_seq_id")
}

func TestRefusedRequestTakesItsNumber(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	bad := batch("hello")
	bad.Data[0].Tokens[0] = 1 << 20
	_, err := f.ForwardBackward(t.Context(), alice, model, ptr(int64(1)), "bad", bad)
	wantCode(t, err, Invalid, "data[0].model_input")
	wantCode(t, f.Reject(t.Context(), alice, model, ptr(int64(2)), "X", "h", errors.New("path: empty")), Invalid, "path: empty")
	f.step(alice, model, 3) // would wait for ever if 1 or 2 were still awaited
}

func TestLoadComesFirst(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	ref := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	ctx := t.Context()
	_, err := f.Load(ctx, alice, model, ptr(int64(4)), "l", LoadRequest{From: ref})
	wantCode(t, err, Invalid, "LoadWeights is not permitted with seq_id 4")

	sampler := f.mustSave(alice, model, 5, SaveRequest{Kind: metastore.KindSampler, Name: "a"})
	for name, tc := range map[string]struct {
		from      Ref
		optimizer bool
		code      Code
		words     string
	}{
		"sampler":  {sampler, false, Invalid, "not a training checkpoint"},
		"unknown":  {Ref{model, metastore.KindTraining, "nope"}, false, NotFound, "nope"},
		"other":    {Ref{"run-x", metastore.KindTraining, "a"}, false, NotFound, "run-x"},
		"external": {Ref{model, metastore.KindExternal, "a"}, true, Invalid, "not a training checkpoint"},
	} {
		_, err := f.CreateRunFrom(ctx, alice, NewRun{SessionID: s, Seq: 7, RequestHash: name}, "", LoadRequest{From: tc.from, Optimizer: tc.optimizer})
		wantCode(t, err, tc.code, tc.words)
	}
	_, err = f.CreateRunFrom(ctx, alice, NewRun{SessionID: s, Seq: 7, RequestHash: "base"}, "another/model", LoadRequest{From: ref})
	wantCode(t, err, Invalid, "base_model", "another/model")

	// Onto a model of another rank.
	l := tinyLoRA
	l.Rank = 8
	fut, err := f.CreateRun(ctx, alice, NewRun{SessionID: s, Seq: 8, LoRA: l, RequestHash: "r8"})
	other := must[wire.CreateModelResult](t, fut, err).ModelID
	fut, err = f.Load(ctx, alice, other, ptr(int64(1)), "l", LoadRequest{From: ref})
	_, err = wait(fut, err)
	wantCode(t, err, Invalid, "rank")
}

func TestResumeIsExactWithTheOptimizerOnly(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	for seq := int64(1); seq < 7; seq += 2 {
		f.step(alice, model, seq)
	}
	ref := f.mustSave(alice, model, 7, SaveRequest{Kind: metastore.KindTraining, Name: "mid"})
	f.step(alice, model, 8)
	want := f.step(alice, model, 10)

	resume := func(seq int64, optimizer bool) float64 {
		fut, err := f.CreateRunFrom(t.Context(), alice, NewRun{SessionID: s, Seq: seq, RequestHash: "r"}, "", LoadRequest{From: ref, Optimizer: optimizer})
		id := must[wire.LoadWeightsResult](t, fut, err).ModelID
		run, err := f.Run(t.Context(), alice, id)
		if err != nil || run.LoRA != tinyLoRA || run.ResumedFrom != ref.String() {
			t.Errorf("resumed run is %+v, %v", run, err)
		}
		f.step(alice, id, 1)
		return f.step(alice, id, 3)
	}
	if got := resume(1, true); got != want {
		t.Errorf("with the optimizer the loss is %v, want %v exactly", got, want)
	}
	if got := resume(2, false); got == want {
		t.Errorf("without the optimizer the loss is %v all the same", got)
	}
}

func TestNameIsTakenOnce(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	save := SaveRequest{Kind: metastore.KindTraining, Name: "a"}
	ref := f.mustSave(alice, model, 3, save)
	before, err := f.Readable(t.Context(), alice, ref)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.save(alice, model, 4, save)
	wantCode(t, err, Conflict, ref.String(), "already exists")
	f.step(alice, model, 5)
	save.Overwrite = true
	f.mustSave(alice, model, 7, save)
	after, err := f.Readable(t.Context(), alice, ref)
	if err != nil {
		t.Fatal(err)
	}
	if ManifestDigest(before.Files) == ManifestDigest(after.Files) {
		t.Error("overwriting changed nothing")
	}
	if got := f.listed(alice); len(got) != 1 {
		t.Errorf("listed %v", got)
	}
	// The other kind has names of its own, and shares the adapter's bytes.
	sampler := f.mustSave(alice, model, 8, SaveRequest{Kind: metastore.KindSampler, Name: "a"})
	c, err := f.Readable(t.Context(), alice, sampler)
	if err != nil {
		t.Fatal(err)
	}
	if fileNamed(c, engine.AdapterWeightsFile).Digest != fileNamed(after, engine.AdapterWeightsFile).Digest {
		t.Error("a sampler checkpoint of the same weights has other bytes")
	}
	if fileNamed(c, engine.OptimizerFile).Name != "" || fileNamed(c, CompleteFile).Name == "" {
		t.Errorf("sampler checkpoint has files %v", c.Files)
	}
}

func fileNamed(c metastore.Checkpoint, name string) metastore.File {
	for _, f := range c.Files {
		if f.Name == name {
			return f
		}
	}
	return metastore.File{}
}

func TestOwnersAreIsolated(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	ref := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	missing := Ref{model, metastore.KindTraining, "missing"}
	ctx := t.Context()

	// What is not bob's looks exactly like what is not there.
	same := func(what string, theirs, none error) {
		t.Helper()
		wantCode(t, theirs, NotFound)
		norm := strings.NewReplacer(ref.String(), "X", missing.String(), "X", model, "M", "none", "M", s, "M")
		if norm.Replace(theirs.Error()) != norm.Replace(none.Error()) {
			t.Errorf("%s tells them apart: %q and %q", what, theirs, none)
		}
	}
	_, theirs := f.Readable(ctx, bob, ref)
	_, none := f.Readable(ctx, bob, missing)
	same("Readable", theirs, none)
	same("DeleteCheckpoint", f.DeleteCheckpoint(ctx, bob, ref), f.DeleteCheckpoint(ctx, bob, missing))
	same("SetPublic", f.SetPublic(ctx, bob, ref, true), f.SetPublic(ctx, bob, missing, true))
	same("SetTTL", f.SetTTL(ctx, bob, ref, nil), f.SetTTL(ctx, bob, missing, nil))
	_, theirs = f.Run(ctx, bob, model)
	_, none = f.Run(ctx, bob, "none")
	same("Run", theirs, none)
	_, theirs = f.OptimStep(ctx, bob, model, ptr(int64(9)), "h", adam)
	_, none = f.OptimStep(ctx, bob, "none", ptr(int64(9)), "h", adam)
	same("OptimStep", theirs, none)
	_, theirs = f.Session(ctx, bob, s)
	_, none = f.Session(ctx, bob, "none")
	same("Session", theirs, none)
	_, theirs = f.Retrieve(ctx, bob, requestID(model, 1))
	wantCode(t, theirs, NotFound)
	if got := f.listed(bob); len(got) != 0 {
		t.Errorf("bob lists %v", got)
	}

	// A published one can be read and resumed, and nothing else.
	if err := f.SetPublic(ctx, alice, ref, true); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.SetPublic(ctx, alice, ref, true), Conflict, "already public")
	if _, err := f.Readable(ctx, bob, ref); err != nil {
		t.Error(err)
	}
	fut, err := f.CreateRunFrom(ctx, bob, NewRun{SessionID: f.session(bob), RequestHash: "r"}, "", LoadRequest{From: ref, Optimizer: true})
	must[wire.LoadWeightsResult](t, fut, err)
	wantCode(t, f.DeleteCheckpoint(ctx, bob, ref), NotFound)
	wantCode(t, f.SetPublic(ctx, bob, ref, false), NotFound)
	if err := f.SetPublic(ctx, alice, ref, false); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.SetPublic(ctx, alice, ref, false), Conflict, "not public")
}

func TestExpiredCheckpointIsHiddenAtOnceAndRemovedBySweep(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	ref := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "short", TTL: ptr(time.Minute)})
	f.mustSave(alice, model, 4, SaveRequest{Kind: metastore.KindTraining, Name: "long"})
	ctx := t.Context()
	f.clock.advance(time.Minute)
	if got := f.listed(alice); len(got) != 1 || got[0] != "weights/long" {
		t.Errorf("after expiry listed %v", got)
	}
	_, err := f.Readable(ctx, alice, ref)
	wantCode(t, err, NotFound)
	wantCode(t, f.SetTTL(ctx, alice, ref, nil), NotFound) // too late to save it
	if _, err := f.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name); err != nil {
		t.Fatalf("gone before the sweep: %v", err)
	}
	if err := f.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := f.meta.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name); !errors.Is(err, metastore.ErrNotFound) {
		t.Fatalf("after the sweep: %v", err)
	}
	// Its name can be used again, at once even without a sweep.
	f.mustSave(alice, model, 5, SaveRequest{Kind: metastore.KindTraining, Name: "short", TTL: ptr(time.Minute)})
	f.clock.advance(time.Hour)
	f.mustSave(alice, model, 6, SaveRequest{Kind: metastore.KindTraining, Name: "short"})
}

func TestGarbageIsWhatNoManifestRefersTo(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	gone := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "gone"})
	f.step(alice, model, 4)
	kept := f.mustSave(alice, model, 6, SaveRequest{Kind: metastore.KindTraining, Name: "kept"})
	ctx := t.Context()
	c, err := f.Readable(ctx, alice, gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteCheckpoint(ctx, alice, gone); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Since(f.clock.now())) // blobs carry the real time
	if g, err := f.CollectGarbage(ctx); err != nil || g.Blobs != 0 {
		t.Errorf("within the grace period %+v, %v", g, err)
	}
	f.clock.advance(2 * time.Hour)
	g, err := f.CollectGarbage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The configuration and the empty file are shared with the kept one.
	want := fileNamed(c, engine.AdapterWeightsFile).Size + fileNamed(c, engine.OptimizerFile).Size
	if g.Blobs != 2 || g.Bytes != want {
		t.Errorf("collected %+v, want 2 blobs of %d bytes", g, want)
	}
	fut, err := f.CreateRunFrom(ctx, alice, NewRun{SessionID: f.session(alice), RequestHash: "r"}, "", LoadRequest{From: kept, Optimizer: true})
	must[wire.LoadWeightsResult](t, fut, err)
}

func TestLostStepsCorruptARun(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	ctx := t.Context()
	lost := f.run(alice, s)
	f.step(alice, lost, 1)
	ref := f.mustSave(alice, lost, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	f.step(alice, lost, 4)
	fut, err := f.CreateRun(ctx, alice, NewRun{SessionID: s, Seq: 1, LoRA: tinyLoRA, RequestHash: "b"})
	saved := must[wire.CreateModelResult](t, fut, err).ModelID
	f.step(alice, saved, 1)
	f.mustSave(alice, saved, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})

	f.start() // another server on the same stores: the first one is gone
	for id, want := range map[string]metastore.RunState{lost: metastore.RunCorrupted, saved: metastore.RunEnded} {
		run, err := f.Run(ctx, alice, id)
		if err != nil || run.State != want {
			t.Errorf("run %s is %v, %v; want %v", id, run.State, err, want)
		}
	}
	// Promises of before are gone, the durable ones are kept.
	_, err = f.Retrieve(ctx, alice, requestID(lost, 4))
	wantCode(t, err, Gone)
	_, err = f.Retrieve(ctx, alice, "nonsense")
	wantCode(t, err, NotFound)
	got := must[json.RawMessage](t, mustRetrieve(t, f, requestID(lost, 3)), nil)
	var result wire.SaveWeightsResult
	if err := json.Unmarshal(got, &result); err != nil || result.Path != ref.String() {
		t.Errorf("recorded result %s, %v", got, err)
	}
	// A save whose answer was lost is not made again.
	again, err := f.Save(ctx, alice, lost, ptr(int64(3)), "save3", SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	must[json.RawMessage](t, again, err)
	_, err = f.OptimStep(ctx, alice, lost, ptr(int64(6)), "os", adam)
	wantCode(t, err, Gone, "last checkpoint")
	if got := f.listed(alice); len(got) != 2 {
		t.Errorf("listed %v", got)
	}
}

func mustRetrieve(t *testing.T, f *fixture, id string) *Future {
	t.Helper()
	fut, err := f.Retrieve(t.Context(), alice, id)
	if err != nil {
		t.Fatal(err)
	}
	return fut
}

func TestFinishedSessionTakesNothingMore(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	ctx := t.Context()
	if err := f.Heartbeat(ctx, alice, s); err != nil {
		t.Fatal(err)
	}
	if err := f.FinishSession(ctx, alice, s, "success", "done"); err != nil {
		t.Fatal(err)
	}
	if err := f.FinishSession(ctx, alice, s, "errored", "late"); err != nil {
		t.Fatal(err)
	}
	sess, err := f.Session(ctx, alice, s)
	if err != nil || sess.FinishReason != "success" {
		t.Errorf("session %+v, %v", sess, err)
	}
	wantCode(t, f.Heartbeat(ctx, alice, s), Gone)
	_, err = f.CreateRun(ctx, alice, NewRun{SessionID: s, Seq: 5, LoRA: tinyLoRA, RequestHash: "x"})
	wantCode(t, err, Gone)
}

func TestSilentSessionLosesItsModels(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	f.clock.advance(59 * time.Minute)
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.step(alice, model, 3) // alive: the request itself was a sign of life
	f.mu.Lock()
	m := f.models[model]
	f.mu.Unlock()
	f.clock.advance(61 * time.Minute)
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The sweep does not wait for the models that it lets go of.
	select {
	case <-m.drained:
	case <-time.After(time.Minute):
		t.Fatal("the model of a silent session is still there")
	}
	if err := m.retire(t.Context(), stateAfterLoss); err != nil {
		t.Fatal(err)
	}
	run, err := f.Run(t.Context(), alice, model)
	if err != nil || run.State != metastore.RunCorrupted {
		t.Errorf("run is %v, %v", run.State, err)
	}
}

func TestUnloadEndsARun(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	fut, err := f.Unload(t.Context(), alice, model)
	if got := must[wire.UnloadModelResult](t, fut, err); got.ModelID != model {
		t.Errorf("result %+v", got)
	}
	again, err := f.Unload(t.Context(), alice, model)
	if err != nil || again != fut {
		t.Errorf("unload again: %v, %v", again, err)
	}
	_, err = f.OptimStep(t.Context(), alice, model, ptr(int64(3)), "h", adam)
	wantCode(t, err, Gone)
	run, err := f.Run(t.Context(), alice, model)
	if err != nil || run.State != metastore.RunEnded {
		t.Errorf("run is %v, %v", run.State, err)
	}
	_, err = f.Unload(t.Context(), alice, "none")
	wantCode(t, err, NotFound)
}

// brokenBlobs refuses to commit.
type brokenBlobs struct{ blobstore.Store }

type brokenWriter struct{ blobstore.Writer }

var errDisk = errors.New("no space left on device")

func (b brokenBlobs) Create(ctx context.Context) (blobstore.Writer, error) {
	w, err := b.Store.Create(ctx)
	return brokenWriter{w}, err
}

func (w brokenWriter) Commit(context.Context) (blobstore.Info, error) {
	return blobstore.Info{}, errors.Join(errDisk, w.Abort())
}

func TestSaveThatCannotBeWrittenIsNotListed(t *testing.T) {
	f := newFixture(t)
	good := f.blobs
	f.blobs = brokenBlobs{good}
	f.start()
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	_, err := f.save(alice, model, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	wantCode(t, err, Internal, "no space left")
	if got := f.listed(alice); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
	run, err := f.Run(t.Context(), alice, model)
	if err != nil || !run.Unsaved {
		t.Errorf("run %+v, %v: its steps are still unsaved", run, err)
	}
	f.step(alice, model, 4) // and training goes on
}

func TestSampling(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	ref := f.mustSave(alice, model, 3, SaveRequest{Kind: metastore.KindSampler, Name: "a"})
	ctx := t.Context()
	id, err := f.CreateSampler(ctx, alice, NewSampler{SessionID: s, From: &ref, RequestHash: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.CreateSampler(ctx, alice, NewSampler{SessionID: s, From: &ref, RequestHash: "x"}); err != nil || again != id {
		t.Errorf("create again: %v, %v", again, err)
	}
	_, err = f.CreateSampler(ctx, alice, NewSampler{SessionID: s, BaseModel: cpu.TinyModel, RequestHash: "y"})
	wantCode(t, err, Conflict)
	info, err := f.Sampler(ctx, alice, id)
	if err != nil || info.ModelPath != ref.String() || info.BaseModel != cpu.TinyModel {
		t.Errorf("sampler %+v, %v", info, err)
	}
	req := func() *engine.SampleRequest {
		return &engine.SampleRequest{Prompt: []int32{'h', 'e'}, NumSamples: 2, MaxTokens: 5, Temperature: 1, TopP: 1, Seed: ptr(uint64(7))}
	}
	fut, err := f.Sample(ctx, alice, SampleTarget{SamplerID: id, Seq: ptr(int64(0))}, "a", req())
	out := must[*engine.SampleOutput](t, fut, err)
	if len(out.Sequences) != 2 || len(fut.SequenceIDs) != 2 || fut.SequenceIDs[0] == fut.SequenceIDs[1] {
		t.Errorf("%d sequences, ids %v", len(out.Sequences), fut.SequenceIDs)
	}
	_, err = f.Sample(ctx, alice, SampleTarget{SamplerID: id, Seq: ptr(int64(0))}, "other", req())
	wantCode(t, err, Conflict)
	_, err = f.Sample(ctx, alice, SampleTarget{SamplerID: id}, "a", req())
	wantCode(t, err, Invalid, "seq_id")
	_, err = f.Sample(ctx, bob, SampleTarget{SamplerID: id, Seq: ptr(int64(9))}, "a", req())
	wantCode(t, err, NotFound)
	bad := req()
	bad.Prompt[0] = -1
	_, err = f.Sample(ctx, alice, SampleTarget{SamplerID: id, Seq: ptr(int64(1))}, "b", bad)
	wantCode(t, err, Invalid)

	// A snapshot is not listed, and follows nothing; an inflight one does.
	res, err := f.save(alice, model, 4, SaveRequest{Kind: metastore.KindSampler, SamplerSeq: 1})
	if err != nil || res.SamplingSessionID != samplerID(s, 1) {
		t.Fatalf("snapshot %+v, %v", res, err)
	}
	if got := f.listed(alice); len(got) != 1 {
		t.Errorf("listed %v", got)
	}
	if info, err := f.Sampler(ctx, alice, res.SamplingSessionID); err != nil || info.ModelPath != "" {
		t.Errorf("snapshot's sampler %+v, %v", info, err)
	}
	logprobs := func(sampler string, seq int64) []float32 {
		r := req()
		r.PromptLogprobs, r.NumSamples = true, 1
		fut, err := f.Sample(ctx, alice, SampleTarget{SamplerID: sampler, Seq: &seq}, fmt.Sprint(seq), r)
		return must[*engine.SampleOutput](t, fut, err).PromptLogprobs[1:]
	}
	inflight, err := f.save(alice, model, 5, SaveRequest{Kind: metastore.KindSampler, SamplerSeq: 2, Inflight: true})
	if err != nil {
		t.Fatal(err)
	}
	snap, fly := logprobs(res.SamplingSessionID, 1), logprobs(inflight.SamplingSessionID, 1)
	f.step(alice, model, 6)
	if _, err := f.save(alice, model, 8, SaveRequest{Kind: metastore.KindSampler, SamplerSeq: 3, Inflight: true}); err != nil {
		t.Fatal(err)
	}
	if got := logprobs(res.SamplingSessionID, 2); got[0] != snap[0] {
		t.Error("a snapshot moved")
	}
	if got := logprobs(inflight.SamplingSessionID, 2); got[0] == fly[0] {
		t.Error("an inflight sampler did not move")
	}
}

func TestResultsAreForgottenInTheEnd(t *testing.T) {
	f := newFixture(t)
	model := f.run(alice, f.session(alice))
	f.step(alice, model, 1)
	fut := mustRetrieve(t, f, requestID(model, 1))
	f.Fetched(fut)
	f.clock.advance(fetchedTTL)
	f.futures.tidy()
	_, err := f.Retrieve(t.Context(), alice, requestID(model, 1))
	wantCode(t, err, Gone, "make the request again")
	mustRetrieve(t, f, requestID(model, 2)) // not fetched yet
	_, err = f.ForwardBackward(t.Context(), alice, model, ptr(int64(1)), "fb1", batch("hello hello"))
	wantCode(t, err, Gone)
}

func TestTraceHoldsASessionsRequests(t *testing.T) {
	f := newFixture(t)
	s := f.session(alice)
	model := f.run(alice, s)
	f.step(alice, model, 1)
	var types []string
	for _, e := range f.Trace(s) {
		types = append(types, e.Type)
	}
	if got := strings.Join(types, " "); got != "CreateModel ForwardBackward OptimStep" {
		t.Errorf("trace of %s", got)
	}
	if f.Trace("none") != nil {
		t.Error("a trace of no session")
	}
}

// A request that fails when it is carried out ends with its error, and nothing
// else with it.
func TestFailuresOfTheEngine(t *testing.T) {
	ctx := t.Context()
	f := newFixture(t)
	session := f.session(alice)
	created, err := f.CreateRun(ctx, alice, NewRun{SessionID: session, LoRA: tinyLoRA, Seed: ptr(int64(1)), RequestHash: "create"})
	if err != nil {
		t.Fatal(err)
	}
	// Whether the model is there yet or not: if it is not, nobody can say that
	// the request is wrong before its turn.
	wrong := batch("hello")
	wrong.Loss = "nonsense"
	fut, err := f.ForwardBackward(ctx, alice, runID(session, 0), ptr(int64(1)), "wrong", wrong)
	_, err = wait(fut, err)
	wantCode(t, err, Invalid, "nonsense")
	must[wire.CreateModelResult](t, created, nil)
	f.step(alice, runID(session, 0), 2)

	sampled, err := f.Sample(ctx, alice, SampleTarget{BaseModel: tinyLoRA.BaseModel}, "hash",
		&engine.SampleRequest{Prompt: []int32{1, 2}, NumSamples: 1000, MaxTokens: 500, Temperature: 1, TopP: 1})
	if err != nil {
		t.Fatal(err)
	}
	for f.Stats().Running == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := f.Cancel(ctx, alice, sampled.ID); err != nil {
		t.Fatal(err)
	}
	_, err = wait(sampled, nil)
	wantCode(t, err, Unavailable, "cancelled")
}
