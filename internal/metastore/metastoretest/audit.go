package metastoretest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

func testManifests(t *testing.T, f fixture) {
	f.alice()
	var want []metastore.Manifest
	for i := range 5 {
		c := checkpoint(training, fmt.Sprint(i), after(-i))
		c.Listed = i != 1
		if i == 2 {
			c.ExpiresAt = ptr(t0)
		}
		if i == 3 {
			c.Files = nil
		}
		want = append(want, metastore.Manifest{Checkpoint: f.commit(c)})
	}
	var got []metastore.Manifest
	for last := int64(0); ; {
		page := value(f.Manifests(f.ctx, last, 2))(f)
		if len(page) == 0 {
			break
		}
		if len(page) > 2 {
			t.Fatalf("%d are more than 2", len(page))
		}
		got, last = append(got, page...), page[len(page)-1].ID
	}
	same(t, "manifests", got, want)
	same(t, "manifest", value(f.Manifest(f.ctx, want[0].ID))(f), want[0])
	f.must(f.DeleteCheckpoint(f.ctx, want[0].ID))
	_, err := f.Manifest(f.ctx, want[0].ID)
	f.is(err, metastore.ErrNotFound, "checkpoint")
	same(t, "manifests", value(f.Manifests(f.ctx, 0, 9))(f), want[1:])
	same(t, "none", len(value(f.Manifests(f.ctx, 0, 0))(f)), 0)
}

func testReferences(t *testing.T, f fixture) {
	f.alice()
	var all []metastore.Checkpoint
	for i, digests := range [][]byte{{1, 2, 1}, {2}, {}, {1}} {
		c := checkpoint(training, fmt.Sprint(i), t0)
		c.Files = nil
		for n, d := range digests {
			c.Files = append(c.Files, file(fmt.Sprint(n), 10, d))
		}
		c = f.commit(c)
		c.Files = nil
		all = append(all, c)
	}
	same(t, "references to 1", value(f.References(f.ctx, digest(1), 0, 9))(f), []metastore.Checkpoint{all[0], all[3]})
	same(t, "the second page", value(f.References(f.ctx, digest(1), all[0].ID, 1))(f), []metastore.Checkpoint{all[3]})
	same(t, "references to 2", value(f.References(f.ctx, digest(2), 0, 1))(f), []metastore.Checkpoint{all[0]})
	same(t, "references to 3", len(value(f.References(f.ctx, digest(3), 0, 9))(f)), 0)
}

func testUploads(t *testing.T, f fixture) {
	same(t, "uploads", len(value(f.Uploads(f.ctx))(f)), 0)
	for i, owner := range []string{"alice", "bob"} {
		f.must(f.PutUpload(f.ctx, owner, blob(7, 1), after(i)))
	}
	f.must(f.PutUpload(f.ctx, "bob", blob(8, 2), after(5)))
	all := value(f.Uploads(f.ctx))(f)
	slices.SortFunc(all, func(a, b metastore.Upload) int { return a.At.Compare(b.At) })
	same(t, "uploads", all, []metastore.Upload{
		{Owner: "alice", Blob: blob(7, 1), At: t0}, {Owner: "bob", Blob: blob(7, 1), At: after(1)}, {Owner: "bob", Blob: blob(8, 2), At: after(5)},
	})
	same(t, "forgotten", value(f.ForgetUploads(f.ctx, digest(1)))(f), 2)
	same(t, "forgotten again", value(f.ForgetUploads(f.ctx, digest(1)))(f), 0)
	same(t, "uploads left", len(value(f.Uploads(f.ctx))(f)), 1)
}

func testCorrectSizes(t *testing.T, f fixture) {
	run := f.alice()
	c := f.commit(checkpoint(training, "x", t0))
	other := f.commit(checkpoint(training, "y", t0))
	f.must(f.CorrectSizes(f.ctx, c.ID, map[blobstore.Digest]int64{digest(2): 3000, digest(9): 1}))
	c.Files[1].Size, c.SizeBytes = 3000, 3100
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), c)
	same(t, "another", value(f.Checkpoint(f.ctx, run, training, "y"))(f), other)
	f.is(f.CorrectSizes(f.ctx, 12345, nil), metastore.ErrNotFound, "checkpoint")
}

func testQuarantine(t *testing.T, f fixture) {
	run := f.alice()
	c := checkpoint(training, "x", t0)
	c.Public, c.ExpiresAt, c.UserMetadata, c.HasOptimizer = true, ptr(after(60)), map[string]string{"step": "1"}, true
	c = f.commit(c)
	f.must(f.Quarantine(f.ctx, c.ID, after(1), "rotten"))

	// Gone for everybody...
	_, err := f.Checkpoint(f.ctx, run, training, "x")
	f.is(err, metastore.ErrNotFound)
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 0)
	same(t, "bob's claim", f.claim("bob", after(1), t0, 1), "")
	f.is(f.Quarantine(f.ctx, c.ID, t0, ""), metastore.ErrNotFound, "checkpoint")
	// ... and kept.
	same(t, "quarantined", value(f.Quarantined(f.ctx))(f), []metastore.Quarantined{
		{Manifest: metastore.Manifest{Checkpoint: c}, At: after(1), Reason: "rotten"},
	})
	same(t, "number of blobs", len(value(f.Referenced(f.ctx))(f)), 2)

	// The name is free, and may be taken when it is wanted back.
	taken := f.commit(checkpoint(training, "x", after(2)))
	_, err = f.Release(f.ctx, c.ID)
	f.is(err, metastore.ErrExists, "checkpoint weights/x")
	same(t, "number of quarantined ones", len(value(f.Quarantined(f.ctx))(f)), 1)
	f.must(f.DeleteCheckpoint(f.ctx, taken.ID))

	back := value(f.Release(f.ctx, c.ID))(f)
	if back.ID <= taken.ID {
		t.Errorf("it is back with the id %d, which was used before", back.ID)
	}
	c.ID = back.ID
	same(t, "what is back", back, c)
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), c)
	_, n, err = f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 1)
	same(t, "number of quarantined ones", len(value(f.Quarantined(f.ctx))(f)), 0)
	_, err = f.Release(f.ctx, c.ID)
	f.is(err, metastore.ErrNotFound, "checkpoint in quarantine")

	f.must(f.Quarantine(f.ctx, c.ID, t0, ""))
	f.must(f.DropQuarantined(f.ctx, c.ID))
	f.is(f.DropQuarantined(f.ctx, c.ID), metastore.ErrNotFound, "checkpoint in quarantine")
	same(t, "number of blobs", len(value(f.Referenced(f.ctx))(f)), 0)
	same(t, "wrong counters", len(value(f.Counters(f.ctx))(f)), 0)
}

// testQuarantineExpiry: quarantine keeps nothing beyond its time.
func testQuarantineExpiry(t *testing.T, f fixture) {
	f.alice()
	for i, c := range []metastore.Checkpoint{
		{Name: "never", Listed: true}, {Name: "later", Listed: true, ExpiresAt: ptr(after(2))},
		{Name: "now", ExpiresAt: ptr(after(1))}, {Name: "snapshot"},
	} {
		c.RunID, c.Kind, c.Owner, c.CreatedAt = "s1:train:0", sampler, "alice", after(i)
		f.must(f.Quarantine(f.ctx, f.commit(c).ID, t0, ""))
	}
	left := func() string {
		var all []metastore.Checkpoint
		for _, z := range value(f.Quarantined(f.ctx))(f) {
			all = append(all, z.Checkpoint)
		}
		return names(all)
	}
	same(t, "removed", value(f.DeleteExpired(f.ctx, after(1), after(-1), 9))(f), 1)
	same(t, "left", left(), "never later snapshot")
	same(t, "removed", value(f.DeleteExpired(f.ctx, after(1), after(1), 9))(f), 1)
	same(t, "left", left(), "never later")
}

func testCounters(t *testing.T, f fixture) {
	f.session("s1", "alice")
	f.must(f.SetSessionProject(f.ctx, "s1", "p"))
	f.session("s2", "bob")
	f.run("s1:train:0", "alice")
	f.run("s2:train:0", "bob")
	for i := range 30 {
		c := checkpoint([]metastore.Kind{training, sampler, external}[i%3], fmt.Sprint(i), after(i*7%30))
		if c.Listed = i%5 != 0; i%4 == 0 {
			c.RunID, c.Owner = "s2:train:0", "bob"
		}
		f.commit(c)
	}
	same(t, "wrong counters", len(value(f.Counters(f.ctx))(f)), 0)
}

// testSpaceUsage compares with counting by hand, on checkpoints that share
// blobs within and across owners, runs and kinds.
func testSpaceUsage(t *testing.T, f fixture) {
	rnd := rand.New(rand.NewPCG(1, 2))
	owners := []string{"alice", "bob", "carol"}
	runs := map[string]string{}
	for i := range 7 {
		owner, id := owners[i%3], fmt.Sprintf("s%d:train:0", i)
		f.session(id[:2], owner)
		f.run(id, owner)
		runs[id] = owner
	}
	now := after(100)
	type held struct {
		c     metastore.Checkpoint
		files []metastore.File
	}
	var all []held
	for i := range 120 {
		id := fmt.Sprintf("s%d:train:0", rnd.IntN(7))
		c := metastore.Checkpoint{
			RunID: id, Owner: runs[id], Kind: []metastore.Kind{training, sampler, external}[rnd.IntN(3)], Name: fmt.Sprint(i),
			Listed: rnd.IntN(4) > 0, CreatedAt: after(i),
		}
		for n := range rnd.IntN(5) {
			d := byte(rnd.IntN(60))
			c.Files = append(c.Files, file(fmt.Sprint(n), 1000+int64(d)*int64(d), d))
		}
		switch rnd.IntN(6) {
		case 0:
			c.ExpiresAt = ptr(now)
		case 1:
			c.ExpiresAt = ptr(now.Add(1000))
		}
		c = f.commit(c)
		if rnd.IntN(10) == 0 {
			f.must(f.Quarantine(f.ctx, c.ID, t0, ""))
		} else if c.ExpiresAt == nil || c.ExpiresAt.After(now) {
			all = append(all, held{c, c.Files})
		}
	}
	name := map[metastore.SpaceBy]func(metastore.Checkpoint) string{
		metastore.ByOwner: func(c metastore.Checkpoint) string { return c.Owner },
		metastore.ByRun:   func(c metastore.Checkpoint) string { return c.RunID },
		metastore.ByKind:  func(c metastore.Checkpoint) string { return string(c.Kind) },
	}
	count := func(by metastore.SpaceBy, owner string) metastore.SpaceUsage {
		var u metastore.SpaceUsage
		groups := map[string]*metastore.SpaceGroup{}
		blobs := map[blobstore.Digest]map[string]int64{} // sizes by the groups that have them
		for _, h := range all {
			if owner != "" && h.c.Owner != owner {
				continue
			}
			n := name[by](h.c)
			if groups[n] == nil {
				groups[n] = &metastore.SpaceGroup{Name: n}
			}
			for _, s := range []*metastore.Space{&u.Total, &groups[n].Space} {
				s.Checkpoints++
				s.Logical += h.c.SizeBytes
			}
			for _, file := range h.files {
				if blobs[file.Digest] == nil {
					blobs[file.Digest] = map[string]int64{}
				}
				blobs[file.Digest][n] = file.Size
			}
		}
		for _, in := range blobs {
			var size int64
			for n, s := range in {
				size = s
				groups[n].Physical += s
				if len(in) == 1 {
					groups[n].Exclusive += s
				}
			}
			u.Total.Physical += size
		}
		u.Total.Exclusive = u.Total.Physical
		for _, g := range groups {
			u.Groups = append(u.Groups, *g)
		}
		u.Count = len(u.Groups)
		slices.SortFunc(u.Groups, func(a, b metastore.SpaceGroup) int {
			return cmp.Or(cmp.Compare(b.Physical, a.Physical), cmp.Compare(a.Name, b.Name))
		})
		return u
	}
	for by := range name {
		for _, owner := range append(owners, "", "dave") {
			q := metastore.SpaceQuery{By: by, Owner: owner, Now: now}
			want := count(by, owner)
			same(t, fmt.Sprintf("usage of %q by %s", owner, by), value(f.SpaceUsage(f.ctx, q, metastore.Page{Limit: 99}))(f), want)
			page := want
			page.Groups = nil
			if len(want.Groups) > 1 {
				page.Groups = want.Groups[1:2]
			}
			same(t, "a page of it", value(f.SpaceUsage(f.ctx, q, metastore.Page{Limit: 1, Offset: 1}))(f), page)
		}
	}
	_, err := f.SpaceUsage(f.ctx, metastore.SpaceQuery{By: "colour", Now: now}, metastore.Page{})
	if err == nil {
		t.Error("usage by colour is possible")
	}
}
