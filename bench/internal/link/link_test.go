package link_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/bench/internal/link"
)

// echo answers each connection with greeting and, once the client has sent
// all, with what it sent.
func echo(t *testing.T, greeting []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Write(greeting); err != nil {
					return
				}
				b, err := io.ReadAll(c)
				if err == nil {
					_, _ = c.Write(b)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func listen(t *testing.T, opts link.Options, target string) *link.Proxy {
	t.Helper()
	p, err := link.Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if target != "" {
		p.SetTarget(target)
	}
	return p
}

func TestBytesArriveAndAreCounted(t *testing.T) {
	random := make([]byte, 1<<20+17)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for name, opts := range map[string]link.Options{
		"plain":            {},
		"delayed":          {RTT: 4 * time.Millisecond},
		"limited":          {Rate: 200 << 20},
		"delayed, limited": {RTT: 4 * time.Millisecond, Rate: 200 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := listen(t, opts, echo(t, []byte("hello ")))
			const conns = 3
			var all sync.WaitGroup
			for range conns {
				all.Go(func() {
					c, err := net.Dial("tcp", p.Addr())
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					go func() {
						_, _ = c.Write(random)
						// The end of what is sent passes, and the answer still comes.
						_ = c.(*net.TCPConn).CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, append([]byte("hello "), random...)) {
						t.Errorf("%d bytes came back, or others (%v)", len(got), err)
					}
				})
			}
			all.Wait()
			if got, want := p.Received(), int64(conns*(len(random)+6)); got != want {
				t.Errorf("%d bytes were counted, want %d", got, want)
			}
		})
	}
}

// A link is never faster than it says; how much slower is the machine's matter.
func TestDelayAndRateAreKept(t *testing.T) {
	const rtt, rate, size = 40 * time.Millisecond, 1 << 20, 200 << 10
	p := listen(t, link.Options{RTT: rtt, Rate: rate}, echo(t, nil))
	began := time.Now()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	// The handshake, the way there and the way back, and the bytes once in
	// each direction, less what may be caught up with.
	if took, least := time.Since(began), 2*rtt+(size*time.Second/rate)*3/2; took < least {
		t.Errorf("the bytes were back after %v, want %v at least", took, least)
	}
}

func TestTargetGone(t *testing.T) {
	const gone = "127.0.0.1:1" // no system gives this port to whoever asks for just any
	for name, target := range map[string]string{"never set": "", "refuses": gone} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", listen(t, link.Options{}, target).Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes came from nowhere", n)
			}
		})
	}
}

func TestCloseCutsConnections(t *testing.T) {
	p := listen(t, link.Options{RTT: time.Millisecond}, echo(t, []byte("x")))
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came through a closed link", n)
	}
}
