package tui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
)

// View draws the screen.
func (m *Model) View() tea.View {
	lines, cursor := m.screen()
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	v.Cursor = cursor
	return v
}

// statusHeight is how many lines a message may take.
func (m *Model) statusHeight() int { return max(min(m.height/6, 3), 1) }

// parts are the lines around the body, as many as the height has room for.
func (m *Model) parts() (above, below []string, cursor *tea.Cursor) {
	w, h := m.width, m.height
	if h >= 3 {
		above = append(above, m.title(w))
	}
	if h >= 5 {
		var info string
		if info, cursor = m.info(w); info != "" || cursor != nil {
			if cursor != nil {
				cursor.Y = len(above)
			}
			above = append(above, info)
		}
	}
	if h >= 2 {
		status := m.statusLines(w)
		if h >= 6 || len(status) > 0 {
			if len(status) == 0 {
				status = []string{""}
			}
			below = append(below, status...)
		}
	}
	if h >= 6 {
		below = append(below, m.pen.faint(m.pen.clip(m.keys(w), w)))
	}
	return above, below, cursor
}

// bodyHeight is how many lines lists and texts have.
func (m *Model) bodyHeight() int {
	above, below, _ := m.parts()
	return max(m.height-len(above)-len(below), 1)
}

// screen returns as many lines as there are on the screen, none of them wider.
func (m *Model) screen() ([]string, *tea.Cursor) {
	if m.width <= 0 || m.height <= 0 {
		return nil, nil
	}
	above, below, cursor := m.parts()
	height := max(m.height-len(above)-len(below), 1)
	var body []string
	if m.dialog != nil {
		var at int
		if body, at = m.dialogLines(m.width); len(body) > height {
			body = body[len(body)-height:] // the question is at the end
		}
		cursor = tea.NewCursor(min(at, m.width-1), len(above)+len(body)-1)
	} else {
		body = m.body(m.width, height)
	}
	for len(body) < height {
		body = append(body, "")
	}
	lines := append(append(above, body[:height]...), below...)
	lines = lines[:min(len(lines), m.height)]
	for i, l := range lines {
		lines[i] = m.pen.clip(l, m.width)
	}
	return lines, cursor
}

func (m *Model) body(w, h int) []string {
	switch m.page() {
	case pageRuns:
		return drawList(m, &m.runs, m.runColumns(), w, h, m.emptyRuns(), func(runRow) bool { return false })
	case pageCheckpoints:
		return drawList(m, &m.checkpoints, m.checkpointColumns(), w, h, m.emptyCheckpoints(), func(c tinkex.Checkpoint) bool {
			_, marked := m.marks[c.TinkerPath]
			return marked
		})
	case pageDetails:
		return m.scrolled(m.detailLines(w), h)
	case pageChart:
		return m.chartLines(w, h)
	case pageHelp:
		return m.scrolled(m.helpLines(w), h)
	case pageFailures:
		return m.scrolled(m.failureLines(w), h)
	case pageOperation:
		return m.operationLines(w, h)
	}
	return nil
}

// scrolled cuts out what is to be seen of a text.
func (m *Model) scrolled(lines []string, h int) []string {
	m.scroll = max(min(m.scroll, len(lines)-h), 0)
	return lines[m.scroll:min(m.scroll+h, len(lines))]
}

// drawList draws a list with its headings, if there is room for those.
func drawList[T any](m *Model, l *list[T], columns []column[T], w, h int, empty string, marked func(T) bool) []string {
	if len(l.rows) == 0 {
		return wrap(empty, w)
	}
	const margin = 2 // the cursor and the mark
	shown, widths := layout(columns, w-margin)
	var lines []string
	if h >= 3 {
		titles := cells(m.pen, shown, widths, func(c column[T]) string { return c.title })
		lines = append(lines, m.pen.bold(strings.Repeat(" ", margin)+titles))
		h--
	}
	from, to := l.window(h)
	for i := from; i < to; i++ {
		r := l.rows[i]
		sign, mark := " ", " "
		if i == l.cursor {
			sign = ">"
		}
		if marked(r) {
			mark = "*"
		}
		text := m.pen.fit(sign+mark+cells(m.pen, shown, widths, func(c column[T]) string { return c.value(r) }), w, false)
		switch {
		case i == l.cursor:
			text = m.pen.reverse(text)
		case mark == "*":
			text = m.pen.yellow(text)
		}
		lines = append(lines, text)
	}
	return lines
}

// runIDWidth is the width of a run's id: <session-id>:train:<n>.
const runIDWidth = 44

func (m *Model) runColumns() []column[runRow] {
	more := ""
	if !m.store.checkpointsDone {
		more = "+"
	}
	return []column[runRow]{
		{title: "Base model", width: 16, flex: true, value: func(r runRow) string { return m.opts.Text(r.BaseModel) }},
		{title: "Ckpts", width: 6, right: true, need: 4, value: func(r runRow) string { return count(r.checkpoints) + more }},
		{title: "Size", width: 9, right: true, need: 3, value: func(r runRow) string { return size(r.bytes) + more }},
		{title: "Active", width: 6, right: true, need: 2, value: func(r runRow) string { return m.age(r.active()) }},
		{title: "Status", width: 10, need: 1, value: func(r runRow) string {
			if r.Corrupted {
				return "lost steps"
			}
			return "ok"
		}},
		{title: "Run", width: 12, want: runIDWidth, cut: true, need: 5, value: func(r runRow) string { return m.opts.Text(r.TrainingRunID) }},
	}
}

func (m *Model) checkpointColumns() []column[tinkex.Checkpoint] {
	columns := []column[tinkex.Checkpoint]{
		{title: "Kind", width: 8, need: 4, value: func(c tinkex.Checkpoint) string { return m.opts.Text(kindOf(c.CheckpointType)) }},
		{title: "Name", width: 10, flex: true, cut: true, value: func(c tinkex.Checkpoint) string { return m.opts.Text(nameOf(c)) }},
		{title: "Size", width: 9, right: true, need: 6, value: sizeOf},
		{title: "Age", width: 4, right: true, need: 5, value: func(c tinkex.Checkpoint) string { return m.age(c.Time) }},
		{title: "Expires", width: 7, right: true, need: 3, value: m.expiry},
		{title: "Public", width: 6, need: 2, value: func(c tinkex.Checkpoint) string {
			if c.Public {
				return "yes"
			}
			return "-"
		}},
	}
	if m.run == "" {
		columns = append(columns, column[tinkex.Checkpoint]{
			title: "Run", width: 12, want: runIDWidth, cut: true, need: 1,
			value: func(c tinkex.Checkpoint) string { return m.opts.Text(runOf(c)) },
		})
	}
	return columns
}

func (m *Model) emptyRuns() string {
	switch {
	case m.load != nil && !m.store.runsDone:
		return "Reading" + m.pen.ellipsis()
	case m.runs.filter != "":
		return fmt.Sprintf("None of %s matches. Esc shows all again.", plural(len(m.store.runs), "run"))
	case !m.store.runsDone:
		return "The runs could not be read; r tries again."
	}
	return "No training runs yet."
}

func (m *Model) emptyCheckpoints() string {
	_, complete := m.source()
	switch {
	case m.checkpoints.working, m.load != nil && !complete:
		return "Reading" + m.pen.ellipsis()
	case m.checkpoints.filter != "":
		return "Nothing matches. Esc shows all again."
	case !complete:
		return "The checkpoints could not be read; r tries again."
	}
	return "No checkpoints."
}

// title names the server and the page.
func (m *Model) title(w int) string {
	where := map[page]string{
		pageRuns: "Runs", pageDetails: "Checkpoint", pageChart: "Sizes over time", pageHelp: "Keys",
		pageFailures: "Errors", pageOperation: "Under way",
	}[m.page()]
	if m.page() == pageCheckpoints {
		if where = "All checkpoints"; m.run != "" {
			where = "Run " + m.opts.Text(m.run)
		}
	}
	left := "tinkex" + m.pen.dot() + where
	right := m.opts.Text(m.opts.Server)
	room := w - widthOf([]rune(right)) - 1
	if widthOf([]rune(left)) > room {
		return m.pen.bold(m.pen.middle(left, w))
	}
	return m.pen.bold(m.pen.fit(left, room, false)) + " " + m.pen.faint(right)
}

// info says what is listed, or is where the filter is typed.
func (m *Model) info(w int) (string, *tea.Cursor) {
	if m.filtering != nil && m.dialog == nil {
		const prompt = "/ "
		text, at := m.filtering.view(m.pen, max(w-len(prompt), 1))
		n := len(m.checkpoints.rows)
		if m.page() == pageRuns {
			n = len(m.runs.rows)
		}
		s := prompt + text
		if tail := count(n) + " match"; w-widthOf([]rune(s)) > len(tail)+3 {
			s = m.pen.fit(s, w-len(tail), false) + m.pen.faint(tail)
		}
		return s, tea.NewCursor(min(len(prompt)+at, w-1), 0)
	}
	reading := ""
	if m.load != nil {
		reading = m.reading()
	}
	var parts []string
	switch m.page() {
	case pageRuns:
		parts = []string{
			reading, m.amount(len(m.runs.rows), len(m.store.runs), "run", m.store.runsDone),
			filteredBy(m.opts.Text, &m.runs), ordered(&m.runs),
		}
	case pageCheckpoints:
		source, complete := m.source()
		n := len(source)
		if m.run != "" && len(m.runList) == 0 {
			n = m.store.stats[m.run].checkpoints
		}
		amount := m.amount(len(m.checkpoints.rows), n, "checkpoint", complete)
		if amount != "" {
			amount += ", " + size(m.summed().listedBytes)
		}
		parts = []string{
			m.marksInfo(), reading, amount,
			filteredBy(m.opts.Text, &m.checkpoints), ordered(&m.checkpoints), m.opts.Text(m.baseModel()),
		}
	default:
		return "", nil
	}
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return m.pen.clip(strings.Join(said, m.pen.dot()), w), nil
}

// baseModel is the open run's.
func (m *Model) baseModel() string {
	for _, r := range m.store.runs {
		if r.TrainingRunID == m.run {
			return r.BaseModel
		}
	}
	return ""
}

// amount says how many of how many there are, if anything is known of that.
func (m *Model) amount(shown, all int, noun string, complete bool) string {
	if all == 0 && !complete {
		return ""
	}
	s := plural(all, noun)
	if !complete {
		s = count(all) + "+ " + noun + "s"
	}
	if shown < all {
		s = count(shown) + " of " + s
	}
	return s
}

// reading says how far reading everything is.
func (m *Model) reading() string {
	l := m.load.into
	s := "reading" + m.pen.ellipsis() + " " + count(len(l.checkpoints))
	if l.total >= len(l.checkpoints) && l.total > 0 {
		s += fmt.Sprintf(" of %s (%d%%)", count(l.total), len(l.checkpoints)*100/l.total)
	}
	return s
}

func (m *Model) marksInfo() string {
	if len(m.marks) == 0 {
		if m.anchor != "" {
			return "a range has begun"
		}
		return ""
	}
	sums := m.summed()
	s := fmt.Sprintf("%s marked, %s", count(len(m.marks)), size(sums.markedSize))
	if sums.hidden > 0 {
		s += fmt.Sprintf(" (%s not in the list)", count(sums.hidden))
	}
	return s
}

func ordered[T any](l *list[T]) string {
	s := "by " + l.orders[l.order]
	if l.reverse {
		s += ", reversed"
	}
	if l.working {
		s += ", sorting"
	}
	return s
}

func filteredBy[T any](text func(string) string, l *list[T]) string {
	if l.filter == "" {
		return ""
	}
	return "/" + text(l.filter)
}

// statusLines are the progress of what is being done, or what happened last.
func (m *Model) statusLines(w int) []string {
	var lines []string
	if m.op != nil && m.page() != pageOperation {
		lines = append(lines, m.opSummary(w))
	}
	if m.status == "" || m.failed && m.page() == pageFailures {
		return lines
	}
	room := max(m.statusHeight()-len(lines), 0)
	said := wrap(m.status, w)
	if len(said) > room && room > 0 {
		said = said[:room]
		said[room-1] = m.pen.clip(said[room-1]+m.pen.ellipsis(), w)
	}
	for _, l := range said[:min(len(said), room)] {
		if m.failed {
			l = m.pen.red(l)
		}
		lines = append(lines, l)
	}
	return lines
}

// keys reminds of the keys that matter here.
func (m *Model) keys(w int) string {
	var keys []string
	switch {
	case m.quitting:
		keys = []string{"stopping" + m.pen.ellipsis(), "Ctrl-C does not wait"}
	case m.dialog != nil && m.dialog.input != nil:
		keys = []string{"Enter goes on", "Esc does nothing"}
	case m.dialog != nil:
		keys = []string{"y goes on", "n does nothing"}
	case m.filtering != nil:
		keys = []string{"Enter keeps", "Esc drops", flagHelp}
	case m.page() == pageRuns:
		keys = []string{"? keys", "Enter opens", "Tab all checkpoints", "/ filter", "s sort", "c sizes", "r refresh", "q quit"}
	case m.page() == pageCheckpoints:
		keys = []string{"? keys", "Space mark", "d download", "D delete", "p publish", "t expire", "/ filter", "s sort", "c sizes", "Esc back"}
	case m.page() == pageDetails:
		keys = []string{"? keys", "d download", "D delete", "p publish", "t expire", "Esc back", "Up Down scroll"}
	case m.page() == pageOperation:
		keys = []string{"x stop", "Esc back"}
	case m.page() == pageChart:
		keys = []string{"Esc back", "q quit"}
	default:
		keys = []string{"Esc back", "Up Down scroll", "q quit"}
	}
	s := keys[0]
	for _, k := range keys[1:] {
		if len([]rune(s))+2+len([]rune(k)) > w {
			break
		}
		s += "  " + k
	}
	return s
}
