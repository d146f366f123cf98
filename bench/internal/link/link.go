// Package link is a slow link: a TCP proxy that delays what passes through it
// and limits the rate of each connection. It also counts, and without a delay
// and a rate does nothing else.
//
// It stands in for a network namespace with netem and fq, which not every
// kernel has. What it models is the round trip, that of the handshake
// included, and a rate for each connection and direction; what it does not is
// loss, slow start, and connections that compete for one bottleneck.
package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options says what a link is like. The zero value is as fast as it can be.
type Options struct {
	// RTT is the round trip's time.
	RTT time.Duration
	// Rate is in bytes a second, for each direction of each connection. Zero
	// is no limit.
	Rate int64
}

const (
	chunk = 32 << 10
	// catchUp is how far a connection may exceed its rate to make up for
	// having been scheduled late.
	catchUp = 10 * time.Millisecond
	// unlimitedQueue is how many chunks are on their way where no rate says.
	unlimitedQueue = 64
)

// Proxy is a listening link. It is safe for concurrent use.
type Proxy struct {
	opts     Options
	l        net.Listener
	target   atomic.Pointer[string]
	received atomic.Int64
	work     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Listen opens a link on a free port of the loopback interface. Connections
// are refused until SetTarget has said where it leads.
func Listen(opts Options) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{opts: opts, l: l, conns: map[net.Conn]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

// Addr is where the link begins.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// SetTarget says where new connections lead to, as host:port.
func (p *Proxy) SetTarget(addr string) { p.target.Store(&addr) }

// Received is how many bytes the target has sent so far.
func (p *Proxy) Received() int64 { return p.received.Load() }

// Close cuts all connections.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	err := p.l.Close()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.work.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.serve(c) })
	}
}

// keep registers a connection to be cut by Close.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	target := p.target.Load()
	if target == nil || !p.keep(client) {
		return
	}
	server, err := net.Dial("tcp", *target)
	if err != nil {
		return
	}
	defer p.drop(server)
	if !p.keep(server) {
		return
	}
	var both sync.WaitGroup
	// The client's connection was accepted at once: what the handshake would
	// have taken is added to the first bytes it sends.
	both.Go(func() { p.carry(server, client, p.opts.RTT, nil) })
	both.Go(func() { p.carry(client, server, 0, &p.received) })
	both.Wait()
}

type parcel struct {
	b   []byte
	due time.Time
}

// carry moves bytes one way, until their end, which it passes on, or until
// either side is gone, which ends the other.
func (p *Proxy) carry(dst, src net.Conn, late time.Duration, count *atomic.Int64) {
	delay := p.opts.RTT / 2
	queue := unlimitedQueue
	if p.opts.Rate > 0 {
		// What is on its way at that rate, and a little more.
		queue = int((delay+late).Seconds()*float64(p.opts.Rate))/chunk + 4
	}
	parcels := make(chan parcel, queue)
	free := make(chan []byte, queue+2)
	var sending sync.WaitGroup
	sending.Go(func() {
		for c := range parcels {
			time.Sleep(time.Until(c.due))
			if _, err := dst.Write(c.b); err != nil {
				_ = src.Close() // ends the reading, and with it the parcels
			}
			select {
			case free <- c.b[:cap(c.b)]:
			default:
			}
		}
	})
	sent := time.Now() // when the sender is done with all it was given
	opened := sent
	var err error
	for err == nil {
		var b []byte
		select {
		case b = <-free:
		default:
			b = make([]byte, chunk)
		}
		var n int
		n, err = src.Read(b)
		if n == 0 {
			continue
		}
		if count != nil {
			count.Add(int64(n))
		}
		now := time.Now()
		due := now
		if p.opts.Rate > 0 {
			if earliest := now.Add(-catchUp); sent.Before(earliest) {
				sent = earliest
			}
			sent = sent.Add(time.Duration(float64(n) / float64(p.opts.Rate) * float64(time.Second)))
			if sent.After(due) {
				due = sent
			}
		}
		if first := opened.Add(late); due.Before(first) {
			due = first
		}
		parcels <- parcel{b[:n], due.Add(delay)}
		// Not reading on is what holds the source back.
		time.Sleep(time.Until(sent))
	}
	ended := time.Now()
	close(parcels)
	sending.Wait()
	if !errors.Is(err, io.EOF) {
		_ = dst.Close()
		return
	}
	time.Sleep(time.Until(ended.Add(delay)))
	if t, ok := dst.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}
