package metastoretest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

func testSession(t *testing.T, f fixture) {
	full := metastore.Session{
		ID: "full", Owner: "alice", CreatedAt: t0, LastHeartbeat: after(1), Tags: []string{"b", "a"},
		UserMetadata: map[string]any{"n": 1.5, "deep": map[string]any{"list": []any{"x", nil, true}}},
		SDKVersion:   "0.38.0", ProjectID: "p1", DisplayName: "a stay",
		FinishedAt: ptr(after(9)), FinishReason: "success", FinishDetail: "done",
	}
	tests := []struct {
		name string
		s    metastore.Session
	}{
		{"full", full},
		{"bare", metastore.Session{ID: "bare", Owner: "alice", CreatedAt: t0, LastHeartbeat: t0}},
		{"empty but there", metastore.Session{ID: "empty", CreatedAt: t0, LastHeartbeat: t0, Tags: []string{}, UserMetadata: map[string]any{}}},
		{"zero times", metastore.Session{ID: "zero"}},
		{"before 1970", metastore.Session{ID: "old", CreatedAt: time.Date(1969, 7, 20, 20, 17, 40, 1000, time.UTC)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := f.in(t)
			f.must(f.CreateSession(f.ctx, test.s))
			same(t, "session", value(f.Session(f.ctx, test.s.ID))(f), test.s)
			f.is(f.CreateSession(f.ctx, test.s), metastore.ErrExists, "session", test.s.ID)
		})
	}

	// Other zones are the same moment; what is finer than a microsecond goes.
	f.must(f.CreateSession(f.ctx, metastore.Session{
		ID: "zone", CreatedAt: t0.Add(999).In(time.FixedZone("", 3600)), LastHeartbeat: t0,
	}))
	same(t, "time", value(f.Session(f.ctx, "zone"))(f).CreatedAt, t0)

	_, err := f.Session(f.ctx, "none")
	f.is(err, metastore.ErrNotFound, "session", "none")
	f.is(f.TouchSession(f.ctx, "none", t0), metastore.ErrNotFound, "session", "none")
	f.is(f.FinishSession(f.ctx, "none", t0, "success", ""), metastore.ErrNotFound, "session", "none")
	f.is(f.SetSessionProject(f.ctx, "none", "p"), metastore.ErrNotFound, "session", "none")

	f.must(f.TouchSession(f.ctx, "bare", after(20)))
	f.must(f.TouchSession(f.ctx, "bare", after(10))) // overtaken on its way
	same(t, "last heartbeat", value(f.Session(f.ctx, "bare"))(f).LastHeartbeat, after(20))
}

func testSessionFinish(t *testing.T, f fixture) {
	f.session("s1", "alice")
	f.must(f.FinishSession(f.ctx, "s1", after(1), "errored", "out of memory"))
	f.must(f.FinishSession(f.ctx, "s1", after(2), "success", ""))
	s := value(f.Session(f.ctx, "s1"))(f)
	same(t, "finish", []any{s.FinishedAt, s.FinishReason, s.FinishDetail}, []any{ptr(after(1)), "errored", "out of memory"})
}

func testSessionList(t *testing.T, f fixture) {
	for i := range 7 {
		// Two at a time, to be told apart by their ids.
		f.must(f.CreateSession(f.ctx, metastore.Session{ID: fmt.Sprintf("a%d", i), Owner: "alice", CreatedAt: after(i / 2), LastHeartbeat: t0}))
	}
	f.session("b0", "bob")
	tests := []struct {
		owner         string
		limit, offset int
		want          string
		total         int
	}{
		{"alice", 100, 0, "a6 a5 a4 a3 a2 a1 a0", 7},
		{"alice", 3, 0, "a6 a5 a4", 7},
		{"alice", 3, 3, "a3 a2 a1", 7},
		{"alice", 3, 6, "a0", 7},
		{"alice", 3, 7, "", 7},
		{"alice", 3, 1 << 40, "", 7},
		{"alice", 0, 0, "", 7},
		{"alice", -1, -1, "", 7},
		{"bob", 3, 0, "b0", 1},
		{"ali", 3, 0, "", 0},
		{"", 3, 0, "", 0},
	}
	for _, test := range tests {
		all, total, err := f.Sessions(f.ctx, test.owner, metastore.Page{Limit: test.limit, Offset: test.offset})
		f.must(err)
		var ids []string
		for _, s := range all {
			ids = append(ids, s.ID)
		}
		if got := strings.Join(ids, " "); got != test.want || total != test.total {
			t.Errorf("sessions of %q, %d from %d: %q of %d, want %q of %d",
				test.owner, test.limit, test.offset, got, total, test.want, test.total)
		}
	}
}

func testSessionProject(t *testing.T, f fixture) {
	f.session("s1", "alice")
	f.session("s2", "alice")
	for _, id := range []string{"s1:train:0", "s1:train:1", "s2:train:0"} {
		f.run(id, "alice")
	}
	expect := func(project, want string) {
		t.Helper()
		all, total, err := f.Runs(f.ctx, "alice", project, metastore.Page{Limit: 10})
		f.must(err)
		var ids []string
		for _, r := range all {
			ids = append(ids, r.ID)
		}
		if got := strings.Join(ids, " "); got != want || total != len(ids) {
			t.Errorf("runs of project %q are %q of %d, want %q", project, got, total, want)
		}
	}
	expect("", "s2:train:0 s1:train:1 s1:train:0")
	expect("p", "")
	f.must(f.SetSessionProject(f.ctx, "s1", "p"))
	same(t, "project", value(f.Session(f.ctx, "s1"))(f).ProjectID, "p")
	expect("p", "s1:train:1 s1:train:0")
	f.run("s1:train:2", "alice") // born into the project
	expect("p", "s1:train:2 s1:train:1 s1:train:0")
	f.must(f.SetSessionProject(f.ctx, "s2", "p"))
	f.must(f.SetSessionProject(f.ctx, "s1", "q"))
	f.must(f.SetSessionProject(f.ctx, "s1", "q"))
	expect("p", "s2:train:0")
	expect("q", "s1:train:2 s1:train:1 s1:train:0")
	f.must(f.SetSessionProject(f.ctx, "s2", ""))
	expect("p", "")
	expect("", "s2:train:0 s1:train:2 s1:train:1 s1:train:0")
}

func testSessionsAfter(t *testing.T, f fixture) {
	for i := range 5 {
		f.must(f.CreateSession(f.ctx, metastore.Session{ID: fmt.Sprintf("a%d", i), Owner: "alice", CreatedAt: after(i / 2), LastHeartbeat: t0}))
	}
	f.session("b0", "bob")
	for _, test := range []struct {
		owner string
		after *metastore.SessionPlace
		limit int
		want  string
	}{
		{"alice", nil, 100, "a4 a3 a2 a1 a0"},
		{"alice", nil, 2, "a4 a3"},
		{"alice", nil, 0, ""},
		{"alice", nil, -1, ""},
		{"alice", &metastore.SessionPlace{CreatedAt: after(1), ID: "a3"}, 2, "a2 a1"},
		{"alice", &metastore.SessionPlace{CreatedAt: after(1), ID: "a2"}, 9, "a1 a0"},
		{"alice", &metastore.SessionPlace{CreatedAt: after(1), ID: "a2x"}, 9, "a2 a1 a0"}, // no longer there
		{"alice", &metastore.SessionPlace{CreatedAt: t0, ID: "a0"}, 9, ""},
		{"bob", &metastore.SessionPlace{CreatedAt: after(9)}, 9, "b0"},
		{"ali", nil, 9, ""},
	} {
		var ids []string
		for _, s := range value(f.SessionsAfter(f.ctx, test.owner, test.after, test.limit))(f) {
			ids = append(ids, s.ID)
		}
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("%d sessions of %q after %+v are %q, want %q", test.limit, test.owner, test.after, got, test.want)
		}
	}
}

func testSessionUsage(t *testing.T, f fixture) {
	f.alice()
	f.run("s1:train:1", "alice")
	f.session("s2", "alice")
	f.run("s2:train:0", "alice")
	commit := func(run, name string, change func(*metastore.Checkpoint)) {
		t.Helper()
		c := checkpoint(metastore.KindTraining, name, t0)
		c.RunID = run
		if change != nil {
			change(&c)
		}
		_, err := f.CommitCheckpoint(f.ctx, c, false, nil)
		f.must(err)
	}
	commit("s1:train:0", "a", nil)
	commit("s1:train:1", "b", nil)
	commit("s1:train:1", "unlisted", func(c *metastore.Checkpoint) { c.Listed = false })
	commit("s1:train:1", "expires", func(c *metastore.Checkpoint) { c.ExpiresAt = ptr(after(5)) })
	expect := func(seconds int, want map[string]metastore.Usage, ids ...string) {
		t.Helper()
		same(t, "usage", value(f.SessionUsage(f.ctx, ids, after(seconds)))(f), want)
	}
	expect(4, map[string]metastore.Usage{"s1": {Checkpoints: 3, Bytes: 6300}}, "s1", "s2", "none")
	expect(5, map[string]metastore.Usage{"s1": {Checkpoints: 2, Bytes: 4200}}, "s1")
	expect(4, map[string]metastore.Usage{}, "s2")
	expect(4, map[string]metastore.Usage{})
}
