package tui

import (
	"strings"

	tea "charm.land/bubbletea/v2"
)

// inline is how many items are filtered and sorted at once, without a screen
// in between: a few milliseconds' worth.
const inline = 2000

// list is a list that is filtered, sorted and scrolled through.
type list[T any] struct {
	key     func(T) string
	orders  []string // the first one is the default
	order   int
	reverse bool
	filter  string

	rows        []T // what is shown, not changed in place
	cursor, top int

	made    int  // counts the times that rows were shown
	wanted  int  // counts the changes of what is asked for
	working bool // rows are being made beside
	again   bool // and have to be made once more
}

// rowsMsg brings rows that were made beside.
type rowsMsg[T any] struct {
	wanted int
	rows   []T
}

// want says that what was asked for before is not what is wanted any more.
// Without it, update is about more items of the same.
func (l *list[T]) want() { l.wanted++ }

// sort goes on to the next order.
func (l *list[T]) sort() {
	l.order = (l.order + 1) % len(l.orders)
	l.want()
}

// update makes the rows with a function of the filter's words and the order,
// which runs beside if there are many items. It must not look at anything that
// changes.
func (l *list[T]) update(items int, build func(words []string, order string, reverse bool) []T) tea.Cmd {
	words, order, reverse := strings.Fields(strings.ToLower(l.filter)), l.orders[l.order], l.reverse
	if items <= inline && !l.working {
		l.show(build(words, order, reverse))
		return nil
	}
	if l.working {
		l.again = true
		return nil
	}
	l.working = true
	wanted := l.wanted
	return func() tea.Msg { return rowsMsg[T]{wanted, build(words, order, reverse)} }
}

// arrived takes what update made beside. It reports whether that was shown, and
// whether it has to be made again.
func (l *list[T]) arrived(msg rowsMsg[T]) (shown, again bool) {
	again = l.again
	l.working, l.again = false, false
	if msg.wanted == l.wanted {
		l.show(msg.rows)
		return true, again
	}
	return false, again
}

// show replaces the rows. The cursor stays on the item that it is on, unless
// it has not left the first.
func (l *list[T]) show(rows []T) {
	if old, ok := l.current(); ok && l.cursor > 0 {
		offset := l.cursor - l.top
		k := l.key(old)
		for i, r := range rows {
			if l.key(r) == k {
				l.cursor = i
				break
			}
		}
		l.top = l.cursor - offset
	}
	l.rows = rows
	l.clamp()
	l.made++
}

func (l *list[T]) clamp() {
	l.cursor = max(min(l.cursor, len(l.rows)-1), 0)
	l.top = max(l.top, 0)
}

func (l *list[T]) current() (T, bool) {
	if l.cursor < len(l.rows) {
		return l.rows[l.cursor], true
	}
	var zero T
	return zero, false
}

// move handles the keys that move the cursor.
func (l *list[T]) move(key string, page int) bool {
	page = max(page-1, 1)
	switch key {
	case "up", "k":
		l.cursor--
	case "down", "j":
		l.cursor++
	case "pgup", "ctrl+b":
		l.cursor -= page
	case "pgdown", "ctrl+f":
		l.cursor += page
	case "home", "g":
		l.cursor = 0
	case "end", "G":
		l.cursor = len(l.rows) - 1
	default:
		return false
	}
	l.clamp()
	return true
}

// window returns which rows are on a screen of a certain height.
func (l *list[T]) window(height int) (from, to int) {
	height = max(height, 1)
	l.top = min(l.top, l.cursor)
	l.top = max(l.top, l.cursor-height+1)
	l.top = max(min(l.top, len(l.rows)-height), 0)
	return l.top, min(l.top+height, len(l.rows))
}

// matches reports whether every word is in one of the texts, in whatever case.
// The words are in lower case.
func matches(words []string, texts ...string) bool {
	for _, w := range words {
		found := false
		for _, t := range texts {
			if containsFold(t, w) {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// containsFold looks for a text in lower case. Letters beyond ASCII are
// compared as they are, which spares a copy of each of very many texts.
func containsFold(s, lower string) bool {
	for i := 0; i+len(lower) <= len(s); i++ {
		j := 0
		for j < len(lower) {
			c := s[i+j]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if c != lower[j] {
				break
			}
			j++
		}
		if j == len(lower) {
			return true
		}
	}
	return false
}

// column is a column of a list.
type column[T any] struct {
	title string
	width int  // of the others; of a flexible one, the least
	flex  bool // takes a share of what is left
	want  int  // before it is cut, columns of less need are left out; 0 is width
	right bool
	need  int // columns of the lowest need are left out first; 0 never is
	cut   bool
	value func(T) string
}

// layout leaves out columns that a width has no room for and returns the
// others with their widths.
func layout[T any](columns []column[T], width int) ([]column[T], []int) {
	const gap = 1
	shown := append([]column[T](nil), columns...)
	for {
		flexible, weakest := 0, -1
		for i, c := range shown {
			if c.flex {
				flexible++
			}
			if c.need > 0 && (weakest < 0 || c.need < shown[weakest].need) {
				weakest = i
			}
		}
		sum := -gap
		for _, c := range shown {
			if sum += c.width + gap; c.want > c.width && weakest >= 0 && shown[weakest].need < c.need {
				sum += c.want - c.width
			}
		}
		if sum > width && weakest >= 0 {
			shown = append(shown[:weakest], shown[weakest+1:]...)
			continue
		}
		widths := make([]int, len(shown))
		left := width + gap
		for i, c := range shown {
			widths[i] = c.width
			left -= c.width + gap
		}
		left = max(left, 0)
		for i, c := range shown {
			if c.want > c.width {
				more := min(c.want-c.width, left)
				widths[i] += more
				left -= more
			}
		}
		for i, c := range shown {
			if c.flex {
				share := left / flexible
				widths[i] += share
				left -= share
				flexible--
			}
		}
		return shown, widths
	}
}

// cells draws one row.
func cells[T any](p pen, columns []column[T], widths []int, value func(column[T]) string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		v := value(c)
		if c.cut {
			v = p.middle(v, widths[i])
		}
		parts[i] = p.fit(v, widths[i], c.right)
	}
	return strings.Join(parts, " ")
}
