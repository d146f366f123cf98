package mirror

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	_ "github.com/tinkex/tinkex/internal/blobstore/drivers"
	"github.com/tinkex/tinkex/internal/s3test"
)

func TestMain(m *testing.M) { os.Exit(s3test.Run(m)) }

// places are a directory, and buckets in memory and on S3.
func places(t *testing.T, test func(t *testing.T, m *Mirror)) {
	for name, target := range map[string]func(t *testing.T) string{
		"directory": func(t *testing.T) string { return t.TempDir() },
		"memory":    func(*testing.T) string { return "mem://" },
		"s3":        func(t *testing.T) string { return s3test.Bucket(t) + "&prefix=some/where" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := Create(t.Context(), target(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, m)
		})
	}
}

func keys(t *testing.T, d documents, prefix string) (all []string) {
	t.Helper()
	for key, err := range d.list(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, key)
	}
	return all
}

func TestDocuments(t *testing.T) {
	places(t, func(t *testing.T, m *Mirror) {
		d, ctx := m.docs, t.Context()
		if _, err := d.get(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what is not there: %v", err)
		}
		if err := d.remove(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing it: %v", err)
		}
		for _, key := range []string{"a/one", "a/b/two", "ab", "lock/1"} {
			for _, v := range []string{"first", key} {
				if err := d.put(ctx, key, []byte(v)); err != nil {
					t.Fatal(err)
				}
			}
			if b, err := d.get(ctx, key); err != nil || string(b) != key {
				t.Errorf("%s is %q, %v", key, b, err)
			}
		}
		if got := keys(t, d, "a/"); !slices.Equal(got, []string{"a/b/two", "a/one"}) {
			t.Errorf("listed %v", got)
		}
		if got := keys(t, d, "nowhere/"); len(got) > 0 {
			t.Errorf("listed %v", got)
		}
		if err := d.create(ctx, "ab", []byte("again")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("made once more: %v", err)
		}
		if b, err := d.get(ctx, "ab"); err != nil || string(b) != "ab" {
			t.Errorf("it is %q, %v", b, err)
		}
		if err := d.remove(ctx, "ab"); err != nil {
			t.Error(err)
		}
		// Of many who make one, one does.
		var made, refused int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				err := d.create(ctx, "race/x", []byte("x"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					made++
				case errors.Is(err, fs.ErrExist):
					refused++
				default:
					t.Errorf("a race: %v", err)
				}
			})
		}
		all.Wait()
		if made != 1 || refused != 7 {
			t.Errorf("%d were made, %d refused", made, refused)
		}
	})
}

// What a process that died was writing is removed when it is old, by those who
// change the mirror.
func TestAbandonedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(t.Context(), record("tinker://r:train:0/weights/a")); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string {
		return filepath.Join(dir, "checkpoints", FileName("r:train:0"), tempPrefix+name)
	}
	for name, age := range map[string]time.Duration{"old": 2 * abandonedAfter, "new": 0} {
		if err := os.WriteFile(path(name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path(name), time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	reading := folderDocuments{dir: dir}
	for _, d := range []documents{reading, m.docs} {
		if got := keys(t, d, recordsPrefix); len(got) != 1 {
			t.Errorf("listed %v", got)
		}
		_, err := os.Stat(path("old"))
		if there := err == nil; there != (d == documents(reading)) {
			t.Errorf("after %+v the old file is there: %v", d, there)
		}
	}
	if _, err := os.Stat(path("new")); err != nil {
		t.Error(err)
	}
}

// A lease keeps others out while it is renewed, and no longer.
func TestLease(t *testing.T) {
	places(t, func(t *testing.T, m *Mirror) {
		ctx := t.Context()
		var ahead time.Duration
		now := func() time.Time { return time.Now().Add(ahead) }
		_, release, err := m.lease(ctx, now)
		if err != nil {
			t.Fatal(err)
		}
		var locked *LockedError
		if _, _, err := m.lease(ctx, now); !errors.As(err, &locked) || locked.Holder.PID != os.Getpid() || !strings.Contains(err.Error(), "its lock ends at") {
			t.Errorf("the second one: %v", err)
		}
		release()
		_, release, err = m.lease(ctx, now)
		if err != nil {
			t.Fatalf("after the first: %v", err)
		}
		defer release() // by then it is somebody else's, and stays so

		// Its holder died, or slept: another one takes over, and the first one
		// learns of it.
		all, err := m.leases(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("leases %v, %v", all, err)
		}
		first, err := m.readLease(ctx, all[0])
		if err != nil {
			t.Fatal(err)
		}
		renewed := first
		if err := m.renew(ctx, all[0], &renewed, func() time.Time { return now().Add(time.Minute) }); err != nil || !renewed.Expires.After(first.Expires) {
			t.Errorf("renewed %+v, %v", renewed, err)
		}
		ahead = leaseTime
		if _, _, err := m.lease(ctx, now); !errors.As(err, &locked) {
			t.Errorf("while it is renewed: %v", err)
		}
		ahead = leaseTime + 2*time.Minute
		_, releaseSecond, err := m.lease(ctx, now)
		if err != nil {
			t.Fatalf("after its end: %v", err)
		}
		if err := m.renew(ctx, all[0], &renewed, now); !errors.Is(err, errLost) {
			t.Errorf("renewed what was lost: %v", err)
		}
		if _, _, err := m.lease(ctx, now); !errors.As(err, &locked) {
			t.Errorf("beside the second: %v", err)
		}
		releaseSecond()
		again, err := m.leases(ctx)
		if err != nil || len(again) != 1 || again[0] <= all[0] {
			t.Errorf("leases %v after %v, %v", again, all, err)
		}
	})
}

func TestRecordKeys(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, s := range []string{
		"tinker://r:train:0/weights/a", "tinker://r:train:0/sampler_weights/a", "tinker://r:train:0/weights/A", "tinker://r_train_0/weights/a",
		"tinker://R:train:0/weights/a", "tinker://r:train:0/weights/CON", "tinker://r:train:0/weights/" + strings.Repeat("x", tinkex.MaxNameLength),
		"tinker://r:train:0/weights/" + strings.Repeat("x", tinkex.MaxNameLength-1) + "y", "tinker://r:train:0/weights/a.",
	} {
		p, err := tinkex.ParseTinkerPath(s)
		if err != nil {
			t.Fatal(err)
		}
		key := recordKey(p)
		if other := seen[strings.ToLower(key)]; other != "" {
			t.Errorf("%s and %s have one key", s, other)
		}
		seen[strings.ToLower(key)] = s
		for part := range strings.SplitSeq(key, "/") {
			if len(part) > 150 || strings.ContainsAny(part, `:<>"|?*\`) || strings.HasSuffix(part, ".") {
				t.Errorf("%s: %q is no name for a file", s, part)
			}
		}
	}
}

func record(path string) Record {
	return Record{TinkerPath: path, Files: []File{{Name: "f", Size: 1, SHA256: strings.Repeat("0a", 32)}}}
}

func TestRecords(t *testing.T) {
	places(t, func(t *testing.T, m *Mirror) {
		ctx := t.Context()
		if _, bound := m.Source(); bound {
			t.Error("it belongs to somebody")
		}
		s := Source{"http://h", "o"}
		if err := m.SetSource(ctx, s, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got, bound := m.Source(); !bound || got != s {
			t.Errorf("it belongs to %+v", got)
		}
		r := record("tinker://r:train:0/weights/a")
		if _, err := m.Record(ctx, r.Path()); !errors.Is(err, ErrNotFound) {
			t.Errorf("what is not there: %v", err)
		}
		if err := m.Put(ctx, r); err != nil {
			t.Fatal(err)
		}
		got, err := m.Record(ctx, r.Path())
		if err != nil || got.TinkerPath != r.TinkerPath || got.Files[0] != r.Files[0] || got.Format != Format {
			t.Errorf("%+v, %v", got, err)
		}
		for what, bad := range map[string]Record{
			"no path":        {Files: r.Files},
			"no files":       {TinkerPath: r.TinkerPath},
			"a way out":      {TinkerPath: r.TinkerPath, Files: []File{{Name: "../f", Size: 1, SHA256: r.Files[0].SHA256}}},
			"no digest":      {TinkerPath: r.TinkerPath, Files: []File{{Name: "f", Size: 1, SHA256: "x"}}},
			"negative bytes": {TinkerPath: r.TinkerPath, Files: []File{{Name: "f", Size: -1, SHA256: r.Files[0].SHA256}}},
		} {
			if err := m.Put(ctx, bad); err == nil {
				t.Errorf("a record with %s was written", what)
			}
		}
		// What people or time did to records is found out.
		other := recordKey(record("tinker://r:train:0/weights/b").Path())
		b, err := m.docs.get(ctx, recordKey(r.Path()))
		if err != nil {
			t.Fatal(err)
		}
		for key, content := range map[string]string{
			other:                              string(b), // another one's
			recordsPrefix + "r/cut.json":       string(b[:len(b)/2]),
			recordsPrefix + "r/future.json":    strings.Replace(string(b), `"format": 1`, `"format": 9`, 1),
			recordsPrefix + "r/notes.txt":      "not a record",
			recordsPrefix + "r/.new-abandoned": "nor this",
		} {
			if err := m.docs.put(ctx, key, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		whole, damaged := 0, 0
		for f, err := range m.Records(ctx) {
			switch {
			case err != nil:
				t.Fatal(err)
			case errors.Is(f.Err, ErrDamaged):
				damaged++
			case f.Err == nil && f.Record.TinkerPath == r.TinkerPath:
				whole++
			default:
				t.Errorf("%+v", f)
			}
		}
		if whole != 1 || damaged != 3 {
			t.Errorf("%d records are whole and %d damaged", whole, damaged)
		}
		if err := m.Remove(ctx, recordKey(r.Path())); err != nil {
			t.Error(err)
		}
		if err := m.Remove(ctx, recordKey(r.Path())); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
}

// A directory's lock ends with whoever holds it, and its name is told.
func TestLockOfADirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "m")
	open := func() *Mirror {
		m, err := Create(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	one, two := open(), open()
	ctx, release, err := one.Lock(t.Context())
	if err != nil || ctx.Err() != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, _, err := two.Lock(t.Context()); !errors.As(err, &locked) || locked.Holder.PID != os.Getpid() || !locked.Holder.Expires.IsZero() {
		t.Errorf("the second one: %v", err)
	}
	// Until its holder has written who it is, nobody knows.
	if err := os.WriteFile(filepath.Join(dir, lockInfo), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := two.Lock(t.Context()); !errors.As(err, &locked) || locked.Where != dir || strings.Contains(err.Error(), "process") {
		t.Errorf("without a name: %v", err)
	}
	// What another mirror made of the place meanwhile counts.
	if err := one.SetSource(context.Background(), Source{"http://h", "o"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	release()
	_, release, err = two.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if s, bound := two.Source(); !bound || s.Owner != "o" {
		t.Errorf("it belongs to %+v", s)
	}
}

func TestPrefixes(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"s3://b":                      "s3://b",
		"s3://b?region=r":             "s3://b?region=r",
		"s3://b?prefix=p&region=r":    "s3://b?prefix=p%2F&region=r",
		"s3://b?prefix=p%2Fq%2F":      "s3://b?prefix=p%2Fq%2F",
		"azblob://c?prefix=some/mine": "azblob://c?prefix=some%2Fmine%2F",
	} {
		if got, err := withSlash(target); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", target, got, err, want)
		}
	}
	if _, err := withSlash("s3://b\x00secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("no URL: %v", err)
	}
}
