// Package metastoretest holds every implementation of metastore.Store to the
// one contract.
package metastoretest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Run checks the stores that open returns. A test's store is empty when it is
// opened first; opening it again, with the same t, opens the same one, as
// another process would. Run closes what it opens.
func Run(t *testing.T, open func(t *testing.T) metastore.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, f fixture)
	}{
		{"Session", testSession},
		{"SessionList", testSessionList},
		{"SessionsAfter", testSessionsAfter},
		{"SessionUsage", testSessionUsage},
		{"SessionFinish", testSessionFinish},
		{"SessionProject", testSessionProject},
		{"Run", testRun},
		{"RunList", testRunList},
		{"RunTouch", testRunTouch},
		{"Server", testServer},
		{"EndLostRuns", testEndLostRuns},
		{"MoveRun", testMoveRun},
		{"Duty", testDuty},
		{"RaceToMove", testRaceToMove},
		{"RaceOfLeases", testRaceOfLeases},
		{"RunStates", testRunStates},
		{"Sampler", testSampler},
		{"Checkpoint", testCheckpoint},
		{"CheckpointRefused", testCheckpointRefused},
		{"CheckpointOverwrite", testCheckpointOverwrite},
		{"CheckpointResult", testCheckpointResult},
		{"CheckpointUnsaved", testCheckpointUnsaved},
		{"CheckpointManyFiles", testCheckpointManyFiles},
		{"CheckpointFlags", testCheckpointFlags},
		{"CheckpointDelete", testCheckpointDelete},
		{"CheckpointLists", testCheckpointLists},
		{"CheckpointExpiry", testCheckpointExpiry},
		{"CheckpointPaging", testCheckpointPaging},
		{"CheckpointsAfter", testCheckpointsAfter},
		{"CheckpointPagingMeanwhile", testCheckpointPagingMeanwhile},
		{"CheckpointListsModel", testCheckpointListsModel},
		{"CheckpointListsFilled", testCheckpointListsFilled},
		{"LatestCheckpoints", testLatestCheckpoints},
		{"DeleteExpired", testDeleteExpired},
		{"DeleteIdle", testDeleteIdle},
		{"Referenced", testReferenced},
		{"Upload", testUpload},
		{"ClaimBlobs", testClaimBlobs},
		{"Import", testImport},
		{"ImportRefused", testImportRefused},
		{"Manifests", testManifests},
		{"References", testReferences},
		{"Uploads", testUploads},
		{"CorrectSizes", testCorrectSizes},
		{"Quarantine", testQuarantine},
		{"QuarantineExpiry", testQuarantineExpiry},
		{"Counters", testCounters},
		{"SpaceUsage", testSpaceUsage},
		{"Result", testResult},
		{"Key", testKey},
		{"Retention", testRetention},
		{"DeleteRetired", testDeleteRetired},
		{"Secret", testSecret},
		{"Text", testText},
		{"Check", testCheck},
		{"Canceled", testCanceled},
		{"Reopen", testReopen},
		{"TwoAtOnce", testTwoAtOnce},
		{"RaceForName", testRaceForName},
		{"RaceToReplace", testRaceToReplace},
		{"RaceToFinish", testRaceToFinish},
		{"RaceForSecret", testRaceForSecret},
		{"RaceOfFailures", testRaceOfFailures},
		{"RaceOfEverything", testRaceOfEverything},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, newFixture(t, open)) })
	}
}

// fixture is a store with what the tests of checkpoints need to be there.
type fixture struct {
	metastore.Store
	t      *testing.T
	ctx    context.Context
	reopen func() metastore.Store
}

func newFixture(t *testing.T, open func(t *testing.T) metastore.Store) fixture {
	reopen := func() metastore.Store {
		s := open(t)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return s
	}
	return fixture{reopen(), t, t.Context(), reopen}
}

// in is the fixture for a part of the test.
func (f fixture) in(t *testing.T) fixture {
	f.t = t
	return f
}

// t0 is when the tests take place. It has microseconds, and nothing finer.
var t0 = time.Date(2026, 2, 3, 4, 5, 6, 789012000, time.UTC)

// after is a time so many seconds later.
func after(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

func ptr[T any](v T) *T { return &v }

var lora = metastore.LoRA{BaseModel: "tinkex/tiny", Rank: 8, TrainAttn: true, TrainUnembed: true}

// session creates a session at t0.
func (f fixture) session(id, owner string) {
	f.t.Helper()
	f.must(f.CreateSession(f.ctx, metastore.Session{ID: id, Owner: owner, CreatedAt: t0, LastHeartbeat: t0}))
}

// run creates a run at t0, in the session that its id names.
func (f fixture) run(id, owner string) {
	f.t.Helper()
	session, _, _ := strings.Cut(id, ":")
	f.must(f.CreateRun(f.ctx, metastore.Run{
		ID: id, SessionID: session, Owner: owner, LoRA: lora, CreatedAt: t0, LastRequestAt: t0, State: metastore.RunLive,
	}))
}

// alice creates the run that most tests save checkpoints of.
func (f fixture) alice() (run string) {
	f.t.Helper()
	f.session("s1", "alice")
	f.run("s1:train:0", "alice")
	return "s1:train:0"
}

// checkpoint is a listed one, of alice's run.
func checkpoint(kind metastore.Kind, name string, created time.Time) metastore.Checkpoint {
	return metastore.Checkpoint{
		RunID: "s1:train:0", Kind: kind, Name: name, Owner: "alice", Listed: true, CreatedAt: created, LoRA: lora,
		Files: []metastore.File{file("adapter_config.json", 100, 1), file("adapter_model.safetensors", 2000, 2)},
	}
}

func file(name string, size int64, digest byte) metastore.File {
	f := metastore.File{Name: name, Size: size}
	for i := range f.Digest {
		f.Digest[i] = digest + byte(i)
	}
	return f
}

func digest(b byte) blobstore.Digest { return file("", 0, b).Digest }

func (f fixture) commit(c metastore.Checkpoint) metastore.Checkpoint {
	f.t.Helper()
	c, err := f.CommitCheckpoint(f.ctx, c, false, nil)
	f.must(err)
	return c
}

// must fails the test at once if anything went wrong.
func (f fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func value[T any](v T, err error) func(f fixture) T {
	return func(f fixture) T {
		f.t.Helper()
		f.must(err)
		return v
	}
}

// is checks what an error is, and that it says what it is about.
func (f fixture) is(err, target error, says ...string) {
	f.t.Helper()
	if !errors.Is(err, target) {
		f.t.Fatalf("error is %v, want one that is %q", err, target)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			f.t.Errorf("error is %q, want it to say %q", err, s)
		}
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is\n%+v, want\n%+v", what, got, want)
	}
}

// names spells a list of checkpoints.
func names(all []metastore.Checkpoint) string {
	var s []string
	for _, c := range all {
		s = append(s, c.Name)
	}
	return strings.Join(s, " ")
}

func testCheck(t *testing.T, f fixture) {
	for range 2 {
		f.must(f.Check(f.ctx))
	}
}

func testCanceled(t *testing.T, f fixture) {
	run := f.alice()
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	_, err := f.CommitCheckpoint(ctx, checkpoint(metastore.KindTraining, "x", t0), false, nil)
	f.is(err, context.Canceled)
	_, err = f.Checkpoint(ctx, run, metastore.KindTraining, "x")
	f.is(err, context.Canceled)
	f.is(f.Check(ctx), context.Canceled)
	// Nothing has come of it, and the store works on.
	_, err = f.Checkpoint(f.ctx, run, metastore.KindTraining, "x")
	f.is(err, metastore.ErrNotFound)
	f.commit(checkpoint(metastore.KindTraining, "x", t0))
}

// testText stores what is legal in JSON and HTTP headers but tempting to
// mistreat.
func testText(t *testing.T, f fixture) {
	for i, text := range []string{`'; DROP TABLE runs; --`, `? $1 %s \ " <&>`, "zeilen\numbruch\ttab", "😀 \u202e ñ", `{"a": null}`} {
		s := metastore.Session{
			ID: text, Owner: text, CreatedAt: t0, LastHeartbeat: t0, Tags: []string{text, ""},
			UserMetadata: map[string]any{text: text, "zero": "\x00"}, SDKVersion: text, ProjectID: text, DisplayName: text,
		}
		f.must(f.CreateSession(f.ctx, s))
		same(t, "session", value(f.Session(f.ctx, text))(f), s)
		f.must(f.FinishSession(f.ctx, text, t0, "errored", text))
		r := metastore.Run{ID: text, SessionID: text, Owner: text, ResumedFrom: text, CreatedAt: t0, LastRequestAt: t0, State: metastore.RunLive}
		f.must(f.CreateRun(f.ctx, r))
		same(t, "run", value(f.Run(f.ctx, text))(f), r)
		c := f.commit(metastore.Checkpoint{
			RunID: text, Kind: metastore.KindSampler, Name: text, Owner: text, Listed: true, CreatedAt: after(i),
			UserMetadata: map[string]string{text: text}, Files: []metastore.File{file(text, 1, 1)},
		})
		same(t, "checkpoint", value(f.Checkpoint(f.ctx, text, metastore.KindSampler, text))(f), c)
		all, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: text, Now: t0}, metastore.Page{Limit: 10})
		f.must(err)
		if n != 1 || len(all) != 1 || all[0].Name != text {
			t.Errorf("checkpoints of %q are %v of %d", text, all, n)
		}
	}
}
