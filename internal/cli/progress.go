package cli

import (
	"context"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bars draws progress on a terminal's standard error, and nowhere else.
type bars struct {
	p     *mpb.Progress
	total *bar

	mu  sync.Mutex
	all map[*bar]struct{}
}

// bar is the progress of one thing, in bytes. It is used by one goroutine at a
// time; a nil bar does nothing.
type bar struct {
	of             *bars
	b              *mpb.Bar
	current, total int64
	last           time.Time
}

func (a *app) bars(ctx context.Context) *bars {
	if !a.StderrTerminal || a.format == "json" {
		return nil
	}
	return &bars{
		p:   mpb.NewWithContext(ctx, mpb.WithOutput(a.Stderr), mpb.WithAutoRefresh()),
		all: map[*bar]struct{}{},
	}
}

// addTotal adds a bar for the sum of those that are added after it.
func (s *bars) addTotal() {
	if s != nil {
		s.total = s.add("total")
		s.all = map[*bar]struct{}{}
		s.total.b.SetPriority(1 << 20) // below the others
	}
}

func (s *bars) add(name string) *bar {
	if s == nil {
		return nil
	}
	b := &bar{of: s, last: time.Now()}
	b.b = s.p.AddBar(0,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(
			decor.Name(name, decor.WCSyncSpaceR),
			decor.Counters(decor.SizeB1024(0), "% .1f / % .1f", decor.WCSyncSpace),
		),
		mpb.AppendDecorators(
			decor.Percentage(decor.WCSyncSpace),
			decor.EwmaSpeed(decor.SizeB1024(0), "% .1f", 30, decor.WCSyncSpace),
			decor.OnComplete(decor.EwmaETA(decor.ET_STYLE_GO, 30, decor.WCSyncSpace), "done"),
		),
	)
	s.mu.Lock()
	s.all[b] = struct{}{}
	s.mu.Unlock()
	return b
}

// set says that bytes of total are there, resumed of them since before. An
// unknown total is negative.
func (b *bar) set(bytes, total, resumed int64) {
	if b == nil {
		return
	}
	b.move(bytes, total, resumed)
	if t := b.of.total; t != nil {
		t.sum()
	}
}

func (b *bar) move(bytes, total, resumed int64) {
	if total > 0 && total != b.total {
		b.b.SetTotal(total, false)
	}
	if resumed > 0 {
		b.b.SetRefill(resumed)
	}
	now := time.Now()
	if b.current == 0 && resumed > 0 || bytes < b.current {
		b.b.SetCurrent(bytes) // not at the speed of the network
	} else {
		b.b.EwmaSetCurrent(bytes, now.Sub(b.last))
	}
	b.current, b.total, b.last = bytes, max(total, 0), now
}

// sum makes a bar the sum of all others.
func (b *bar) sum() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	var current, total int64
	for other := range b.of.all {
		current += other.current
		total += other.total
	}
	b.move(current, total, 0)
}

// end says that nothing more will come.
func (b *bar) end(done bool) {
	switch {
	case b == nil:
	case done:
		b.b.SetTotal(-1, true)
	default:
		b.b.Abort(false)
	}
}

// wait draws the last state. Every bar has ended.
func (s *bars) wait() {
	if s == nil {
		return
	}
	if s.total != nil {
		s.total.end(s.total.current == s.total.total)
	}
	s.p.Wait()
}
