package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// dialog asks something before it is done. With an input it asks for a text,
// otherwise for y.
type dialog struct {
	named  []string // of what it is about, cut to lines
	lines  []string
	prompt string
	input  *line
	wrong  string // what is wrong with the input
	// yes gets the input. An error is shown, and the dialog stays.
	yes  func(text string) (tea.Cmd, error)
	stop context.CancelFunc // of what is being found out for it; may be nil
	// quits: asked by Ctrl-C or q, and another Ctrl-C is a yes.
	quits bool
}

func (m *Model) ask(d *dialog) {
	m.dialog = d
	if !m.failed {
		m.status = ""
	}
}

func (m *Model) closeDialog() {
	if m.dialog != nil && m.dialog.stop != nil {
		m.dialog.stop()
	}
	m.dialog = nil
}

func (m *Model) dialogKey(k tea.KeyPressMsg) tea.Cmd {
	d := m.dialog
	answer := func(text string) tea.Cmd {
		cmd, err := d.yes(text)
		if err != nil {
			d.wrong = err.Error()
			return nil
		}
		if m.dialog == d {
			m.closeDialog()
		}
		return cmd
	}
	switch key := k.String(); {
	case key == "ctrl+c" && d.quits:
		return answer("")
	case key == "esc", key == "ctrl+c":
		m.closeDialog()
	case d.input != nil && key == "enter":
		return answer(d.input.String())
	case d.input != nil:
		if d.input.key(k) {
			d.wrong = ""
		}
	case key == "y" || key == "Y":
		return answer("")
	case key == "n" || key == "N" || key == "q":
		m.closeDialog()
	}
	return nil
}

// dialogLines draws the dialog, its last line being the question, and says
// where in that the cursor is.
func (m *Model) dialogLines(width int) (lines []string, cursor int) {
	d := m.dialog
	for _, l := range d.named {
		lines = append(lines, m.pen.middle(l, width))
	}
	for _, l := range d.lines {
		lines = append(lines, wrap(l, width)...)
	}
	if d.wrong != "" {
		for _, l := range wrap(d.wrong, width) {
			lines = append(lines, m.pen.red(l))
		}
	}
	if d.input == nil {
		question := wrap(d.prompt+" [y/N] ", width)
		for i, l := range question {
			question[i] = m.pen.bold(l)
		}
		last := question[max(len(question)-1, 0):]
		if len(last) > 0 {
			cursor = widthOf([]rune(d.prompt + " [y/N] "))
			if len(question) > 1 {
				cursor = width
			}
		}
		return append(lines, question...), min(cursor, width-1)
	}
	prompt := d.prompt + " "
	if widthOf([]rune(prompt)) > width/2 {
		lines = append(lines, wrap(d.prompt, width)...)
		prompt = "> "
	}
	text, at := d.input.view(m.pen, width-len(prompt))
	return append(lines, m.pen.bold(prompt)+text), len(prompt) + at
}

// sum adds up sizes.
type sum struct {
	bytes   int64
	unknown int
	public  int
}

func sumOf(list []tinkex.Checkpoint) (s sum) {
	for _, c := range list {
		if c.SizeBytes == nil {
			s.unknown++
		} else {
			s.bytes += *c.SizeBytes
		}
		if c.Public {
			s.public++
		}
	}
	return s
}

// of says " of 3.2 GiB".
func (s sum) of() string {
	switch {
	case s.bytes == 0 && s.unknown > 0:
		return " of unknown size"
	case s.unknown > 0:
		return " of more than " + size(s.bytes)
	}
	return " of " + size(s.bytes)
}

// shownPaths is how many of the checkpoints in question are named.
const shownPaths = 6

// about is a dialog that names some of the checkpoints, and says what is to be
// known of the marks.
func (m *Model) about(targets []tinkex.Checkpoint) *dialog {
	d := &dialog{}
	if len(targets) == 1 {
		d.lines = []string{m.opts.Text(targets[0].TinkerPath), ""}
		return d
	}
	for i, c := range targets {
		if i == shownPaths && len(targets) > shownPaths+1 {
			d.named = append(d.named, fmt.Sprintf("  and %s more", count(len(targets)-shownPaths)))
			break
		}
		d.named = append(d.named, "  "+m.opts.Text(c.TinkerPath))
	}
	if n := m.summed().hidden; n > 0 {
		d.lines = append(d.lines, fmt.Sprintf("%s marked but not in the list as it is now.", are(n)))
	}
	if _, complete := m.source(); !complete && m.load != nil {
		d.lines = append(d.lines, "The list is still being read; what comes later is not among them.")
	}
	d.lines = append(d.lines, "")
	return d
}

// measured is how many checkpoints may be asked for their files to find out
// what a deletion frees.
const measured = 500

// freedMsg is what a deletion would free.
type freedMsg struct {
	of    *dialog
	freed checkpoint.Freed
	all   int64 // the sum of the sizes
}

func (m *Model) askDelete(targets []tinkex.Checkpoint) tea.Cmd {
	s := sumOf(targets)
	d := m.about(targets)
	d.prompt = fmt.Sprintf("Delete %s%s for good?", plural(len(targets), "checkpoint"), s.of())
	d.yes = func(string) (tea.Cmd, error) { return m.start(m.deletion(targets)), nil }
	if s.public > 0 {
		d.lines = append(d.lines, fmt.Sprintf("%s public: others may rely on them.", are(s.public)))
	}
	m.ask(d)
	if !m.store.checkpointsDone {
		return nil
	}
	going, runs := map[string]bool{}, map[string]bool{}
	for _, c := range targets {
		going[c.TinkerPath] = true
		runs[runOf(c)] = true
	}
	asked := len(targets)
	for run := range runs {
		asked += m.store.stats[run].checkpoints
	}
	if asked > measured {
		return nil
	}
	var stay []tinkex.Checkpoint
	for _, c := range m.store.checkpoints {
		if runs[runOf(c)] && !going[c.TinkerPath] {
			stay = append(stay, c)
		}
	}
	ctx, cancel := context.WithCancel(m.ctx)
	d.stop = cancel
	client := m.opts.Client
	return func() tea.Msg {
		freed, err := checkpoint.Measure(ctx, client, targets, stay, nil)
		if err != nil || !freed.Exact {
			return nil
		}
		return freedMsg{d, freed, s.bytes}
	}
}

func are(n int) string {
	if n == 1 {
		return "1 of them is"
	}
	return count(n) + " of them are"
}

func (m *Model) freedArrived(msg freedMsg) {
	text := fmt.Sprintf("That frees %s on the server", size(msg.freed.Bytes))
	if msg.freed.Bytes < msg.all {
		text += ": checkpoints of a run share files"
	}
	msg.of.lines = append(msg.of.lines, text+".")
}

func (m *Model) askPublish(targets []tinkex.Checkpoint, public bool) {
	d := m.about(targets)
	d.prompt = fmt.Sprintf("Let everybody who knows the path read %s?", plural(len(targets), "checkpoint"))
	if !public {
		d.prompt = fmt.Sprintf("Make %s private again?", plural(len(targets), "checkpoint"))
	}
	d.yes = func(string) (tea.Cmd, error) { return m.start(m.publication(targets, public)), nil }
	m.ask(d)
}

func (m *Model) askTTL(targets []tinkex.Checkpoint) {
	input := newLine("")
	d := m.about(targets)
	d.lines = append(d.lines, fmt.Sprintf("Set when to delete %s: after how long? Seconds, or 90m, 24h, 7d.", plural(len(targets), "checkpoint")))
	d.prompt, d.input = "Time to live:", &input
	d.yes = func(text string) (tea.Cmd, error) {
		ttl, err := m.opts.ParseTTL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		return m.start(m.expiration(targets, ttl)), nil
	}
	m.ask(d)
}

func (m *Model) askRemoveTTL(targets []tinkex.Checkpoint) {
	d := m.about(targets)
	d.prompt = fmt.Sprintf("Keep %s for ever?", plural(len(targets), "checkpoint"))
	d.yes = func(string) (tea.Cmd, error) { return m.start(m.expiration(targets, 0)), nil }
	m.ask(d)
}

func (m *Model) askDownload(targets []tinkex.Checkpoint) {
	input := newLine(m.dir)
	d := m.about(targets)
	d.lines = append(d.lines, fmt.Sprintf("Download %s%s, each into a directory of its own in:", plural(len(targets), "checkpoint"), sumOf(targets).of()))
	d.prompt, d.input = "Directory:", &input
	d.yes = func(text string) (tea.Cmd, error) {
		dir, err := directory(text)
		if err != nil {
			return nil, err
		}
		m.dir = dir
		return m.start(m.download(targets, dir)), nil
	}
	m.ask(d)
}

// directory reads a directory as people write it. There is no shell here that
// would know ~.
func directory(text string) (string, error) {
	dir := strings.TrimSpace(text)
	if dir == "" {
		return "", errors.New("name a directory; . is the working directory")
	}
	rest, home := strings.CutPrefix(dir, "~")
	if !home || rest != "" && !os.IsPathSeparator(rest[0]) {
		return dir, nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%s: your home directory is not known: %w", dir, err)
	}
	return filepath.Join(h, rest), nil
}

// askQuit asks only if something would be lost.
func (m *Model) askQuit() tea.Cmd {
	if m.op == nil {
		return tea.Quit
	}
	o := m.op
	d := &dialog{quits: true, prompt: "Stop it and quit?", yes: func(string) (tea.Cmd, error) {
		if m.op == nil {
			return tea.Quit, nil
		}
		m.quitting = true
		m.cancelOperation()
		return nil, nil
	}}
	d.lines = []string{fmt.Sprintf("%s %s is under way.", o.doing, plural(len(o.targets), "checkpoint"))}
	if o.download {
		d.lines = append(d.lines, "What has been fetched stays; "+downloadGoesOn+".")
	} else {
		d.lines = append(d.lines, "What is done is done; the others stay as they are.")
	}
	m.ask(d)
	return nil
}

func (m *Model) cancelOperation() {
	if m.op != nil && !m.op.cancelled {
		m.op.cancelled = true
		m.op.cancel()
	}
}
