package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Of the standard library's own test servers, which the tests close.
var ofServers = []goleak.Option{
	goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),
	goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(lastOnes{m}, ofServers...) }

// lastOnes gives the goroutines that are about to end the time that a busy
// machine needs for it, which is more than goleak's half a second.
type lastOnes struct{ *testing.M }

func (l lastOnes) Run() int {
	code := l.M.Run()
	for began := time.Now(); goleak.Find(ofServers...) != nil && time.Since(began) < time.Minute; {
		continue
	}
	return code
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

// remote serves bytes, and whatever else a test wants to see.
type remote struct {
	content  []byte
	etag     string
	noRanges bool
	noLength bool
	// fault, if not nil, may answer a request itself. n counts from 1.
	fault    func(n int, w http.ResponseWriter, r *http.Request) bool
	requests atomic.Int64
	sent     atomic.Int64
}

func (s *remote) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(s.requests.Add(1))
	if s.fault != nil && s.fault(n, w, r) {
		return
	}
	s.plain(w, r)
}

func (s *remote) plain(w http.ResponseWriter, r *http.Request) {
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	cw := &countingWriter{w, &s.sent}
	if !s.noRanges {
		http.ServeContent(cw, r, "", time.Time{}, bytes.NewReader(s.content))
		return
	}
	if !s.noLength {
		w.Header().Set("Content-Length", strconv.Itoa(len(s.content)))
	}
	if s.noLength {
		w.(http.Flusher).Flush()
	}
	_, _ = cw.Write(s.content)
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n.Add(int64(n))
	return n, err
}

// quick tries again at once. It takes no server for one that stalls, however
// busy the machine is.
func quick() Options {
	return Options{WindowBytes: 1, Jobs: 3, StallTimeout: time.Minute, Retries: 4, RetryDelay: time.Millisecond}
}

// at locates a server, and renews the URL with a number.
func at(url string) (Object, *atomic.Int64) {
	var renewals atomic.Int64
	return Object{Name: "file", Size: -1, Locate: func(_ context.Context, refused string) (string, error) {
		if refused == "" {
			return url + "/0", nil
		}
		return fmt.Sprintf("%s/%d", url, renewals.Add(1)), nil
	}}, &renewals
}

// fetch reads an object from an offset to its end.
func fetch(ctx context.Context, c *Client, o Object, offset int64) ([]byte, *Reader, error) {
	r, err := c.Open(ctx, o, offset, nil)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return b, r, err
}

func status(code int, only func(n int) bool) func(int, http.ResponseWriter, *http.Request) bool {
	return func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if only(n) {
			w.WriteHeader(code)
		}
		return only(n)
	}
}

func nth(n int) func(int) bool { return func(i int) bool { return i == n } }
func from(n int) func(int) bool {
	return func(i int) bool { return i >= n }
}

// partly sends the beginning of the right answer and then does something.
func partly(only func(int) bool, bytesSent int, then func(w http.ResponseWriter, r *http.Request)) func(*remote) func(int, http.ResponseWriter, *http.Request) bool {
	return func(s *remote) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
			if !only(n) {
				return false
			}
			rec := httptest.NewRecorder()
			s.plain(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:min(bytesSent, rec.Body.Len())])
			w.(http.Flusher).Flush()
			then(w, r)
			return true
		}
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
func stall(_ http.ResponseWriter, r *http.Request) {
	<-r.Context().Done()
}

// drip sends the right answer, but so slowly that it never ends.
func drip(only func(int) bool) func(*remote) faultFunc {
	return func(s *remote) faultFunc {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
			if !only(n) {
				return false
			}
			rec := httptest.NewRecorder()
			s.plain(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			for b := rec.Body.Bytes(); len(b) > 0 && r.Context().Err() == nil; b = b[1:] {
				_, _ = w.Write(b[:1])
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
			return true
		}
	}
}

func TestFaults(t *testing.T) {
	content := randomBytes(2<<20 + 777) // nine chunks of 256 KiB
	for name, tc := range map[string]struct {
		etag     string
		noRanges bool
		noLength bool
		fault    func(*remote) func(int, http.ResponseWriter, *http.Request) bool
		err      error  // the error it wraps, if it is to fail
		says     string // or what it says
		renewals int64
	}{
		"none":                        {etag: `"a"`},
		"none, no entity tag":         {},
		"no ranges":                   {noRanges: true},
		"no ranges, no length":        {noRanges: true, noLength: true},
		"reset midway":                {etag: `"a"`, fault: partly(nth(3), 1000, hangUp)},
		"reset midway, a stream":      {noRanges: true, fault: partly(nth(1), 300_000, hangUp)},
		"reset, a stream of a tag":    {noRanges: true, etag: `"a"`, fault: partly(nth(1), 300_000, hangUp)},
		"reset, no length":            {noRanges: true, noLength: true, fault: partly(nth(1), 300_000, hangUp)},
		"reset, for ever":             {fault: partly(from(3), 0, hangUp), says: "gave up after 5 tries"},
		"stall":                       {fault: partly(nth(2), 1000, stall)},
		"stall, for ever":             {fault: partly(from(2), 1000, stall), says: "stopped sending"},
		"slow drip":                   {fault: drip(nth(2))},
		"slow drip, for ever":         {fault: drip(from(2)), says: "stopped sending"},
		"500 once":                    {fault: fixed(status(500, nth(2)))},
		"503 at first":                {fault: fixed(status(503, nth(1)))},
		"503 for ever":                {fault: fixed(status(503, from(1))), says: "503 Service Unavailable; gave up after 5 tries"},
		"501 is final":                {fault: fixed(status(501, from(2))), says: "501 Not Implemented"},
		"403, renewed":                {fault: fixed(refuseOldURL(403)), renewals: 1},
		"404, renewed":                {fault: fixed(refuseOldURL(404)), renewals: 1},
		"410, renewed":                {fault: fixed(refuseOldURL(410)), renewals: 1},
		"403 whatever the URL":        {fault: fixed(status(403, from(3))), says: "403 Forbidden", renewals: -1},
		"200 instead of 206, once":    {fault: whole(nth(3))},
		"200 instead of 206, always":  {fault: whole(from(3)), says: "the whole file instead of the range"},
		"another range, once":         {fault: anotherRange(nth(3))},
		"another range, always":       {fault: anotherRange(from(2)), says: "another range"},
		"416 midway":                  {fault: fixed(status(416, nth(4))), err: ErrChanged},
		"entity tag changes":          {etag: `"a"`, fault: retag(3), err: ErrChanged},
		"entity tag changes, stream":  {etag: `"a"`, noRanges: true, fault: both(partly(nth(1), 300_000, hangUp), retag(2)), err: ErrChanged},
		"size changes":                {fault: resize(3), err: ErrChanged},
		"bytes change, a stream":      {noRanges: true, fault: both(partly(nth(1), 300_000, hangUp), rewrite(2)), err: ErrChanged},
		"shorter ranges than asked":   {fault: shorter()},
		"redirects":                   {fault: fixed(redirect(3))},
		"redirect loop":               {fault: fixed(redirect(1 << 20)), says: "10 redirects"},
		"wrong Content-Length, short": {fault: wrongLength(nth(3), -10)},
		"no Content-Range":            {fault: noContentRange(nth(2))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &remote{content: content, etag: tc.etag, noRanges: tc.noRanges, noLength: tc.noLength}
			if tc.fault != nil {
				s.fault = tc.fault(s)
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			opts := quick()
			if strings.HasPrefix(name, "stall") || strings.HasPrefix(name, "slow drip") {
				opts.StallTimeout = 300 * time.Millisecond
			}
			c := New(opts)
			defer c.Close()
			o, renewals := at(srv.URL)
			got, _, err := fetch(t.Context(), c, o, 0)
			switch {
			case tc.err != nil || tc.says != "":
				if err == nil || tc.err != nil && !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error %v, want %v %q", err, tc.err, tc.says)
				}
				if !bytes.HasPrefix(content, got) {
					t.Error("what was read before the error is not the beginning of the file")
				}
			case err != nil:
				t.Error(err)
			case !bytes.Equal(got, content):
				t.Errorf("%d bytes, which differ from the %d served", len(got), len(content))
			}
			if n := renewals.Load(); tc.renewals >= 0 && n != tc.renewals {
				t.Errorf("the URL was renewed %d times, want %d", n, tc.renewals)
			}
			if len(c.window) != cap(c.window) || len(c.jobs) != 0 {
				t.Errorf("%d of %d buffers came back, %d jobs are taken", len(c.window), cap(c.window), len(c.jobs))
			}
		})
	}
}

type faultFunc = func(int, http.ResponseWriter, *http.Request) bool

func fixed(f faultFunc) func(*remote) faultFunc { return func(*remote) faultFunc { return f } }

func both(a, b func(*remote) faultFunc) func(*remote) faultFunc {
	return func(s *remote) faultFunc {
		fa, fb := a(s), b(s)
		return func(n int, w http.ResponseWriter, r *http.Request) bool { return fa(n, w, r) || fb(n, w, r) }
	}
}

func refuseOldURL(code int) faultFunc {
	return func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n < 4 || r.URL.Path != "/0" {
			return false
		}
		w.WriteHeader(code)
		return true
	}
}

func whole(only func(int) bool) func(*remote) faultFunc {
	return func(*remote) faultFunc {
		return func(n int, _ http.ResponseWriter, r *http.Request) bool {
			if only(n) {
				r.Header.Del("Range")
			}
			return false
		}
	}
}

func anotherRange(only func(int) bool) func(*remote) faultFunc {
	return func(*remote) faultFunc {
		return func(n int, _ http.ResponseWriter, r *http.Request) bool {
			if only(n) {
				r.Header.Set("Range", "bytes=5-10")
			}
			return false
		}
	}
}

// replaced serves something else from the n-th request on.
func replaced(n int, by func(s *remote) *remote) func(*remote) faultFunc {
	return func(s *remote) faultFunc {
		return func(i int, w http.ResponseWriter, r *http.Request) bool {
			if i < n {
				return false
			}
			by(s).plain(w, r)
			return true
		}
	}
}

func retag(n int) func(*remote) faultFunc {
	return replaced(n, func(s *remote) *remote {
		return &remote{content: s.content, etag: `"b"`, noRanges: s.noRanges}
	})
}

func resize(n int) func(*remote) faultFunc {
	return replaced(n, func(s *remote) *remote { return &remote{content: append(bytes.Clone(s.content), 1)} })
}

func rewrite(n int) func(*remote) faultFunc {
	return replaced(n, func(s *remote) *remote {
		changed := bytes.Clone(s.content)
		changed[100] ^= 1
		return &remote{content: changed, noRanges: true}
	})
}

func shorter() func(*remote) faultFunc {
	return func(*remote) faultFunc {
		return func(n int, _ http.ResponseWriter, r *http.Request) bool {
			var a, b int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &a, &b); err == nil && n%2 == 0 {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", a, a+(b-a)/2))
			}
			return false
		}
	}
}

func redirect(times int) faultFunc {
	return func(_ int, w http.ResponseWriter, r *http.Request) bool {
		hop, _ := strconv.Atoi(r.URL.Query().Get("hop"))
		if hop >= times {
			return false
		}
		http.Redirect(w, r, fmt.Sprintf("%s?hop=%d", r.URL.Path, hop+1), http.StatusFound)
		return true
	}
}

func wrongLength(only func(int) bool, by int) func(*remote) faultFunc {
	return func(s *remote) faultFunc {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
			if !only(n) {
				return false
			}
			rec := httptest.NewRecorder()
			s.plain(rec, r)
			w.Header().Set("Content-Range", rec.Header().Get("Content-Range"))
			w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()+by))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()+by])
			return true
		}
	}
}

func noContentRange(only func(int) bool) func(*remote) faultFunc {
	return func(*remote) faultFunc {
		return func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if !only(n) {
				return false
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write([]byte("some bytes"))
			return true
		}
	}
}

func TestRetryAfterIsHeeded(t *testing.T) {
	s := &remote{content: randomBytes(1000)}
	var first, second time.Time
	s.fault = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n > 1 {
			second = time.Now()
			return false
		}
		first = time.Now()
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := New(quick())
	defer c.Close()
	o, _ := at(srv.URL)
	if got, _, err := fetch(t.Context(), c, o, 0); err != nil || !bytes.Equal(got, s.content) {
		t.Fatal(err)
	}
	if wait := second.Sub(first); wait < time.Second {
		t.Errorf("came again after %v, though asked for a second", wait)
	}
}

func TestUnreachable(t *testing.T) {
	const closed = "http://127.0.0.1:1" // no system gives this port to whoever asks for just any
	secure := httptest.NewTLSServer(&remote{content: []byte("x")})
	defer secure.Close()
	for name, tc := range map[string]struct {
		url, says string
		tries     bool
	}{
		"nobody listens": {closed, "cannot connect to", true},
		"no such host":   {"http://host.invalid", "cannot find the host", true},
		"untrusted":      {secure.URL, "certificate", false},
		"not a URL":      {"http://[", "a URL that is none", false},
		"another scheme": {"ftp://127.0.0.1/x", "unsupported protocol", true},
	} {
		c := New(quick())
		o, _ := at(tc.url)
		_, _, err := fetch(t.Context(), c, o, 0)
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "gave up after 5") != tc.tries {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

func TestOffsets(t *testing.T) {
	s := &remote{content: randomBytes(1 << 20), etag: `"a"`}
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := New(quick())
	defer c.Close()
	for range 40 {
		offset := rand.Int64N(1<<20 + 1)
		o, _ := at(srv.URL)
		if rand.IntN(2) == 0 {
			o.Size = 1 << 20
		}
		if offset == 1<<20 {
			o.Size = 1 << 20
		}
		got, r, err := fetch(t.Context(), c, o, offset)
		if err != nil || !bytes.Equal(got, s.content[offset:]) || !r.Ranged() || r.Size() != 1<<20 {
			t.Fatalf("from %d: %d bytes, %v", offset, len(got), err)
		}
	}
	o, _ := at(srv.URL)
	o.ETag = `"another"`
	if _, _, err := fetch(t.Context(), c, o, 10); !errors.Is(err, ErrChanged) {
		t.Errorf("under another entity tag: %v", err)
	}
	if _, _, err := fetch(t.Context(), c, Object{Name: "x", Size: -1, Locate: o.Locate}, 2<<20); !errors.Is(err, ErrChanged) {
		t.Errorf("from beyond the end: %v", err)
	}
	s.noRanges = true
	o, _ = at(srv.URL)
	if _, _, err := fetch(t.Context(), c, o, 10); !errors.Is(err, ErrNoRanges) {
		t.Errorf("from the middle of a stream: %v", err)
	}
}

func TestEmptyObject(t *testing.T) {
	for _, noRanges := range []bool{false, true} {
		srv := httptest.NewServer(&remote{noRanges: noRanges})
		c := New(quick())
		o, _ := at(srv.URL)
		if got, _, err := fetch(t.Context(), c, o, 0); err != nil || len(got) != 0 {
			t.Errorf("ranges %v: %d bytes, %v", !noRanges, len(got), err)
		}
		c.Close()
		srv.Close()
	}
}

// Whatever the sizes, the jobs and the number of readers, everything comes out
// and nobody waits for ever.
func TestReadersShareAWindow(t *testing.T) {
	for jobs := 1; jobs <= 4; jobs++ {
		opts := quick()
		opts.Jobs = jobs
		c := New(opts)
		var all sync.WaitGroup
		for i := range 8 {
			s := &remote{content: randomBytes(rand.IntN(3 << 20)), etag: `"a"`, noRanges: i == 7}
			srv := httptest.NewServer(s)
			all.Go(func() {
				defer srv.Close()
				o, _ := at(srv.URL)
				got, _, err := fetch(t.Context(), c, o, 0)
				if err != nil || !bytes.Equal(got, s.content) {
					t.Errorf("%d jobs: %d bytes of %d, %v", jobs, len(got), len(s.content), err)
				}
			})
		}
		all.Wait()
		if len(c.window) != cap(c.window) {
			t.Errorf("%d of %d buffers came back", len(c.window), cap(c.window))
		}
		c.Close()
	}
}

func TestCancellation(t *testing.T) {
	for _, noRanges := range []bool{false, true} {
		s := &remote{content: randomBytes(4 << 20), noRanges: noRanges}
		s.fault = partly(from(2), 100, stall)(s)
		if noRanges {
			s.fault = partly(from(1), 600_000, stall)(s)
		}
		srv := httptest.NewServer(s)
		c := New(quick())
		ctx, cancel := context.WithCancel(t.Context())
		o, _ := at(srv.URL)
		r, err := c.Open(ctx, o, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
			t.Errorf("ranges %v: %v", !noRanges, err)
		}
		r.Close()
		c.Close()
		srv.Close()
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/1000", "bytes 5-5/*", "bytes */10", "bytes 9-1/3", "bytes -1-2/3", "bytes 0-+9/-5", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, size, ok := parseContentRange(s)
		if ok && (first < 0 || last < first || size < -1 || size >= 0 && last >= size) {
			t.Errorf("%q: %d-%d/%d", s, first, last, size)
		}
	})
}
