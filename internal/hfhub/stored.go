package hfhub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Stored is a file of tokens in the INI format of Python's configparser, which
// the huggingface_hub package reads and writes it with.
type Stored struct {
	Sections []Section

	text string
}

// Section is one token under its name.
type Section struct {
	Name string
	// Fields are its own, then those of the section DEFAULT that it has not. The
	// names are in lower case.
	Fields []Field

	own        int    // so many are its own
	start, end int    // where its own are in the text
	indent     string // of the last of them
}

// Field is one value of a section.
type Field struct{ Name, Value string }

var errNotStored = errors.New("not a file of tokens")

// defaultSection is the one whose fields all others have as well.
const defaultSection = "DEFAULT"

// ParseStored reads what Python's configparser reads, without interpolation: it
// refuses what that refuses.
//
// A line begins a section ([name]) or a field (name = value, name: value), or it
// goes on with the field before, if it is indented more. Lines that begin with #
// or ; count for nothing, empty ones for as much as they would in the middle of
// a value. No section is there twice, but for DEFAULT, and no field in it.
func ParseStored(b []byte) (*Stored, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: it is not UTF-8", errNotStored)
	}
	p := storedParser{stored: Stored{text: string(b)}, fields: map[string]int{}, names: map[string]int{}, place: -1}
	for at, n := 0, 1; at < len(b); n++ {
		line, next := cutLine(p.stored.text, at)
		if err := p.line(line, at, next); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", errNotStored, n, err) // without the line: it may be a token
		}
		at = next
	}
	for _, d := range p.all() {
		for i := range d.Fields {
			d.Fields[i].Value = strings.TrimRightFunc(d.Fields[i].Value, isSpace)
		}
		d.own = len(d.Fields)
	}
	for i := range p.stored.Sections {
		s := &p.stored.Sections[i]
		for _, f := range p.defaults.Fields {
			if !s.has(f.Name) {
				s.Fields = append(s.Fields, f)
			}
		}
	}
	return &p.stored, nil
}

// cutLine returns the line at a place without its end, and where the next one
// is. Lines end as they do on any system.
func cutLine(text string, at int) (line string, next int) {
	i := strings.IndexAny(text[at:], "\r\n")
	if i < 0 {
		return text[at:], len(text)
	}
	next = at + i + 1
	if text[at+i] == '\r' && strings.HasPrefix(text[next:], "\n") {
		next++
	}
	return text[at : at+i], next
}

type storedParser struct {
	stored   Stored
	defaults Section
	names    map[string]int // sections, by name

	place  int            // of the section: -1 is none yet, -2 the defaults
	fields map[string]int // of the section, by name
	inside bool           // a field, which the next line may go on with
	last   int            // that field
	indent int            // of what began last
}

func (p *storedParser) all() []*Section {
	all := []*Section{&p.defaults}
	for i := range p.stored.Sections {
		all = append(all, &p.stored.Sections[i])
	}
	return all
}

func (p *storedParser) section() *Section {
	if p.place == -2 {
		return &p.defaults
	}
	return &p.stored.Sections[p.place]
}

func (p *storedParser) line(line string, start, next int) error {
	text := strings.TrimFunc(line, isSpace)
	switch {
	case strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";"):
		return nil
	case text == "":
		if p.inside {
			p.section().Fields[p.last].Value += "\n"
		}
		return nil
	}
	margin := line[:strings.IndexFunc(line, func(r rune) bool { return !isSpace(r) })]
	indent := utf8.RuneCountInString(margin)
	if p.inside && indent > p.indent {
		s := p.section()
		s.Fields[p.last].Value += "\n" + text
		s.end = next
		return nil
	}
	p.indent = indent
	if name, ok := sectionName(text); ok {
		return p.begin(name)
	}
	if p.place == -1 {
		return errors.New("there is no section yet")
	}
	return p.field(text, margin, start, next)
}

// sectionName is what is between the first bracket, which begins the line, and
// the last.
func sectionName(text string) (string, bool) {
	end := strings.LastIndexByte(text, ']')
	if text[0] != '[' || end < 2 {
		return "", false
	}
	return text[1:end], true
}

func (p *storedParser) begin(name string) error {
	p.inside = false
	if name == defaultSection {
		// It may go on where it is there again.
		p.place = -2
		p.fields = map[string]int{}
		for i, f := range p.defaults.Fields {
			p.fields[f.Name] = i
		}
		return nil
	}
	if _, twice := p.names[name]; twice {
		return errors.New("the section is there twice")
	}
	p.place, p.fields = len(p.stored.Sections), map[string]int{}
	p.names[name] = p.place
	p.stored.Sections = append(p.stored.Sections, Section{Name: name})
	return nil
}

func (p *storedParser) field(text, margin string, start, next int) error {
	i := strings.IndexAny(text, "=:")
	if i < 0 {
		return errors.New("it is neither a section nor a field")
	}
	name := strings.ToLower(strings.TrimRightFunc(text[:i], isSpace))
	if name == "" {
		return errors.New("the field has no name")
	}
	if _, twice := p.fields[name]; twice {
		return errors.New("the field is there twice")
	}
	s := p.section()
	p.inside, p.last = true, len(s.Fields)
	p.fields[name] = p.last
	if p.last == 0 {
		s.start = start
	}
	s.end, s.indent = next, margin
	s.Fields = append(s.Fields, Field{name, strings.TrimLeftFunc(text[i+1:], isSpace)})
	return nil
}

// isSpace is Python's opinion, which has four separators more than Go's.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func (s Section) has(name string) bool {
	return slices.ContainsFunc(s.Fields, func(f Field) bool { return f.Name == name })
}

func (s Section) get(name string) string {
	for _, f := range s.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func (s *Stored) section(name string) Section {
	i := slices.IndexFunc(s.Sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return Section{}
	}
	return s.Sections[i]
}

// replaceable reports whether there is a place for a section's fields: it has
// some of its own.
func (s *Stored) replaceable(name string) bool { return s.section(name).own > 0 }

// replace returns the text with other fields in a section that is replaceable,
// of which nothing else has changed. Names and values are without spaces.
func (s *Stored) replace(name string, fields []Field) []byte {
	old := s.section(name)
	var b strings.Builder
	b.WriteString(s.text[:old.start])
	for _, f := range fields {
		// As the last one was indented, so that what follows still does not go on
		// with it.
		b.WriteString(old.indent + f.Name + " = " + f.Value + "\n")
	}
	b.WriteString(s.text[old.end:])
	return []byte(b.String())
}
