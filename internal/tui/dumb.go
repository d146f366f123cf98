package tui

import (
	"io"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// dumbEvery is how often progress is printed on a terminal that cannot move
// its cursor.
const dumbEvery = 5 * time.Second

// dumb prints each screen below the last one.
type dumb struct {
	*Model
	out     io.Writer
	last    string
	printed time.Time
}

// Update prints the screen if a key has changed it, if something has come to
// its end, and now and then while something goes on.
func (d *dumb) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := d.update(msg)
	lines, _ := d.screen()
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	text := strings.Join(lines, "\r\n")
	_, key := msg.(tea.KeyPressMsg)
	busy := d.load != nil || d.op != nil || d.checkpoints.working || d.runs.working
	if text == d.last || busy && !key && d.now().Sub(d.printed) < dumbEvery {
		return d, cmd
	}
	d.last, d.printed = text, d.now()
	_, _ = io.WriteString(d.out, "\r\n"+strings.Repeat("-", max(min(d.width, 20), 1))+"\r\n"+text+"\r\n") // a screen has nobody to tell
	return d, cmd
}
