package s3test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Trouble is what a Proxy does to requests instead of passing them on at once.
type Trouble int

// The troubles.
const (
	None  Trouble = iota
	Busy          // 503, as S3 answers when it has too much to do
	Slow          // every answer takes a second more
	Mute          // no answer at all
	Reset         // the connection breaks
)

// Proxy stands between a client and the server.
type Proxy struct {
	mu      sync.Mutex
	trouble Trouble
	over    chan struct{} // closed when the trouble changes
}

// BucketBehind is Bucket behind a proxy.
func BucketBehind(t testing.TB) (bucketURL string, p *Proxy) {
	t.Helper()
	bucket, err := url.Parse(Bucket(t))
	if err != nil {
		t.Fatal(err)
	}
	server, err := url.Parse(server.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p = &Proxy{over: make(chan struct{})}
	// The host stays as it was: it is part of what is signed.
	pass := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients that give up
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		trouble, over := p.trouble, p.over
		p.mu.Unlock()
		switch trouble {
		case Busy:
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`))
			return
		case Slow:
			select {
			case <-time.After(time.Second):
			case <-over:
			}
		case Mute:
			select {
			case <-over:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		case Reset:
			panic(http.ErrAbortHandler)
		case None:
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		p.Set(None)
		front.Close()
	})
	return URL(bucket.Host, front.URL), p
}

// Set begins or ends a trouble.
func (p *Proxy) Set(trouble Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = trouble
	close(p.over)
	p.over = make(chan struct{})
}
