package metastoretest

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
)

func testRetention(t *testing.T, f fixture) {
	absent := func(err error) {
		t.Helper()
		if !errors.Is(err, metastore.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
	}
	_, err := f.Retention(f.ctx, "alice")
	absent(err)
	absent(f.DeleteRetention(f.ctx, "alice"))

	first := metastore.Retention{Owner: "alice", Version: "1", Policy: []byte(`{"keep_last":1}`), SetAt: t0}
	f.must(f.SetRetention(f.ctx, first))
	f.must(f.SetRetention(f.ctx, metastore.Retention{Owner: "bob", Version: "b", Policy: []byte(`{}`), SetAt: t0}))
	if got := value(f.Retention(f.ctx, "alice"))(f); !reflect.DeepEqual(got, first) {
		t.Errorf("stored %+v, set %+v", got, first)
	}
	due := func(at int, behind string) string {
		var owners string
		for _, r := range value(f.DueRetention(f.ctx, after(at), behind, 10))(f) {
			owners += r.Owner + " "
		}
		return owners
	}
	if got := due(0, ""); got != "alice bob " {
		t.Errorf("due: %q", got)
	}
	applied := first
	at := after(10)
	applied.AppliedAt, applied.Removed, applied.Refused = &at, 3, "why"
	f.must(f.RetentionApplied(f.ctx, applied))
	if got := value(f.Retention(f.ctx, "alice"))(f); !reflect.DeepEqual(got, applied) {
		t.Errorf("stored %+v, applied %+v", got, applied)
	}
	for _, tc := range []struct {
		at           int
		behind, want string
	}{{9, "", "bob "}, {10, "", "alice bob "}, {10, "alice", "bob "}, {10, "bob", ""}} {
		if got := due(tc.at, tc.behind); got != tc.want {
			t.Errorf("due at %d after %q: %q, want %q", tc.at, tc.behind, got, tc.want)
		}
	}
	if list := value(f.DueRetention(f.ctx, after(10), "", 1))(f); len(list) != 1 {
		t.Errorf("%d are due, one was asked for", len(list))
	}

	// Another policy was not applied yet, and what was done of the first is
	// nothing to it.
	second := metastore.Retention{Owner: "alice", Version: "2", Policy: []byte(`{"keep_last":2}`), SetAt: after(20)}
	f.must(f.SetRetention(f.ctx, second))
	absent(f.RetentionApplied(f.ctx, applied))
	if got := value(f.Retention(f.ctx, "alice"))(f); !reflect.DeepEqual(got, second) {
		t.Errorf("stored %+v, set %+v", got, second)
	}
	f.must(f.DeleteRetention(f.ctx, "alice"))
	absent(f.RetentionApplied(f.ctx, second))
	_, err = f.Retention(f.ctx, "alice")
	absent(err)
	if got := due(100, ""); got != "bob " {
		t.Errorf("due: %q", got)
	}
}

func testDeleteRetired(t *testing.T, f fixture) {
	f.alice()
	f.session("s2", "bob")
	f.run("s2:train:0", "bob")
	published := checkpoint(sampler, "public", after(2))
	published.Public = true
	theirs := checkpoint(training, "theirs", after(3))
	theirs.RunID, theirs.Owner = "s2:train:0", "bob"
	var ids []int64
	for _, c := range []metastore.Checkpoint{checkpoint(training, "a", t0), checkpoint(training, "b", after(1)), published, theirs} {
		ids = append(ids, f.commit(c).ID)
	}
	policy := metastore.Retention{Owner: "alice", Version: "1", Policy: []byte(`{}`), SetAt: t0}
	left := func(owner string, want int) {
		t.Helper()
		list, total, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: owner, Now: after(50)}, metastore.Page{Limit: 9})
		if err != nil || len(list) != want || total != want {
			t.Errorf("%s has %d checkpoints, %d are counted (%v); want %d", owner, len(list), total, err, want)
		}
	}
	// Without the policy, or with another one in its place, nothing goes.
	for range 2 {
		if gone, err := f.DeleteRetired(f.ctx, policy, ids, true); !errors.Is(err, metastore.ErrNotFound) || len(gone) > 0 {
			t.Errorf("%v went, %v", gone, err)
		}
		left("alice", 3)
		other := policy
		other.Version = "other"
		f.must(f.SetRetention(f.ctx, other))
	}
	f.must(f.SetRetention(f.ctx, policy))
	if gone := value(f.DeleteRetired(f.ctx, policy, nil, true))(f); len(gone) > 0 {
		t.Errorf("%v went", gone)
	}
	gone := value(f.DeleteRetired(f.ctx, policy, append(slices.Clone(ids[1:]), 999), false))(f)
	if !slices.Equal(gone, ids[1:2]) {
		t.Errorf("%v went, want %v", gone, ids[1:2])
	}
	left("alice", 2)
	left("bob", 1)
	gone = value(f.DeleteRetired(f.ctx, policy, ids, true))(f)
	slices.Sort(gone)
	if want := []int64{ids[0], ids[2]}; !slices.Equal(gone, want) {
		t.Errorf("%v went, want %v", gone, want)
	}
	left("alice", 0)
	left("bob", 1)
}
