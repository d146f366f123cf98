package tui

import (
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"
)

// dumbEvery is how often progress is printed on a terminal that cannot move
// its cursor.
const dumbEvery = 5 * time.Second

// frame is how many lines are printed around each screen.
const frame = 2

// dumb prints each screen below the last one.
type dumb struct {
	*Model
	out     io.Writer
	last    string
	printed time.Time
}

// prepare makes a terminal give each key as it is pressed, which a program that
// draws nothing does not do by itself, and reads its size.
func (d *dumb) prepare(in io.Reader) (restore func(), err error) {
	d.measure()
	f, ok := in.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(f.Fd()), before) }, nil // there is nothing else to try
}

// measure reads the terminal's size. One that does not tell is small.
func (d *dumb) measure() {
	d.width, d.height = 80, 24
	if f, ok := d.out.(interface{ Fd() uintptr }); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			d.width, d.height = w, h
		}
	}
	d.height = max(d.height-frame, 1)
}

// Update prints the screen if a key has changed it, if something has come to
// its end, and now and then while something goes on.
func (d *dumb) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	if _, size := msg.(tea.WindowSizeMsg); size {
		return d, nil // of a program that draws nothing, it is none
	}
	if _, key := msg.(tea.KeyPressMsg); key {
		d.measure()
	}
	cmd := d.update(msg)
	lines, _ := d.screen()
	lines = slices.CompactFunc(lines, func(a, b string) bool { return a == "" && b == "" })
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
