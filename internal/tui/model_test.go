package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/tinkex/tinkex"
)

// pages leads to each page, from the list of runs.
var pages = []struct {
	name string
	keys []string
}{
	{"runs", nil},
	{"run", []string{"enter", "space", "down"}},
	{"all", []string{"tab"}},
	{"details", []string{"enter", "enter"}},
	{"sizes", []string{"C"}},
	{"help", []string{"?"}},
	{"delete", []string{"enter", "a", "D"}},
	{"download", []string{"enter", "down", "d"}},
	{"filter", []string{"tab", "/", "s", "t", "e", "p"}},
}

// TestScreens compares what is drawn of a real server's answers.
func TestScreens(t *testing.T) {
	t.Parallel()
	srv := world(t)
	for _, size := range [][2]int{{80, 24}, {40, 10}} {
		for _, p := range pages {
			t.Run(fmt.Sprintf("%s %dx%d", p.name, size[0], size[1]), func(t *testing.T) {
				t.Parallel()
				d := drive(t, Options{Client: client(t, srv.URL)}).loaded()
				d.size(size[0], size[1])
				d.press(p.keys...)
				d.until("it is read", func() bool { return !d.m.details.loading })
				if p.name == "delete" {
					d.until("it is measured", func() bool { return strings.Contains(strings.Join(d.m.dialog.lines, " "), "frees") })
				}
				d.golden(fmt.Sprintf("%s-%dx%d", p.name, size[0], size[1]))
			})
		}
	}
}

func TestBackFromAChartLeadsWhereItWasOpened(t *testing.T) {
	t.Parallel()
	d := drive(t, Options{Client: client(t, world(t).URL)}).loaded()
	d.size(80, 24)
	for _, key := range []string{"c", "C"} {
		d.press(key)
		d.shows("Sizes over time")
		d.press("esc")
		d.shows("Runs", "by last activity")
	}
	d.press("enter", "c")
	d.shows("Sizes over time")
	d.press("esc")
	d.shows("Run ", "by created")
	d.press("esc")
	d.shows("Runs", "by last activity")
}

// TestAnySize draws every page in every size that is too small for it.
func TestAnySize(t *testing.T) {
	t.Parallel()
	srv := world(t)
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			d := drive(t, Options{Client: client(t, srv.URL), ASCII: true}).loaded()
			d.press(p.keys...)
			d.until("it is read", func() bool { return !d.m.details.loading })
			d.m.sayError("something that is long enough to be broken into several lines, whatever the width")
			for w := range 30 {
				for h := range 12 {
					d.size(w, h)
					lines, cursor := d.m.screen()
					if w == 0 || h == 0 {
						continue
					}
					if len(lines) != h {
						t.Fatalf("%dx%d: %d lines", w, h, len(lines))
					}
					for _, l := range lines {
						if ansi.StringWidth(l) > w {
							t.Fatalf("%dx%d: %q is too wide", w, h, l)
						}
					}
					if cursor != nil && (cursor.X < 0 || cursor.X >= w || cursor.Y < 0 || cursor.Y >= h) {
						t.Fatalf("%dx%d: the cursor is at %d, %d", w, h, cursor.X, cursor.Y)
					}
				}
			}
		})
	}
}

// TestTerminals: colours only where they are wanted, ASCII where it is, and
// nothing that a server says reaches the terminal as it is.
func TestTerminals(t *testing.T) {
	t.Parallel()
	f := many(3)
	for i := range f.checkpoints {
		f.checkpoints[i].TinkerPath = "tinker://run-000/weights/\x1b[2Jé" + fmt.Sprint(i)
		f.checkpoints[i].CheckpointType = "\x1b]0;kind\a"
	}
	f.runs[0].BaseModel = "\x1b[31mmodel"
	text := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < ' ' || r >= utf8.RuneSelf {
				return '?'
			}
			return r
		}, s)
	}
	describe := func(context.Context, tinkex.TinkerPath) (Description, error) {
		return Description{Properties: []string{"Metadata \x1b", "\x1b[5m"}, Files: []DescribedFile{{"\x1bfile", "1 B", "ab"}}}, nil
	}
	for _, p := range pages {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			plain := drive(t, Options{Client: f, Text: text, Describe: describe, ASCII: true}).loaded()
			plain.press(p.keys...)
			plain.until("it is read", func() bool { return !plain.m.details.loading })
			content := plain.m.View().Content
			for _, r := range content {
				if r != '\n' && (r < ' ' || r >= utf8.RuneSelf) {
					t.Fatalf("%q is on the screen:\n%q", r, content)
				}
			}
			colored := drive(t, Options{Client: f, Text: text, Describe: describe, Color: true}).loaded()
			colored.press(p.keys...)
			if s := colored.m.View().Content; !strings.Contains(s, "\x1b[") {
				t.Errorf("there are no colours:\n%q", s)
			}
		})
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	d := drive(t, Options{Client: client(t, world(t).URL)}).loaded()
	d.press("tab", "/")
	d.typed("STEP-000")
	d.shows("8 match")
	d.press("backspace")
	d.typed("03 quoz")
	d.shows("0 match", "Nothing matches")
	d.press("ctrl+u")
	d.typed("llama epoch")
	d.press("enter")
	d.shows("3 of 12 checkpoints", "/llama epoch", "epoch-2")
	d.hides("step-")
	d.press("/", "ctrl+u")
	d.send(tea.PasteMsg{Content: ":public\n"})
	d.press("enter")
	d.shows("1 of 12 checkpoints", "step-0003")
	d.press("/", "ctrl+u")
	d.typed(":expires :private")
	d.press("enter")
	d.shows("1 of 12 checkpoints", "step-0002", "2d")
	d.press("esc")
	d.shows("12 checkpoints")
	d.press("/")
	d.typed("final")
	d.press("esc")
	d.shows("12 checkpoints")
	d.press("esc", "/")
	d.typed("qwen")
	d.press("enter")
	d.shows("1 of 2 runs", "Qwen/Qwen3-8B")
	d.hides("Llama")
}

func TestSort(t *testing.T) {
	t.Parallel()
	d := drive(t, Options{Client: client(t, world(t).URL)}).loaded()
	first := func() string { return nameOf(d.m.checkpoints.rows[0]) }
	d.press("tab")
	for _, want := range []struct{ key, by, first string }{
		{"s", "by size", "epoch-3"}, {"s", "by name", "epoch-1"}, {"S", "by name, reversed", "step-0008"}, {"S", "by name", "epoch-1"},
		{"s", "by expires", "step-0002"}, {"s", "by created", "final"},
	} {
		d.press(want.key)
		d.shows(want.by)
		if first() != want.first {
			t.Errorf("%s: the first is %s, want %s", want.by, first(), want.first)
		}
	}
	d.press("esc")
	run := func() string { return d.m.runs.rows[0].TrainingRunID }
	for _, want := range []struct{ by, first string }{
		{"by size", runB}, {"by checkpoints", runA}, {"by base model", runA}, {"by last activity", runA},
	} {
		d.press("s")
		d.shows(want.by)
		if run() != want.first {
			t.Errorf("%s: the first is %s, want %s", want.by, run(), want.first)
		}
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()
	d := drive(t, Options{Client: client(t, world(t).URL)}).loaded()
	marked := func(want int) {
		t.Helper()
		if got := len(d.m.marks); got != want {
			t.Errorf("%d marked, want %d\n%s", got, want, d.screen())
		}
	}
	d.press("enter", "space")
	marked(1)
	d.press("up", "space")
	marked(0)
	d.press("home", "v", "down", "down", "v")
	marked(3)
	d.press("v", "esc", "v", "end", "v")
	marked(9)
	d.press("u", "space", "/")
	marked(1)
	d.typed("step-0008")
	d.press("enter")
	d.press("a")
	d.shows("2 marked, 2.0 KiB (1 not in the list)")
	d.press("D")
	d.shows("Delete 2 checkpoints", "1 of them is marked but not in the list")
	d.press("n", "a")
	d.shows("1 marked, 1000 B (1 not in the list)")
	d.press("u")
	marked(0)
	d.hides("marked,")
}

// TestMany goes through a hundred thousand checkpoints that come page by page.
func TestMany(t *testing.T) {
	t.Parallel()
	f := many(100_000)
	f.gate = make(chan struct{})
	d := drive(t, Options{Client: f})
	pages := func(n int) {
		deadline := time.After(patience)
		for n > 0 {
			select {
			case f.gate <- struct{}{}:
				n--
			case msg := <-d.msgs:
				d.send(msg)
			case <-deadline:
				t.Fatal("no more pages are asked for")
			}
		}
	}
	pages(3)
	d.press("tab")
	d.shows("3,000 of 100,000 (3%)", "3,000+ checkpoints")
	d.press("down", "pgdown", "end")
	d.press("a")
	d.shows("Marked the 3,000 checkpoints that are listed so far")
	d.press("D")
	d.shows("The list is still being read; what comes later is not among them.", "Delete 3,000 checkpoints of 2.9 GiB for good?")
	d.press("n")
	d.press("u", "esc")
	d.shows("1,000+")
	// A run that is far down is not waited for.
	d.press("end", "up", "enter")
	d.until("the run's own list", func() bool { return len(d.m.checkpoints.rows) == 1000 })
	d.press("esc", "tab")
	pages(97)
	d.loaded()
	d.shows("100,000 checkpoints")
	// While a filter is at work, a marks what it leaves, not what it hides.
	d.press("/")
	d.typed("step-00001")
	d.press("enter", "a")
	d.until("the filter is done", func() bool { return !d.m.checkpoints.working })
	d.shows("Marked all 10 checkpoints that are listed", "10 of 100,000 checkpoints, 10 MiB", "10 marked, 10 MiB")
	d.press("D")
	d.shows("Delete 10 checkpoints of 10 MiB for good?")
	d.press("y")
	d.idle()
	d.press("esc")
	d.shows("99,990 checkpoints")
}

// TestOtherRows: rows that were asked for before another run was opened are
// never shown as that run's.
func TestOtherRows(t *testing.T) {
	t.Parallel()
	d := drive(t, Options{Client: many(5000)}).loaded()
	d.press("tab", "s", "esc", "end", "enter")
	if !d.m.checkpoints.working || len(d.m.checkpoints.rows) != 0 {
		t.Fatal("the rows of before are not being made still")
	}
	d.until("the run's rows are there", func() bool {
		for _, c := range d.m.checkpoints.rows {
			if runOf(c) != d.m.run {
				t.Fatalf("%s is shown among %s's", c.TinkerPath, d.m.run)
			}
		}
		return !d.m.checkpoints.working
	})
	d.shows("1,000 checkpoints")
}

// TestDelete deletes with one that cannot be deleted.
func TestDelete(t *testing.T) {
	t.Parallel()
	srv := world(t)
	var mu sync.Mutex
	stubborn := true
	c := through(t, srv, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if stubborn && r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/step-0002") {
			http.Error(w, `{"detail": "held back"}`, http.StatusForbidden)
			return true
		}
		return false
	})
	d := drive(t, Options{Client: c}).loaded()
	d.press("enter", "/")
	d.typed("step")
	d.press("enter", "a", "D")
	d.shows("Delete 8 checkpoints of 7.8 KiB for good? [y/N]", "1 of them is public", "and 2 more", "That frees 0 B on the server: checkpoints of a run share files.")
	d.press("n")
	d.hides("for good")
	if got := len(names(t, c, runA)); got != 9 {
		t.Fatalf("n left %d checkpoints, want 9", got)
	}
	d.press("D", "enter", "y")
	d.idle()
	d.shows("Deleted 7 checkpoints; 1 failed and stays marked", "held back", "1 marked", "1 of 2 checkpoints")
	if got := names(t, c, runA); len(got) != 2 {
		t.Errorf("the server has %d checkpoints, want step-0002 and final", len(got))
	}
	d.press("e")
	d.shows(pathA("step-0002").String(), "held back")
	mu.Lock()
	stubborn = false
	mu.Unlock()
	d.press("esc", "D", "y")
	d.idle()
	d.shows("Deleted 1 checkpoint.", "0 of 1 checkpoint")
	d.press("esc", "r")
	d.loaded()
	d.shows("1 checkpoint, 1000 B", "Everything is up to date: 4 checkpoints in 2 runs.")
}

func TestPublishAndExpire(t *testing.T) {
	t.Parallel()
	srv := world(t)
	c := client(t, srv.URL)
	d := drive(t, Options{Client: c}).loaded()
	d.press("enter", "/")
	d.typed("step-000")
	d.press("enter", "a", "p")
	d.shows("Let everybody who knows the path read 8 checkpoints?")
	d.press("y") // one is public already, which is no failure
	d.idle()
	d.shows("Published 8 checkpoints.")
	for name, k := range names(t, c, runA) {
		if k.Public != strings.HasPrefix(name, "step") {
			t.Errorf("%s: public is %v", name, k.Public)
		}
	}
	d.press("P")
	d.shows("Make 1 checkpoint private again?")
	d.press("y")
	d.idle()
	if names(t, c, runA)["step-0008"].Public {
		t.Error("step-0008 is public still")
	}
	d.press("t")
	d.shows("Time to live:")
	d.typed("soon")
	d.press("enter")
	d.shows("invalid duration")
	d.press("ctrl+u")
	d.typed("36h")
	d.press("enter")
	d.idle()
	d.shows("Set the expiry of 1 checkpoint.", "36h")
	if k := names(t, c, runA)["step-0008"]; k.ExpiresAt == nil || !k.ExpiresAt.Equal(noon.Add(36*time.Hour)) {
		t.Errorf("step-0008 expires at %v, want %v", k.ExpiresAt, noon.Add(36*time.Hour))
	}
	d.press("T", "y")
	d.idle()
	if k := names(t, c, runA)["step-0008"]; k.ExpiresAt != nil {
		t.Errorf("step-0008 expires at %v, want never", k.ExpiresAt)
	}
	// The details do it to what they show, whatever is marked.
	d.press("esc", "end", "space", "home", "enter")
	d.shows("rank 8, on attention")
	d.press("D")
	d.shows("Delete 1 checkpoint of 1000 B")
	d.press("y")
	d.idle()
	if got := names(t, c, runA); len(got) != 8 || got["final"].TinkerPath != "" {
		t.Errorf("the server has %d checkpoints, want all but final", len(got))
	}
	d.shows("Run "+runA, "1 marked")
}

// TestSomeoneElseWasFaster: what is gone meanwhile is said, and refreshing
// shows what there is.
func TestSomeoneElseWasFaster(t *testing.T) {
	t.Parallel()
	srv := world(t)
	c := client(t, srv.URL)
	d := drive(t, Options{Client: c, Describe: func(ctx context.Context, p tinkex.TinkerPath) (Description, error) {
		_, err := c.WeightsInfo(ctx, p)
		return Description{}, err
	}}).loaded()
	d.press("enter", "down")
	if err := c.DeleteCheckpoint(t.Context(), pathA("step-0008")); err != nil {
		t.Fatal(err)
	}
	d.press("enter")
	d.shows("Not there any more, or not yours; r refreshes.", "The rest could not be read")
	d.press("esc", "p", "y")
	d.idle()
	d.shows("1 failed and stays marked: Not there any more")
	d.press("r")
	d.loaded()
	d.shows("8 checkpoints")
	d.hides("step-0008")
	d.hides("1 marked")
}

// TestServerTrouble: errors are shown and retried, and what was read stays.
func TestServerTrouble(t *testing.T) {
	t.Parallel()
	srv := world(t)
	var mu sync.Mutex
	status := 0
	set := func(s int) {
		mu.Lock()
		defer mu.Unlock()
		status = s
	}
	c := through(t, srv, func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case status == 0:
			return false
		case status < 0: // breaks off
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
		default:
			http.Error(w, `{"detail": "trouble"}`, status)
		}
		return true
	})
	set(http.StatusUnauthorized)
	d := drive(t, Options{Client: c})
	d.shows("The server refuses the key; 'tinkex profile show' says where the two are from", "The runs could not be read; r tries again.")
	set(0)
	d.press("r")
	d.loaded()
	d.shows("2 runs")
	for _, trouble := range []struct {
		status int
		text   string
	}{{-1, "The server cannot be reached; r tries again."}, {http.StatusInternalServerError, "The server failed; r tries again."}, {http.StatusUnauthorized, "The server refuses the key"}} {
		set(trouble.status)
		d.press("r")
		d.shows(trouble.text, "Qwen/Qwen3-8B")
		d.until("it gave up", func() bool { return d.m.load == nil })
		set(0)
		d.press("r")
		d.loaded()
		d.shows("Everything is up to date")
		d.hides("r tries again")
	}
}

// TestChangedWhileReading: what was read before a deletion does not bring back
// what it deleted.
func TestChangedWhileReading(t *testing.T) {
	t.Parallel()
	f := many(3000)
	d := drive(t, Options{Client: f}).loaded()
	f.gate = make(chan struct{})
	d.press("tab", "end", "r")
	d.shows("reading")
	d.press("D", "y")
	d.idle()
	d.shows("Deleted 1 checkpoint.", "2,999 checkpoints")
	close(f.gate)
	d.loaded()
	d.shows("2,999 checkpoints")
	d.hides("step-000001")
}

// TestUnlistedPath: what has no path that could be asked for fails alone.
func TestUnlistedPath(t *testing.T) {
	t.Parallel()
	f := many(3)
	f.checkpoints[1].TinkerPath = "tinker://what/is/this"
	d := drive(t, Options{Client: f}).loaded()
	d.press("tab", "a", "D", "y")
	d.idle()
	d.shows("Deleted 2 checkpoints; 1 failed and stays marked", "unknown kind")
}

// TestRefusedKey: once the server refuses the key, the others are not tried.
func TestRefusedKey(t *testing.T) {
	t.Parallel()
	f := many(500)
	f.refused = new(atomic.Int32)
	d := drive(t, Options{Client: f}).loaded()
	d.press("tab", "a", "p", "y")
	d.idle()
	d.shows("500 failed and stay marked (e shows why): The server refuses the key", "500 marked")
	if n := f.refused.Load(); n == 0 || n > 64 {
		t.Errorf("it was tried %d times", n)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	at := func(hours int, bytes int64) point { return point{noon.Add(time.Duration(hours) * time.Hour), bytes} }
	for name, tc := range map[string]struct {
		points             []point
		cumulated, largest []int64
	}{
		"none":     {nil, []int64{0, 0, 0, 0}, []int64{0, 0, 0, 0}},
		"one":      {[]point{at(0, 5)}, []int64{0, 0, 0, 5}, []int64{0, 0, 0, 5}},
		"a gap":    {[]point{at(0, 1), at(8, 2)}, []int64{1, 1, 1, 3}, []int64{1, 0, 0, 2}},
		"together": {[]point{at(0, 1), at(1, 4), at(1, 3), at(8, 2)}, []int64{8, 8, 8, 10}, []int64{4, 0, 0, 2}},
	} {
		cumulated, largest := columnsOf(tc.points, 4)
		if fmt.Sprint(cumulated, largest) != fmt.Sprint(tc.cumulated, tc.largest) {
			t.Errorf("%s: %v %v, want %v %v", name, cumulated, largest, tc.cumulated, tc.largest)
		}
	}
	got := pen{}.bars([]int64{0, 1, 8, 16}, 2)
	if want := []string{"   █", " ▁██"}; strings.Join(got, "/") != strings.Join(want, "/") {
		t.Errorf("bars are %q, want %q", got, want)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	ctrl := func(r rune) tea.KeyPressMsg { return tea.KeyPressMsg{Code: r, Mod: tea.ModCtrl} }
	l := newLine("über /a b")
	for _, k := range []tea.KeyPressMsg{ctrl('w'), {Code: tea.KeyHome}, {Code: tea.KeyDelete}, {Code: 'u', Text: "u"}, {Code: tea.KeyEnd}, {Code: tea.KeyBackspace}, {Code: 'x', Text: "x"}} {
		l.key(k)
	}
	if got := l.String(); got != "uber /ax" {
		t.Errorf("the line is %q", got)
	}
	if text, at := l.view(pen{}, 4); text != "/ax" || at != 3 {
		t.Errorf("in four columns it is %q with the cursor at %d", text, at)
	}
	l.key(tea.KeyPressMsg{Code: tea.KeyLeft})
	l.key(ctrl('u'))
	if got := l.String(); got != "x" {
		t.Errorf("the line is %q", got)
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 90 * time.Second: "1m", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
		70 * 24 * time.Hour: "10w", 800 * 24 * time.Hour: "2y",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := &Model{now: func() time.Time { return now }}
	for left, want := range map[time.Duration]string{
		7*24*time.Hour - 5*time.Second: "7d", time.Hour - 5*time.Second: "1h", 10*time.Minute - 5*time.Second: "9m", -time.Hour: "0s",
	} {
		at := now.Add(left)
		if got := m.expiry(tinkex.Checkpoint{ExpiresAt: &at}); got != want {
			t.Errorf("%v is left: %q, want %q", left, got, want)
		}
	}
	if got := m.expiry(tinkex.Checkpoint{}); got != "-" {
		t.Errorf("for ever is %q", got)
	}
}

// TestDumb runs the whole program on what cannot move its cursor.
func TestDumb(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	opts := Options{Client: many(3), Dumb: true, ASCII: true, Now: time.Now}
	if err := Run(t.Context(), opts, strings.NewReader("?q"), &out); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "tinkex - Keys") || strings.Contains(s, "\x1b") {
		t.Errorf("it printed %q", s)
	}
}

// TestInterrupted: when the context ends, Run does.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, keep := io.Pipe()
	defer keep.Close()
	err := Run(ctx, Options{Client: many(3), Dumb: true}, in, writer(func(p []byte) (int, error) {
		cancel() // the first screen is there
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want that it was cancelled", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
