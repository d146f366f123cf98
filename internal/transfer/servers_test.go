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
)

// some is several chunks of content.
var some = randomBytes(900_001)

// ranged answers as object stores do.
func ranged(b []byte, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// asked is the range of a request, or false.
func asked(r *http.Request) (first, last int, ok bool) {
	n, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
	return first, last, n == 2 && err == nil
}

// partial answers with bytes first to last of some, with headers of one's own.
func partial(w http.ResponseWriter, first, last int, contentRange string) {
	w.Header().Set("Content-Range", contentRange)
	w.Header().Set("Content-Length", strconv.Itoa(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(some[first : last+1])
}

// hijack writes an answer by hand and ends the connection.
func hijack(w http.ResponseWriter, answer string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, answer)
	_ = conn.Close()
}

// wholly answers with all of b, without ranges.
func wholly(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b)
	}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, opts Options) *Client {
	t.Helper()
	c := New(opts)
	t.Cleanup(c.Close)
	return c
}

func readAll(ctx context.Context, c *Client, o Object, offset int64) ([]byte, error) {
	r, err := c.Open(ctx, o, offset, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestServers: whatever the server can do, the bytes are the same.
func TestServers(t *testing.T) {
	chunked := func(w http.ResponseWriter, _ *http.Request) {
		for b := some; len(b) > 0; b = b[min(len(b), 100_000):] {
			_, _ = w.Write(b[:min(len(b), 100_000)])
			w.(http.Flusher).Flush()
		}
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		ranges  bool
	}{
		"ranges":            {ranged(some, `"one"`), true},
		"ranges, no ETag":   {ranged(some, ""), true},
		"ranges, weak ETag": {ranged(some, `W/"w"`), true},
		"ranges ignored":    {wholly(some), false},
		"chunked":           {chunked, false},
		"until the connection closes": {func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, "HTTP/1.0 200 OK\r\n\r\n"+string(some))
		}, false},
		"no total size": {func(w http.ResponseWriter, r *http.Request) {
			if first, last, ok := asked(r); ok {
				last = min(last, len(some)-1)
				partial(w, first, last, fmt.Sprintf("bytes %d-%d/*", first, last))
			} else {
				chunked(w, r)
			}
		}, false},
		"shorter ranges than asked for": {func(w http.ResponseWriter, r *http.Request) {
			first, last, _ := asked(r)
			last = min(last, first+99_999, len(some)-1)
			partial(w, first, last, fmt.Sprintf("bytes %d-%d/%d", first, last, len(some)))
		}, true},
		"ranges without a length": {func(w http.ResponseWriter, r *http.Request) {
			first, last, _ := asked(r)
			last = min(last, len(some)-1)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(some)))
			w.WriteHeader(http.StatusPartialContent)
			w.(http.Flusher).Flush()
			_, _ = w.Write(some[first : last+1])
		}, true},
		"behind a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			ranged(some, `"one"`)(w, r)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, quick())
			for _, size := range []int64{-1, int64(len(some))} {
				for _, offset := range []int{0, 1, 300_000, len(some) - 1} {
					o := fixedAt(serve(t, tc.handler).URL + "/")
					o.Size = size
					got, err := readAll(t.Context(), c, o, int64(offset))
					if offset > 0 && !tc.ranges {
						if name == "no total size" && size >= 0 {
							continue // it can be read: the size is known
						}
						if !errors.Is(err, ErrNoRanges) {
							t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
						}
					} else if err != nil || !bytes.Equal(got, some[offset:]) {
						t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
					}
				}
			}
		})
	}
}

// A stream without a length that goes on beyond the size that is known is cut
// off there: nobody's disk is filled with it.
func TestStreamBeyondItsSize(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(some); err != nil {
				return
			}
		}
	})
	o := fixedAt(s.URL)
	o.Size = int64(len(some))
	got, err := readAll(t.Context(), client(t, quick()), o, 0)
	if !errors.Is(err, errLong) || len(got) > len(some) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestRenewal: one URL expires while several requests use it. It is renewed
// once for all of them.
func TestRenewal(t *testing.T) {
	for _, refusal := range []int{400, 401, 403, 404, 410} {
		t.Run(strconv.Itoa(refusal), func(t *testing.T) {
			t.Parallel()
			const jobs = 4
			var refused atomic.Int64
			together := make(chan struct{})
			big := randomBytes(3 << 20)
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if first, _, _ := asked(r); r.URL.Path == "/1" && first > 0 {
					// The refusals come at the same time.
					if refused.Add(1) == jobs {
						close(together)
					}
					<-together
					w.WriteHeader(refusal)
					return
				}
				ranged(big, `"one"`)(w, r)
			})
			var mu sync.Mutex
			var calls []string
			o := Object{Name: "it", Size: -1, Locate: func(_ context.Context, refused string) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, strings.TrimPrefix(refused, s.URL))
				return fmt.Sprintf("%s/%d", s.URL, len(calls)), nil
			}}
			opts := quick()
			opts.Jobs, opts.Retries = jobs, -1
			got, err := readAll(t.Context(), client(t, opts), o, 0)
			if err != nil || !bytes.Equal(got, big) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if strings.Join(calls, " ") != " /1" {
				t.Errorf("Locate was called for %q, want once in the beginning and once for /1", calls)
			}
		})
	}
	t.Run("Locate fails", func(t *testing.T) {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
		mine := errors.New("my own")
		o := Object{Name: "it", Size: -1, Locate: func(_ context.Context, refused string) (string, error) {
			if refused != "" {
				return "", mine
			}
			return s.URL, nil
		}}
		if _, err := readAll(t.Context(), client(t, quick()), o, 0); !errors.Is(err, mine) {
			t.Errorf("error %v", err)
		}
	})
}

// A reader whose user takes its time is not a server that stalls.
func TestSlowUser(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{"ranges": ranged(some, `"one"`), "stream": wholly(some)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				h(w, r)
			})
			opts := quick()
			opts.Jobs, opts.StallTimeout, opts.Retries = 1, time.Second, -1
			r, err := client(t, opts).Open(t.Context(), fixedAt(s.URL), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var got []byte
			for {
				b, err := r.Next()
				if err == io.EOF { //nolint:errorlint // the end itself
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
				time.Sleep(opts.StallTimeout * 3 / 2)
			}
			if want := int64(map[string]int{"ranges": 4, "stream": 1}[name]); !bytes.Equal(got, some) || requests.Load() != want {
				t.Errorf("%d bytes in %d requests, want %d", len(got), requests.Load(), want)
			}
		})
	}
}

// TestManyReaders: more readers than there are buffers, over servers of both
// kinds, all come to their end, in memory of a fixed size.
func TestManyReaders(t *testing.T) {
	for jobs := 1; jobs <= 3; jobs++ {
		t.Run(fmt.Sprint(jobs, " jobs"), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(jobs), 1))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			opts := quick()
			opts.Jobs = jobs
			c := client(t, opts)
			buffers := cap(c.window)
			var all sync.WaitGroup
			for i := range 24 {
				b := some[:rnd.IntN(len(some))]
				if i%5 == 0 {
					b = some[:i/5%4*int(c.chunk)] // whole chunks
				}
				h := ranged(b, `"one"`)
				if i%2 == 0 {
					h = wholly(b)
				}
				pause := time.Duration(rnd.IntN(3)) * time.Millisecond
				o := fixedAt(serve(t, h).URL)
				if rnd.IntN(2) == 0 {
					o.Size = int64(len(b))
				}
				all.Go(func() {
					r, err := c.Open(ctx, o, 0, nil)
					if err != nil {
						t.Error(err)
						return
					}
					defer r.Close()
					for got := 0; ; {
						p, err := r.Next()
						if err == io.EOF && got == len(b) { //nolint:errorlint // the end itself
							return
						}
						if err != nil || got+len(p) > len(b) || !bytes.Equal(p, b[got:got+len(p)]) {
							t.Errorf("%d bytes at %d of %d: %v", len(p), got, len(b), err)
							return
						}
						got += len(p)
						time.Sleep(pause)
					}
				})
			}
			all.Wait()
			if len(c.window) != buffers {
				t.Fatalf("%d of %d buffers are back", len(c.window), buffers)
			}
			for range buffers {
				if b := <-c.window; int64(cap(b)) > c.chunk {
					t.Errorf("a buffer of %d bytes, more than %d", cap(b), c.chunk)
				}
			}
		})
	}
}

// The window is what Options say, however many jobs there are.
func TestWindow(t *testing.T) {
	for _, opts := range []Options{{}, {Jobs: 1}, {Jobs: 3, WindowBytes: 1 << 20}, {Jobs: 16, WindowBytes: 32 << 20}, {Jobs: 64}} {
		c := client(t, opts)
		window := opts.WindowBytes
		if window <= 0 {
			window = DefaultWindowBytes
		}
		if n := int64(cap(c.window)) * c.chunk; n > int64(max(window, cap(c.window)*minChunkBytes)) || c.chunk%(64<<10) != 0 {
			t.Errorf("%+v: %d buffers of %d bytes", opts, cap(c.window), c.chunk)
		}
	}
}

// FuzzResponse: whatever an answer's headers say, what is taken for the range
// asked for lies within it.
func FuzzResponse(f *testing.F) {
	f.Add(206, "bytes 0-99/1000", int64(100), `"a"`, int64(0), int64(100))
	f.Add(206, "bytes 0-99/*", int64(-1), "", int64(0), int64(200))
	f.Add(206, "bytes 10-+9/-5", int64(0), "", int64(10), int64(5))
	f.Add(200, "", int64(7), `W/"a"`, int64(0), int64(-1))
	f.Add(416, "bytes */0", int64(0), "", int64(0), int64(1))
	f.Fuzz(func(t *testing.T, status int, contentRange string, contentLength int64, etag string, offset, length int64) {
		first, last, size, ok := parseContentRange(contentRange)
		if ok && (first < 0 || last < first || size < -1 || size >= 0 && last >= size) {
			t.Fatalf("%q is %d-%d/%d", contentRange, first, last, size)
		}
		if offset < 0 || length == 0 || offset > 1<<50 || length > 1<<50 || contentLength < -1 {
			return
		}
		length = max(length, -1)
		known := &facts{size: -1}
		resp := &http.Response{StatusCode: status, ContentLength: contentLength, Header: http.Header{
			"Content-Range": {contentRange}, "Etag": {etag},
		}}
		a, err := read(resp, offset, length, known)
		if err != nil {
			return
		}
		switch {
		case a.ranged && (length < 0 || a.length < 0 || a.length > length):
			t.Errorf("%d bytes for %d", a.length, length)
		case a.ranged && a.length > 0 && a.size >= 0 && offset+a.length > a.size:
			t.Errorf("%d bytes from %d of %d", a.length, offset, a.size)
		case !a.ranged && length >= 0 && offset > 0:
			t.Errorf("everything taken for %d bytes from %d", length, offset)
		case a.etag != "" && !strings.HasPrefix(a.etag, `"`):
			t.Errorf("%q taken for a strong entity tag", a.etag)
		}
	})
}

// TestOddAnswers: what cannot be made sense of is told from what can pass, and
// never taken for the file's bytes.
func TestOddAnswers(t *testing.T) {
	good, stream := ranged(some, `"one"`), wholly(some)
	second := func(n int64) bool { return n == 2 }
	contentRange := func(f func(first, last int) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			first, last, _ := asked(r)
			last = min(last, len(some)-1)
			partial(w, first, last, f(first, last))
		}
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		err     error // nil: it is read all the same
		says    string
	}{
		"a longer range than asked for": {contentRange(func(f, l int) string { return fmt.Sprintf("bytes %d-%d/%d", f, l+1, len(some)+9) }), errBadRange, ""},
		"a range of another length":     {contentRange(func(f, l int) string { return fmt.Sprintf("bytes %d-%d/%d", f, l-1, len(some)) }), errBadRange, ""},
		"garbage for a range":           {contentRange(func(int, int) string { return "bytes x-y/z" }), errBadRange, ""},
		"garbage for a range, once":     {on(good, contentRange(func(int, int) string { return "bytes x-y/z" }), second), nil, ""},
		"the whole in the first's place": {on(good, func(w http.ResponseWriter, r *http.Request) {
			if first, _, _ := asked(r); first == 0 {
				stream(w, r)
			} else {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, func(n int64) bool { return n > 1 }), &StatusError{}, "503"},
		"a redirect to nowhere":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "gopher://x/", http.StatusFound) }, errAny, "gopher"},
		"an unknown status":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(799) }, &StatusError{}, "799"},
		"not HTTP":               {func(w http.ResponseWriter, _ *http.Request) { hijack(w, "SSH-2.0-x\r\n") }, errAny, "gave up after 5"},
		"a reset in the headers": {on(good, func(w http.ResponseWriter, _ *http.Request) { hijack(w, "HTTP/1.1 206 P") }, second), nil, ""},
		"a stream that comes a little further each time": {func() http.HandlerFunc {
			var n atomic.Int64
			return func(w http.ResponseWriter, _ *http.Request) {
				hijack(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(some), some[:min(1000*n.Add(1), 50_000)]))
			}
		}(), errShort, "gave up after"},
		"a stream that loses its entity tag": {on(stream, func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nETag: \"one\"\r\nContent-Length: %d\r\n\r\n%s", len(some), some[:600_000]))
		}, func(n int64) bool { return n == 1 }), ErrChanged, "lost its entity tag"},
		"a stream that shrinks": {on(func(w http.ResponseWriter, _ *http.Request) { hijack(w, "HTTP/1.0 200 OK\r\n\r\nshort") },
			func(w http.ResponseWriter, _ *http.Request) {
				hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n92000\r\n"+string(some[:0x92000])+"\r\n")
			}, func(n int64) bool { return n == 1 }), ErrChanged, "fewer bytes than before"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tc.handler)
			got, err := readAll(t.Context(), client(t, quick()), fixedAt(s.URL+"/"), 0)
			var status *StatusError
			switch {
			case tc.err == nil:
				if err != nil || !bytes.Equal(got, some) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			case err == nil, !strings.Contains(err.Error(), tc.says), strings.Contains(err.Error(), s.URL):
				t.Errorf("%d bytes, error %v, want one that says %q and no URL", len(got), err, tc.says)
			case errors.As(tc.err, &status) && errors.As(err, &status), tc.err == errAny: //nolint:errorlint // itself
			case !errors.Is(err, tc.err):
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if !bytes.HasPrefix(some, got) {
				t.Errorf("%d bytes before the error, and wrong ones", len(got))
			}
			if strings.HasPrefix(name, "a stream that comes") && len(got) > 10_000 {
				t.Errorf("given up after %d bytes, a thousand at a time", len(got))
			}
		})
	}
}

var errAny = errors.New("any error")

// A watchdog whose timer has gone off just before it was paused stays asleep.
func TestWatchdogThatIsPausedTooLate(t *testing.T) {
	w := newWatchdog(time.Hour, func(err error) {
		if err != nil {
			t.Errorf("it barked: %v", err)
		}
	})
	defer w.end()
	w.bytes.Add(leastProgress)
	w.pause()
	w.look()
	if w.timer.Stop() {
		t.Error("its timer runs while it is paused")
	}
}

func fixedAt(url string) Object {
	return Object{Name: "it", Size: -1, Locate: func(context.Context, string) (string, error) { return url, nil }}
}

// on has some requests, counted from 1, meet a fault instead.
func on(next, fault http.HandlerFunc, faults func(n int64) bool) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if faults(n.Add(1)) {
			fault(w, r)
		} else {
			next(w, r)
		}
	}
}

// Without an entity tag, the date tells the pieces of two objects apart.
func TestModifiedWithoutAnEntityTag(t *testing.T) {
	one, two := randomBytes(3<<20), randomBytes(3<<20 + 1)[1:]
	first, later := time.Unix(1_700_000_000, 0), time.Unix(1_700_000_001, 0)
	for name, tc := range map[string]struct {
		etag      string
		dates     [2]time.Time
		unranged  bool
		otherwise []byte // what is served from the third request on
		changed   bool
	}{
		"replaced, dated":               {"", [2]time.Time{first, later}, false, two, true},
		"dates of two servers, tagged":  {`"v1"`, [2]time.Time{first, later}, false, one, false},
		"dated once":                    {"", [2]time.Time{first, {}}, false, one, false},
		"dated later":                   {"", [2]time.Time{{}, first}, false, one, false},
		"the same date":                 {"", [2]time.Time{first, first}, false, one, false},
		"touched, but read as a stream": {"", [2]time.Time{first, later}, true, one, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &remote{}
			s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
				content, date := one, tc.dates[0]
				if n > 2 {
					content, date = tc.otherwise, tc.dates[1]
				}
				if tc.etag != "" {
					w.Header().Set("ETag", tc.etag)
				}
				if !tc.unranged {
					http.ServeContent(w, r, "", date, bytes.NewReader(content))
					return true
				}
				w.Header().Set("Last-Modified", date.UTC().Format(http.TimeFormat))
				w.Header().Set("Content-Length", strconv.Itoa(len(content)))
				if n < 4 {
					content = content[:1<<20] // and begun anew
				}
				_, _ = w.Write(content)
				return true
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			c := New(quick())
			defer c.Close()
			o, _ := at(srv.URL)
			got, _, err := fetch(t.Context(), c, o, 0)
			switch {
			case tc.changed && !errors.Is(err, ErrChanged):
				t.Errorf("%d bytes, %v", len(got), err)
			case !tc.changed && (err != nil || !bytes.Equal(got, one)):
				t.Errorf("%d bytes, which differ from what was served: %v", len(got), err)
			}
		})
	}
}

// Once the entity tag is known, every range is asked for on the condition that
// it still is that: a server that knows better answers with the whole.
func TestRangesAreConditional(t *testing.T) {
	content := randomBytes(3 << 20)
	for _, known := range []string{"", `"v1"`} {
		s := &remote{content: content, etag: `"v1"`}
		var bad atomic.Int64
		s.fault = func(n int, _ http.ResponseWriter, r *http.Request) bool {
			if n == 1 && known == "" {
				return false
			}
			if r.Header.Get("If-Range") != `"v1"` {
				bad.Add(1)
			}
			return false
		}
		srv := httptest.NewServer(s)
		c := New(quick())
		o, _ := at(srv.URL)
		o.ETag = known
		got, _, err := fetch(t.Context(), c, o, 0)
		if err != nil || !bytes.Equal(got, content) || s.requests.Load() < 3 || bad.Load() > 0 {
			t.Errorf("known %q: %d of %d requests were without a condition, %v", known, bad.Load(), s.requests.Load(), err)
		}
		c.Close()
		srv.Close()
	}
}
