package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
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
// that they can be read, copied and cut alike.
type tableWriter struct {
	a *app
	t table.Writer
}

func (a *app) table(headings ...string) *tableWriter {
	t := table.NewWriter()
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	if a.colours() {
		style.Color.Header = text.Colors{text.Bold}
	}
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(cells(headings))
	return &tableWriter{a, t}
}

func (w *tableWriter) row(values ...string) { w.t.AppendRow(cells(values)) }

func (w *tableWriter) render() error { return w.a.print("%s\n", w.t.Render()) }

// properties prints names and values, one a line.
func (a *app) properties(pairs ...string) error {
	t := a.table()
	t.t.ResetHeaders()
	for i := 0; i+1 < len(pairs); i += 2 {
		name := pairs[i]
		if a.colours() {
			name = text.Bold.Sprint(name)
		}
		t.row(name, pairs[i+1])
	}
	return t.render()
}

func cells(values []string) table.Row {
	row := make(table.Row, len(values))
	for i, v := range values {
		row[i] = v
	}
	return row
}

// ago shows an instant as people speak of it.
func ago(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return humanize.Time(at)
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
