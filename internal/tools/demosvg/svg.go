package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// The terminal, and how it is drawn: lengths in pixels.
const (
	columns = 112
	rows    = 30

	fontSize   = 14.0
	cellWidth  = 8.4
	lineHeight = 20.0
	margin     = 16.0
	barHeight  = 34.0
)

// Pauses: after any line, before a chapter, and at the end before it begins
// anew.
const (
	lineEvery    = 130 * time.Millisecond
	chapterAfter = 1100 * time.Millisecond
	holdFor      = 7 * time.Second
)

// span is text of one look.
type span struct {
	text        string
	bold, faint bool
}

// parse splits what was printed into lines as a terminal shows them, with the
// looks that the demo uses: bold and faint.
func parse(printed string) [][]span {
	var lines [][]span
	for text := range strings.SplitSeq(strings.TrimRight(printed, "\n"), "\n") {
		var line []span
		var look span
		room := columns
		put := func(s string) {
			for s != "" {
				if room == 0 {
					lines, line, room = append(lines, line), nil, columns
				}
				cut := len(s)
				if utf8.RuneCountInString(s) > room {
					cut = len(string([]rune(s)[:room]))
				}
				look.text = s[:cut]
				line = append(line, look)
				room -= utf8.RuneCountInString(s[:cut])
				s = s[cut:]
			}
		}
		for {
			before, rest, ok := strings.Cut(text, "\x1b[")
			put(before)
			if !ok {
				break
			}
			codes, after, _ := strings.Cut(rest, "m")
			for c := range strings.SplitSeq(codes, ";") {
				switch c {
				case "1":
					look.bold = true
				case "2":
					look.faint = true
				case "0", "", "22":
					look.bold, look.faint = false, false
				}
			}
			text = after
		}
		lines = append(lines, line)
	}
	return lines
}

// step is a moment of the animation: so many lines are there.
type step struct {
	at    time.Duration
	lines int
}

// schedule says when which line appears, and how long all of it takes. Chapters,
// which begin with a line in bold, wait for the reader.
func schedule(lines [][]span) ([]step, time.Duration) {
	var at time.Duration
	steps := []step{{0, 1}}
	for i := 1; i < len(lines); i++ {
		at += lineEvery
		if len(lines[i]) > 0 && lines[i][0].bold {
			at += chapterAfter
		}
		if len(lines[i]) > 0 { // empty lines come with the next one
			steps = append(steps, step{at, i + 1})
		}
	}
	return steps, at + holdFor
}

const description = "A recording of the command tinkex demo. It starts a server on this machine, trains a small LoRA adapter " +
	"while its loss falls, saves checkpoints, lists and inspects them, refuses one that does not fit, downloads one and shows " +
	"each file's SHA-256, publishes it and takes it back, lets one expire, resumes training bit for bit, samples from the base " +
	"model and from the checkpoint, and deletes all. The pauses are evened out."

// draw writes the recording. Without animation, or where motion is not wanted,
// it shows the last screen.
func draw(w io.Writer, lines [][]span) {
	const width, height = 2*margin + columns*cellWidth, barHeight + margin + rows*lineHeight + margin
	steps, total := schedule(lines)
	scrolled := func(n int) float64 { return -lineHeight * float64(max(n-rows, 0)) }
	var scroll, cover strings.Builder
	for _, s := range steps {
		percent := 100 * s.at.Seconds() / total.Seconds()
		fmt.Fprintf(&scroll, "%.2f%%{transform:translateY(%gpx)}", percent, scrolled(s.lines))
		fmt.Fprintf(&cover, "%.2f%%{transform:translateY(%gpx)}", percent, lineHeight*float64(s.lines))
	}
	last := lineHeight * float64(len(lines))
	fmt.Fprintf(&scroll, "100%%{transform:translateY(%gpx)}", scrolled(len(lines)))
	fmt.Fprintf(&cover, "100%%{transform:translateY(%gpx)}", last)

	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-labelledby="title desc">
<!-- Made by "go run ./internal/tools/demosvg docs/demo.svg" from a run of "tinkex demo". -->
<title id="title">tinkex demo: the whole life of a checkpoint, on one machine</title>
<desc id="desc">%s</desc>
<style>
text{font:%gpx ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:#d0d7de;white-space:pre}
.b{font-weight:700;fill:#ffffff}
.f{fill:#7ee787}
.s{transform:translateY(%gpx);animation:s %.1fs step-end infinite}
.c{transform:translateY(%gpx);animation:c %.1fs step-end infinite}
@keyframes s{%s}
@keyframes c{%s}
@media (prefers-reduced-motion:reduce){.s,.c{animation:none}}
</style>
<rect width="%g" height="%g" rx="10" fill="#0d1117"/>
<circle cx="20" cy="18" r="6" fill="#ff5f57"/><circle cx="40" cy="18" r="6" fill="#febc2e"/><circle cx="60" cy="18" r="6" fill="#28c840"/>
<svg x="%g" y="%g" width="%g" height="%g">
<g class="s">
`, width, height, width, height, description, fontSize, scrolled(len(lines)), total.Seconds(), last, total.Seconds(),
		scroll.String(), cover.String(), width, height, margin, barHeight, columns*cellWidth, rows*lineHeight)
	for i, line := range lines {
		drawLine(w, line, lineHeight*float64(i)+fontSize+1)
	}
	fmt.Fprintf(w, `<rect class="c" x="-1" y="0" width="%g" height="%g" fill="#0d1117"/>
</g>
</svg>
</svg>
`, columns*cellWidth+2, last+rows*lineHeight)
}

// drawLine writes a line. Its length is given, so that columns are columns in
// whatever font there is.
func drawLine(w io.Writer, line []span, y float64) {
	text := ""
	for _, s := range line {
		text += s.text
	}
	if strings.TrimSpace(text) == "" {
		return
	}
	fmt.Fprintf(w, `<text x="0" y="%g" textLength="%.1f" lengthAdjust="spacingAndGlyphs" xml:space="preserve">`, y, cellWidth*float64(utf8.RuneCountInString(text)))
	for _, s := range line {
		switch {
		case s.bold:
			fmt.Fprintf(w, `<tspan class="b">%s</tspan>`, escaped(s.text))
		case s.faint:
			fmt.Fprintf(w, `<tspan class="f">%s</tspan>`, escaped(s.text))
		default:
			fmt.Fprint(w, escaped(s.text))
		}
	}
	fmt.Fprint(w, "</text>\n")
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
