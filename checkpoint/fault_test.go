package checkpoint_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// fault disturbs a request for a checkpoint's bytes. It answers itself, or lets
// next do it.
type fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// disturbed is a server whose answers with a checkpoint's bytes, and only
// those, go through a fault.
type disturbed struct {
	next http.Handler
	host string // where it listens
	// when decides about the n-th of those requests, counted from 1.
	when  func(n int64) bool
	fault fault
	mu    sync.Mutex
	n     atomic.Int64
	bytes atomic.Int64
}

func (d *disturbed) set(f fault, when func(int64) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.when = f, when
	d.n.Store(0)
	d.bytes.Store(0)
}

func (d *disturbed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/tinkex/v1/files/") && !strings.HasPrefix(r.URL.Path, "/tinkex/v1/archives/") && !strings.HasPrefix(r.URL.Path, "/tar") {
		d.next.ServeHTTP(w, r)
		return
	}
	d.mu.Lock()
	f, when := d.fault, d.when
	d.mu.Unlock()
	w = &counted{w, &d.bytes}
	if f != nil && when(d.n.Add(1)) {
		f(w, r, d.next)
		return
	}
	d.next.ServeHTTP(w, r)
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
func (c *counted) Flush()                      { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// record is what next would have answered.
func record(r *http.Request, next http.Handler) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return rec
}

func copyHead(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
}

func statusFault(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(code) }
}

var faults = map[string]fault{
	"reset": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(r, next)
		copyHead(w, rec)
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	// Less than everything, or the client is done with the request, sends the
	// next one over the same connection, and its giving up goes unnoticed here.
	"stall": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if rec := record(r, next); rec.Body.Len() > 0 {
			copyHead(w, rec)
			_, _ = w.Write(rec.Body.Bytes()[:min(1000, rec.Body.Len()/2)])
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	},
	"slow drip": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(r, next)
		copyHead(w, rec)
		for b := rec.Body.Bytes(); len(b) > 0 && r.Context().Err() == nil; b = b[1:] {
			_, _ = w.Write(b[:1])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	},
	"truncation": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(r, next)
		rec.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()/2))
		copyHead(w, rec)
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	},
	"wrong Content-Length": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(r, next)
		rec.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()+7))
		copyHead(w, rec)
		_, _ = w.Write(rec.Body.Bytes())
	},
	"200 instead of 206": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	},
	"403": statusFault(403), "404": statusFault(404), "410": statusFault(410), "416": statusFault(416),
	"429": statusFault(429), "500": statusFault(500), "503": statusFault(503),
	"redirect loop": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusFound)
	},
	"no such host": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, "http://tinkex.invalid/", http.StatusFound)
	},
	"untrusted certificate": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, untrusted(), http.StatusFound)
	},
	"hang up at once": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
}

// untrusted starts, once, a server whose certificate nobody has reason to
// trust.
var untrusted = sync.OnceValue(func() string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that fail
	s.StartTLS()
	return s.URL
})

// slowly is one answer after another, so that there is time to interrupt.
func slowly() fault {
	var turn sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		turn.Lock()
		defer turn.Unlock()
		time.Sleep(15 * time.Millisecond)
		next.ServeHTTP(w, r)
	}
}

// flipped is told apart: where there are no digests, only what has a structure
// of its own can be checked.
func flipped(at int) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(r, next)
		copyHead(w, rec)
		b := rec.Body.Bytes()
		if len(b) > at {
			b[at] ^= 0x20
		}
		_, _ = w.Write(b)
	}
}

// source is one of the ways in which servers give checkpoints away.
type source struct {
	name      string
	resumable bool // a failed download is not begun anew
	ranges    bool // so that a 200 is a fault
	client    checkpoint.ArchiveClient
	path      tinkex.TinkerPath
	size      int64 // what is transferred at least
	server    *disturbed
}

// sources saves a checkpoint on a real server and serves it in every way.
func sources(t *testing.T) []source {
	all, _ := sourcesOn(t, tinkextest.Options{})
	return all
}

// sourcesOn is sources with options for the server, and the run's client.
func sourcesOn(t *testing.T, opts tinkextest.Options) ([]source, *tinkex.TrainingClient) {
	t.Helper()
	srv := tinkextest.NewServerWith(t, opts)
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := &disturbed{next: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // so that signed URLs lead here again
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	listen := func(h *disturbed) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		h.host = s.Listener.Addr().String()
		s.Config.ErrorLog = nil
		return s.URL
	}
	svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: listen(front), APIKey: tinkextest.Key, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	tc, path := bigCheckpoint(t, svc)
	rest := svc.RestClient()
	c, err := rest.GetCheckpoint(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	u, err := rest.ArchiveURL(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(u.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	archive, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, _ = zw.Write(archive)
	_ = zw.Close()

	all := []source{{"manifest", true, true, rest, path, *c.SizeBytes, front}}
	for _, s := range []struct {
		name    string
		content []byte
		etag    string
		ranges  bool
	}{
		{"tar", archive, `"v1"`, true},
		{"tar without an entity tag", archive, "", true},
		{"tar without ranges", archive, "", false},
		{"gzip", zipped.Bytes(), `"v1"`, true},
	} {
		h := &disturbed{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.etag != "" {
				w.Header().Set("ETag", s.etag)
			}
			if s.ranges {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.content))
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(s.content)))
			_, _ = w.Write(s.content)
		})}
		all = append(all, source{s.name, s.name == "tar", s.ranges, archiveAt(listen(h) + "/tar"), path, int64(len(s.content)), h})
	}
	return all, tc
}

// someSources is sources, or with -short those that have the most code of their
// own: the race detector takes its time.
func someSources(t *testing.T) []source {
	all := sources(t)
	if testing.Short() {
		return all[:2]
	}
	return all
}

// bigCheckpoint is one of a few megabytes: tens of requests.
func bigCheckpoint(t *testing.T, svc *tinkex.ServiceClient) (*tinkex.TrainingClient, tinkex.TinkerPath) {
	t.Helper()
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 64})
	if err != nil {
		t.Fatal(err)
	}
	return tc, savedAgain(t, tc)
}

// savedAgain takes a step and saves what there is then under the same name.
func savedAgain(t *testing.T, tc *tinkex.TrainingClient) tinkex.TinkerPath {
	t.Helper()
	text := []byte("something to learn")
	weights := make([]float32, len(text)-1)
	for i := range weights {
		weights[i] = 1
	}
	fb := tc.ForwardBackward(t.Context(), []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(text[:len(text)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints(text[1:]), "weights": tinkex.Floats(weights)},
	}}, tinkex.CrossEntropy, nil)
	step := tc.OptimStep(t.Context(), tinkex.AdamParams{LearningRate: 1e-3})
	if _, err := fb.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := step.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	saved, err := tc.SaveState(t.Context(), "big", tinkex.SaveOptions{Overwrite: true}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return saved.Path
}

// hasty gives up soon and asks in small pieces. What a busy machine takes its
// time for is no stall.
func hasty(dir string) checkpoint.DownloadOptions {
	return checkpoint.DownloadOptions{Dir: dir, Jobs: 24, Retries: 2, RetryDelay: time.Millisecond, StallTimeout: time.Minute}
}

// impatient is how long a download waits for what a test keeps from coming.
const impatient = 1500 * time.Millisecond

// intact checks a complete directory against itself and the first one seen.
func intact(t *testing.T, dir string, want []checkpoint.File) {
	t.Helper()
	v, err := checkpoint.Verify(t.Context(), dir)
	if err != nil || !v.Intact() || len(v.Extra) > 0 || v.Checked != 4 {
		t.Errorf("the directory is %+v, %v", v, err)
	}
	for _, f := range want {
		if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil || info.Size() != f.Size {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// visible lists what is not hidden.
func visible(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// Every fault, once and for ever, from every kind of server, ends with a
// complete and verified directory, or with an error that names the checkpoint
// and with nothing to be seen; and the next download, undisturbed, succeeds.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	var ok, failed, continued atomic.Int64
	t.Cleanup(func() {
		t.Logf("fault matrix: %d downloads in spite of a fault, %d failed with a clear error and succeeded undisturbed, %d of these without fetching everything again",
			ok.Load(), failed.Load(), continued.Load())
	})
	all := someSources(t)
	names := []string{"flipped byte"}
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names)
	var side sync.WaitGroup // the sources side by side, however few processors there are: they wait most of the time
	defer side.Wait()
	for _, s := range all {
		side.Go(func() {
			t.Run(s.name, func(t *testing.T) {
				for _, name := range names {
					f := faults[name]
					if name == "flipped byte" {
						f = flipped(20) // of a tar, in the first header
					}
					for _, once := range []bool{true, false} {
						if testing.Short() && !once && (name == "stall" || name == "slow drip") {
							continue // three times the wait
						}
						when, label := func(n int64) bool { return n >= 3 }, name+", for ever"
						if once {
							when, label = func(n int64) bool { return n == 3 }, name+", once"
						}
						if !s.ranges || name == "flipped byte" && s.name != "manifest" {
							first := when
							when = func(n int64) bool { return first(n + 2) } // from the first request on
						}
						t.Run(label, func(t *testing.T) {
							s.server.set(f, when)
							dir := t.TempDir()
							opts := hasty(dir)
							switch name {
							case "stall", "slow drip", "no such host": // where nobody answers who knows of hosts
								opts.StallTimeout = impatient
							}
							d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
							target := filepath.Join(dir, s.path.DirName())
							if err == nil {
								if !once && s.ranges {
									t.Errorf("succeeded in spite of a fault that never ends, after %d requests", s.server.n.Load())
								}
								ok.Add(1)
								intact(t, target, d.Files)
								onlyEntry(t, dir, s.path.DirName())
								return
							}
							if once && survivable(s, name) {
								t.Errorf("one fault was too much: %v", err)
							}
							failed.Add(1)
							if !strings.Contains(err.Error(), "download "+s.path.String()) {
								t.Errorf("the error does not say of what: %v", err)
							}
							if v := visible(t, dir); v != nil {
								t.Errorf("after %v there is %v", err, v)
							}
							s.server.set(nil, nil)
							if d, err = checkpoint.Download(t.Context(), s.client, s.path, hasty(dir)); err != nil {
								t.Fatalf("undisturbed: %v", err)
							}
							intact(t, target, d.Files)
							onlyEntry(t, dir, s.path.DirName())
							if s.server.bytes.Load() < s.size {
								continued.Add(1)
							}
						})
					}
				}
			})
		})
	}
}

// survivable: a single such fault is one that a download gets over.
func survivable(s source, name string) bool {
	switch name {
	case "redirect loop":
		return false // it never was one fault
	case "untrusted certificate":
		return false // whoever presents it may do worse
	case "flipped byte":
		return s.name == "manifest"
	case "416":
		return s.ranges // a change, after which it begins anew
	case "truncation":
		// Without a length to compare with, half an archive is what the server
		// has.
		return s.ranges
	case "wrong Content-Length":
		return s.ranges
	}
	return true
}

func TestDigestIsChecked(t *testing.T) {
	s := sources(t)[0]
	s.server.set(flipped(1000), func(int64) bool { return true })
	dir := t.TempDir()
	_, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
	if !errors.Is(err, checkpoint.ErrDigest) {
		t.Errorf("error %v", err)
	}
	if v := visible(t, dir); v != nil {
		t.Errorf("there is %v", v)
	}
}

// A download that failed near its end fetches the rest only.
func TestDownloadGoesOn(t *testing.T) {
	for _, s := range sources(t)[:2] {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			opts := hasty(dir)
			opts.Jobs = 64
			partial := filepath.Join(dir, "."+s.path.DirName()+".partial")
			opts.Progress = func(p checkpoint.Progress) {
				if p.Total > 0 && p.Bytes > p.Total*3/4 {
					cancel()
				}
			}
			s.server.set(slowly(), func(int64) bool { return true })
			if _, err := checkpoint.Download(ctx, s.client, s.path, opts); !errors.Is(err, context.Canceled) {
				t.Fatalf("not interrupted: %v", err)
			}
			s.server.set(nil, nil)
			// What is on the disk need not come again: of a file of which there is
			// only a beginning, too, but for less than a block.
			most := s.size - 1 // a tar goes on where its stream broke
			if s.name == "manifest" {
				most = s.size - cutShort(t, filepath.Join(partial, "files")) + 4096
			}
			var first *checkpoint.Progress
			opts = hasty(dir)
			opts.Progress = func(p checkpoint.Progress) {
				if first == nil && p.Resumed > 0 {
					first = &p
				}
			}
			d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
			if err != nil {
				t.Fatal(err)
			}
			intact(t, d.Dir, d.Files)
			if d.Fetched > most || first == nil {
				t.Errorf("%d of %d bytes were fetched, at most %d had to be", d.Fetched, s.size, most)
			}
		})
	}
}

// What an archive's download has to fetch twice is what was on its way, at most
// a window: after a crash too, when there was no time to save anything.
func TestInterruptedArchiveFetchesAWindowTwiceAtMost(t *testing.T) {
	const (
		window = 20 << 20
		chunk  = 1703936 // of what is asked for at once, with 8 jobs
		held   = 29      // the chunk that does not come: it holds up all behind it
	)
	content := tarOf("adapter_config.json", "{}", "adapter_model.bin", strings.Repeat("0123456789abcdef", 5<<20), "checkpoint_complete", "")
	var sent, waits atomic.Int64
	var free atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == fmt.Sprintf("bytes=%d-%d", held*chunk, (held+1)*chunk-1) && !free.Load() {
			waits.Add(1)
			<-r.Context().Done()
			return
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(&counted{w, &sent}, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer srv.Close()
	_, path := saved(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := checkpoint.Download(ctx, archiveAt(srv.URL), path, checkpoint.DownloadOptions{Dir: dir, StallTimeout: time.Hour}) // the chunk is not asked for again
		failed <- err
	}()
	partial := "." + path.DirName() + ".partial"
	// All that is asked for has come, and all that can be written is, which is
	// what comes before the chunk that is held, but for what is buffered.
	const writable = held*chunk - 256<<10
	for seen, before, began := 0, int64(-1), time.Now(); seen < 3; time.Sleep(300 * time.Millisecond) {
		written := int64(0)
		_ = filepath.WalkDir(filepath.Join(dir, partial), func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // not there yet, or no longer
			}
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				written += info.Size()
			}
			return nil
		})
		now := sent.Load() + written
		if seen++; now != before || waits.Load() == 0 || sent.Load() < held*chunk+window/2 || written < writable {
			seen = 0
		}
		if before = now; time.Since(began) > 2*time.Minute {
			t.Fatalf("%d bytes were sent, %d requests held, %d bytes written: the chunks are others than this test was made for", sent.Load(), waits.Load(), written)
		}
	}
	if waits.Load() != 1 {
		t.Fatalf("%d requests were held", waits.Load())
	}
	crashed := t.TempDir()
	if err := os.CopyFS(filepath.Join(crashed, partial), os.DirFS(filepath.Join(dir, partial))); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	free.Store(true)
	first := sent.Load()
	for name, tc := range map[string]struct {
		dir  string
		most int64
	}{
		"killed":      {crashed, window + 1<<20},
		"interrupted": {dir, window},
	} {
		d, err := checkpoint.Download(t.Context(), archiveAt(srv.URL), path, checkpoint.DownloadOptions{Dir: tc.dir})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if twice := first + d.Fetched - int64(len(content)); twice > tc.most || twice < 0 {
			t.Errorf("%s: of %d bytes %d had been fetched and %d were then: %d twice, at most %d", name, len(content), first, d.Fetched, twice, tc.most)
		}
		if b, err := os.ReadFile(filepath.Join(d.Dir, "adapter_model.bin")); err != nil || !bytes.Contains(content, b) || len(b) != 80<<20 {
			t.Errorf("%s: %d bytes differ, %v", name, len(b), err)
		}
	}
}

// cutShort leaves only a beginning of a large file, and returns how many bytes
// there are in the directory then.
func cutShort(t *testing.T, dir string) (sum int64) {
	t.Helper()
	const beginning = 1<<20 + 123
	cut := false
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size := info.Size()
		if !cut && size > beginning {
			if err := os.Truncate(filepath.Join(dir, e.Name()), beginning); err != nil {
				t.Fatal(err)
			}
			cut, size = true, beginning
		}
		sum += size
	}
	if !cut {
		t.Fatal("nothing large was there yet")
	}
	return sum
}

// What is overwritten while it is fetched is fetched anew, and nothing of the
// two is mixed.
func TestCheckpointChangesMeanwhile(t *testing.T) {
	s := sources(t)[1] // a tar with an entity tag
	other := tarOf("adapter_config.json", strings.Repeat("new ", 300_000))
	changed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v2"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other))
	})
	s.server.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { changed.ServeHTTP(w, r) }, func(n int64) bool { return n > 4 })
	var notices []string
	opts := hasty(t.TempDir())
	opts.Notice = func(_ tinkex.TinkerPath, m string) { notices = append(notices, m) }
	d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Files) != 1 || d.SizeBytes != 1_200_000 || d.Verified {
		t.Errorf("downloaded %+v", d)
	}
	if !strings.Contains(strings.Join(notices, "; "), "starting over: read archive: it has changed on the server meanwhile") {
		t.Errorf("notices %q", notices)
	}
}

// Where a server does not say how long an archive is, a cut looks like its end.
// It is begun anew, unless it ends in the same place again.
func TestArchiveOfUnknownLengthIsCut(t *testing.T) {
	content := tarOf("adapter_config.json", strings.Repeat("x", 1_000_000), "checkpoint_complete", "")
	_, path := saved(t)
	for name, tc := range map[string]struct {
		cuts     []int // where each answer ends; the last is that of all after it
		retries  int
		requests int64
		ok       bool
	}{
		"once":         {[]int{500_000, len(content)}, 2, 2, true},
		"twice":        {[]int{500_000, 700_000, len(content)}, 2, 3, true},
		"in one place": {[]int{500_000}, 2, 2, false},
		"always":       {[]int{1, 2, 3, 4, 5, 6, 7, 8}, 2, 4, false},
		"no patience":  {[]int{500_000, len(content)}, -1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.(http.Flusher).Flush() // no length
				_, _ = w.Write(content[:tc.cuts[min(int(n.Add(1)), len(tc.cuts))-1]])
			}))
			defer srv.Close()
			opts := hasty(t.TempDir())
			opts.Retries = tc.retries
			var notices []string
			opts.Notice = func(_ tinkex.TinkerPath, m string) { notices = append(notices, m) }
			d, err := checkpoint.Download(t.Context(), archiveAt(srv.URL), path, opts)
			if (err == nil) != tc.ok || n.Load() != tc.requests {
				t.Errorf("%d requests, %v, notices %q", n.Load(), err, notices)
			}
			if err == nil && (d.SizeBytes != 1_000_000 || !strings.Contains(notices[0], "starting over: ") || !strings.Contains(notices[0], "cut short")) {
				t.Errorf("downloaded %+v, notices %q", d, notices)
			}
			if v := visible(t, opts.Dir); (len(v) > 0) != tc.ok {
				t.Errorf("there is %q", v)
			}
		})
	}
}

// URLs that end while they are in use are renewed.
func TestURLsAreRenewed(t *testing.T) {
	s := sources(t)[0]
	var refusals atomic.Int64
	s.server.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		// The URLs of the first manifest end after five requests.
		if refusals.Add(1) <= 6 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}, func(n int64) bool { return n > 5 })
	opts := hasty(t.TempDir())
	opts.Retries = 20
	client := &countingManifests{s.client.(*tinkex.RestClient), atomic.Int64{}, &refusals}
	d, err := checkpoint.Download(t.Context(), client, s.path, opts)
	if err != nil {
		t.Fatal(err)
	}
	intact(t, d.Dir, d.Files)
	if client.n.Load() < 2 {
		t.Errorf("the manifest was read %d times", client.n.Load())
	}
}

type countingManifests struct {
	*tinkex.RestClient
	n        atomic.Int64
	refusals *atomic.Int64
}

func (c *countingManifests) Manifest(ctx context.Context, path tinkex.TinkerPath) (tinkex.Manifest, error) {
	m, err := c.RestClient.Manifest(ctx, path)
	if c.n.Add(1) > 1 {
		c.refusals.Store(100) // what comes from here on is accepted
	}
	for i := range m.Files {
		m.Files[i].URL += fmt.Sprintf("&manifest=%d", c.n.Load()) // signatures cover the path
	}
	return m, err
}

// nonsense is a client of a server whose manifests make no sense.
type nonsense struct{ archiveAt }

func (nonsense) Manifest(context.Context, tinkex.TinkerPath) (tinkex.Manifest, error) {
	return tinkex.Manifest{}, &tinkex.Error{Category: tinkex.CategoryServer, Message: "the server's manifest makes no sense"}
}

// hostile is a client of a server that gives files whatever names it likes.
type hostile struct {
	*tinkex.RestClient
	names []string
}

func (h hostile) Manifest(ctx context.Context, path tinkex.TinkerPath) (tinkex.Manifest, error) {
	m, err := h.RestClient.Manifest(ctx, path)
	for i, name := range h.names {
		m.Files[i].Name = name
	}
	return m, err
}

// A manifest may name only what an archive may, and nothing is fetched of one
// that does not keep to it.
func TestHostileManifests(t *testing.T) {
	s := sources(t)[0]
	for _, names := range [][]string{
		{"../outside"},
		{"/tmp/outside"},
		{"a/../../outside"},
		{`a\b`},
		{"C:x"},
		{"same", "same"},
		{"config.json", "Config.JSON"},
		{"a", "a/b"},
		{"nul"},
		{"trailing."},
		{"line\nfeed"},
		{"\x00"},
		{""},
		{checkpoint.ManifestFile},
		{strings.ToUpper(checkpoint.ManifestFile)},
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		s.server.set(nil, nil)
		_, err := checkpoint.Download(t.Context(), hostile{s.client.(*tinkex.RestClient), names}, s.path, hasty(dir))
		if err == nil || s.server.n.Load() > 0 || s.server.bytes.Load() > 0 {
			t.Errorf("%q: %v after %d bytes", names, err, s.server.bytes.Load())
		}
		onlyEntry(t, parent, "in")
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%q: there is %v, %v", names, entries, err)
		}
	}
}

// Without its digests a download is worth less, and says so.
func TestUnusableManifestIsTold(t *testing.T) {
	s := sources(t)[1]
	var notices []string
	opts := hasty(t.TempDir())
	opts.Notice = func(_ tinkex.TinkerPath, m string) { notices = append(notices, m) }
	d, err := checkpoint.Download(t.Context(), nonsense{s.client.(archiveAt)}, s.path, opts)
	if err != nil || d.Verified || len(notices) != 1 || !strings.Contains(notices[0], "without digests: the server's manifest makes no sense") {
		t.Errorf("downloaded %+v, %v, notices %q", d, err, notices)
	}
}

// Two at once take turns: both are served, and nothing is mixed.
func TestDownloadsOfTheSameTakeTurns(t *testing.T) {
	s := sources(t)[0]
	dir := t.TempDir()
	var ok, exists, waited atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			opts := hasty(dir)
			opts.Notice = func(_ tinkex.TinkerPath, m string) {
				if strings.Contains(m, "another download of it is running") {
					waited.Add(1)
				}
			}
			switch _, err := checkpoint.Download(t.Context(), s.client, s.path, opts); {
			case err == nil:
				ok.Add(1)
			case errors.Is(err, tinkex.ErrExists):
				exists.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if ok.Load() != 1 || exists.Load() != 3 {
		t.Errorf("%d succeeded, %d found it there, %d waited", ok.Load(), exists.Load(), waited.Load())
	}
	intact(t, filepath.Join(dir, s.path.DirName()), nil)
	onlyEntry(t, dir, s.path.DirName())
	for range 3 {
		all.Go(func() {
			opts := hasty(dir)
			opts.Force = true
			if _, err := checkpoint.Download(t.Context(), s.client, s.path, opts); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	intact(t, filepath.Join(dir, s.path.DirName()), nil)
	onlyEntry(t, dir, s.path.DirName())
}

func TestForceKeepsTheOldUntilTheNewIsThere(t *testing.T) {
	s := sources(t)[0]
	dir := t.TempDir()
	d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
	if err != nil {
		t.Fatal(err)
	}
	s.server.set(faults["500"], func(n int64) bool { return n > 3 })
	opts := hasty(dir)
	opts.Force = true
	if _, err := checkpoint.Download(t.Context(), s.client, s.path, opts); err == nil {
		t.Fatal("it succeeded")
	}
	intact(t, d.Dir, d.Files)
	if v := visible(t, dir); len(v) != 1 {
		t.Errorf("there is %v", v)
	}
}

// What an earlier version, a crash or somebody else left in the partial
// directory does no harm.
func TestPartialDirectoryIsNotTrusted(t *testing.T) {
	s := sources(t)[0]
	for name, prepare := range map[string]func(partial, target string) error{
		"garbage for a state": func(p, _ string) error {
			return os.WriteFile(filepath.Join(p, "state.json"), []byte("{"), 0o600)
		},
		"a state of another format": func(p, _ string) error {
			return os.WriteFile(filepath.Join(p, "state.json"), []byte(`{"format":99,"digest":"x"}`), 0o600)
		},
		"files of something else": func(p, _ string) error {
			if err := os.Mkdir(filepath.Join(p, "files"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(p, "files", "adapter_config.json"), bytes.Repeat([]byte("x"), 1<<20), 0o600)
		},
		"files that are none": func(p, _ string) error {
			return os.WriteFile(filepath.Join(p, "files"), []byte("x"), 0o600)
		},
		"the old copy, which was replaced long ago": func(p, _ string) error {
			if err := os.WriteFile(filepath.Join(p, "state.json.next"), []byte("{"), 0o600); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(p, "files"), 0o700)
		},
		"a directory that was being replaced": func(p, target string) error {
			// Interrupted between the two renames: what was there comes back, and
			// is in the way like any other.
			return os.MkdirAll(filepath.Join(p, "replaced", "old"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target := filepath.Join(dir, s.path.DirName())
			partial := filepath.Join(dir, "."+s.path.DirName()+".partial")
			if err := os.Mkdir(partial, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := prepare(partial, target); err != nil {
				t.Fatal(err)
			}
			d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
			if strings.HasPrefix(name, "a directory") {
				if !errors.Is(err, tinkex.ErrExists) {
					t.Errorf("error %v", err)
				}
				if _, err := os.Stat(filepath.Join(target, "old")); err != nil {
					t.Errorf("what was there is gone: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			intact(t, target, d.Files)
			onlyEntry(t, dir, s.path.DirName())
		})
	}
}

// Where links in its place lead, a download touches nothing.
func TestPartialDirectoryIsNotALink(t *testing.T) {
	s := sources(t)[0]
	m, err := s.client.(*tinkex.RestClient).Manifest(t.Context(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	state := []byte(fmt.Sprintf(`{"format":1,"digest":%q}`, m.Digest)) // that it would go on from
	elsewhere := func(t *testing.T) (dir string, check func()) {
		t.Helper()
		dir = t.TempDir()
		for _, name := range []string{"state.json", "files/precious"} {
			p := filepath.Join(dir, filepath.FromSlash(name))
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, state, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return dir, func() {
			t.Helper()
			var found []string
			_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
				rel, _ := filepath.Rel(dir, p)
				found = append(found, filepath.ToSlash(rel))
				return err
			})
			if want := []string{".", "files", "files/precious", "state.json"}; !slices.Equal(found, want) {
				t.Errorf("where the link leads there is %q, was %q", found, want)
			}
		}
	}
	partial := "." + s.path.DirName() + ".partial"
	t.Run("the directory", func(t *testing.T) {
		dir := t.TempDir()
		to, check := elsewhere(t)
		if err := os.Symlink(to, filepath.Join(dir, partial)); err != nil {
			t.Skip(err)
		}
		if _, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir)); err == nil || !strings.Contains(err.Error(), partial+" is in the way") {
			t.Errorf("error %v", err)
		}
		check()
	})
	t.Run("a file", func(t *testing.T) {
		dir := t.TempDir()
		to, check := elsewhere(t)
		p := filepath.Join(dir, partial)
		if err := errors.Join(os.MkdirAll(filepath.Join(p, "files", "adapter_config.json", "x"), 0o755), os.WriteFile(filepath.Join(p, "state.json"), state, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(to, "files", "precious"), filepath.Join(p, "files", "adapter_model.safetensors")); err != nil {
			t.Skip(err)
		}
		d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
		if err != nil {
			t.Fatal(err)
		}
		intact(t, d.Dir, d.Files)
		check()
	})
	t.Run("a state", func(t *testing.T) {
		dir := t.TempDir()
		to, check := elsewhere(t)
		p := filepath.Join(dir, partial)
		if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
		precious := filepath.Join(to, "files", "precious")
		if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(precious, filepath.Join(p, "state.json.next")); err != nil {
			t.Skip(err)
		}
		d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
		if err != nil {
			t.Fatal(err)
		}
		intact(t, d.Dir, d.Files)
		check()
		if b, err := os.ReadFile(precious); err != nil || string(b) != "precious" {
			t.Errorf("it is %q now, %v", b, err)
		}
	})
	t.Run("the files", func(t *testing.T) {
		dir := t.TempDir()
		to, check := elsewhere(t)
		p := filepath.Join(dir, partial)
		if err := errors.Join(os.Mkdir(p, 0o755), os.WriteFile(filepath.Join(p, "state.json"), state, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(to, "files"), filepath.Join(p, "files")); err != nil {
			t.Skip(err)
		}
		d, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(d.Dir); err != nil || !info.IsDir() {
			t.Errorf("the target is %v, %v", info, err)
		}
		intact(t, d.Dir, d.Files)
		check()
	})
}

func TestDirectoryRemovedUnderneath(t *testing.T) {
	s := sources(t)[0]
	dir := filepath.Join(t.TempDir(), "out")
	var once sync.Once
	s.server.set(slowly(), func(int64) bool { return true })
	opts := hasty(dir)
	opts.Progress = func(p checkpoint.Progress) {
		if p.Bytes > 0 {
			once.Do(func() { _ = os.RemoveAll(dir) })
		}
	}
	_, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
	if err == nil || !strings.Contains(err.Error(), "download "+s.path.String()) {
		t.Errorf("error %v", err)
	}
	s.server.set(nil, nil)
	if _, err := checkpoint.Download(t.Context(), s.client, s.path, hasty(dir)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
