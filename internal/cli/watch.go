package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

const watchHelp = `
--watch asks again every five seconds, or as often as it says (10s, 2m), and ends
with Ctrl-C.
On a terminal the list is drawn anew; elsewhere what has changed is printed as a
block, or a JSON document, of its own. A server that fails for a while is waited for.
`

// watchFlag is --watch, with or without how often.
type watchFlag struct {
	given string
	every time.Duration
}

const (
	watchEvery   = 5 * time.Second
	watchAtLeast = time.Second
)

func (f *watchFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.given, "watch", "", "keep showing the list, asking again every `INTERVAL` (5s unless given)")
	cmd.Flags().Lookup("watch").NoOptDefVal = watchEvery.String()
	// A flag whose value may be left out takes none after a space, which is
	// where people write it.
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && f.given == watchEvery.String() && startsWithDigit(args[0]) {
			f.given = args[0]
			return nil
		}
		return cobra.NoArgs(cmd, args)
	}
}

func startsWithDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

func (f *watchFlag) parse() error {
	if f.given == "" {
		return nil
	}
	given := f.given
	if _, err := strconv.ParseFloat(given, 64); err == nil {
		given += "s" // as watch(1) has it
	}
	every, err := parseAge("--watch", given)
	if err != nil {
		return usagef("--watch: %q is not an interval; write 5s, 2m or, in seconds, 10", f.given)
	}
	if every < watchAtLeast {
		return usagef("--watch: %s is too often; expected at least %v", f.given, watchAtLeast)
	}
	f.every = every
	return nil
}

// shown is one state of a list: what it is, for comparison, and how to print it.
type shown struct {
	data  any
	print func(*app) error
}

// show prints a list once, or over and over.
func (a *app) show(ctx context.Context, f watchFlag, fetch func(context.Context) (shown, error)) error {
	if f.every > 0 {
		w := watcher{a: a, every: f.every, fetch: fetch}
		return w.run(ctx, time.After)
	}
	s, err := fetch(ctx)
	if err != nil {
		return err
	}
	return s.print(a)
}

// watcher shows a list over and over.
type watcher struct {
	a     *app
	every time.Duration
	fetch func(context.Context) (shown, error)

	blocks  int
	last    []byte // data, as JSON
	frame   shown  // last drawn
	failure string // since the last answer
}

func (w *watcher) run(ctx context.Context, after func(time.Duration) <-chan time.Time) error {
	for {
		s, err := w.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return w.interrupted(ctx)
		case err != nil && !passing(err):
			return err
		case w.onTerminal():
			err = w.draw(s, err)
		case err != nil:
			err = w.sayFailure(err)
		default:
			err = w.block(s)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return w.interrupted(ctx)
		case <-after(w.every):
		}
		if readerGone(w.a.Stdout) {
			return errReaderGone
		}
	}
}

// interrupted ends in the way that was said: nothing is amiss.
func (w *watcher) interrupted(ctx context.Context) error {
	if w.onTerminal() {
		w.a.say("") // after the ^C that terminals show
	}
	return errors.Join(errSilent, ctx.Err())
}

// passing reports whether a failure may be over when one asks again.
func passing(err error) bool {
	var e *tinkex.Error
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &e) && e.Category != tinkex.CategoryUser && !errors.As(err, &certificate)
}

func (w *watcher) onTerminal() bool {
	return w.a.StdoutTerminal && w.a.format != "json" && !dumbTerminal(runtime.GOOS, os.Getenv("TERM"))
}

// block prints what has changed.
func (w *watcher) block(s shown) error {
	if w.failure != "" {
		w.failure = ""
		w.a.say("%s: the server answers again.", clockTime())
	}
	data, err := json.Marshal(s.data)
	if err != nil {
		return err
	}
	if w.blocks > 0 && bytes.Equal(data, w.last) {
		return nil
	}
	if w.blocks > 0 && w.a.format != "json" {
		if err := w.a.print("\n"); err != nil {
			return err
		}
	}
	w.blocks++
	w.last = data
	return s.print(w.a)
}

// sayFailure says a failure once, not every time.
func (w *watcher) sayFailure(err error) error {
	if now := err.Error(); now != w.failure {
		w.failure = now
		w.a.say("%s: %s; going on.", clockTime(), err)
	}
	return nil
}

func clockTime() string { return time.Now().Format(time.TimeOnly) }

// Movements of a terminal's cursor.
const (
	clearScreen = "\x1b[2J"
	toTop       = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// draw shows the list in place of the last one, cut off at the end of the
// screen. With an error it is the last list, and what is wrong.
func (w *watcher) draw(s shown, failure error) error {
	a := *w.a
	if a.Size != nil {
		a.Width, a.Height = a.Size()
	}
	first := w.frame.print == nil
	if failure == nil {
		w.frame = s
	}
	status := fmt.Sprintf("Every %v, last at %s. Ctrl-C ends.", w.every, clockTime())
	if failure != nil {
		status = fmt.Sprintf("%s: %s. Going on.", clockTime(), a.printable(failure.Error()))
	}
	var body bytes.Buffer
	screen := a.Stdout
	a.Stdout, a.Stderr = &body, &body
	if w.frame.print != nil {
		if err := w.frame.print(&a); err != nil {
			return err
		}
	}
	var out strings.Builder
	if first {
		out.WriteString(clearScreen)
	}
	out.WriteString(toTop)
	left := a.Height - 1 // the cursor has the last line
	if a.Height <= 0 {
		left = 1 << 20
	}
	for line := range strings.Lines(status + "\n\n" + body.String()) {
		line = strings.TrimSuffix(line, "\n")
		if left -= screenLines(line, a.Width); left < 1 {
			out.WriteString("..." + clearLine + "\n")
			break
		}
		out.WriteString(line + clearLine + "\n")
	}
	out.WriteString(clearBelow)
	_, err := io.WriteString(screen, out.String())
	return err
}

// screenLines is how many lines of the screen a line takes.
func screenLines(line string, width int) int {
	if width <= 0 {
		return 1
	}
	return max(1, (text.StringWidthWithoutEscSequences(line)+width-1)/width)
}
