package registry

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// counting counts how often files are read.
type counting struct {
	metastore.Store
	files atomic.Int64
}

func (c *counting) Checkpoint(ctx context.Context, run string, kind metastore.Kind, name string) (metastore.Checkpoint, error) {
	c.files.Add(1)
	return c.Store.Checkpoint(ctx, run, kind, name)
}

// Whoever downloads in many parts has the files looked up once, and is still
// told of every change at once, whoever made it.
func TestFilesAreReadOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	behind := f.meta // where another server would make its changes
	store := &counting{Store: f.meta}
	f.meta = store
	f.start()
	model := f.run(alice, f.session(alice))
	ref := f.mustSave(alice, model, 1, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	store.files.Store(0)

	found := func(reads int64) metastore.Checkpoint {
		t.Helper()
		var c metastore.Checkpoint
		for range 3 {
			var err error
			if c, err = f.Any(ctx, ref); err != nil {
				t.Fatal(err)
			}
		}
		want, err := behind.Checkpoint(ctx, ref.RunID, ref.Kind, ref.Name)
		if err != nil {
			t.Fatal(err)
		}
		if ManifestDigest(c.Files) != ManifestDigest(want.Files) || c.ID != want.ID {
			t.Fatalf("the files are %+v, want %+v", c.Files, want.Files)
		}
		if n := store.files.Load(); n != reads {
			t.Fatalf("files were read %d times, want %d", n, reads)
		}
		return c
	}
	before := found(1)
	// Made public: nothing about files.
	if _, err := behind.SetPublic(ctx, before.ID, true); err != nil {
		t.Fatal(err)
	}
	if !found(1).Public {
		t.Error("the change is not seen")
	}
	// Replaced.
	f.step(alice, model, 2)
	f.mustSave(alice, model, 4, SaveRequest{Kind: metastore.KindTraining, Name: "a", Overwrite: true})
	store.files.Store(1)
	after := found(2)
	if ManifestDigest(after.Files) == ManifestDigest(before.Files) {
		t.Error("a step has changed no file")
	}
	// Repaired: the sizes of files are other ones.
	sizes := map[blobstore.Digest]int64{}
	for _, file := range after.Files {
		sizes[file.Digest] = file.Size + 1
	}
	if err := behind.CorrectSizes(ctx, after.ID, sizes); err != nil {
		t.Fatal(err)
	}
	found(3)
	// Expired, brought back, deleted.
	now := f.clock.now()
	for _, at := range []*time.Time{&now, nil} {
		if err := behind.SetExpiry(ctx, after.ID, at); err != nil {
			t.Fatal(err)
		}
		if at != nil {
			_, err := f.Any(ctx, ref)
			wantCode(t, err, NotFound, ref.String())
		} else {
			found(3)
		}
	}
	if err := behind.DeleteCheckpoint(ctx, after.ID); err != nil {
		t.Fatal(err)
	}
	_, err := f.Any(ctx, ref)
	wantCode(t, err, NotFound, ref.String())
}

func TestManifestsAreBounded(t *testing.T) {
	t.Parallel()
	var m manifests
	const each = cachedFiles / 10
	for i := range int64(25) {
		c := metastore.Checkpoint{ID: i, SizeBytes: 1, Files: make([]metastore.File, each)}
		m.put(c)
		m.put(c)
		if got, ok := m.get(c); !ok || len(got) != each {
			t.Fatalf("%d was not kept", i)
		}
	}
	if m.n != cachedFiles || len(m.all) != 10 {
		t.Errorf("%d files of %d are kept, want %d of 10", m.n, len(m.all), cachedFiles)
	}
	// One that is too large pushes nobody out.
	m.put(metastore.Checkpoint{ID: 99, Files: make([]metastore.File, cachedFiles+1)})
	if len(m.all) != 10 {
		t.Errorf("%d are left", len(m.all))
	}
	if _, ok := m.get(metastore.Checkpoint{ID: 24, SizeBytes: 2}); ok {
		t.Error("one of another size is taken for the same")
	}
}
