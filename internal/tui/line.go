package tui

import (
	"slices"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"
)

// line is one line of text that is being typed.
type line struct {
	text []rune
	at   int
}

func newLine(s string) line { return line{[]rune(s), len([]rune(s))} }

func (l *line) String() string { return string(l.text) }

func (l *line) insert(s string) {
	var add []rune
	for _, r := range s {
		if unicode.IsPrint(r) {
			add = append(add, r)
		}
	}
	l.text = slices.Insert(l.text, l.at, add...)
	l.at += len(add)
}

// key edits and reports whether the text is another one.
func (l *line) key(k tea.KeyPressMsg) bool {
	before := len(l.text)
	switch k.String() {
	case "left", "ctrl+b":
		l.at = max(l.at-1, 0)
	case "right", "ctrl+f":
		l.at = min(l.at+1, len(l.text))
	case "home", "ctrl+a":
		l.at = 0
	case "end", "ctrl+e":
		l.at = len(l.text)
	case "backspace", "ctrl+h":
		if l.at > 0 {
			l.text = slices.Delete(l.text, l.at-1, l.at)
			l.at--
		}
	case "delete", "ctrl+d":
		if l.at < len(l.text) {
			l.text = slices.Delete(l.text, l.at, l.at+1)
		}
	case "ctrl+u":
		l.text, l.at = l.text[l.at:], 0
	case "ctrl+k":
		l.text = l.text[:l.at]
	case "ctrl+w":
		left := strings.TrimRight(string(l.text[:l.at]), " ")
		start := len([]rune(left[:strings.LastIndexByte(left, ' ')+1]))
		l.text, l.at = slices.Delete(l.text, start, l.at), start
	default:
		if isText(k.Text) {
			l.insert(k.Text)
		}
	}
	return len(l.text) != before
}

// view shows the end of the line that the cursor is in, and where the cursor
// is in it.
func (l *line) view(p pen, width int) (s string, cursor int) {
	start := 0
	for start < l.at && widthOf(l.text[start:l.at]) >= width {
		start++
	}
	return p.clip(string(l.text[start:]), width), widthOf(l.text[start:l.at])
}
