package fsck_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/fsck"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/seed"
)

// world is a data directory with three checkpoints: a and b share a file.
type world struct {
	*seed.Stores
	t   *testing.T
	dir string
}

const (
	pathA = "tinker://s1:train:0/weights/a"
	pathB = "tinker://s1:train:0/sampler_weights/b"
	pathC = "tinker://s2:train:0/weights/c"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	stores, err := seed.OpenDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return fill(t, dir, stores)
}

// newPostgresWorld keeps the metadata in a schema of its own of the database
// that TINKEX_TEST_POSTGRES names.
func newPostgresWorld(t *testing.T) *world {
	t.Helper()
	server := os.Getenv("TINKEX_TEST_POSTGRES")
	if server == "" {
		const what = "POSTGRESQL IS NOT TESTED: set TINKEX_TEST_POSTGRES to the URL of a database to test it in"
		if os.Getenv("TINKEX_REQUIRE_POSTGRES") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	if _, err := db.Exec(`CREATE SCHEMA ` + schema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := db.Exec(`DROP SCHEMA ` + schema + ` CASCADE`)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	meta, err := metastore.OpenPostgres(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	blobs, err := blobstore.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fill(t, dir, &seed.Stores{Meta: meta, Blobs: blobs})
}

func fill(t *testing.T, dir string, stores *seed.Stores) *world {
	t.Helper()
	w := &world{stores, t, dir}
	t.Cleanup(func() { _ = w.Close() })
	w.save("s1:train:0", metastore.KindTraining, "a", "shared", "optimizer of a")
	w.save("s1:train:0", metastore.KindSampler, "b", "shared")
	w.save("s2:train:0", metastore.KindTraining, "c", "of c alone")
	return w
}

func (w *world) save(run string, kind metastore.Kind, name string, contents ...string) metastore.Checkpoint {
	w.t.Helper()
	var files []seed.File
	for i, content := range contents {
		files = append(files, seed.File{Name: fmt.Sprintf("file%d", i), Body: strings.NewReader(content)})
	}
	files = append(files, seed.File{Name: registry.CompleteFile, Body: strings.NewReader("")})
	c, err := w.Checkpoint(w.t.Context(), metastore.Checkpoint{RunID: run, Kind: kind, Name: name, Owner: "alice"}, files...)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func digestOf(content string) blobstore.Digest { return sha256.Sum256([]byte(content)) }

func (w *world) blob(content string) string {
	d := digestOf(content).String()
	return filepath.Join(w.dir, "blobs", "sha256", d[:2], d)
}

func (w *world) write(path, content string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(path string) {
	w.t.Helper()
	if err := os.Remove(path); err != nil {
		w.t.Fatal(err)
	}
}

// sql changes the metadata as the sqlite3 command would.
func (w *world) sql(query string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "tinkex.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	res, err := db.Exec(query)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		w.t.Fatalf("%s: changed nothing: %v", query, err)
	}
}

func (w *world) put(content string) {
	w.t.Helper()
	b, err := w.Blobs.Create(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(b, content); err != nil {
		w.t.Fatal(err)
	}
	if _, err := b.Commit(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fsck(opts fsck.Options) fsck.Report {
	w.t.Helper()
	opts.Meta, opts.Blobs = w.Meta, w.Blobs
	r, err := fsck.Run(w.t.Context(), opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// readable are those of the three that are still there.
func (w *world) readable() (paths []string) {
	w.t.Helper()
	for _, ref := range []registry.Ref{{RunID: "s1:train:0", Kind: "weights", Name: "a"}, {RunID: "s1:train:0", Kind: "sampler_weights", Name: "b"}, {RunID: "s2:train:0", Kind: "weights", Name: "c"}} {
		_, err := w.Meta.Checkpoint(w.t.Context(), ref.RunID, ref.Kind, ref.Name)
		if err == nil {
			paths = append(paths, ref.String())
		} else if !errors.Is(err, metastore.ErrNotFound) {
			w.t.Fatal(err)
		}
	}
	return paths
}

func kinds(r fsck.Report) string {
	var all []string
	for _, f := range r.Faults {
		all = append(all, string(f.Kind))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func quarantined(r fsck.Report) (paths []string) {
	for _, z := range r.Quarantined {
		paths = append(paths, z.Path)
	}
	slices.Sort(paths)
	return paths
}

func TestClean(t *testing.T) {
	w := newWorld(t)
	w.put("nobody's")
	var last [2]int64
	for _, quick := range []bool{false, true} {
		r := w.fsck(fsck.Options{Quick: quick, Repair: true, Progress: func(done, total int64) { last = [2]int64{done, total} }})
		if !r.Clean() || r.Checkpoints != 3 || r.Blobs != 4 || r.Bytes != 30 || r.Unreferenced != 1 || r.UnreferencedBytes != 8 {
			t.Errorf("quick %v: %+v", quick, r)
		}
		if last != [2]int64{30, 30} {
			t.Errorf("quick %v: progress ends at %v", quick, last)
		}
	}
	if n := len(w.readable()); n != 3 {
		t.Errorf("%d checkpoints are left", n)
	}
}

// damages are what may happen to a store, and what fsck is to make of it.
var damages = map[string]struct {
	damage func(w *world)
	kinds  string
	hidden []string
	aside  int  // files in the blobs' quarantine
	slow   bool // quick does not find it
}{
	"blob deleted":      {func(w *world) { w.remove(w.blob("of c alone")) }, "missing_blob", []string{pathC}, 0, false},
	"shared deleted":    {func(w *world) { w.remove(w.blob("shared")) }, "missing_blob", []string{pathB, pathA}, 0, false},
	"byte flipped":      {func(w *world) { w.write(w.blob("of c alone"), "of c alonE") }, "damaged_blob", []string{pathC}, 1, true},
	"truncated":         {func(w *world) { w.write(w.blob("shared"), "shar") }, "damaged_blob", []string{pathB, pathA}, 1, false},
	"emptied":           {func(w *world) { w.write(w.blob("shared"), "") }, "damaged_blob", []string{pathB, pathA}, 1, false},
	"longer":            {func(w *world) { w.write(w.blob("optimizer of a"), "optimizer of a!") }, "damaged_blob", []string{pathA}, 1, false},
	"empty file lost":   {func(w *world) { w.remove(w.blob("")) }, "missing_blob", nil, 0, false},
	"empty file filled": {func(w *world) { w.write(w.blob(""), "x") }, "damaged_blob", nil, 1, false},
	"manifest rows lost in front": {func(w *world) {
		w.sql(`DELETE FROM checkpoint_files WHERE position = 0 AND checkpoint_id = (SELECT id FROM checkpoints WHERE name = 'a')`)
	}, "incomplete_manifest", []string{pathA}, 0, false},
	"manifest rows lost at the end": {func(w *world) {
		w.sql(`DELETE FROM checkpoint_files WHERE position > 0 AND checkpoint_id = (SELECT id FROM checkpoints WHERE name = 'a')`)
	}, "wrong_size", []string{pathA}, 0, false},
	"manifest lost":       {func(w *world) { w.sql(`DELETE FROM checkpoint_files`) }, "no_files no_files no_files", []string{pathB, pathA, pathC}, 0, false},
	"run lost":            {func(w *world) { w.sql(`DELETE FROM runs WHERE id = 's2:train:0'`) }, "no_run wrong_counter", []string{pathC}, 0, false},
	"checkpoint row lost": {func(w *world) { w.sql(`DELETE FROM checkpoints WHERE name = 'c'`) }, "orphan_files wrong_counter wrong_counter", []string{pathC}, 0, false},
	"size wrong":          {func(w *world) { w.sql(`UPDATE checkpoints SET size_bytes = 7 WHERE name = 'a'`) }, "wrong_size", nil, 0, false},
	"size of a file wrong": {func(w *world) {
		w.sql(`UPDATE checkpoint_files SET size = 7 WHERE size = 6 AND checkpoint_id = (SELECT id FROM checkpoints WHERE name = 'a')`)
	}, "wrong_file_size", nil, 0, false},
	"counters of lists wrong": {func(w *world) { w.sql(`UPDATE checkpoint_blocks SET weights = weights + 1 WHERE list LIKE 'run/%'`) },
		"wrong_counter wrong_counter", nil, 0, false},
	"totals lost": {func(w *world) { w.sql(`DELETE FROM totals`) }, "wrong_counter wrong_counter", nil, 0, false},
	"stray file":  {func(w *world) { w.write(w.blob("shared")+".tmp", "x") }, "stray_file", nil, 1, false},
	"five at once": {func(w *world) {
		w.remove(w.blob("of c alone"))
		w.write(w.blob("optimizer of a"), "Optimizer of a")
		w.sql(`UPDATE checkpoints SET size_bytes = 7 WHERE name = 'b'`)
		w.sql(`UPDATE totals SET n = 99 WHERE list = 'runs'`)
		w.write(filepath.Join(w.dir, "blobs", "stray"), "x")
	}, "damaged_blob missing_blob stray_file wrong_counter wrong_size", []string{pathA, pathC}, 2, true},
}

func TestDamage(t *testing.T) {
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d.damage(w)
			before := w.readable()
			if !d.slow {
				if r := w.fsck(fsck.Options{Quick: true}); kinds(r) != d.kinds {
					t.Errorf("quick finds %q, want %q", kinds(r), d.kinds)
				}
			}
			r := w.fsck(fsck.Options{})
			if kinds(r) != d.kinds {
				t.Fatalf("found %q, want %q: %+v", kinds(r), d.kinds, r.Faults)
			}
			if !slices.Equal(w.readable(), before) || len(r.Quarantined) > 0 {
				t.Error("looking has changed something")
			}
			r = w.fsck(fsck.Options{Repair: true})
			if kinds(r) != d.kinds {
				t.Errorf("the repair found %q, want %q", kinds(r), d.kinds)
			}
			for _, f := range r.Faults {
				if f.Repair == "" {
					t.Errorf("nothing was done about: %s", f.What)
				}
			}
			var want []string
			for _, path := range []string{pathA, pathB, pathC} {
				if !slices.Contains(d.hidden, path) {
					want = append(want, path)
				}
			}
			if got := w.readable(); !slices.Equal(got, want) {
				t.Errorf("readable are %v, want %v", got, want)
			}
			if name != "checkpoint row lost" && !slices.Equal(quarantined(r), d.hidden) {
				t.Errorf("in quarantine are %v, want %v", quarantined(r), d.hidden)
			}
			aside, err := os.ReadDir(filepath.Join(w.dir, "quarantine"))
			if len(aside) != d.aside || err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%d files are in the blobs' quarantine, want %d: %v", len(aside), d.aside, err)
			}
			for _, quick := range []bool{true, false} {
				if r := w.fsck(fsck.Options{Quick: quick}); !r.Clean() {
					t.Errorf("after the repair: %+v", r.Faults)
				}
			}
			if r := w.fsck(fsck.Options{Repair: true}); !r.Clean() || len(r.Released) > 0 {
				t.Errorf("a second repair: %+v", r)
			}
		})
	}
}

// TestBack: when the bytes are there again, so are the checkpoints.
func TestBack(t *testing.T)         { testBack(t, newWorld) }
func TestBackPostgres(t *testing.T) { testBack(t, newPostgresWorld) }

func testBack(t *testing.T, newWorld func(*testing.T) *world) {
	for name, damage := range map[string]func(w *world){
		"deleted": func(w *world) { w.remove(w.blob("shared")) },
		"flipped": func(w *world) { w.write(w.blob("shared"), "Shared") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before, err := w.Meta.Checkpoint(t.Context(), "s1:train:0", "weights", "a")
			if err != nil {
				t.Fatal(err)
			}
			damage(w)
			r := w.fsck(fsck.Options{Repair: true})
			if len(r.Quarantined) != 2 {
				t.Fatalf("in quarantine are %+v", r.Quarantined)
			}
			for _, z := range r.Quarantined {
				if z.Ready() || len(z.Missing) != 1 || z.Missing[0] != (fsck.MissingFile{Name: "file0", SHA256: digestOf("shared").String(), Size: 6}) {
					t.Errorf("%s waits for %+v", z.Path, z.Missing)
				}
			}
			// What is still there of them is kept, however long it takes.
			collect(t, w, 3)

			w.write(w.blob("shared"), "wrong!") // by hand, and wrong
			if r := w.fsck(fsck.Options{Repair: true}); !r.Clean() || len(r.Released) > 0 {
				t.Errorf("wrong bytes: %+v", r)
			}
			w.put("shared")
			r = w.fsck(fsck.Options{Quick: true})
			if len(r.Quarantined) != 2 || !r.Quarantined[0].Ready() || len(r.Released) > 0 {
				t.Errorf("without a repair: %+v", r)
			}
			r = w.fsck(fsck.Options{Repair: true})
			if len(r.Released) != 2 || len(r.Quarantined) > 0 || !r.Clean() || r.Checkpoints != 3 || r.Blobs != 4 || r.Bytes != 30 {
				t.Errorf("with it: %+v", r)
			}
			after, err := w.Meta.Checkpoint(t.Context(), "s1:train:0", "weights", "a")
			before.ID = after.ID
			if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("it is\n%+v, was\n%+v: %v", after, before, err)
			}
			if r := w.fsck(fsck.Options{}); !r.Clean() || len(r.Quarantined) > 0 {
				t.Errorf("in the end: %+v", r)
			}
		})
	}
}

// collect collects garbage without grace and expects so many blobs to remain.
func collect(t *testing.T, w *world, want int) {
	t.Helper()
	gc := registry.Collector{Meta: w.Meta, Blobs: w.Blobs, Grace: -time.Hour}
	if _, err := gc.Collect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range w.Blobs.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != want {
		t.Errorf("%d blobs are left, want %d", n, want)
	}
}

func TestBackNameTaken(t *testing.T) {
	w := newWorld(t)
	w.remove(w.blob("of c alone"))
	w.fsck(fsck.Options{Repair: true})
	newer := w.save("s2:train:0", metastore.KindTraining, "c", "newer")
	w.put("of c alone")
	r := w.fsck(fsck.Options{Repair: true})
	if len(r.Released) > 0 || len(r.Quarantined) != 1 || r.Quarantined[0].Obstacle != "a newer checkpoint has its name" {
		t.Errorf("%+v", r)
	}
	if err := w.Meta.DeleteCheckpoint(t.Context(), newer.ID); err != nil {
		t.Fatal(err)
	}
	if r := w.fsck(fsck.Options{Repair: true}); len(r.Released) != 1 {
		t.Errorf("once the name is free: %+v", r)
	}
}

// TestUploads: a client is asked again for bytes that were lost.
func TestUploads(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	lost := metastore.Blob{Digest: digestOf("sent"), Size: 4}
	if err := w.Meta.PutUpload(t.Context(), "bob", lost, now); err != nil {
		t.Fatal(err)
	}
	if r := w.fsck(fsck.Options{Repair: true}); kinds(r) != "missing_blob" || len(r.Faults[0].Checkpoints) > 0 {
		t.Errorf("found %+v", r.Faults)
	}
	claimed, err := w.Meta.ClaimBlobs(t.Context(), "bob", []blobstore.Digest{lost.Digest}, now, now.Add(-time.Hour))
	if err != nil || len(claimed) > 0 {
		t.Errorf("bob's claim: %v, %v", claimed, err)
	}
	if r := w.fsck(fsck.Options{}); !r.Clean() {
		t.Errorf("afterwards: %+v", r.Faults)
	}
}

// unreadable cannot read one of its blobs.
type unreadable struct {
	blobstore.Store
	d   blobstore.Digest
	err error
}

func (s unreadable) OpenRange(ctx context.Context, d blobstore.Digest, offset, length int64) (io.ReadCloser, error) {
	if d == s.d {
		return nil, s.err
	}
	return s.Store.OpenRange(ctx, d, offset, length)
}

// TestUnreadable: what may be readable again tomorrow is not put aside.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	w.Blobs = unreadable{w.Blobs, digestOf("shared"), errors.New("input/output error")}
	r := w.fsck(fsck.Options{Repair: true})
	if kinds(r) != "unreadable_blob" || len(r.Faults[0].Checkpoints) != 2 || len(w.readable()) != 3 {
		t.Errorf("found %+v; readable are %v", r.Faults, w.readable())
	}
}

// TestStoreGone: a volume that is not mounted is no reason to hide anything.
func TestStoreGone(t *testing.T) {
	w := newWorld(t)
	if err := os.Rename(filepath.Join(w.dir, "blobs"), filepath.Join(w.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	r, err := fsck.Run(t.Context(), fsck.Options{Meta: w.Meta, Blobs: w.Blobs, Repair: true})
	if err == nil {
		t.Errorf("no error: %+v", r)
	}
	if n := len(w.readable()); n != 3 {
		t.Errorf("%d checkpoints are left", n)
	}
}

// TestStoreDown: nor is a store that cannot be read at all for now.
func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	w.Blobs = unreadable{w.Blobs, digestOf("shared"), &outage.Error{Store: "blob store", Reason: "cannot be reached", Err: errors.New("connection refused")}}
	r, err := fsck.Run(t.Context(), fsck.Options{Meta: w.Meta, Blobs: w.Blobs, Repair: true})
	if _, down := outage.Of(err); !down || len(r.Faults) > 0 {
		t.Errorf("error %v, faults %+v", err, r.Faults)
	}
	if n := len(w.readable()); n != 3 {
		t.Errorf("%d checkpoints are left", n)
	}
}

func TestCanceled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	opts := fsck.Options{Meta: w.Meta, Blobs: w.Blobs, Jobs: 1, Progress: func(int64, int64) { cancel() }}
	if r, err := fsck.Run(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %+v", err, r)
	}
}

// TestBesideWriters: neither fsck nor the collection of garbage mistakes what
// is being saved, overwritten and deleted for a fault or for garbage.
func TestBesideWriters(t *testing.T)         { testBesideWriters(t, newWorld(t)) }
func TestBesideWritersPostgres(t *testing.T) { testBesideWriters(t, newPostgresWorld(t)) }

func testBesideWriters(t *testing.T, w *world) {
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var work errgroup.Group
	for n := range 3 {
		w.save(fmt.Sprintf("w%d:train:0", n), metastore.KindTraining, "0", "first")
		work.Go(func() error { return w.churn(ctx, n) })
	}
	collected := 0
	work.Go(func() error {
		// Longer than a save takes on a machine that is busy with other tests.
		gc := registry.Collector{Meta: w.Meta, Blobs: w.Blobs, Grace: 1500 * time.Millisecond}
		for ctx.Err() == nil {
			g, err := gc.Collect(t.Context(), false)
			if err != nil {
				return err
			}
			collected += g.Blobs
		}
		return nil
	})
	rounds := 0
	for ; ctx.Err() == nil && !t.Failed(); rounds++ {
		for _, opts := range []fsck.Options{{}, {Repair: true}, {Quick: true, Repair: true}} {
			if r := w.fsck(opts); !r.Clean() || len(r.Quarantined) > 0 {
				t.Errorf("round %d: %+v", rounds, r.Faults)
			}
		}
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	if r := w.fsck(fsck.Options{}); !r.Clean() {
		t.Errorf("in the end: %+v", r.Faults)
	}
	if collected == 0 {
		t.Error("no garbage was collected")
	}
	t.Logf("%d rounds, %d blobs collected", rounds, collected)
}

// churn saves, overwrites and deletes checkpoints until ctx ends. Some of
// their files have been there before, and may just be garbage.
func (w *world) churn(ctx context.Context, n int) error {
	run := fmt.Sprintf("w%d:train:0", n)
	for i := 0; ctx.Err() == nil; i++ {
		c := metastore.Checkpoint{RunID: run, Kind: metastore.KindTraining, Name: fmt.Sprint(i % 50), Owner: "alice", CreatedAt: time.Now().UTC(), Listed: true}
		for k, content := range []string{fmt.Sprint("own ", n, i), fmt.Sprint("again ", i%40), ""} {
			b, err := w.Blobs.Create(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
			if _, err := b.Write(bytes.Repeat([]byte(content), 100)); err != nil {
				return err
			}
			info, err := b.Commit(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
			c.Files = append(c.Files, metastore.File{Name: fmt.Sprint(k), Size: info.Size, Digest: info.Digest})
		}
		c, err := w.Meta.CommitCheckpoint(context.WithoutCancel(ctx), c, true, nil)
		if err == nil && i%2 == 0 {
			err = w.Meta.DeleteCheckpoint(context.WithoutCancel(ctx), c.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
