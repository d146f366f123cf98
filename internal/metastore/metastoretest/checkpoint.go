package metastoretest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

const (
	training = metastore.KindTraining
	sampler  = metastore.KindSampler
	external = metastore.KindExternal
)

func testCheckpoint(t *testing.T, f fixture) {
	run := f.alice()
	full := checkpoint(training, "full", t0.Add(1)) // half a microsecond is cut off
	full.Public, full.HasOptimizer, full.ExpiresAt = true, true, ptr(after(60).Add(999))
	full.UserMetadata = map[string]string{"step": "100"}
	full.SizeBytes = 5 // is not believed
	bare := metastore.Checkpoint{RunID: run, Kind: sampler, Name: "bare", Owner: "alice", CreatedAt: t0}
	for _, c := range []metastore.Checkpoint{full, bare, checkpoint(external, "x", t0), checkpoint(sampler, "full", t0)} {
		stored := f.commit(c)
		want := c
		want.ID, want.CreatedAt, want.SizeBytes = stored.ID, t0, 0
		if c.ExpiresAt != nil {
			want.ExpiresAt = ptr(after(60))
		}
		for _, file := range c.Files {
			want.SizeBytes += file.Size
		}
		same(t, "stored checkpoint", stored, want)
		same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, c.Kind, c.Name))(f), want)
		want.Files = nil
		same(t, "checkpoint without files", value(f.CheckpointInfo(f.ctx, run, c.Kind, c.Name))(f), want)
		if c.Listed {
			page, _, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Kind: c.Kind, Now: t0}, metastore.Page{Limit: 1})
			f.must(err)
			same(t, "listed checkpoint", page, []metastore.Checkpoint{want})
		}
	}
	for _, missing := range []struct {
		run  string
		kind metastore.Kind
		name string
	}{{run, training, "bare"}, {run, sampler, "x"}, {"s1:train:1", training, "full"}, {run, training, ""}} {
		_, err := f.Checkpoint(f.ctx, missing.run, missing.kind, missing.name)
		says := fmt.Sprintf("checkpoint %s/%s of run %s: not found", missing.kind, missing.name, missing.run)
		f.is(err, metastore.ErrNotFound, says)
		_, err = f.CheckpointInfo(f.ctx, missing.run, missing.kind, missing.name)
		f.is(err, metastore.ErrNotFound, says)
	}
	// An expired one is found: what to make of it is for the caller to say.
	c := checkpoint(training, "expired", t0)
	c.ExpiresAt = ptr(t0)
	f.commit(c)
	value(f.Checkpoint(f.ctx, run, training, "expired"))(f)
}

func testCheckpointRefused(t *testing.T, f fixture) {
	f.alice()
	tests := []struct {
		name   string
		change func(*metastore.Checkpoint)
		is     error
		says   string
	}{
		{"no run", func(c *metastore.Checkpoint) { c.RunID = "none" }, metastore.ErrNotFound, "run none: not found"},
		{"not the run's owner", func(c *metastore.Checkpoint) { c.Owner = "bob" }, nil, `owner is "bob", but the run's is "alice"`},
		{"no such kind", func(c *metastore.Checkpoint) { c.Kind = "heights" }, nil, `"heights"`},
		{"no kind", func(c *metastore.Checkpoint) { c.Kind = "" }, nil, `""`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := f.in(t)
			c := checkpoint(training, "x", t0)
			test.change(&c)
			_, err := f.CommitCheckpoint(f.ctx, c, true, &metastore.Result{RequestID: "r"})
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v, want one that says %s", err, test.says)
			}
			_, err = f.Result(f.ctx, "r")
			f.is(err, metastore.ErrNotFound)
		})
	}
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 0)
}

func testCheckpointOverwrite(t *testing.T, f fixture) {
	run := f.alice()
	c := checkpoint(training, "x", t0)
	c.ExpiresAt = ptr(after(10))
	first := f.commit(c)

	// Taken, and untouched by the attempt.
	c.CreatedAt, c.ExpiresAt = after(9), nil
	c.Files = []metastore.File{file("other", 7, 9)}
	_, err := f.CommitCheckpoint(f.ctx, c, false, nil)
	f.is(err, metastore.ErrExists, "checkpoint weights/x of run s1:train:0: already exists")
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), first)

	// The same name in another kind and in another run is another name.
	f.commit(checkpoint(sampler, "x", t0))
	f.run("s1:train:1", "alice")
	other := checkpoint(training, "x", t0)
	other.RunID = "s1:train:1"
	f.commit(other)

	// An expired one gives way, at the moment it expires.
	c.CreatedAt = after(10)
	second := f.commit(c)
	if second.ID <= first.ID {
		t.Errorf("the second has id %d, the first %d", second.ID, first.ID)
	}
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), second)

	// Overwriting replaces all there was: flags, expiry, files.
	_, err = f.SetPublic(f.ctx, second.ID, true)
	f.must(err)
	c = checkpoint(training, "x", after(11))
	third, err := f.CommitCheckpoint(f.ctx, c, true, nil)
	f.must(err)
	got := value(f.Checkpoint(f.ctx, run, training, "x"))(f)
	same(t, "checkpoint", got, third)
	if got.Public || len(got.Files) != 2 {
		t.Errorf("checkpoint is %+v, want nothing of the former", got)
	}
	_, err = f.SetPublic(f.ctx, second.ID, true)
	f.is(err, metastore.ErrNotFound, "checkpoint")

	// Overwriting what is not there is saving.
	_, err = f.CommitCheckpoint(f.ctx, checkpoint(training, "y", after(12)), true, nil)
	f.must(err)
	page, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: after(12)}, metastore.Page{Limit: 9})
	f.must(err)
	if names(page) != "y x x" || n != 3 {
		t.Errorf("checkpoints are %s of %d, want y x x", names(page), n)
	}

	// Listed ones may replace unlisted ones, and the other way round.
	for i, listed := range []bool{false, true, false} {
		c := checkpoint(training, "y", after(20+i))
		c.Listed = listed
		_, err = f.CommitCheckpoint(f.ctx, c, true, nil)
		f.must(err)
		_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: after(30)}, metastore.Page{})
		f.must(err)
		if want := map[bool]int{false: 2, true: 3}[listed]; n != want {
			t.Errorf("%d are listed, want %d", n, want)
		}
	}
}

func testCheckpointResult(t *testing.T, f fixture) {
	run := f.alice()
	r := metastore.Result{RequestID: "req", SessionID: "s1", RequestHash: "h", CreatedAt: t0, Payload: []byte(`{"path":"x"}`)}
	_, err := f.CommitCheckpoint(f.ctx, checkpoint(training, "x", t0), false, &r)
	f.must(err)
	same(t, "result", value(f.Result(f.ctx, "req"))(f), r)

	// All or nothing: a taken name keeps the result out, a recorded result
	// keeps the checkpoint out.
	_, err = f.CommitCheckpoint(f.ctx, checkpoint(training, "x", t0), false, &metastore.Result{RequestID: "req2"})
	f.is(err, metastore.ErrExists, "checkpoint weights/x")
	_, err = f.Result(f.ctx, "req2")
	f.is(err, metastore.ErrNotFound, "req2")
	f.must(f.TouchRun(f.ctx, run, t0, true))
	_, err = f.CommitCheckpoint(f.ctx, checkpoint(training, "y", t0), false, &r)
	f.is(err, metastore.ErrExists, "result", "req")
	_, err = f.Checkpoint(f.ctx, run, training, "y")
	f.is(err, metastore.ErrNotFound)
	same(t, "unsaved", value(f.Run(f.ctx, run))(f).Unsaved, true)
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 1)
}

func testCheckpointUnsaved(t *testing.T, f fixture) {
	run := f.alice()
	for _, test := range []struct {
		kind metastore.Kind
		want bool
	}{{sampler, true}, {external, true}, {training, false}} {
		f.must(f.TouchRun(f.ctx, run, t0, true))
		f.commit(checkpoint(test.kind, "x", t0))
		same(t, fmt.Sprintf("unsaved after %s", test.kind), value(f.Run(f.ctx, run))(f).Unsaved, test.want)
	}
	f.commit(checkpoint(sampler, "y", t0))
	same(t, "unsaved", value(f.Run(f.ctx, run))(f).Unsaved, false)
}

func testCheckpointManyFiles(t *testing.T, f fixture) {
	run := f.alice()
	c := checkpoint(training, "shards", t0)
	c.Files = nil
	for i := range 1234 {
		c.Files = append(c.Files, file(fmt.Sprintf("model-%05d.safetensors", 9999-i), 5<<30, byte(i)))
	}
	c = f.commit(c)
	same(t, "size", c.SizeBytes, int64(1234*(5<<30)))
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "shards"))(f), c)
}

func testCheckpointFlags(t *testing.T, f fixture) {
	run := f.alice()
	c := f.commit(checkpoint(training, "x", t0))
	for i, step := range []struct{ public, different bool }{{false, false}, {true, true}, {true, false}, {false, true}} {
		different, err := f.SetPublic(f.ctx, c.ID, step.public)
		f.must(err)
		got := value(f.Checkpoint(f.ctx, run, training, "x"))(f).Public
		if different != step.different || got != step.public {
			t.Errorf("step %d: different %t, public %t, want %t, %t", i, different, got, step.different, step.public)
		}
	}
	_, err := f.SetPublic(f.ctx, c.ID+1, true)
	f.is(err, metastore.ErrNotFound, "checkpoint")

	_, ok, err := f.NextExpiry(f.ctx)
	f.must(err)
	same(t, "something expires", ok, false)
	f.must(f.SetExpiry(f.ctx, c.ID, ptr(after(5).Add(999))))
	same(t, "expiry", value(f.Checkpoint(f.ctx, run, training, "x"))(f).ExpiresAt, ptr(after(5)))
	d := checkpoint(sampler, "hidden", t0)
	d.Listed, d.ExpiresAt = false, ptr(after(4))
	d = f.commit(d)
	for _, want := range []int{4, 5} {
		at, ok, err := f.NextExpiry(f.ctx)
		f.must(err)
		same(t, "next expiry", []any{at, ok}, []any{after(want), true})
		f.must(f.SetExpiry(f.ctx, d.ID, nil))
	}
	f.must(f.SetExpiry(f.ctx, c.ID, nil))
	same(t, "expiry", value(f.Checkpoint(f.ctx, run, training, "x"))(f).ExpiresAt == nil, true)
	_, ok, err = f.NextExpiry(f.ctx)
	f.must(err)
	same(t, "something expires", ok, false)
	f.is(f.SetExpiry(f.ctx, 1<<40, nil), metastore.ErrNotFound, "checkpoint")
}

func testCheckpointDelete(t *testing.T, f fixture) {
	run := f.alice()
	x, y := f.commit(checkpoint(training, "x", t0)), f.commit(checkpoint(training, "y", after(1)))
	f.must(f.DeleteCheckpoint(f.ctx, y.ID))
	_, err := f.Checkpoint(f.ctx, run, training, "y")
	f.is(err, metastore.ErrNotFound)
	for _, id := range []int64{y.ID, y.ID + 1, 0, -1} {
		f.is(f.DeleteCheckpoint(f.ctx, id), metastore.ErrNotFound, "checkpoint", fmt.Sprint(id))
	}
	page, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{Limit: 5})
	f.must(err)
	if names(page) != "x" || n != 1 {
		t.Errorf("checkpoints are %s of %d, want x", names(page), n)
	}
	// The id of the last one is not given to the next: somebody may hold it.
	again := f.commit(checkpoint(training, "y", after(2)))
	if again.ID <= y.ID {
		t.Errorf("the next id is %d, after %d", again.ID, y.ID)
	}
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), x)
}

func testReferenced(t *testing.T, f fixture) {
	f.alice()
	expect := func(want ...byte) {
		t.Helper()
		all := map[blobstore.Digest]struct{}{}
		for _, b := range want {
			all[digest(b)] = struct{}{}
		}
		same(t, "referenced", value(f.Referenced(f.ctx))(f), all)
	}
	expect()
	x := f.commit(checkpoint(training, "x", t0)) // 1, 2
	c := checkpoint(sampler, "x", t0)
	c.Listed, c.ExpiresAt = false, ptr(t0)
	c.Files = []metastore.File{file("a", 1, 2), file("b", 1, 3), file("c", 1, 3)}
	c = f.commit(c)
	expect(1, 2, 3)
	f.must(f.DeleteCheckpoint(f.ctx, x.ID))
	expect(2, 3)
	c.Files = []metastore.File{file("a", 1, 4)}
	_, err := f.CommitCheckpoint(f.ctx, c, true, nil)
	f.must(err)
	expect(4)
	value(f.DeleteExpired(f.ctx, t0, t0, 10))(f)
	expect()
}
