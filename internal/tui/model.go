package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// page is what the screen shows.
type page int

const (
	pageRuns page = iota
	pageCheckpoints
	pageDetails
	pageChart
	pageHelp
	pageFailures
	pageOperation
)

// Model is the state of the browser. It is used by one goroutine.
type Model struct {
	opts Options
	ctx  context.Context // of all requests
	quit context.CancelFunc
	now  func() time.Time
	pen  pen

	width, height int
	stack         []page // the last one is shown
	dialog        *dialog
	filtering     *line // the filter that is being typed
	scroll        int   // of pages of text

	store *store
	load  *load // under way
	stale bool  // the user asked for the load

	runs        list[runRow]
	checkpoints list[tinkex.Checkpoint]
	run         string // whose checkpoints are listed; empty: all
	runList     []tinkex.Checkpoint

	marks  map[string]int64 // sizes by tinker path; -1: unknown
	marked int              // counts the changes of marks
	sums   sums
	anchor string // where a range of marks begins
	toMark bool   // all that are listed, once the list is what was asked for

	details  details
	chart    chart
	op       *operation
	failures []failure
	quitting bool
	dir      string

	status    string // of what happened last
	failed    bool   // the status is an error
	lastError string // the last error in full, for the page about it
}

// sums are sums of what is listed and of what is marked, at a certain state of
// both.
type sums struct {
	made, marked            int
	listedBytes, markedSize int64
	hidden                  int // marks that are not in the list
}

// New returns a browser whose requests end with ctx.
func New(ctx context.Context, opts Options) *Model {
	if opts.Text == nil {
		opts.Text = func(s string) string { return s }
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Dir == "" {
		opts.Dir = "."
	}
	m := &Model{
		opts: opts, now: opts.Now, pen: pen{opts.Color, opts.ASCII}, dir: opts.Dir,
		stack: []page{pageRuns}, store: newStore(), marks: map[string]int64{},
		runs: list[runRow]{
			key:    func(r runRow) string { return r.TrainingRunID },
			orders: []string{byActivity, bySize, byCheckpoints, byModel},
		},
		checkpoints: list[tinkex.Checkpoint]{key: func(c tinkex.Checkpoint) string { return c.TinkerPath }},
	}
	for _, o := range checkpoint.Orders() {
		m.checkpoints.orders = append(m.checkpoints.orders, string(o))
	}
	m.ctx, m.quit = context.WithCancel(ctx)
	return m
}

// stop ends what is under way and waits for the operation to have ended.
func (m *Model) stop() {
	m.quit()
	if m.op != nil {
		<-m.op.ended
	}
}

// Init begins to read.
func (m *Model) Init() tea.Cmd { return m.reload() }

// Update takes one message.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) { return m, m.update(msg) }

func (m *Model) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 0), max(msg.Height, 0)
	case tea.KeyPressMsg:
		return m.keyPressed(msg)
	case tea.PasteMsg:
		return m.pasted(msg.Content)
	case batchMsg[tinkex.Checkpoint]:
		return m.checkpointsArrived(msg)
	case batchMsg[tinkex.TrainingRun]:
		return m.runsArrived(msg)
	case totalMsg:
		msg.load.into.total = msg.total
	case runListMsg:
		return m.runListArrived(msg)
	case rowsMsg[tinkex.Checkpoint]:
		shown, again := m.checkpoints.arrived(msg)
		if shown && m.toMark {
			m.markAll()
		}
		if again {
			return m.updateCheckpoints()
		}
	case rowsMsg[runRow]:
		if _, again := m.runs.arrived(msg); again {
			return m.updateRuns()
		}
	case describedMsg:
		m.described(msg)
	case freedMsg:
		m.freedArrived(msg)
	case opMsg:
		return m.ended(msg)
	case tickMsg:
		if m.op == msg.op {
			return tick(msg.op)
		}
	}
	return nil
}

func (m *Model) page() page { return m.stack[len(m.stack)-1] }

func (m *Model) open(p page) {
	if m.page() != p {
		m.stack = append(m.stack, p)
	}
	m.turned()
}

func (m *Model) back() {
	if len(m.stack) > 1 {
		m.stack = m.stack[:len(m.stack)-1]
	}
	m.turned()
}

// turned forgets what was of another page. Errors stay.
func (m *Model) turned() {
	m.scroll, m.toMark = 0, false
	if !m.failed {
		m.status = ""
	}
}

func (m *Model) say(format string, args ...any) {
	m.status, m.failed = fmt.Sprintf(format, args...), false
}

func (m *Model) sayError(format string, args ...any) {
	m.say(format, args...)
	m.failed, m.lastError = true, m.status
}

// fail shows an error. r tries again.
func (m *Model) fail(err error) {
	if m.ctx.Err() == nil {
		m.failures = nil
		m.sayError("%s", m.explain(err, "r tries again"))
	}
}

// explain says what is wrong and what to do, again being how to try again.
func (m *Model) explain(err error, again string) string {
	var e *tinkex.Error
	answered := errors.As(err, &e) && e.Status != 0
	text := m.opts.Text(strings.ReplaceAll(err.Error(), "\n", " "))
	switch {
	case errors.Is(err, tinkex.ErrUnauthorized):
		return "The server refuses the key; 'tinkex profile show' says where the two are from; " + again + ". " + text
	case errors.Is(err, tinkex.ErrExists):
		return text + "; remove it or name another directory"
	case errors.Is(err, tinkex.ErrNotFound):
		return "Not there any more, or not yours; r refreshes. " + text
	case errors.Is(err, checkpoint.ErrNotTried):
		return text + "; " + again
	case e != nil && !answered && e.Category != tinkex.CategoryUser:
		return "The server cannot be reached; " + again + ". " + text
	case e != nil && e.Category == tinkex.CategoryServer:
		return "The server failed; " + again + ". " + text
	}
	return text
}

func (m *Model) pasted(s string) tea.Cmd {
	switch {
	case m.dialog != nil && m.dialog.input != nil:
		m.dialog.input.insert(s)
		m.dialog.wrong = ""
	case m.filtering != nil:
		m.filtering.insert(s)
		return m.filtered()
	}
	return nil
}

func (m *Model) keyPressed(k tea.KeyPressMsg) tea.Cmd {
	key := k.String()
	switch {
	case m.quitting:
		if key == "ctrl+c" {
			return tea.Quit // again: without waiting on the screen
		}
		return nil
	case m.dialog != nil:
		return m.dialogKey(k)
	case m.filtering != nil:
		return m.filterKey(k)
	}
	switch key {
	case "ctrl+z":
		return tea.Suspend
	case "q", "ctrl+c":
		return m.askQuit()
	case "?":
		if m.page() == pageHelp {
			m.back()
		} else {
			m.open(pageHelp)
		}
		return nil
	case "r":
		return m.refresh()
	case "x":
		m.cancelOperation()
		return nil
	case "o":
		if m.op == nil {
			m.say("Nothing is being done.")
		} else {
			m.open(pageOperation)
		}
		return nil
	case "e":
		if m.lastError == "" {
			m.say("Nothing has failed.")
		} else {
			m.open(pageFailures)
		}
		return nil
	}
	switch m.page() {
	case pageRuns:
		return m.runsKey(key)
	case pageCheckpoints:
		return m.checkpointsKey(key)
	case pageDetails:
		if cmd, ok := m.actionKey(key); ok {
			return cmd
		}
	}
	return m.textKey(key)
}

// refresh reads everything again, also the details that are shown.
func (m *Model) refresh() tea.Cmd {
	m.stale, m.failed = true, false
	m.say("Reading everything again.")
	cmd := m.reload()
	if m.page() == pageDetails {
		return tea.Batch(cmd, m.describe(m.details.of))
	}
	return cmd
}

// textKey handles the keys of pages that are only read.
func (m *Model) textKey(key string) tea.Cmd {
	switch key {
	case "esc", "backspace", "left", "h", "enter":
		m.back()
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup", "ctrl+b":
		m.scroll -= m.bodyHeight()
	case "pgdown", "ctrl+f", "space":
		m.scroll += m.bodyHeight()
	case "home", "g":
		m.scroll = 0
	case "end", "G":
		m.scroll = 1 << 20
	}
	m.scroll = max(m.scroll, 0) // the end is found when it is drawn
	return nil
}

// filterKey edits the filter of the list that is shown.
func (m *Model) filterKey(k tea.KeyPressMsg) tea.Cmd {
	switch key := k.String(); key {
	case "enter":
		m.filtering = nil
	case "esc", "ctrl+c":
		m.filtering = nil
		return m.setFilter("")
	case "up", "down", "pgup", "pgdown":
		if m.page() == pageRuns {
			m.runs.move(key, m.bodyHeight())
		} else {
			m.checkpoints.move(key, m.bodyHeight())
		}
	default:
		if m.filtering.key(k) {
			return m.filtered()
		}
	}
	return nil
}

func (m *Model) filtered() tea.Cmd { return m.setFilter(m.filtering.String()) }

func (m *Model) setFilter(s string) tea.Cmd {
	if m.page() == pageRuns {
		m.runs.filter = s
		m.runs.want()
		return m.updateRuns()
	}
	m.checkpoints.filter = s
	m.checkpoints.want()
	return m.updateCheckpoints()
}

// runsKey handles the keys of the page of runs.
func (m *Model) runsKey(key string) tea.Cmd {
	l := &m.runs
	if l.move(key, m.bodyHeight()) {
		return nil
	}
	switch key {
	case "enter", "right", "l":
		if r, ok := l.current(); ok {
			return m.openRun(r.TrainingRunID)
		}
	case "tab":
		return m.openRun("")
	case "/":
		input := newLine(l.filter)
		m.filtering = &input
	case "esc":
		return m.setFilter("")
	case "s":
		l.sort()
		return m.updateRuns()
	case "S":
		l.reverse = !l.reverse
		l.want()
		return m.updateRuns()
	case "c":
		if r, ok := l.current(); ok {
			return m.openChartOf(r.TrainingRunID)
		}
	case "C":
		return m.openChartOf("")
	}
	return nil
}

// openChartOf shows the sizes of a run, or with "" of all, from where back leads
// to the list of runs.
func (m *Model) openChartOf(run string) tea.Cmd {
	at := len(m.stack)
	cmd := m.openRun(run)
	m.openChart()
	m.stack = slices.Delete(m.stack, at, len(m.stack)-1)
	return cmd
}

// openRun shows the checkpoints of a run, or with "" all.
func (m *Model) openRun(run string) tea.Cmd {
	m.open(pageCheckpoints)
	l := &m.checkpoints
	if m.run != run || len(l.rows) == 0 {
		m.run, m.runList, m.anchor = run, nil, ""
		l.filter, l.cursor, l.top, l.rows = "", 0, 0, nil
		l.want()
	}
	cmd := m.updateCheckpoints()
	if run != "" && !m.store.checkpointsDone {
		return tea.Batch(cmd, m.readRun())
	}
	return cmd
}

// checkpointsKey handles the keys of the page of checkpoints.
func (m *Model) checkpointsKey(key string) tea.Cmd {
	l := &m.checkpoints
	if l.move(key, m.bodyHeight()) {
		return nil
	}
	if cmd, ok := m.actionKey(key); ok {
		return cmd
	}
	switch key {
	case "enter", "right", "l":
		if c, ok := l.current(); ok {
			m.open(pageDetails)
			return m.describe(c)
		}
	case "tab", "backspace", "left", "h":
		m.anchor = ""
		m.back()
	case "esc":
		switch {
		case m.anchor != "":
			m.anchor = ""
			m.say("No range.")
		case l.filter != "":
			return m.setFilter("")
		default:
			m.back()
		}
	case "/":
		input := newLine(l.filter)
		m.filtering = &input
	case "s":
		l.sort()
		return m.updateCheckpoints()
	case "S":
		l.reverse = !l.reverse
		l.want()
		return m.updateCheckpoints()
	case "c":
		m.openChart()
	case "C":
		cmd := m.openRun("")
		m.openChart()
		return cmd
	case "space":
		if c, ok := l.current(); ok {
			if _, marked := m.marks[c.TinkerPath]; marked {
				m.unmark(c.TinkerPath)
			} else {
				m.mark(c)
			}
			l.move("down", 0)
		}
	case "v":
		m.markRange()
	case "a":
		m.markAllListed()
	case "u":
		m.marks, m.anchor, m.toMark = map[string]int64{}, "", false
		m.marked++
		m.say("Nothing is marked.")
	}
	return nil
}

// actionKey handles the keys that do something to checkpoints.
func (m *Model) actionKey(key string) (tea.Cmd, bool) {
	var do func(targets []tinkex.Checkpoint) tea.Cmd
	switch key {
	case "D", "delete":
		do = m.askDelete
	case "d":
		do = func(t []tinkex.Checkpoint) tea.Cmd { m.askDownload(t); return nil }
	case "p":
		do = func(t []tinkex.Checkpoint) tea.Cmd { m.askPublish(t, true); return nil }
	case "P":
		do = func(t []tinkex.Checkpoint) tea.Cmd { m.askPublish(t, false); return nil }
	case "t":
		do = func(t []tinkex.Checkpoint) tea.Cmd { m.askTTL(t); return nil }
	case "T":
		do = func(t []tinkex.Checkpoint) tea.Cmd { m.askRemoveTTL(t); return nil }
	default:
		return nil, false
	}
	if m.op != nil {
		m.say("%s %s is under way; wait for it, or x stops it.", m.op.doing, plural(len(m.op.targets), "checkpoint"))
		return nil, true
	}
	targets := m.targets()
	if len(targets) == 0 {
		m.say("There is no checkpoint to do that to.")
		return nil, true
	}
	return do(targets), true
}

// targets are the marked checkpoints or, if none is, the one at the cursor; on
// the page about one checkpoint it is that one.
func (m *Model) targets() []tinkex.Checkpoint {
	if m.page() == pageDetails {
		return []tinkex.Checkpoint{m.details.of}
	}
	if len(m.marks) == 0 {
		if c, ok := m.checkpoints.current(); ok {
			return []tinkex.Checkpoint{c}
		}
		return nil
	}
	out := make([]tinkex.Checkpoint, 0, len(m.marks))
	seen := make(map[string]bool, len(m.marks))
	for _, list := range [][]tinkex.Checkpoint{m.checkpoints.rows, m.store.checkpoints, m.runList} {
		for _, c := range list {
			if _, marked := m.marks[c.TinkerPath]; marked && !seen[c.TinkerPath] {
				seen[c.TinkerPath] = true
				out = append(out, c)
			}
		}
	}
	return out
}

func (m *Model) mark(c tinkex.Checkpoint) {
	n := int64(-1)
	if c.SizeBytes != nil {
		n = *c.SizeBytes
	}
	m.marks[c.TinkerPath] = n
	m.marked++
}

func (m *Model) unmark(path string) {
	delete(m.marks, path)
	m.marked++
}

// markRange begins a range at the cursor, or marks what is between its
// beginning and the cursor.
func (m *Model) markRange() {
	l := &m.checkpoints
	c, ok := l.current()
	if !ok {
		return
	}
	if m.anchor == "" {
		m.anchor = c.TinkerPath
		m.say("A range begins here; move, and v marks it. Esc gives it up.")
		return
	}
	from, to := -1, l.cursor
	for i, r := range l.rows {
		if r.TinkerPath == m.anchor {
			from = i
		}
	}
	m.anchor = ""
	if from < 0 {
		m.say("Where the range began is not in the list any more.")
		return
	}
	from, to = min(from, to), max(from, to)
	for _, r := range l.rows[from : to+1] {
		m.mark(r)
	}
	m.say("Marked the %s in between.", plural(to-from+1, "checkpoint"))
}

// markAllListed marks all that are listed, as soon as those that are wanted
// are.
func (m *Model) markAllListed() {
	if m.toMark = m.checkpoints.working; m.toMark {
		m.say("Marking all that are listed, once they are.")
		return
	}
	m.markAll()
}

// markAll marks all that are listed or, if they are, unmarks them.
func (m *Model) markAll() {
	m.toMark = false
	l := &m.checkpoints
	all := true
	for _, c := range l.rows {
		if _, marked := m.marks[c.TinkerPath]; !marked {
			all = false
			break
		}
	}
	for _, c := range l.rows {
		if all {
			m.unmark(c.TinkerPath)
		} else {
			m.mark(c)
		}
	}
	switch _, complete := m.source(); {
	case all:
		m.say("Unmarked all that are listed.")
	case !complete:
		m.say("Marked the %s that are listed so far; the list is still being read.", plural(len(l.rows), "checkpoint"))
	default:
		m.say("Marked all %s that are listed.", plural(len(l.rows), "checkpoint"))
	}
}

// keepMarks forgets the marks of what is not there any more.
func (m *Model) keepMarks() {
	if len(m.marks) == 0 {
		return
	}
	kept := make(map[string]int64, len(m.marks))
	for _, c := range m.store.checkpoints {
		if n, ok := m.marks[c.TinkerPath]; ok {
			kept[c.TinkerPath] = n
		}
	}
	m.marks = kept
	m.marked++
}

// summed returns the sums, which are made anew if something has changed.
func (m *Model) summed() sums {
	if m.sums.made == m.checkpoints.made && m.sums.marked == m.marked {
		return m.sums
	}
	s := sums{made: m.checkpoints.made, marked: m.marked, hidden: len(m.marks)}
	for _, c := range m.checkpoints.rows {
		if c.SizeBytes != nil {
			s.listedBytes += *c.SizeBytes
		}
		if _, ok := m.marks[c.TinkerPath]; ok {
			s.hidden--
		}
	}
	for _, n := range m.marks {
		s.markedSize += max(n, 0)
	}
	m.sums = s
	return s
}
