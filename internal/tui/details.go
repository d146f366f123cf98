package tui

import (
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
)

// details is what is known of one checkpoint.
type details struct {
	of      tinkex.Checkpoint
	loading bool
	known   bool
	Description
}

// describedMsg is what a checkpoint turned out to be.
type describedMsg struct {
	path string
	Description
	err error
}

// describe reads about a checkpoint. What was known of it stays meanwhile.
func (m *Model) describe(c tinkex.Checkpoint) tea.Cmd {
	if m.details.of.TinkerPath != c.TinkerPath {
		m.details = details{}
	}
	m.details.of, m.details.loading = c, true
	ctx, read := m.ctx, m.opts.Describe
	return func() tea.Msg {
		path, err := c.Path()
		if err != nil {
			return describedMsg{path: c.TinkerPath, err: err}
		}
		d, err := read(ctx, path)
		return describedMsg{c.TinkerPath, d, err}
	}
}

func (m *Model) described(msg describedMsg) {
	if msg.path != m.details.of.TinkerPath {
		return
	}
	m.details.loading = false
	if msg.err != nil {
		m.fail(msg.err)
		return
	}
	m.details.Description, m.details.known = msg.Description, true
}

// detailLines are the page about one checkpoint. Nothing in it is cut: what is
// too long is continued on the next line.
func (m *Model) detailLines(width int) []string {
	d := m.details
	properties := d.Properties
	if !d.known {
		c := d.of
		properties = []string{"Path", c.TinkerPath, "Size", sizeOf(c), "Age", m.age(c.Time), "Expires in", m.expiry(c)}
	}
	names := 0
	for i := 0; i < len(properties); i += 2 {
		names = max(names, len(properties[i]))
	}
	names = min(names, width/3)
	var lines []string
	for i := 0; i+1 < len(properties); i += 2 {
		name := m.pen.bold(m.pen.fit(m.opts.Text(properties[i]), names, false))
		for j, l := range wrap(m.opts.Text(properties[i+1]), width-names-2) {
			if j > 0 {
				name = strings.Repeat(" ", names)
			}
			lines = append(lines, name+"  "+l)
		}
	}
	switch {
	case d.loading:
		lines = append(lines, "", "Reading more"+m.pen.ellipsis())
	case !d.known:
		lines = append(lines, "", "The rest could not be read; r tries again.")
	case len(d.Files) > 0:
		lines = append(lines, "", m.pen.bold("Files"))
		for _, f := range d.Files {
			lines = append(lines, wrap(m.opts.Text(f.Name)+"  "+f.Size, width)...)
			for _, l := range wrap("sha256 "+f.SHA256, max(width-2, 1)) {
				lines = append(lines, "  "+m.pen.faint(l))
			}
		}
	}
	return lines
}
