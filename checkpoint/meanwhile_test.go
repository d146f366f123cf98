package checkpoint_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// archiveOnly hides that a client knows manifests.
type archiveOnly struct{ c *tinkex.RestClient }

func (a archiveOnly) ArchiveURL(ctx context.Context, p tinkex.TinkerPath) (tinkex.ArchiveURL, error) {
	return a.c.ArchiveURL(ctx, p)
}

// clock is a server's clock, to be set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// midway has something happen before the n-th request for bytes, of which only
// one is answered at a time.
func midway(n int64, f func()) (fault, func(int64) bool) {
	var turn sync.Mutex
	var seen int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		turn.Lock()
		defer turn.Unlock()
		if seen++; seen == n {
			f()
		}
		next.ServeHTTP(w, r)
	}, func(int64) bool { return true }
}

// bothWays are a real server's two ways of giving a checkpoint away: by files
// and as an archive.
func bothWays(s source) map[string]source {
	archive := s
	archive.client = archiveOnly{s.client.(*tinkex.RestClient)}
	return map[string]source{"manifest": s, "archive": archive}
}

// A real server's URLs, after their end.
func TestSignedURLsEndMidway(t *testing.T) {
	var c clock
	all, _ := sourcesOn(t, tinkextest.Options{Now: c.now, URLTTL: time.Minute})
	for name, s := range bothWays(all[0]) {
		t.Run(name, func(t *testing.T) {
			ended := false
			s.server.set(midway(4, func() {
				ended = true
				c.ahead.Add(int64(2 * time.Minute))
			}))
			opts := hasty(t.TempDir())
			opts.Retries = -1 // it takes none
			d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
			if err != nil || !ended {
				t.Fatalf("the URLs ended: %v; %v", ended, err)
			}
			intact(t, d.Dir, d.Files)
			if d.Fetched > s.size*5/4 {
				t.Errorf("%d bytes were fetched for a checkpoint of %d", d.Fetched, s.size)
			}
		})
	}
}

// A checkpoint that is saved again while it is being fetched is fetched anew,
// whole, and that is said.
func TestCheckpointIsOverwrittenMidway(t *testing.T) {
	all, tc := sourcesOn(t, tinkextest.Options{})
	for name, s := range bothWays(all[0]) {
		t.Run(name, func(t *testing.T) {
			s.server.set(midway(4, func() { savedAgain(t, tc) }))
			var said []string
			opts := hasty(t.TempDir())
			opts.Notice = func(_ tinkex.TinkerPath, m string) { said = append(said, m) }
			d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(said, "; "), "starting over") {
				t.Errorf("notices %q", said)
			}
			intact(t, d.Dir, d.Files)
			onlyEntry(t, filepath.Dir(d.Dir), s.path.DirName())
			// None of its files is of what was there before.
			now, err := all[0].client.(*tinkex.RestClient).Manifest(t.Context(), s.path)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range now.Files {
				if d.Files[i].SHA256 != f.SHA256 {
					t.Errorf("%s is not the new one", f.Name)
				}
			}
		})
	}
}

// What looks like a change, and is none by the manifest, costs nothing of what
// is there.
func TestFalseAlarmKeepsWhatIsThere(t *testing.T) {
	s := sources(t)[0]
	dir := t.TempDir()
	var turn sync.Mutex
	var alarmed bool
	s.server.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		turn.Lock()
		defer turn.Unlock()
		if !alarmed && s.server.bytes.Load() > s.size*3/4 {
			alarmed = true
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		next.ServeHTTP(w, r)
	}, func(int64) bool { return true })
	var said []string
	opts := hasty(dir)
	opts.Notice = func(_ tinkex.TinkerPath, m string) { said = append(said, m) }
	d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
	if err != nil || !alarmed {
		t.Fatalf("alarmed: %v; %v", alarmed, err)
	}
	intact(t, d.Dir, d.Files)
	if s := strings.Join(said, "; "); strings.Contains(s, "starting over") || !strings.Contains(s, "reading the manifest again") {
		t.Errorf("notices %q", s)
	}
}

// What somebody else puts in the target's place while the download goes on is
// not replaced unasked.
func TestTargetAppearsMeanwhile(t *testing.T) {
	s := sources(t)[0]
	for name, put := range map[string]func(target string) error{
		"a directory": func(target string) error {
			if err := os.Mkdir(target, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(target, "mine"), nil, 0o600)
		},
		"a file": func(target string) error { return os.WriteFile(target, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target := filepath.Join(dir, s.path.DirName())
			s.server.set(midway(2, func() {
				if err := put(target); err != nil {
					t.Error(err)
				}
			}))
			_, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
			if !errors.Is(err, tinkex.ErrExists) {
				t.Errorf("error %v", err)
			}
			if name == "a file" {
				if info, err := os.Lstat(target); err != nil || info.IsDir() {
					t.Errorf("there is %v, %v", info, err)
				}
				return
			}
			if _, err := os.Stat(filepath.Join(target, "mine")); err != nil {
				t.Errorf("what was there is gone: %v", err)
			}
			// Nothing has to be fetched again once it may be replaced.
			s.server.set(nil, nil)
			opts := hasty(dir)
			opts.Force = true
			d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
			if err != nil || d.Fetched > 0 {
				t.Errorf("%d bytes fetched, %v", d.Fetched, err)
			}
			intact(t, target, d.Files)
			onlyEntry(t, dir, s.path.DirName())
		})
	}
}

// A copy that was replaced and not removed any more goes with the next one.
func TestReplacedCopyIsRemoved(t *testing.T) {
	s := sources(t)[0]
	dir := t.TempDir()
	d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "."+s.path.DirName()+".partial", "replaced", "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	opts := hasty(dir)
	opts.Force = true
	if _, err := checkpoint.Download(t.Context(), s.client, s.path, opts); err != nil {
		t.Fatal(err)
	}
	intact(t, d.Dir, d.Files)
	onlyEntry(t, dir, s.path.DirName())
}
