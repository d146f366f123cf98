package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/tinkex/tinkex"
)

// print writes data to standard output.
func (a *app) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.Stdout, format, args...)
	return err
}

// printJSON writes one JSON document to standard output.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// colours reports whether standard output is to be coloured.
func (a *app) colours() bool { return a.StdoutTerminal && !a.noColor }

// tableWriter prints rows under headings: aligned columns without borders, so
// that they can be read, copied and cut alike. The last column holds what people
// copy whole, an id or a path, and is never cut. On a terminal too narrow for
// the rows, the columns that may be dropped are, and if that is not enough the
// last one gets a line of its own, indented as far as leaves it whole. A few rows
// that are wider than the others are the only ones to get one.
//
// What does not fit into its sample is printed as it comes, in columns as wide
// as the sample's, so that a table may have any number of rows.
type tableWriter struct {
	a        *app
	out      *bufio.Writer
	headings []string
	drop     []int // columns that may be dropped, the first one first
	rows     [][]string
	layout   *layout // nil until the sample is complete
	unseen   int     // rows printed since the last flush
	err      error
}

// layout is how the rows of a table are laid out.
type layout struct {
	columns []int // those shown before the last one
	widths  []int // of all
	wrap    bool  // the last column has a line of its own
	indent  string
	room    int // what there is for the last column beside the others
}

const (
	tableSample = 1000
	fewRows     = 5 // one in so many may be wider than the terminal
	flushRows   = 100
	columnGap   = "   "
	wrapIndent  = "  "
)

func (a *app) table(headings ...string) *tableWriter {
	return &tableWriter{a: a, out: bufio.NewWriterSize(a.Stdout, 1<<16), headings: headings}
}

// droppable names columns that a narrow terminal can do without.
func (w *tableWriter) droppable(headings ...string) *tableWriter {
	for _, h := range headings {
		w.drop = append(w.drop, slices.Index(w.headings, h))
	}
	return w
}

func (w *tableWriter) row(values ...string) {
	for i, v := range values {
		values[i] = w.a.printable(v)
	}
	if w.layout == nil {
		if w.rows = append(w.rows, values); len(w.rows) == tableSample {
			w.begin()
		}
		return
	}
	w.line(values, false)
	if w.unseen++; w.unseen == flushRows {
		w.flush()
	}
}

// failed is the error of writing, after which rows need not be made any more.
func (w *tableWriter) failed() error { return w.err }

// render prints what is left.
func (w *tableWriter) render() error {
	if w.layout == nil {
		w.begin()
	}
	w.flush()
	return w.err
}

func (w *tableWriter) begin() {
	w.layout = w.fit()
	w.line(w.headings, true)
	for _, r := range w.rows {
		w.line(r, false)
	}
	w.rows = nil
	w.flush()
}

func (w *tableWriter) flush() {
	w.unseen = 0
	if err := w.out.Flush(); w.err == nil {
		w.err = err
	}
}

func (w *tableWriter) fit() *layout {
	last := len(w.headings) - 1
	l := &layout{widths: make([]int, len(w.headings))}
	for _, r := range append([][]string{w.headings}, w.rows...) {
		for i, v := range r {
			l.widths[i] = max(l.widths[i], text.StringWidth(v))
		}
	}
	limit := w.a.Width
	if !w.a.StdoutTerminal || limit <= 0 {
		limit = math.MaxInt
	}
	// shown returns what is left when as many columns as necessary are dropped,
	// and the room beside them, which may be less than what is asked for.
	shown := func(beside int) ([]int, int) {
		var columns []int
		width := beside
		for i := range last {
			columns = append(columns, i)
			width += l.widths[i] + len(columnGap)
		}
		for _, d := range w.drop {
			if width <= limit {
				break
			}
			columns = slices.DeleteFunc(columns, func(i int) bool { return i == d })
			width -= l.widths[d] + len(columnGap)
		}
		return columns, limit - (width - beside)
	}
	usual := w.usualWidth(l.widths[last])
	columns, room := shown(l.widths[last])
	if room < l.widths[last] {
		columns, room = shown(usual)
	}
	if room < usual {
		columns, _ = shown(-len(columnGap))
		l.wrap = last > 0
		l.indent = wrapIndent
		for _, r := range append([][]string{w.headings}, w.rows...) {
			if i := indentFor(r[last], limit); len(i) < len(l.indent) {
				l.indent = i
			}
		}
	}
	l.columns, l.room = columns, room
	return l
}

// usualWidth is the width of the last column but for a few rows, and at least
// its heading's.
func (w *tableWriter) usualWidth(widest int) int {
	last := len(w.headings) - 1
	if len(w.rows) < fewRows {
		return widest
	}
	widths := make([]int, len(w.rows))
	for i, r := range w.rows {
		widths[i] = text.StringWidth(r[last])
	}
	slices.Sort(widths)
	return max(widths[len(widths)-1-len(widths)/fewRows], text.StringWidth(w.headings[last]))
}

// indentFor is how far a text is indented on a line of its own, so that a
// terminal of width columns does not cut it. One that is too wide in any case
// is indented all the same.
func indentFor(s string, width int) string {
	if room := width - text.StringWidth(s); width > 0 && room >= 0 && room < len(wrapIndent) {
		return wrapIndent[:room]
	}
	return wrapIndent
}

func (w *tableWriter) line(values []string, heading bool) {
	var b strings.Builder
	put := func(i int) {
		v := values[i]
		pad := strings.Repeat(" ", max(w.layout.widths[i]-text.StringWidth(v), 0)) + columnGap
		if heading && w.a.colours() {
			v = text.Bold.Sprint(v)
		}
		b.WriteString(v)
		b.WriteString(pad)
	}
	end := func() {
		line := strings.TrimRight(b.String(), " ")
		b.Reset()
		_, _ = w.out.WriteString(line + "\n") // flush reports it
	}
	for _, i := range w.layout.columns {
		put(i)
	}
	last := len(values) - 1
	switch {
	case w.layout.wrap:
		end()
		b.WriteString(w.layout.indent)
	case last > 0 && text.StringWidth(values[last]) > w.layout.room:
		end()
		b.WriteString(indentFor(values[last], w.a.Width))
	}
	put(last)
	end()
}

// properties prints names and values, one a line. On a terminal, a path, an id
// or a digest that would be cut there has a line of its own.
func (a *app) properties(pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, text.StringWidth(a.printable(pairs[i])))
	}
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		name := a.printable(pairs[i])
		pad := strings.Repeat(" ", width-text.StringWidth(name)) + columnGap
		if a.colours() {
			name = text.Bold.Sprint(name)
		}
		value := a.printable(pairs[i+1])
		whole := !strings.Contains(value, " ") || strings.HasPrefix(value, tinkex.Scheme)
		if whole && a.StdoutTerminal && a.Width > 0 && width+len(columnGap)+text.StringWidth(value) > a.Width {
			pad = "\n" + indentFor(value, a.Width)
		}
		b.WriteString(strings.TrimRight(name+pad+value, " ") + "\n")
	}
	return a.print("%s", b.String())
}

// printable makes what a server says safe for a terminal: what would move its
// cursor or change its colours is escaped, and on one that does not take UTF-8
// everything that is not ASCII.
func (a *app) printable(s string) string {
	ascii := a.StdoutTerminal && a.NotUTF8
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r, ascii) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if plain(r, ascii) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

func plain(r rune, ascii bool) bool {
	return r != utf8.RuneError && strconv.IsPrint(r) && (!ascii || r < utf8.RuneSelf)
}

// ago shows an instant as people speak of it. What was set a moment ago to
// expire in a week does so in a week, not in six days.
func ago(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	now := time.Now()
	if at.Sub(now) > 30*time.Minute {
		at = at.Add(time.Minute)
	}
	return humanize.RelTime(at, now, "ago", "from now")
}

// size shows bytes in binary units.
func size(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

func sizeOf(n *int64) string {
	if n == nil {
		return "-"
	}
	return size(*n)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
