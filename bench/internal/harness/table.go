package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Section is one table of a report.
type Section struct {
	Name    string     `json:"name"`
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	Notes   []string   `json:"notes,omitempty"`
	// Data is what the table was made from.
	Data any `json:"data,omitempty"`
}

// Row adds a row.
func (s *Section) Row(cells ...string) { s.Rows = append(s.Rows, cells) }

// Note adds a remark to be printed below the table.
func (s *Section) Note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// WriteMarkdown writes the section.
func (s *Section) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", s.Title)
	if len(s.Rows) > 0 {
		line := func(cells []string) {
			for _, c := range cells {
				fmt.Fprintf(&b, "| %s ", strings.ReplaceAll(c, "|", `\|`))
			}
			b.WriteString("|\n")
		}
		line(s.Columns)
		rule := make([]string, len(s.Columns))
		for i := range rule {
			rule[i] = "---:"
		}
		rule[0] = "---"
		line(rule)
		for _, r := range s.Rows {
			line(r)
		}
		b.WriteByte('\n')
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	if len(s.Notes) > 0 {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Print writes sections as Markdown, or as one JSON document.
func Print(w io.Writer, asJSON bool, sections []*Section) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"sections": sections})
	}
	for _, s := range sections {
		if err := s.WriteMarkdown(w); err != nil {
			return err
		}
	}
	return nil
}

// MiB formats a number of bytes.
func MiB(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
