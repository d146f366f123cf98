package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func serveHandler(t testing.TB, a *Body) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := Serve(w, r, a, "", someTime, "run_weights_0001.tar"); err != nil {
			t.Errorf("Serve: %v", err)
			panic(http.ErrAbortHandler)
		}
	})
}

func TestServe(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	want := whole(t, a)
	size := a.Size()
	tag := a.ETag()
	server := httptest.NewServer(serveHandler(t, a))
	defer server.Close()

	modified := someTime.Format(http.TimeFormat)
	past := someTime.Add(-time.Hour).Format(http.TimeFormat)
	for _, test := range []struct {
		name         string
		method       string
		header       map[string]string
		status       int
		body         []byte // nil: do not care
		contentRange string
	}{
		{"all", "GET", nil, 200, want, ""},
		{"HEAD", "HEAD", nil, 200, []byte{}, ""},
		{"POST", "POST", nil, 405, nil, ""},
		{"first bytes", "GET", map[string]string{"Range": "bytes=0-99"}, 206, want[:100], fmt.Sprintf("bytes 0-99/%d", size)},
		{"inside a file", "GET", map[string]string{"Range": "bytes=5000-60000"}, 206, want[5000:60001], fmt.Sprintf("bytes 5000-60000/%d", size)},
		{"to the end", "GET", map[string]string{"Range": "bytes=70001-"}, 206, want[70001:], fmt.Sprintf("bytes 70001-%d/%d", size-1, size)},
		{"the last bytes", "GET", map[string]string{"Range": "bytes=-2000"}, 206, want[size-2000:], fmt.Sprintf("bytes %d-%d/%d", size-2000, size-1, size)},
		{"one byte", "GET", map[string]string{"Range": "bytes=512-512"}, 206, want[512:513], fmt.Sprintf("bytes 512-512/%d", size)},
		{"beyond the end", "GET", map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", size-10, size+10)}, 206, want[size-10:], fmt.Sprintf("bytes %d-%d/%d", size-10, size-1, size)},
		{"more than there is", "GET", map[string]string{"Range": "bytes=-999999999"}, 206, want, fmt.Sprintf("bytes 0-%d/%d", size-1, size)},
		{"everything as a range", "GET", map[string]string{"Range": "bytes=0-"}, 206, want, fmt.Sprintf("bytes 0-%d/%d", size-1, size)},
		{"HEAD of a range", "HEAD", map[string]string{"Range": "bytes=0-99"}, 206, []byte{}, fmt.Sprintf("bytes 0-99/%d", size)},
		{"behind the end", "GET", map[string]string{"Range": fmt.Sprintf("bytes=%d-", size)}, 416, nil, fmt.Sprintf("bytes */%d", size)},
		{"nonsense", "GET", map[string]string{"Range": "bytes=9-1"}, 416, nil, ""},
		{"overlapping ranges larger than the whole", "GET", map[string]string{"Range": "bytes=0-,1-,2-"}, 200, want, ""},
		{"a crowd of ranges", "GET", map[string]string{"Range": "bytes=" + strings.Repeat("0-0,", 16) + "5-5"}, 200, want, ""},

		{"If-None-Match", "GET", map[string]string{"If-None-Match": tag}, 304, []byte{}, ""},
		{"If-None-Match, one of several", "GET", map[string]string{"If-None-Match": `"other", ` + tag}, 304, []byte{}, ""},
		{"If-None-Match, another", "GET", map[string]string{"If-None-Match": `"other"`}, 200, want, ""},
		{"If-Match, another", "GET", map[string]string{"If-Match": `"other"`}, 412, nil, ""},
		{"If-Match", "GET", map[string]string{"If-Match": tag}, 200, want, ""},
		{"If-Modified-Since", "GET", map[string]string{"If-Modified-Since": modified}, 304, []byte{}, ""},
		{"If-Modified-Since, before", "GET", map[string]string{"If-Modified-Since": past}, 200, want, ""},
		{"If-Unmodified-Since, before", "GET", map[string]string{"If-Unmodified-Since": past}, 412, nil, ""},
		{"If-Range", "GET", map[string]string{"If-Range": tag, "Range": "bytes=1-2"}, 206, want[1:3], fmt.Sprintf("bytes 1-2/%d", size)},
		{"If-Range, another", "GET", map[string]string{"If-Range": `"other"`, "Range": "bytes=1-2"}, 200, want, ""},
		{"If-Range, weak", "GET", map[string]string{"If-Range": "W/" + tag, "Range": "bytes=1-2"}, 200, want, ""},
		{"If-Range by time", "GET", map[string]string{"If-Range": modified, "Range": "bytes=1-2"}, 206, want[1:3], fmt.Sprintf("bytes 1-2/%d", size)},
		{"If-Range by time, before", "GET", map[string]string{"If-Range": past, "Range": "bytes=1-2"}, 200, want, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequest(test.method, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range test.header {
				req.Header.Set(k, v)
			}
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, test.status)
			}
			if test.body != nil && !bytes.Equal(body, test.body) {
				t.Errorf("%d bytes, want %d", len(body), len(test.body))
			}
			if got := resp.Header.Get("Content-Range"); got != test.contentRange {
				t.Errorf("Content-Range %q, want %q", got, test.contentRange)
			}
			h := resp.Header
			switch test.status {
			case 405:
				if h.Get("Allow") != "GET, HEAD" {
					t.Errorf("Allow %q", h.Get("Allow"))
				}
			case 200, 206:
				length := int64(len(test.body))
				if test.method == "HEAD" {
					length = size
					if test.status == 206 {
						length = 100
					}
				}
				if resp.ContentLength != length {
					t.Errorf("Content-Length %d, want %d", resp.ContentLength, length)
				}
				for k, v := range map[string]string{
					"Content-Type":        "application/x-tar",
					"Accept-Ranges":       "bytes",
					"Last-Modified":       modified,
					"Content-Disposition": "attachment; filename=run_weights_0001.tar",
				} {
					if h.Get(k) != v {
						t.Errorf("%s: %q, want %q", k, h.Get(k), v)
					}
				}
				fallthrough
			case 304:
				if h.Get("ETag") != tag {
					t.Errorf("ETag %s, want %s", h.Get("ETag"), tag)
				}
			}
		})
	}
}

func TestServeSeveralRanges(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	want := whole(t, a)
	server := httptest.NewServer(serveHandler(t, a))
	defer server.Close()
	req, err := http.NewRequest(http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=0-10,700-90000,-5,2000-2000")
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.StatusCode != http.StatusPartialContent || kind != "multipart/byteranges" {
		t.Fatalf("status %d, %s, error %v", resp.StatusCode, kind, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || int64(len(body)) != resp.ContentLength {
		t.Fatalf("%d bytes of %d, error %v", len(body), resp.ContentLength, err)
	}
	size := len(want)
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, r := range [][2]int{{0, 11}, {700, 90001}, {size - 5, size}, {2000, 2001}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", r[0], r[1]-1, size); got != want {
			t.Errorf("Content-Range %q, want %q", got, want)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, want[r[0]:r[1]]) {
			t.Errorf("%d bytes, error %v", len(got), err)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("behind the last part: %v", err)
	}
}

func TestServeHeaders(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	noDigest := checkpointEntries()
	noDigest[0].Digest = ""
	for name, test := range map[string]struct {
		a                         *Body
		etag, filename            string
		modTime                   time.Time
		wantTag, wantDisp, wantLM string
	}{
		"nothing given":         {a, "", "", time.Time{}, a.ETag(), "", ""},
		"tag with quotes":       {a, `"tag"`, "", time.Time{}, `"tag"`, "", ""},
		"tag without quotes":    {a, "tag", "", time.Time{}, `"tag"`, "", ""},
		"weak tag":              {a, `W/"tag"`, "", time.Time{}, `W/"tag"`, "", ""},
		"no tag to be had":      {mustNew(t, noDigest), "", "", time.Time{}, "", "", ""},
		"name with a space":     {a, "", "a b.tar", time.Time{}, a.ETag(), `attachment; filename="a b.tar"`, ""},
		"name with quotes":      {a, "", `a"b.tar`, time.Time{}, a.ETag(), `attachment; filename="a\"b.tar"`, ""},
		"name beyond ASCII":     {a, "", "é.tar", time.Time{}, a.ETag(), "attachment; filename*=utf-8''%C3%A9.tar", ""},
		"name with a line feed": {a, "", "a\r\nSet-Cookie: b", time.Time{}, a.ETag(), "attachment; filename*=utf-8''a%0D%0ASet-Cookie%3A%20b", ""},
		"time":                  {a, "", "", someTime, a.ETag(), "", someTime.Format(http.TimeFormat)},
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			if err := Serve(rec, httptest.NewRequest(http.MethodHead, "/", nil), test.a, test.etag, test.modTime, test.filename); err != nil {
				t.Fatal(err)
			}
			for k, want := range map[string]string{"ETag": test.wantTag, "Content-Disposition": test.wantDisp, "Last-Modified": test.wantLM} {
				if got := rec.Header().Get(k); got != want {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
		})
	}
}

// fileEntry is an entry whose reader behaves as those of local blobs do.
func fileEntry(name, path string, size int64) Entry {
	e := bytesEntry(name, nil)
	e.Size = size
	e.Open = func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			f.Close()
			return nil, err
		}
		return &fileReader{io.LimitedReader{R: f, N: length}, f}, nil
	}
	return e
}

type fileReader struct {
	io.LimitedReader
	f *os.File
}

func (r *fileReader) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &r.LimitedReader) }
func (r *fileReader) Close() error                       { return r.f.Close() }

// recorder is a response that notes which sources it could have left to the
// kernel.
type recorder struct {
	*httptest.ResponseRecorder
	fromFiles, fromOthers int64
}

func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseRecorder, r)
	if lr, ok := r.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			w.fromFiles += n
			return n, err
		}
	}
	w.fromOthers += n
	return n, err
}

// TestServeSendfile: with one range or none, the files themselves reach the
// response.
func TestServeSendfile(t *testing.T) {
	data := random(1, 300_000)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	a := mustNew(t, []Entry{bytesEntry("empty", nil), fileEntry("model.bin", path, int64(len(data))), fileEntry("copy.bin", path, int64(len(data)))})
	want := whole(t, a)
	for _, test := range []struct {
		header    string
		body      []byte
		fromFiles int64
	}{
		{"", want, 600_000},
		{"bytes=1500-", want[1500:], 600_000 - 476},
		{"bytes=2000-2999", want[2000:3000], 1000},
		{"bytes=0-1023", want[:1024], 0},
	} {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		if test.header != "" {
			req.Header.Set("Range", test.header)
		}
		rec := &recorder{ResponseRecorder: httptest.NewRecorder()}
		if err := Serve(rec, req, a, `"tag"`, someTime, "a.tar"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rec.Body.Bytes(), test.body) {
			t.Errorf("%q: %d bytes, want %d", test.header, rec.Body.Len(), len(test.body))
		}
		if rec.fromFiles != test.fromFiles || rec.fromOthers != 0 {
			t.Errorf("%q: %d bytes were read from files, %d from others", test.header, rec.fromFiles, rec.fromOthers)
		}
	}
}

// TestServeBreaksOff: when a file cannot be read, the client must not take
// what it has got for everything, and the server learns why.
func TestServeBreaksOff(t *testing.T) {
	broken := errors.New("broken disk")
	entries := checkpointEntries()
	entries[7].Open = func(context.Context, int64, int64) (io.ReadCloser, error) { return nil, broken }
	a := mustNew(t, entries)
	var got error
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got = Serve(w, r, a, "", someTime, ""); got != nil {
			panic(http.ErrAbortHandler)
		}
	})
	for _, http2 := range []bool{false, true} {
		for _, ranges := range []string{"", "bytes=5-", "bytes=0-1,3-110000"} {
			t.Run(fmt.Sprintf("http2=%v %s", http2, ranges), func(t *testing.T) {
				server := httptest.NewUnstartedServer(handler)
				server.EnableHTTP2 = http2
				server.StartTLS()
				defer server.Close()
				req, err := http.NewRequest(http.MethodGet, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				if ranges != "" {
					req.Header.Set("Range", ranges)
				}
				resp, err := server.Client().Do(req)
				if err == nil {
					var n int64
					n, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil {
						t.Errorf("the client read %d bytes of %d and thinks that is all", n, resp.ContentLength)
					}
				}
				server.Close()
				if !errors.Is(got, broken) || !strings.Contains(got.Error(), entries[7].Name) {
					t.Errorf("Serve: %v", got)
				}
			})
		}
	}
}

// TestServeClientLeaves: a client that goes away ends the work, whichever way
// the bytes go.
func TestServeClientLeaves(t *testing.T) {
	a := mustNew(t, []Entry{hugeEntry("huge.bin", 100_000_000_000, nil)})
	for _, ranges := range []string{"", "bytes=0-9999999999", "bytes=0-9999999999,20000000000-30000000000"} {
		done := make(chan error, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			done <- Serve(w, r, a, "", someTime, "")
		}))
		req, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%q: no error", ranges)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q: still serving", ranges)
		}
		server.Close()
	}
}

// reference serves the bytes of an archive as a file.
func reference(data []byte, etag string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", someTime, bytes.NewReader(data))
	})
}

// FuzzServe compares with what the standard library makes of the same bytes.
func FuzzServe(f *testing.F) {
	a := mustNew(f, checkpointEntries())
	data := whole(f, a)
	tag := a.ETag()
	for _, header := range []string{
		"", "bytes=0-0", "bytes=-1", "bytes=100-", "bytes=0-99999999", "bytes=5-1", "bytes=0-1,2-3,-1", "bytes= 1 - 2 ,",
		"bytes=99999999-", "bytes=-0", "items=0-1", "bytes", "bytes=,", "bytes=0-,0-", "bytes=511-513,1023-1025,100000-",
		"bytes=-9223372036854775808", "bytes=9223372036854775807-", "bytes=1-9223372036854775807",
	} {
		f.Add(header, "", false)
		f.Add(header, tag, true)
		f.Add(header, `"other"`, false)
	}
	f.Fuzz(func(t *testing.T, ranges, ifRange string, head bool) {
		if strings.Count(ranges, ",") >= maxRanges {
			t.Skip("answered with everything, on purpose")
		}
		method := "GET"
		if head {
			method = "HEAD"
		}
		answer := func(h http.Handler) (*http.Response, []byte, [][]byte) {
			req := httptest.NewRequest(method, "/", nil)
			req.Header.Set("Range", ranges)
			req.Header.Set("If-Range", ifRange)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			resp := rec.Result()
			kind, params, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			if kind != "multipart/byteranges" {
				return resp, rec.Body.Bytes(), nil
			}
			if want := resp.Header.Get("Content-Length"); !head && want != fmt.Sprint(rec.Body.Len()) {
				t.Errorf("%d bytes with Content-Length %s", rec.Body.Len(), want)
			}
			var parts [][]byte
			for r := multipart.NewReader(rec.Body, params["boundary"]); ; {
				part, err := r.NextPart()
				if err != nil {
					return resp, nil, parts
				}
				body, err := io.ReadAll(part)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, []byte(part.Header.Get("Content-Range")), body)
			}
		}
		got, body, parts := answer(serveHandler(t, a))
		want, wantBody, wantParts := answer(reference(data, tag))
		if got.StatusCode != want.StatusCode {
			t.Fatalf("status %d, want %d", got.StatusCode, want.StatusCode)
		}
		for _, k := range []string{"Content-Range", "Content-Length", "Accept-Ranges", "ETag", "Last-Modified"} {
			if got, want := got.Header.Get(k), want.Header.Get(k); got != want && k != "Accept-Ranges" {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
		if !bytes.Equal(body, wantBody) {
			t.Errorf("%d bytes, want %d", len(body), len(wantBody))
		}
		if len(parts) != len(wantParts) {
			t.Fatalf("%d parts, want %d", len(parts)/2, len(wantParts)/2)
		}
		for i := range parts {
			if !bytes.Equal(parts[i], wantParts[i]) {
				t.Errorf("part %d differs", i/2)
			}
		}
	})
}

// FuzzWriteRange compares slices of an archive of any two files with the same
// slices of the whole.
func FuzzWriteRange(f *testing.F) {
	f.Add("a", 0, "b", 1, int64(0), int64(100))
	f.Add("a/b", 511, "é", 513, int64(512), int64(-1))
	f.Add(strings.Repeat("x", 255), 512, strings.Repeat("y/", 20)+"y", 60_000, int64(600), int64(1<<40))
	f.Fuzz(func(t *testing.T, name1 string, size1 int, name2 string, size2 int, offset, length int64) {
		if size1 < 0 || size1 > 1<<16 || size2 < 0 || size2 > 1<<16 {
			t.Skip("too large to compare")
		}
		a, err := NewTar([]Entry{bytesEntry(name1, random(1, size1)), bytesEntry(name2, random(2, size2))})
		if err != nil {
			if !errors.Is(err, ErrUnsafe) {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		data := whole(t, a)
		files, err := Extract(t.Context(), bytes.NewReader(data), t.TempDir(), ExtractOptions{})
		if err != nil || len(files) != 2 || files[0].Name != name1 || files[1].Name != name2 {
			t.Errorf("extracted %v, error %v", files, err)
		}
		var b bytes.Buffer
		n, err := a.WriteRange(t.Context(), &b, offset, length)
		end := offset + length
		if length < 0 {
			end = a.Size()
		}
		if legal := offset >= 0 && offset <= a.Size() && length <= a.Size()-offset; legal != (err == nil) {
			t.Fatalf("%d+%d of %d: error %v", offset, length, a.Size(), err)
		} else if legal && (n != end-offset || !bytes.Equal(b.Bytes(), data[offset:end])) {
			t.Fatalf("%d+%d of %d: %d wrong bytes", offset, length, a.Size(), n)
		}
	})
}
