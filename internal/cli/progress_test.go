package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8/decor"
)

// logged are lines of progress, with a clock of their own.
type logged struct {
	*lines
	at   time.Time
	said []string
}

func newLogged(t *testing.T) *logged {
	l := &logged{at: time.Unix(0, 0)}
	l.lines = newLines(t.Context(), func(format string, args ...any) { l.said = append(l.said, fmt.Sprintf(format, args...)) }, func() time.Time { return l.at })
	l.close() // no ticks but the test's
	return l
}

func TestLinesOfProgress(t *testing.T) {
	l := newLogged(t)
	move := l.addCount("deleting")
	for _, step := range []struct {
		after time.Duration
		done  int
		tick  bool
		want  string
	}{
		{0, 0, false, ""},
		{time.Second, 9, false, ""},
		{time.Second, 10, false, "deleting: 10%, 10 of 100"},
		{time.Second / 2, 35, false, ""}, // too soon
		{time.Second / 2, 36, false, "deleting: 36%, 36 of 100"},
		{9 * time.Second, 39, false, ""},
		{time.Second, 39, true, "deleting: 39%, 39 of 100"}, // none came for ten seconds
		{9 * time.Second, 39, true, ""},
		{time.Second, 39, true, "deleting: 39%, 39 of 100"},
		{10 * time.Second, 40, false, "deleting: 40%, 40 of 100"},
		{0, 100, false, "deleting: done, 100 of 100"},
		{time.Minute, 100, true, ""},
	} {
		l.said = nil
		l.at = l.at.Add(step.after)
		if step.tick {
			l.tick()
		} else {
			move(step.done, 100)
		}
		if got := strings.Join(l.said, "|"); got != step.want {
			t.Errorf("after %v at %d: %q, want %q", step.after, step.done, got, step.want)
		}
	}
	var none *line
	none.end(true)
	none.move(func() (int64, int64) { return 1, 2 })
}

func TestLinesOfBytes(t *testing.T) {
	l := newLogged(t)
	s := &bars{lines: l.lines, all: map[*bar]struct{}{}}
	s.addTotal()
	a, b := s.add("a"), s.add("b")
	l.at = l.at.Add(time.Second)
	a.set(512, 2048, 0)
	b.set(512, 2048, 0)
	a.set(2048, 2048, 0)
	a.end(true)
	l.at = l.at.Add(time.Second)
	b.set(1024, 2048, 0)
	b.set(2048, 2048, 0)
	b.end(true)
	s.wait()
	var got []string
	for _, line := range l.said {
		line, _, _ = strings.Cut(line, ", 2.0 KiB/s")
		got = append(got, strings.Split(line, "/s")[0])
	}
	want := []string{"total: 25%, 512 B of 2.0 KiB", "total: 75%, 3.0 KiB of 4.0 KiB", "total: done, 4.0 KiB of 4.0 KiB"}
	for i := range got {
		if i < len(want) {
			got[i] = got[i][:min(len(want[i]), len(got[i]))]
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("said %q, want %q", l.said, want)
	}
}

// What has ended keeps the pace it had altogether, however long others go on.
func TestPaceOfWhatHasEnded(t *testing.T) {
	at := time.Now().Add(-time.Minute)
	var p pace
	p.add(at, 0, false)
	p.add(at.Add(time.Second), 5000, true) // were there before
	for i := range int64(10) {
		p.add(at.Add(time.Duration(i+2)*time.Second), 5000+1000*(i+1), false)
	}
	if got := p.perSecond(); got > 200 {
		t.Errorf("%v a second while nothing comes", got)
	}
	p.end(at.Add(11 * time.Second))
	p.end(time.Now()) // once more, later
	if got := p.perSecond(); got != 1000 {
		t.Errorf("%v a second in the end, want 1000", got)
	}
	var none pace
	none.end(time.Now())
	if got := none.perSecond(); got != 0 {
		t.Errorf("%v a second of nothing", got)
	}
}

func TestProgressAsAsked(t *testing.T) {
	w := newWorld(t, "a", "b")
	for name, tc := range map[string]struct {
		args     string
		terminal bool
		lines    bool
		bars     bool
	}{
		"no terminal":           {"", false, false, false},
		"terminal":              {"", true, false, true},
		"JSON":                  {"-f json", true, false, false},
		"lines":                 {"--progress lines", false, true, false},
		"lines of JSON":         {"--progress=lines -f json", false, true, false},
		"lines on a terminal":   {"--progress lines", true, true, false},
		"bars of JSON":          {"--progress bar -f json", true, false, true},
		"nothing on a terminal": {"--progress none", true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(strings.Fields(tc.args), "checkpoint", "download", w.path("a"), w.path("b"), "-o", t.TempDir())
			r := tinkexWith(t, Env{StderrTerminal: tc.terminal}, args...)
			if r.code != exitDone {
				t.Fatalf("exit code %d, %s", r.code, r.stderr)
			}
			if got := strings.Contains(r.stderr, "total: done, "); got != tc.lines {
				t.Errorf("lines %t:\n%s", got, r.stderr)
			}
			if got := strings.Contains(r.stderr, "100 %"); got != tc.bars {
				t.Errorf("bars %t:\n%q", got, r.stderr)
			}
		})
	}
	t.Setenv("TERM", "dumb")
	r := tinkexWith(t, Env{StderrTerminal: true}, "checkpoint", "download", w.path("a"), "-o", t.TempDir()).want(t, exitDone, []string{"weights_a"}, []string{"done, "})
	if strings.Contains(r.stderr, "\x1b") || strings.Contains(r.stderr, "100 %") {
		t.Errorf("bars on a terminal that cannot draw them:\n%q", r.stderr)
	}
	run(t, "--progress", "bar", "version").want(t, exitUsage, nil, []string{"no terminal", "use lines"})
	run(t, "--progress", "much", "version").want(t, exitUsage, nil, []string{"auto, bar, lines or none"})
	dir := filepath.Dir(decode[downloadedJSON](t, run(t, "-f", "json", "checkpoint", "download", w.path("a"), "-o", t.TempDir())).Downloaded[0].Destination)
	adapters, _ := filepath.Glob(filepath.Join(dir, "*"))
	run(t, "--progress", "lines", "checkpoint", "import", adapters[0], "--name", "i", "--api-key", "tml-else").want(t, exitDone, []string{"/weights/i"}, []string{"reading: done, "})
	run(t, "--progress", "lines", "checkpoint", "delete", "-y", w.path("a")).want(t, exitDone, nil, []string{"deleting: done, 1 of 1"})
	run(t, "--progress", "lines", "checkpoint", "prune", "--keep-last", "1", "--include-latest", "-y", "--run", w.run).want(t, exitDone, nil, []string{"Nothing to delete"})
}

func TestBarsOfLongNames(t *testing.T) {
	long := strings.Repeat("long-", 18) + "0001"
	w := newWorld(t, long)
	for _, ascii := range []bool{false, true} {
		more := "…"
		if ascii {
			more = ".."
		}
		// Of a terminal that cannot be measured 80 columns are assumed.
		tty := Env{StderrTerminal: true, NotUTF8: ascii}
		r := tinkexWith(t, tty, "checkpoint", "download", w.path(long), "-o", t.TempDir()).want(t, exitDone, []string{long}, []string{more, "long-0001", "100 %"})
		if ascii && strings.Contains(r.stderr, "…") {
			t.Errorf("not ASCII:\n%q", r.stderr)
		}
	}
}

func TestBarsFitTheTerminal(t *testing.T) {
	const name = "39669e36 sampler_weights/step-1200"
	for width, want := range map[int]string{
		200: name + "|1.0 KiB / 2.0 KiB|speed",
		86:  name + "|1.0 KiB / 2.0 KiB|speed",
		80:  "39669e36 …_weights/step-1200|1.0 KiB / 2.0 KiB|speed",
		70:  "39669…ts/step-1200|1.0 KiB / 2.0 KiB|speed",
		60:  "39669e36…weights/step-1200||speed",
		40:  "39669…ts/step-1200||",
		10:  "39…-1200||",
	} {
		f := &fitting{name: name, more: "…"}
		s := decor.Statistics{AvailableWidth: width, Current: 1 << 10, Total: 2 << 10}
		got := strings.Join([]string{
			f.label(s), f.unless(f.narrow, bytesOf)(s), f.unless(f.tiny, func(decor.Statistics) string { return "speed" })(s),
		}, "|")
		if got != want {
			t.Errorf("%d columns: %q, want %q", width, got, want)
		}
	}
	if got := bytesOf(decor.Statistics{Current: 5}); got != "5 B" {
		t.Errorf("of unknown many %q", got)
	}
}

func TestInterruptedBarsLeaveTheLineOfTheInterruption(t *testing.T) {
	for _, interrupted := range []bool{false, true} {
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a := &app{Env: Env{Stderr: &out, StderrTerminal: true}, progress: progressAuto, format: "table"}
		s := a.bars(ctx)
		s.addCount("deleting")(1, 2)
		if interrupted {
			cancel()
		}
		s.wait()
		if got := strings.HasSuffix(out.String(), "\n\n") || out.String() == "\n"; got != interrupted {
			t.Errorf("interrupted %t: %q", interrupted, out.String())
		}
	}
}

func TestInterruptedImportSaysHowToGoOn(t *testing.T) {
	w := newWorld(t, "a")
	dir := t.TempDir()
	adapter := decode[downloadedJSON](t, run(t, "-f", "json", "checkpoint", "download", w.path("a"), "-o", dir)).Downloaded[0].Destination
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errOut bytes.Buffer
	code := Main([]string{"checkpoint", "import", adapter, "--name", "n", "--api-key", "tml-x"}, Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Context: ctx})
	if want := "  tinkex checkpoint import " + quote(adapter) + " --name n\n"; code != exitInterrupted || !strings.Contains(errOut.String(), want) || out.Len() > 0 {
		t.Errorf("exit code %d, %q, want %q in it", code, errOut.String(), want)
	}
	if _, err := os.Stat(adapter); err != nil {
		t.Error(err)
	}
}

func TestAgain(t *testing.T) {
	a := &app{
		args:     []string{"checkpoint", "download", "tinker://latest/weights/a", "--api-key", "tml-secret", "--api-key=tml-secret", "-o", "it's my dir", "--name=*", "--run=latest", "--run", "latest", "--name", "latest"},
		resolved: map[string]string{"tinker://latest/weights/a": "tinker://r:train:0/weights/a", "latest": "r:train:0"},
	}
	want := `tinkex checkpoint download tinker://r:train:0/weights/a -o 'it'\''s my dir' '--name=*' --run=r:train:0 --run r:train:0 --name latest`
	if got := a.again(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
