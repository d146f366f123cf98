package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
)

var (
	errPassing = &tinkex.Error{Op: "list things", Category: tinkex.CategoryServer, Status: 503, Message: "not now"}
	errLasting = &tinkex.Error{Op: "list things", Category: tinkex.CategoryUser, Status: 401, Message: "who are you"}
)

// watchStates shows one state after the other, and is then interrupted. A state
// is a text or an error.
func watchStates(t *testing.T, a *app, states ...any) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	next := 0
	w := watcher{a: a, every: time.Minute, fetch: func(context.Context) (shown, error) {
		state := states[next]
		if next++; next == len(states) {
			defer cancel()
			// What comes after an interruption is not shown.
			return shown{}, nil
		}
		if err, ok := state.(error); ok {
			return shown{}, err
		}
		return shown{state, func(a *app) error {
			if a.format == "json" {
				return a.printJSON(state)
			}
			return a.print("%s\n", state)
		}}, nil
	}}
	now := make(chan time.Time)
	close(now)
	return w.run(ctx, func(time.Duration) <-chan time.Time { return now })
}

func TestWatchPrintsWhatChanges(t *testing.T) {
	for format, want := range map[string]string{
		"table": "one\n\ntwo\n\none\n",
		"json":  "\"one\"\n\"two\"\n\"one\"\n",
	} {
		var out, errOut bytes.Buffer
		a := &app{Env: Env{Stdout: &out, Stderr: &errOut}, format: format}
		err := watchStates(t, a, "one", "one", errPassing, errPassing, "two", "two", errPassing, "one", "end")
		if !errors.Is(err, context.Canceled) || !errors.Is(err, errSilent) {
			t.Errorf("ended with %v", err)
		}
		if out.String() != want {
			t.Errorf("%s: printed %q, want %q", format, out.String(), want)
		}
		if n := strings.Count(errOut.String(), "not now (HTTP 503); going on."); n != 2 || strings.Count(errOut.String(), "answers again") != 2 {
			t.Errorf("said %d times that it failed:\n%s", n, errOut.String())
		}
	}
}

func TestWatchEndsWithWhatWillNotPass(t *testing.T) {
	var out bytes.Buffer
	a := &app{Env: Env{Stdout: &out, Stderr: &out}, format: "table"}
	if err := watchStates(t, a, "one", errLasting, "two", "end"); !errors.Is(err, tinkex.ErrUnauthorized) || out.String() != "one\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if passing(errors.New("broken pipe")) || passing(fmt.Errorf("%w", tinkex.ErrMissingAPIKey)) {
		t.Error("what is no failure of the server's passes")
	}
}

func TestWatchDrawsOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	var out, errOut bytes.Buffer
	height := 6
	a := &app{Env: Env{
		Stdout: &out, Stderr: &errOut, StdoutTerminal: true,
		Size: func() (int, int) { return 80, height },
	}, format: "table"}
	if err := watchStates(t, a, errPassing, "one\ntwo", errPassing, "1\n2\n3\n4", "end"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	frames := strings.Split(out.String(), toTop)[1:]
	if len(frames) != 4 || errOut.String() != "\n" {
		t.Fatalf("%d frames, %q", len(frames), errOut.String())
	}
	for i, want := range [][]string{
		{"not now", "Going on."},
		{"Every 1m0s", "\none\x1b[K\ntwo\x1b[K\n"},
		{"not now", "Going on.", "\none\x1b[K\ntwo\x1b[K\n"},
		{"Every 1m0s", "\n1\x1b[K\n2\x1b[K\n...\x1b[K\n"},
	} {
		for _, w := range want {
			if !strings.Contains(frames[i], w) {
				t.Errorf("frame %d lacks %q:\n%q", i, w, frames[i])
			}
		}
		if lines := strings.Count(frames[i], "\n"); lines >= height {
			t.Errorf("frame %d of %d lines scrolls a screen of %d:\n%q", i, lines, height, frames[i])
		}
	}
	if !strings.HasPrefix(out.String(), clearScreen) || strings.Count(out.String(), clearScreen) > 2 {
		t.Errorf("the screen is cleared before each frame:\n%q", out.String())
	}
}

func TestWatchEndsWithItsReader(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("pipes cannot be asked there")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a := &app{Env: Env{Stdout: dataWriter{w}, Stderr: io.Discard}, format: "table"}
	// Somebody reads as long as nothing is wrong, and nothing is printed after.
	if err := watchStates(t, a, "one", "one", "one", "end"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a reader: %v", err)
	}
	r.Close()
	states := slices.Repeat([]any{errPassing}, 10)
	if err := watchStates(t, a, states...); !errors.Is(err, errReaderGone) {
		t.Errorf("without a reader: %v", err)
	}
}

func TestScreenLines(t *testing.T) {
	for _, tc := range []struct {
		line  string
		width int
		want  int
	}{
		{"", 10, 1}, {"1234567890", 10, 1}, {"12345678901", 10, 2}, {"\x1b[1m1234567890\x1b[0m", 10, 1}, {"long", 0, 1}, {"日本語日本語", 10, 2},
	} {
		if got := screenLines(tc.line, tc.width); got != tc.want {
			t.Errorf("%q in %d: %d lines, want %d", tc.line, tc.width, got, tc.want)
		}
	}
}

// until is a writer that calls something when it has seen a text.
type until struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	text string
	then func()
}

func (u *until) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, err := u.buf.Write(p)
	if strings.Contains(u.buf.String(), u.text) {
		u.then()
	}
	return n, err
}

func TestWatchLists(t *testing.T) {
	w := newWorld(t, "a")
	session, _, _ := strings.Cut(w.run, ":")
	for args, text := range map[string]string{
		"checkpoint list --watch":            w.path("a"),
		"checkpoint list --watch=1h -f json": `"total_count": 1`,
		"checkpoint list --watch 2s --paths": w.path("a"),
		"run list --watch":                   w.run,
		"run list --watch 1d --limit 0":      w.run,
		"run list --watch 2":                 w.run,
		"run list --watch=2.5":               w.run,
		"session list --watch -f json":       session,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &until{text: text, then: cancel}
		var errOut bytes.Buffer
		code := Main(strings.Fields(args), Env{Stdin: strings.NewReader(""), Stdout: out, Stderr: &errOut, Context: ctx})
		cancel()
		if code != exitInterrupted || strings.Contains(errOut.String(), "tinkex:") {
			t.Errorf("%s: exit code %d, %q", args, code, errOut.String())
		}
	}
	for args, want := range map[string]string{
		"run list --watch=0s":             "too often",
		"run list --watch=soon":           `"soon" is not an interval`,
		"run list --watch 3x":             `"3x" is not an interval`,
		"run list --watch 100ms":          `"100ms" is not an interval`,
		"run list --watch 0.5":            "too often",
		"run list --watch soon":           "soon",
		"run list 5s":                     "5s",
		"run list --watch 5s 6s":          "5s",
		"checkpoint list --watch=0.5s":    "at least 1s",
		"session list --watch --limit -1": "negative",
	} {
		run(t, strings.Fields(args)...).want(t, exitUsage, nil, []string{want})
	}
}
