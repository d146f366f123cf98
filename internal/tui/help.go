package tui

// helpText is the page of keys: a key and what it does, or a heading.
var helpText = [][2]string{
	{"", "Lists"},
	{"Up Down k j", "move; PgUp PgDn, Home g, End G"},
	{"Enter", "open a run, a checkpoint's details"},
	{"Esc", "back; in a list with a filter, no filter"},
	{"Tab", "all checkpoints, and back to the runs"},
	{"/", "filter as you type; Enter keeps it, Esc drops it. Every word has to be in the path or the base model; " + flagHelp},
	{"s  S", "sort by something else; the other way round"},
	{"c  C", "sizes over time, of what is listed or of the run; of everything"},
	{"r", "read everything again"},
	{"", "Marks"},
	{"Space", "mark or unmark"},
	{"v", "begin a range, and mark up to here"},
	{"a", "mark all that are listed, or unmark them"},
	{"u", "unmark everything"},
	{"", "What is marked or, if nothing is, the checkpoint at the cursor"},
	{"d", "download"},
	{"D", "delete"},
	{"p  P", "publish, make private again"},
	{"t  T", "set when it expires, keep it for ever"},
	{"", "Else"},
	{"o", "what is being done"},
	{"x", "stop it; a download goes on from there next time"},
	{"e", "the last errors in full"},
	{"?", "this page"},
	{"q Ctrl-C", "quit; asks if something is being done"},
}

func (m *Model) helpLines(width int) []string {
	const keys = 12
	var lines []string
	for i, h := range helpText {
		if h[0] == "" {
			if i > 0 {
				lines = append(lines, "")
			}
			for _, l := range wrap(h[1], width) {
				lines = append(lines, m.pen.bold(l))
			}
			continue
		}
		for j, l := range wrap(h[1], width-keys-1) {
			key := ""
			if j == 0 {
				key = h[0]
			}
			lines = append(lines, m.pen.fit(key, keys, false)+" "+l)
		}
	}
	return lines
}

// failureLines are the page of what went wrong, in full.
func (m *Model) failureLines(width int) []string {
	lines := wrap(m.lastError, width)
	for _, f := range m.failures {
		lines = append(lines, "")
		for _, l := range wrap(m.opts.Text(f.path), width) {
			lines = append(lines, m.pen.bold(l))
		}
		lines = append(lines, wrap(m.explain(f.err, doAgain), width)...)
	}
	return lines
}
