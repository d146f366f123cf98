package blobstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
	_ "github.com/tinkex/tinkex/internal/blobstore/drivers"
	"github.com/tinkex/tinkex/internal/s3test"
)

func openURL(t testing.TB, url string) blobstore.Store {
	t.Helper()
	s, err := blobstore.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := s.Check(context.Background()); err == nil {
			t.Error("a closed store is still usable")
		}
	})
	return s
}

func TestMemoryBucket(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store { return openURL(t, "mem://") })
}

func TestS3(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store { return openURL(t, s3test.Bucket(t)) })
}

func TestS3Prefix(t *testing.T) {
	url := s3test.Bucket(t)
	a, b := openURL(t, url+"&prefix=a/"), openURL(t, url+"&prefix=b/")
	info := blobstoretest.Put(t, a, []byte("only in a"))
	if _, err := b.Stat(t.Context(), info.Digest); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("stat under another prefix: %v", err)
	}
}

// What is uploaded in parts is whole, in order, and dated to its Commit.
func TestS3Parts(t *testing.T) {
	s := openURL(t, s3test.Bucket(t))
	data := make([]byte, 33<<20+1)
	for i := 0; i < len(data); i += 1 << 10 {
		copy(data[i:], strconv.Itoa(i))
	}
	start := time.Now()
	info := blobstoretest.Put(t, s, data)
	if info.ModTime.Before(start.Add(-2 * time.Second)) {
		t.Errorf("committed at %v, dated %v", start, info.ModTime)
	}
	if got := blobstoretest.Get(t, s, info.Digest); !bytes.Equal(got, data) {
		t.Errorf("read %d other bytes", len(got))
	}
	again := blobstoretest.Put(t, s, data)
	if again.ModTime.Before(info.ModTime) {
		t.Errorf("committed again: dated %v, before that %v", again.ModTime, info.ModTime)
	}
}

// A process dies between writing its object and removing those superseded.
func TestBucketSuperseded(t *testing.T) {
	for name, where := range buckets(t) {
		t.Run(name, func(t *testing.T) {
			s := openURL(t, where(t))
			data := []byte("committed, and again by somebody who died")
			d := blobstoretest.Put(t, s, data).Digest
			if err := blobstore.PutObject(t.Context(), s, d, data); err != nil {
				t.Fatal(err)
			}
			if err := blobstore.PutObject(t.Context(), s, d, data[:7]); err != nil { // damaged
				t.Fatal(err)
			}
			blobstoretest.Put(t, s, data)
			if n, err := blobstore.Objects(t.Context(), s, d); n != 1 || err != nil {
				t.Errorf("%d objects of one blob, error %v", n, err)
			}
			if got := blobstoretest.Get(t, s, d); !bytes.Equal(got, data) {
				t.Errorf("read %q", got)
			}
			if err := blobstore.PutObject(t.Context(), s, d, data); err != nil {
				t.Fatal(err)
			}
			n := 0
			for info, err := range s.All(t.Context()) {
				if n++; err != nil || info.Digest != d {
					t.Errorf("All yields %v, %v", info, err)
				}
			}
			if n != 1 {
				t.Errorf("All yields a blob of two objects %d times", n)
			}
			if ok, err := s.Delete(t.Context(), d, time.Now().Add(time.Hour)); !ok || err != nil {
				t.Errorf("Delete: %v, %v", ok, err)
			}
			if n, err := blobstore.Objects(t.Context(), s, d); n != 0 || err != nil {
				t.Errorf("%d objects after Delete, error %v", n, err)
			}
		})
	}
}

// Another process commits the same bytes while they are being read.
func TestBucketReadAcrossCommit(t *testing.T) {
	for name, where := range buckets(t) {
		t.Run(name, func(t *testing.T) {
			url := where(t)
			s := openURL(t, url)
			other := s
			if name != "memory" {
				other = openURL(t, url)
			}
			data := bytes.Repeat([]byte("0123456789"), 1000)
			d := blobstoretest.Put(t, s, data).Digest
			for offset := 0; offset < len(data); offset += 2500 {
				blobstoretest.Put(t, other, data)
				r, err := s.OpenRange(t.Context(), d, int64(offset), 2500)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, data[offset:offset+2500]) {
					t.Errorf("at %d: read %d bytes, error %v", offset, len(got), err)
				}
				r.Close()
			}
			if ok, err := other.Delete(t.Context(), d, time.Now().Add(time.Hour)); !ok || err != nil {
				t.Fatalf("Delete: %v, %v", ok, err)
			}
			if _, err := s.OpenRange(t.Context(), d, 0, -1); !errors.Is(err, blobstore.ErrNotFound) {
				t.Errorf("after another process's Delete: %v", err)
			}
		})
	}
}

func buckets(t *testing.T) map[string]func(t testing.TB) string {
	return map[string]func(testing.TB) string{
		"memory": func(testing.TB) string { return "mem://" },
		"s3":     s3test.Bucket,
	}
}

func TestS3AbandonedUploads(t *testing.T) {
	where := s3test.Bucket(t)
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	s := openURL(t, where)
	var client *s3.Client
	if !blobstore.Bucket(s).As(&client) {
		t.Fatal("it has no client of S3")
	}
	for _, key := range []string{"sha256/aa/abandoned", "elsewhere"} {
		if _, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &u.Host, Key: &key}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		before time.Time
		left   []string
	}{
		{time.Now().Add(-time.Hour), []string{"elsewhere", "sha256/aa/abandoned"}},
		{time.Now().Add(time.Hour), []string{"elsewhere"}},
	} {
		if err := blobstore.Sweep(t.Context(), s, u.Host, "sha256/", test.before); err != nil {
			t.Fatal(err)
		}
		out, err := client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &u.Host})
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, up := range out.Uploads {
			left = append(left, aws.ToString(up.Key))
		}
		if strings.Join(left, " ") != strings.Join(test.left, " ") {
			t.Errorf("uploads left: %q, want %q", left, test.left)
		}
	}
}

// faultyS3 is a proxy before the S3 server, and its bucket's URL through it.
type faultyS3 struct {
	url string
	// fault answers instead of the server, or says that it did not.
	fault atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newFaultyS3(t *testing.T) *faultyS3 {
	t.Helper()
	where, err := url.Parse(s3test.Bucket(t))
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(where.Query().Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyS3{}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		// Signed with the host it was sent to.
		r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := f.fault.Load(); fault != nil && (*fault)(w, r) {
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	f.url = s3test.URL(where.Host, srv.URL)
	return f
}

func (f *faultyS3) set(fault func(http.ResponseWriter, *http.Request) bool) { f.fault.Store(&fault) }
func (f *faultyS3) heal()                                                   { f.fault.Store(nil) }

// The store fails, and works again as soon as what it is on does.
func TestS3Faults(t *testing.T) {
	f := newFaultyS3(t)
	s := openURL(t, f.url)
	stored := blobstoretest.Put(t, s, []byte("there before")).Digest
	release := make(chan struct{})
	defer close(release)
	for _, test := range []struct {
		name     string
		patience time.Duration
		fault    func(http.ResponseWriter, *http.Request) bool
		says     string
	}{
		{"overloaded", time.Minute, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, "503"},
		{"forbidden", time.Minute, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, "403"},
		{"silent", 300 * time.Millisecond, func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		}, "did not answer within 300ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.set(test.fault)
			blobstore.SetPatience(s, test.patience)
			var calls sync.WaitGroup
			for op, call := range map[string]func() error{
				"Check":  func() error { return s.Check(t.Context()) },
				"Stat":   func() error { _, err := s.Stat(t.Context(), stored); return err },
				"Delete": func() error { _, err := s.Delete(t.Context(), stored, time.Now().Add(time.Hour)); return err },
				"Read": func() error {
					r, err := s.OpenRange(t.Context(), stored, 0, -1)
					if err != nil {
						return err
					}
					defer r.Close()
					_, err = io.Copy(io.Discard, r)
					return err
				},
				"Commit": func() error {
					w, err := s.Create(t.Context())
					if err != nil {
						return err
					}
					defer w.Abort()
					if _, err := w.Write([]byte("not stored")); err != nil {
						return err
					}
					_, err = w.Commit(t.Context())
					return err
				},
				"All": func() error {
					for _, err := range s.All(t.Context()) {
						return err
					}
					return nil
				},
			} {
				calls.Go(func() {
					err := call()
					if err == nil || !strings.Contains(err.Error(), test.says) || errors.Is(err, blobstore.ErrNotFound) {
						t.Errorf("%s: error %v, want it to say %q", op, err, test.says)
					}
					if err != nil && strings.Contains(err.Error(), os.Getenv("AWS_SECRET_ACCESS_KEY")) {
						t.Errorf("%s tells the secret: %v", op, err)
					}
				})
			}
			calls.Wait()
			f.heal()
			blobstore.SetPatience(s, time.Minute)
			if got := blobstoretest.Get(t, s, stored); string(got) != "there before" {
				t.Errorf("afterwards: read %q", got)
			}
			if err := s.Check(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	if _, err := s.Stat(t.Context(), sha256.Sum256([]byte("not stored"))); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("a Commit that failed: %v", err)
	}
}

// Connections that break in the middle of a blob are not the reader's worry.
func TestS3BrokenReads(t *testing.T) {
	f := newFaultyS3(t)
	s := openURL(t, f.url)
	data := bytes.Repeat([]byte("abcdefghijklmnop"), 100_000)
	d := blobstoretest.Put(t, s, data).Digest
	var broken atomic.Int64
	direct := s3test.Dir(strings.TrimPrefix(f.url[:strings.IndexByte(f.url, '?')], "s3://"))
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
		if r.Method != http.MethodGet || !ok || broken.Load() == 5 {
			return false
		}
		broken.Add(1)
		parts := strings.SplitN(r.URL.Path, "/", 3)
		file, err := os.ReadFile(filepath.Join(direct, filepath.FromSlash(parts[2])))
		if err != nil {
			t.Error(err)
			return false
		}
		offset := len(data) - remaining(t, from)
		w.Header().Set("Content-Length", "1000000000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(file[offset : offset+100_000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	if got := blobstoretest.Get(t, s, d); !bytes.Equal(got, data) {
		t.Errorf("read %d other bytes", len(got))
	}
	if broken.Load() != 5 {
		t.Errorf("broke %d connections", broken.Load())
	}
}

// remaining is how many bytes a Range header's value asks for.
func remaining(t *testing.T, r string) int {
	var from, to int
	if _, err := fmt.Sscanf(r, "%d-%d", &from, &to); err != nil {
		t.Errorf("range %q: %v", r, err)
	}
	return to - from + 1
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := "file://" + filepath.ToSlash(dir)
	if runtime.GOOS == "windows" {
		file = "file:///" + filepath.ToSlash(dir)
	}
	data := []byte("in a folder")
	d := blobstoretest.Put(t, openURL(t, dir), data).Digest
	if got := blobstoretest.Get(t, openURL(t, file), d); !bytes.Equal(got, data) {
		t.Errorf("read %q", got)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct{ url, says string }{
		{"", "no directory given"},
		{"ftp://host/dir", `"ftp" is no kind of store`},
		{"file://host/dir", "expected file:///PATH"},
		{"file:///dir?x=1", "expected file:///PATH"},
		{"s3://", "no bucket named: expected s3://BUCKET"},
		{"s3://AKIA:s3cret@bucket?region=r", "no place for credentials"},
		{"s3://bucket?secret_access_key=s3cret", "parameter secret_access_key: a URL is no place for credentials"},
		{"s3://bucket?region=r&endpoint=http://me:s3cret@host", "parameter endpoint"},
		{"s3://bucket?region=r&mystery=s3cret", `unknown query parameter "mystery"`},
		{"s3://bucket?region=r&use_path_style=perhaps", "use_path_style"},
		{"gs://bucket", "build with -tags gcs"},
		{"s3://%zz:s3cret@bucket", "not a URL"},
	} {
		s, err := blobstore.Open(t.Context(), test.url)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want it to say %q", test.url, err, test.says)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error tells the secret: %v", test.url, err)
		}
	}
}

func TestOpenMissingBucket(t *testing.T) {
	u, err := url.Parse(s3test.Bucket(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Host += "-not"
	_, err = blobstore.Open(t.Context(), u.String())
	if err == nil || !strings.Contains(err.Error(), "create it first") {
		t.Errorf("error %v", err)
	}
}

// TestOpenWithoutCredentials has a metadata service that must not be asked.
func TestOpenWithoutCredentials(t *testing.T) {
	var asked atomic.Int64
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusForbidden)
	}))
	defer metadata.Close()
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.URL,
		"AWS_EC2_METADATA_DISABLED":         "",
		"AWS_ACCESS_KEY_ID":                 "",
		"AWS_SECRET_ACCESS_KEY":             "",
		"AWS_SHARED_CREDENTIALS_FILE":       filepath.Join(t.TempDir(), "none"),
		"AWS_CONFIG_FILE":                   filepath.Join(t.TempDir(), "none"),
	} {
		t.Setenv(name, value)
	}
	s, err := blobstore.Open(t.Context(), s3test.URL("bucket", metadata.URL))
	if err == nil {
		s.Close()
		t.Fatal("opened without credentials")
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the metadata service was asked %d times: %v", n, err)
	}
	if !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("the error does not say where credentials come from: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for url, want := range map[string]string{
		"/var/lib/tinkex": "/var/lib/tinkex",
		"s3://me:s3cret@bucket?region=eu-1&kmskeyid=abc": "s3://bucket?kmskeyid=...&region=eu-1",
		"s3://b?endpoint=http://me:s3cret@host:7070/x":   "s3://b?endpoint=http://host:7070",
		"azblob://container?prefix=a/":                   "azblob://container?prefix=a/",
		"s3://%zz":                                       "(not a URL)",
	} {
		if got := blobstore.Redact(url); got != want {
			t.Errorf("Redact(%q) = %q, want %q", url, got, want)
		}
	}
}
