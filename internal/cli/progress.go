package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// How --progress has progress shown.
const (
	progressAuto  = "auto"  // bars on terminals, lines on those that cannot draw, nothing elsewhere
	progressBar   = "bar"   // bars
	progressLines = "lines" // a line now and then
	progressNone  = "none"
)

var progressModes = []string{progressAuto, progressBar, progressLines, progressNone}

// progressMode decides between bars, lines and none.
func (a *app) progressMode() string {
	switch {
	case a.progress == progressBar, a.progress == progressLines, a.progress == progressNone:
		return a.progress
	case !a.StderrTerminal || a.format == "json":
		return progressNone
	case os.Getenv("TERM") == "dumb":
		return progressLines // its cursor does not move up
	}
	return progressBar
}

// checkProgress refuses what --progress cannot be.
func (a *app) checkProgress() error {
	switch {
	case !slices.Contains(progressModes, a.progress):
		return usagef("--progress: %q is no way to show it; use auto, bar, lines or none", a.progress)
	case a.progress == progressBar && !a.StderrTerminal:
		return usagef("--progress bar: standard error is no terminal to draw bars on; use lines")
	}
	return nil
}

// bars shows progress on standard error: bars on a terminal, lines elsewhere if
// they are asked for. Nil bars show nothing.
type bars struct {
	p     *mpb.Progress // nil if lines are shown
	lines *lines        // nil if bars are
	total *bar
	ctx   context.Context
	out   io.Writer // the terminal, if bars are shown
	more  string    // stands for what is cut out of a name

	mu  sync.Mutex
	all map[*bar]struct{}

	counts []*mpb.Bar
}

// bar is the progress of one thing, in bytes. It is used by one goroutine at a
// time; a nil bar does nothing.
type bar struct {
	of             *bars
	b              *mpb.Bar // or
	line           *line
	current, total int64
	resumed        int64
	pace           pace
}

// pace is how fast something goes, over the last seconds; once it has ended,
// how fast it went altogether.
type pace struct {
	mu      sync.Mutex
	samples []sample
	begun   time.Time
	ended   time.Time // zero until it has
	moved   int64     // bytes since begun
}

type sample struct {
	at    time.Time
	bytes int64
}

// Pace is measured over so long, by samples so far apart.
const (
	paceOver  = 5 * time.Second
	paceEvery = 250 * time.Millisecond
)

// add notes how far it is. Bytes that were not moved now, because they were
// there or had to be given up, start the measurement anew.
func (p *pace) add(now time.Time, bytes int64, jump bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if jump {
		p.samples = p.samples[:0]
	}
	if n := len(p.samples); n > 0 {
		p.moved += bytes - p.samples[n-1].bytes
	} else if p.moved == 0 {
		p.begun = now
	}
	if n := len(p.samples); n > 1 && now.Sub(p.samples[n-2].at) < paceEvery {
		p.samples = p.samples[:n-1]
	}
	p.samples = append(p.samples, sample{now, bytes})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > paceOver {
		p.samples = p.samples[1:]
	}
}

// end keeps the pace from falling while others go on.
func (p *pace) end(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.IsZero() {
		p.ended = now
	}
}

// perSecond is 0 where nothing can be said yet.
func (p *pace) perSecond() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended.IsZero() {
		return float64(p.moved) / max(p.ended.Sub(p.begun).Seconds(), 0.1)
	}
	if len(p.samples) < 2 {
		return 0
	}
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	// Up to now, so that a stall shows.
	return float64(last.bytes-first.bytes) / max(time.Since(first.at).Seconds(), 0.1)
}

func (p *pace) speed(decor.Statistics) string {
	if rate := p.perSecond(); rate >= 1 {
		return size(int64(rate)) + "/s"
	}
	return ""
}

func (p *pace) remaining(s decor.Statistics) string {
	rate := p.perSecond()
	switch {
	case s.Completed:
		return "done"
	case rate < 1 || s.Total <= 0:
		return ""
	}
	return (time.Duration(float64(s.Total-s.Current)/rate) * time.Second).String()
}

func (a *app) bars(ctx context.Context) *bars {
	switch a.progressMode() {
	case progressNone:
		return nil
	case progressLines:
		return &bars{lines: newLines(ctx, a.say, time.Now), all: map[*bar]struct{}{}}
	}
	more := "…"
	if a.NotUTF8 {
		more = ".."
	}
	return &bars{
		p:   mpb.NewWithContext(ctx, mpb.WithOutput(a.Stderr), mpb.WithAutoRefresh()),
		ctx: ctx, out: a.Stderr, more: more, all: map[*bar]struct{}{},
	}
}

// drawn reports whether something is on the screen that prose would disturb.
func (s *bars) drawn() bool { return s != nil && s.p != nil }

// addTotal adds a bar for the sum of those that are added after it.
func (s *bars) addTotal() {
	if s != nil {
		s.total = s.add("total")
		s.all = map[*bar]struct{}{}
		if s.p != nil {
			s.total.b.SetPriority(1 << 20) // below the others
		}
	}
}

func (s *bars) add(name string) *bar {
	if s == nil {
		return nil
	}
	b := &bar{of: s}
	if s.p == nil {
		// Lines are about the sum alone, where there is one.
		if s.total == nil {
			b.line = s.lines.add(name, b.text)
		}
		s.mu.Lock()
		s.all[b] = struct{}{}
		s.mu.Unlock()
		return b
	}
	f := &fitting{name: name, more: s.more}
	b.b = s.p.AddBar(0,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(
			decor.Any(f.label, decor.WCSyncSpaceR),
			decor.Any(f.unless(f.narrow, bytesOf), decor.WCSyncSpace),
		),
		mpb.AppendDecorators(
			decor.Percentage(decor.WCSyncSpace),
			decor.Any(f.unless(f.tiny, b.pace.speed), decor.WCSyncSpace),
			decor.Any(b.pace.remaining, decor.WCSyncSpace),
		),
	)
	s.mu.Lock()
	s.all[b] = struct{}{}
	s.mu.Unlock()
	return b
}

// fitting is a bar's way of having room on a terminal of any width: what can
// be done without is left out, and then the name is cut in the middle.
type fitting struct {
	name, more string
	width      int // of the terminal when the bar was last drawn
}

// narrow and tiny terminals have no room for the bytes, and for the speed.
func (f *fitting) narrow() bool { return f.width < 70 }
func (f *fitting) tiny() bool   { return f.width < 50 }

// label is the name. It is the first to be drawn.
func (f *fitting) label(s decor.Statistics) string {
	f.width = s.AvailableWidth
	beside := 52 // columns, with a bar of some eight
	switch {
	case f.tiny():
		beside = 22
	case f.narrow():
		beside = 34
	}
	return shorten(f.name, max(f.width-beside, 8), f.more)
}

func (f *fitting) unless(without func() bool, text func(decor.Statistics) string) func(decor.Statistics) string {
	return func(s decor.Statistics) string {
		if without() {
			return ""
		}
		return text(s)
	}
}

func bytesOf(s decor.Statistics) string {
	if s.Total <= 0 {
		return size(s.Current)
	}
	return size(s.Current) + " / " + size(s.Total)
}

// shorten cuts something out of the middle of s, so that it has at most width
// letters. Of names the end tells more than the beginning.
func shorten(s string, width int, more string) string {
	letters, left := []rune(s), width-len([]rune(more))
	if len(letters) <= width || left < 1 {
		return s
	}
	head := left / 3
	return string(letters[:head]) + more + string(letters[len(letters)-(left-head):])
}

// addCount adds a bar that counts things, and returns what moves it: how many
// of how many have been dealt with. It ends when all have, or with wait.
func (s *bars) addCount(name string) func(done, total int) {
	if s == nil {
		return func(int, int) {}
	}
	if s.p == nil {
		return s.lines.addCount(name)
	}
	f := &fitting{name: name, more: s.more}
	b := s.p.AddBar(0,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(
			decor.Any(f.label, decor.WCSyncSpaceR),
			decor.CountersNoUnit("%d / %d", decor.WCSyncSpace),
		),
		mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace)),
	)
	s.mu.Lock()
	s.counts = append(s.counts, b)
	s.mu.Unlock()
	return func(done, total int) {
		b.SetTotal(int64(total), false)
		b.SetCurrent(int64(done))
		if done == total {
			b.SetTotal(-1, true)
		}
	}
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
	if b.b == nil {
		b.line.move(func() (current, of int64) {
			b.pace.add(time.Now(), bytes, resumed != b.resumed || bytes < b.current)
			b.current, b.total, b.resumed = bytes, max(total, 0), resumed
			return b.current, b.total
		})
		return
	}
	if total > 0 && total != b.total {
		b.b.SetTotal(total, false)
	}
	if resumed > 0 {
		b.b.SetRefill(resumed)
	}
	b.b.SetCurrent(bytes)
	b.pace.add(time.Now(), bytes, resumed != b.resumed || bytes < b.current)
	b.current, b.total, b.resumed = bytes, max(total, 0), resumed
}

// sum makes a bar the sum of all others.
func (b *bar) sum() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	var current, total, resumed int64
	for other := range b.of.all {
		current += other.current
		total += other.total
		resumed += other.resumed
	}
	b.move(current, total, resumed)
}

// end says that nothing more will come.
func (b *bar) end(done bool) {
	if b != nil {
		b.pace.end(time.Now())
	}
	switch {
	case b == nil:
	case b.b == nil:
		b.line.end(done)
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
	for _, b := range s.counts {
		b.Abort(false) // does nothing to one that is complete
	}
	if s.total != nil {
		s.total.end(s.total.current == s.total.total)
	}
	if s.p == nil {
		s.lines.close()
		return
	}
	s.p.Wait()
	if s.ctx.Err() != nil {
		fmt.Fprintln(s.out) // after the ^C that terminals show
	}
}
