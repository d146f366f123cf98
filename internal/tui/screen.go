package tui

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex"
)

// pen draws text as the terminal allows.
type pen struct{ color, ascii bool }

func (p pen) sgr(code, s string) string {
	if !p.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p pen) bold(s string) string    { return p.sgr("1", s) }
func (p pen) faint(s string) string   { return p.sgr("2", s) }
func (p pen) reverse(s string) string { return p.sgr("7", s) }
func (p pen) red(s string) string     { return p.sgr("31", s) }
func (p pen) green(s string) string   { return p.sgr("32", s) }
func (p pen) yellow(s string) string  { return p.sgr("33", s) }

// pick returns the first on terminals that take UTF-8.
func (p pen) pick(utf8, ascii string) string {
	if p.ascii {
		return ascii
	}
	return utf8
}

func (p pen) ellipsis() string { return p.pick("…", "..") }
func (p pen) dot() string      { return p.pick(" · ", " - ") }

// fit makes text exactly so many columns wide.
func (p pen) fit(s string, width int, right bool) string {
	if width <= 0 {
		return ""
	}
	s = p.clip(s, width)
	pad := strings.Repeat(" ", max(width-ansi.StringWidth(s), 0))
	if right {
		return pad + s
	}
	return s + pad
}

// clip cuts text that is too wide at its end.
func (p pen) clip(s string, width int) string {
	if ansi.StringWidth(s) <= width {
		return s
	}
	return ansi.Truncate(s, max(width, 0), p.tail(width))
}

// middle cuts text that is too wide in its middle: run ids differ at both ends.
func (p pen) middle(s string, width int) string {
	have := ansi.StringWidth(s)
	if have <= width {
		return s
	}
	tail := p.tail(width)
	keep := width - ansi.StringWidth(tail)
	if keep < 2 {
		return ansi.Truncate(s, max(width, 0), "")
	}
	end := keep / 2
	return ansi.Truncate(s, keep-end, "") + tail + ansi.TruncateLeft(s, have-end, "")
}

func (p pen) tail(width int) string {
	if t := p.ellipsis(); ansi.StringWidth(t) < width {
		return t
	}
	return ""
}

// wrap breaks text into lines.
func wrap(s string, width int) []string {
	if width <= 0 {
		return nil
	}
	return strings.Split(ansi.Wrap(s, width, "/"), "\n")
}

// bar is a progress bar.
func (p pen) bar(done, total int64, width int) string {
	if total <= 0 || width < 3 {
		return ""
	}
	full := min(max(int(float64(done)/float64(total)*float64(width)), 0), width)
	return p.green(strings.Repeat(p.pick("█", "#"), full)) + p.faint(strings.Repeat(p.pick("░", "."), width-full))
}

func size(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

func sizeOf(c tinkex.Checkpoint) string {
	if c.SizeBytes == nil {
		return "-"
	}
	return size(*c.SizeBytes)
}

// span shows a time in one number and a letter.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		below time.Duration
		unit  time.Duration
		sign  string
	}{
		{time.Minute, time.Second, "s"}, {time.Hour, time.Minute, "m"}, {2 * day, time.Hour, "h"}, {60 * day, day, "d"}, {730 * day, 7 * day, "w"},
	} {
		if d < u.below {
			return count(int(max(d, 0)/u.unit)) + u.sign
		}
	}
	return count(int(d/(365*day))) + "y"
}

func (m *Model) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(m.now().Sub(t))
}

func (m *Model) expiry(c tinkex.Checkpoint) string {
	if c.ExpiresAt == nil {
		return "-"
	}
	left := c.ExpiresAt.Sub(m.now())
	if left > 30*time.Minute { // what was set a moment ago to 7 days is 7 days
		left += time.Minute
	}
	return span(left)
}

func count(n int) string { return humanize.Comma(int64(n)) }

// plural says "1 checkpoint" or "1,200 checkpoints".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// isText reports whether s is something to be typed into a line.
func isText(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return s != ""
}

func kindOf(t tinkex.CheckpointType) string {
	switch t {
	case tinkex.Training:
		return "weights"
	case tinkex.Sampler:
		return "sampler"
	case tinkex.External:
		return "external"
	}
	return string(t)
}

// runOf is the run in a tinker path, as far as it is one.
func runOf(c tinkex.Checkpoint) string {
	run, _, _ := strings.Cut(strings.TrimPrefix(c.TinkerPath, tinkex.Scheme), "/")
	return run
}

// nameOf is the last part of a tinker path.
func nameOf(c tinkex.Checkpoint) string {
	return c.TinkerPath[strings.LastIndexByte(c.TinkerPath, '/')+1:]
}

func widthOf(r []rune) int { return ansi.StringWidth(string(r)) }
