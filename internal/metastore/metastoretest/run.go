package metastoretest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
)

func testRun(t *testing.T, f fixture) {
	f.session("s1", "alice")
	tests := []struct {
		name string
		r    metastore.Run
	}{
		{"full", metastore.Run{
			ID: "s1:train:7", SessionID: "s1", Seq: 7, Owner: "alice",
			LoRA: metastore.LoRA{BaseModel: "m", Rank: 32, TrainAttn: true, TrainMLP: true, TrainUnembed: true},
			Seed: ptr(int64(-1)), UserMetadata: map[string]any{"a": "b"}, ResumedFrom: "tinker://x/weights/1",
			RequestHash: "abc", CreatedAt: t0, LastRequestAt: after(1), State: metastore.RunEnded, Unsaved: true,
		}},
		{"bare", metastore.Run{ID: "s1:train:8", SessionID: "s1", Seq: 8, CreatedAt: t0, LastRequestAt: t0, State: metastore.RunLive}},
		{"without a session", metastore.Run{ID: "run-0", Seed: ptr(int64(0)), CreatedAt: t0, LastRequestAt: t0, State: metastore.RunEnded}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := f.in(t)
			f.must(f.CreateRun(f.ctx, test.r))
			same(t, "run", value(f.Run(f.ctx, test.r.ID))(f), test.r)
			f.is(f.CreateRun(f.ctx, test.r), metastore.ErrExists, "run", test.r.ID)
		})
	}
	_, err := f.Run(f.ctx, "none")
	f.is(err, metastore.ErrNotFound, "run", "none")
	f.is(f.CreateRun(f.ctx, metastore.Run{ID: "r", SessionID: "none"}), metastore.ErrNotFound, "session", "none")
	_, err = f.Run(f.ctx, "r")
	f.is(err, metastore.ErrNotFound, "run r")
	f.is(f.TouchRun(f.ctx, "none", t0, true), metastore.ErrNotFound, "run", "none")
}

func testRunList(t *testing.T, f fixture) {
	f.session("s1", "alice")
	f.session("s2", "alice")
	for i := range 12 {
		f.must(f.CreateRun(f.ctx, metastore.Run{
			ID: fmt.Sprintf("s%d:train:%d", 1+i%2, i), SessionID: fmt.Sprintf("s%d", 1+i%2), Seq: int64(i),
			Owner: "alice", CreatedAt: after(i / 4), LastRequestAt: t0, State: metastore.RunLive,
		}))
	}
	ids := func(all []metastore.Run) string {
		var s []string
		for _, r := range all {
			s = append(s, strings.Replace(r.ID, ":train", "", 1))
		}
		return strings.Join(s, " ")
	}
	tests := []struct {
		limit, offset int
		want          string
	}{
		{5, 0, "s2:9 s2:11 s1:8 s1:10 s2:7"}, // ties by id, which is text
		{5, 5, "s2:5 s1:6 s1:4 s2:3 s2:1"},
		{5, 10, "s1:2 s1:0"},
		{5, 12, ""},
		{0, 0, ""},
	}
	for _, test := range tests {
		all, total, err := f.Runs(f.ctx, "alice", "", metastore.Page{Limit: test.limit, Offset: test.offset})
		f.must(err)
		if got := ids(all); got != test.want || total != 12 {
			t.Errorf("%d runs from %d: %q of %d, want %q of 12", test.limit, test.offset, got, total, test.want)
		}
	}
	for session, want := range map[string]string{
		"s1": "s1:10 s1:8 s1:6 s1:4 s1:2 s1:0", "s2": "s2:11 s2:9 s2:7 s2:5 s2:3 s2:1", "none": "", "": "",
	} {
		if got := ids(value(f.SessionRuns(f.ctx, session))(f)); got != want {
			t.Errorf("runs of session %q are %q, want %q", session, got, want)
		}
	}
}

func testRunTouch(t *testing.T, f fixture) {
	run := f.alice()
	f.must(f.TouchRun(f.ctx, run, after(5), true))
	r := value(f.Run(f.ctx, run))(f)
	same(t, "touched run", []any{r.LastRequestAt, r.Unsaved}, []any{after(5), true})
	f.must(f.TouchRun(f.ctx, run, after(4), false))
	r = value(f.Run(f.ctx, run))(f)
	same(t, "touched run", []any{r.LastRequestAt, r.Unsaved}, []any{after(5), true}) // only a checkpoint saves steps
}

func testSampler(t *testing.T, f fixture) {
	f.session("s1", "alice")
	v := metastore.Sampler{
		ID: "s1:sample:3", SessionID: "s1", Seq: 3, Owner: "alice", BaseModel: "m",
		ModelPath: "tinker://s1:train:0/sampler_weights/x", RequestHash: "h", CreatedAt: t0,
	}
	f.must(f.CreateSampler(f.ctx, v))
	same(t, "sampler", value(f.Sampler(f.ctx, v.ID))(f), v)
	f.is(f.CreateSampler(f.ctx, v), metastore.ErrExists, "sampler", v.ID)
	_, err := f.Sampler(f.ctx, "none")
	f.is(err, metastore.ErrNotFound, "sampler", "none")
	f.is(f.CreateSampler(f.ctx, metastore.Sampler{ID: "x", SessionID: "none"}), metastore.ErrNotFound, "session", "none")

	f.must(f.CreateSampler(f.ctx, metastore.Sampler{ID: "s1:sample:10", SessionID: "s1", Seq: 10, CreatedAt: t0}))
	f.must(f.CreateSampler(f.ctx, metastore.Sampler{ID: "s1:sample:1", SessionID: "s1", Seq: 1, CreatedAt: after(1)}))
	var ids []string
	for _, v := range value(f.SessionSamplers(f.ctx, "s1"))(f) {
		ids = append(ids, v.ID)
	}
	same(t, "samplers of the session", ids, []string{"s1:sample:1", "s1:sample:10", "s1:sample:3"})
	same(t, "samplers of no session", len(value(f.SessionSamplers(f.ctx, "none"))(f)), 0)
}

func testRunStates(t *testing.T, f fixture) {
	f.session("s1", "alice")
	if got := value(f.RunStates(f.ctx))(f); len(got) != 0 {
		t.Errorf("without runs: %v", got)
	}
	for i, state := range []metastore.RunState{metastore.RunParked, metastore.RunLive, metastore.RunParked, metastore.RunEnded} {
		f.must(f.CreateRun(f.ctx, metastore.Run{ID: fmt.Sprint("r", i), SessionID: "s1", Seq: int64(i), CreatedAt: t0, LastRequestAt: t0, State: state}))
	}
	same(t, "states", value(f.RunStates(f.ctx))(f), map[metastore.RunState]int{metastore.RunParked: 2, metastore.RunLive: 1, metastore.RunEnded: 1})
	if moved := value(f.MoveRun(f.ctx, "r0", metastore.Holding{State: metastore.RunParked}, metastore.Holding{State: metastore.RunLive}))(f); !moved {
		t.Error("r0 is not parked")
	}
	same(t, "states", value(f.RunStates(f.ctx))(f), map[metastore.RunState]int{metastore.RunParked: 1, metastore.RunLive: 2, metastore.RunEnded: 1})
}
