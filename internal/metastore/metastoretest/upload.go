package metastoretest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// claim lists, in the order asked for, what an owner may use.
func (f fixture) claim(owner string, now, since time.Time, digests ...byte) string {
	f.t.Helper()
	var all []blobstore.Digest
	for _, b := range digests {
		all = append(all, digest(b))
	}
	sizes := value(f.ClaimBlobs(f.ctx, owner, all, now, since))(f)
	var s []byte
	for _, b := range digests {
		if _, ok := sizes[digest(b)]; ok {
			s = append(s, '0'+b)
		}
	}
	return string(s)
}

func blob(size int64, b byte) metastore.Blob { return metastore.Blob{Digest: digest(b), Size: size} }

func testUpload(t *testing.T, f fixture) {
	f.must(f.PutUpload(f.ctx, "alice", blob(5, 1), t0))
	f.must(f.PutUpload(f.ctx, "alice", blob(6, 2), after(10)))
	f.must(f.PutUpload(f.ctx, "bob", blob(5, 1), after(20)))
	if refs := value(f.Referenced(f.ctx))(f); len(refs) != 2 {
		t.Errorf("%d blobs are referenced, want 2", len(refs))
	}
	// Each upload is its owner's, and is forgotten after its time.
	f.must(f.PutUpload(f.ctx, "alice", blob(5, 1), after(5)))
	f.must(f.PutUpload(f.ctx, "alice", blob(5, 1), after(1))) // an earlier one is no news
	same(t, "deleted", value(f.DeleteUploads(f.ctx, after(4)))(f), 0)
	same(t, "deleted", value(f.DeleteUploads(f.ctx, after(5)))(f), 1)
	same(t, "deleted", value(f.DeleteUploads(f.ctx, after(19)))(f), 1)
	same(t, "referenced", value(f.Referenced(f.ctx))(f), map[blobstore.Digest]struct{}{digest(1): {}})
}

func testClaimBlobs(t *testing.T, f fixture) {
	f.alice()
	c := checkpoint(training, "x", t0)
	c.Files = []metastore.File{file("a", 1, 1), file("b", 2, 2)}
	c.ExpiresAt = ptr(after(100))
	x := f.commit(c)
	f.must(f.PutUpload(f.ctx, "alice", blob(3, 3), after(10)))
	f.must(f.PutUpload(f.ctx, "bob", blob(4, 4), after(10)))
	since := t0
	for _, test := range []struct {
		owner string
		want  string
	}{{"bob", "4"}, {"carol", ""}, {"alice", "123"}, {"", ""}} {
		if got := f.claim(test.owner, after(20), since, 1, 2, 3, 4, 5, 1); strings.ReplaceAll(got, "1231", "123") != test.want {
			t.Errorf("%s may use %q, want %q", test.owner, got, test.want)
		}
	}
	sizes := value(f.ClaimBlobs(f.ctx, "alice", []blobstore.Digest{digest(2)}, after(20), since))(f)
	same(t, "sizes", sizes, map[blobstore.Digest]int64{digest(2): 2})
	same(t, "nothing", value(f.ClaimBlobs(f.ctx, "alice", nil, after(20), since))(f), map[blobstore.Digest]int64{})

	// Public is for everybody; what was claimed then stays claimed.
	value(f.SetPublic(f.ctx, x.ID, true))(f)
	same(t, "bob's claim on a public checkpoint", f.claim("bob", after(30), since, 1, 5), "1")
	value(f.SetPublic(f.ctx, x.ID, false))(f)
	same(t, "bob's claim later", f.claim("bob", after(40), after(29), 1, 2), "1")
	same(t, "carol's claim later", f.claim("carol", after(40), since, 1, 2), "")
	value(f.SetPublic(f.ctx, x.ID, true))(f)
	same(t, "a claim on an expired checkpoint", f.claim("carol", after(100), since, 1, 2), "")
	same(t, "a claim just before", f.claim("carol", after(99), since, 2), "2")

	// A claim outlives the checkpoint, and ends.
	f.must(f.DeleteCheckpoint(f.ctx, x.ID))
	same(t, "alice's claim", f.claim("alice", after(50), after(19), 1, 2, 3), "123")
	same(t, "alice's claim, too old", f.claim("alice", after(60), after(50), 1, 2, 3), "")
	if refs := value(f.Referenced(f.ctx))(f); len(refs) != 4 {
		t.Errorf("%d blobs are referenced, want 4", len(refs))
	}

	// More than one statement's worth.
	var many []blobstore.Digest
	for i := range 1200 {
		d := blobstore.Digest{9, byte(i), byte(i >> 8)}
		many = append(many, d)
		if i%2 == 0 {
			f.must(f.PutUpload(f.ctx, "dave", metastore.Blob{Digest: d, Size: int64(i)}, t0))
		}
	}
	same(t, "many", len(value(f.ClaimBlobs(f.ctx, "dave", many, after(1), after(-1)))(f)), 600)
}

// imported is an import of two checkpoints into a session and run of its own.
func imported() metastore.Import {
	s := metastore.Session{ID: "i1", Owner: "alice", CreatedAt: t0, LastHeartbeat: t0, FinishedAt: ptr(t0), FinishReason: "success"}
	r := metastore.Run{ID: "i1:train:0", SessionID: "i1", Owner: "alice", LoRA: lora, CreatedAt: t0, LastRequestAt: t0, State: metastore.RunEnded}
	i := metastore.Import{Session: &s, Run: &r, Owner: "alice", Result: &metastore.Result{RequestID: "req", CreatedAt: t0, Payload: []byte("{}")}}
	for _, kind := range []metastore.Kind{training, sampler} {
		c := checkpoint(kind, "x", t0)
		c.RunID = r.ID
		i.Checkpoints = append(i.Checkpoints, c)
	}
	return i
}

func testImport(t *testing.T, f fixture) {
	for b := range byte(4) {
		f.must(f.PutUpload(f.ctx, "alice", blob(1, b), t0))
		f.must(f.PutUpload(f.ctx, "bob", blob(1, b), t0))
	}
	i := imported()
	i.Uploads = []blobstore.Digest{digest(3), digest(1), digest(7)}
	stored := value(f.CommitImport(f.ctx, i))(f)
	for n, c := range stored {
		same(t, "checkpoint", value(f.Checkpoint(f.ctx, "i1:train:0", i.Checkpoints[n].Kind, "x"))(f), c)
	}
	same(t, "session", value(f.Session(f.ctx, "i1"))(f), *i.Session)
	same(t, "run", value(f.Run(f.ctx, "i1:train:0"))(f), *i.Run)
	value(f.Result(f.ctx, "req"))(f)
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 2)
	// The uploads named are gone, of this owner only.
	value(f.CommitImport(f.ctx, metastore.Import{Owner: "alice", Uploads: []blobstore.Digest{digest(9)}}))(f)
	same(t, "uploads left", value(f.DeleteUploads(f.ctx, after(1)))(f), 6)

	// Into a run that has steps to save: they are still to be saved.
	run := f.alice()
	f.must(f.TouchRun(f.ctx, run, t0, true))
	c := checkpoint(training, "y", t0)
	value(f.CommitImport(f.ctx, metastore.Import{Owner: "alice", Checkpoints: []metastore.Checkpoint{c}}))(f)
	same(t, "unsaved", value(f.Run(f.ctx, run))(f).Unsaved, true)
	_, err = f.CommitImport(f.ctx, metastore.Import{Owner: "alice", Checkpoints: []metastore.Checkpoint{c}})
	f.is(err, metastore.ErrExists, "weights/y")
	value(f.CommitImport(f.ctx, metastore.Import{Owner: "alice", Checkpoints: []metastore.Checkpoint{c}, Overwrite: true}))(f)
}

// testImportRefused: whatever fails last, nothing is left of what went before.
func testImportRefused(t *testing.T, f fixture) {
	f.must(f.PutUpload(f.ctx, "alice", blob(1, 1), t0))
	tests := []struct {
		name   string
		change func(*metastore.Import)
		is     error
	}{
		{"a result that is there", func(i *metastore.Import) { i.Result.RequestID = "taken" }, metastore.ErrExists},
		{"a name twice", func(i *metastore.Import) { i.Checkpoints[1].Kind = training }, metastore.ErrExists},
		{"another owner's", func(i *metastore.Import) { i.Checkpoints[1].Owner = "bob" }, nil},
		{"no such kind", func(i *metastore.Import) { i.Checkpoints[1].Kind = "x" }, nil},
		{"no such run", func(i *metastore.Import) { i.Checkpoints[1].RunID = "none" }, metastore.ErrNotFound},
		{"no such session", func(i *metastore.Import) { i.Session = nil }, metastore.ErrNotFound},
	}
	f.must(f.PutResult(f.ctx, metastore.Result{RequestID: "taken", CreatedAt: t0}))
	for _, test := range tests {
		i := imported()
		i.Uploads = []blobstore.Digest{digest(1)}
		test.change(&i)
		_, err := f.CommitImport(f.ctx, i)
		if err == nil || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v", test.name, err)
		}
		_, err = f.Session(f.ctx, "i1")
		f.is(err, metastore.ErrNotFound)
		_, err = f.Run(f.ctx, "i1:train:0")
		f.is(err, metastore.ErrNotFound)
		_, err = f.Result(f.ctx, "req")
		f.is(err, metastore.ErrNotFound)
		_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{})
		f.must(err)
		same(t, test.name+": number of checkpoints", n, 0)
		same(t, test.name+": uploads", f.claim("alice", after(1), t0.Add(-1), 1), "1")
		f.must(f.PutUpload(f.ctx, "alice", blob(1, 1), t0))
	}
	value(f.CommitImport(f.ctx, imported()))(f)
}
