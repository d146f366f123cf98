package cli

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Lines of progress come at each tenth of the whole, but not faster than one a
// second, and whenever none has come for ten seconds.
const (
	lineAfter   = 10 * time.Second
	lineAtLeast = time.Second
)

// lines writes progress as lines, for logs.
type lines struct {
	mu    sync.Mutex
	say   func(format string, args ...any)
	now   func() time.Time
	all   []*line
	close func()
}

// line is the progress of one thing. Methods of a nil line do nothing.
type line struct {
	of    *lines
	name  string
	text  func(current, total int64) string
	began time.Time

	current, total int64
	tenth          int64
	at             time.Time // of the last line
	ended          bool
}

func newLines(ctx context.Context, say func(string, ...any), now func() time.Time) *lines {
	ctx, cancel := context.WithCancel(ctx)
	l := &lines{say: say, now: now}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(lineAfter / 10)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				l.tick()
			}
		}
	}()
	l.close = func() {
		cancel()
		<-ended
	}
	return l
}

// tick writes what is overdue, so that what has stalled shows.
func (l *lines) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.all {
		if !p.ended && l.now().Sub(p.at) >= lineAfter {
			p.write()
		}
	}
}

// add begins a line about bytes. text is called one call at a time.
func (l *lines) add(name string, text func(current, total int64) string) *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &line{of: l, name: name, text: text, began: l.now(), at: l.now()}
	l.all = append(l.all, p)
	return p
}

// addCount begins a line that counts things, and returns what moves it.
func (l *lines) addCount(name string) func(done, total int) {
	p := l.add(name, func(current, total int64) string { return fmt.Sprintf("%d of %d", current, total) })
	return func(done, total int) {
		p.move(func() (int64, int64) { return int64(done), int64(total) })
		if done == total {
			p.end(true)
		}
	}
}

// move notes how far it is, which to tells while nothing is written.
func (p *line) move(to func() (current, total int64)) {
	if p == nil {
		_, _ = to()
		return
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.current, p.total = to()
	now := p.of.now()
	tenth := p.tenths()
	if p.ended || p.current == p.total && p.total > 0 {
		return // end says so
	}
	if now.Sub(p.at) >= lineAfter || tenth > p.tenth && now.Sub(p.at) >= lineAtLeast {
		p.write()
	}
}

func (p *line) tenths() int64 {
	if p.total <= 0 {
		return 0
	}
	return int64(10 * float64(p.current) / float64(p.total))
}

func (p *line) write() {
	p.at, p.tenth = p.of.now(), p.tenths()
	percent := ""
	if p.total > 0 {
		percent = fmt.Sprintf("%d%%, ", int(100*float64(p.current)/float64(p.total)))
	}
	p.of.say("%s: %s%s", p.name, percent, p.text(p.current, p.total))
}

// end says that nothing more will come.
func (p *line) end(done bool) {
	if p == nil {
		return
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if done && !p.ended {
		current := p.total
		if p.total <= 0 { // unknown
			current = p.current
		}
		p.of.say("%s: done, %s", p.name, p.text(current, p.total))
	}
	p.ended = true
}

// text is a bar in words.
func (b *bar) text(current, total int64) string {
	s := size(current)
	if total > 0 {
		s += " of " + size(total)
	}
	rate := b.pace.perSecond()
	if rate >= 1 && current < total {
		s += fmt.Sprintf(", %s/s, %v left", size(int64(rate)), time.Duration(float64(total-current)/rate)*time.Second)
	}
	return s
}
