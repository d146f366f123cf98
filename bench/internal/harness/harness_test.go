//go:build linux

package harness_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tinkex/tinkex/bench/internal/harness"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []time.Duration
		want   time.Duration
	}{
		{nil, 0},
		{[]time.Duration{7}, 7},
		{[]time.Duration{9, 1, 2}, 2},
		{[]time.Duration{8, 1, 2, 4}, 3},
	} {
		if got := harness.Median(tt.values); got != tt.want {
			t.Errorf("the median of %d is %d, want %d", tt.values, got, tt.want)
		}
	}
}

func TestPipe(t *testing.T) {
	sh := func(script string) *exec.Cmd { return exec.CommandContext(t.Context(), "sh", "-c", script) }
	out := filepath.Join(t.TempDir(), "out")
	u, err := harness.Pipe(sh("echo one; sleep 0.1"), sh("sed s/one/two/"), sh("cat > "+out))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "two\n" {
		t.Errorf("%q came through (%v)", b, err)
	}
	if u.Wall < 100*time.Millisecond || u.Peak == 0 {
		t.Errorf("the usage is %+v", u)
	}

	// The first command that fails is the one that is named, with its words.
	if _, err := harness.Pipe(sh("true"), sh("echo no such thing >&2; exit 3"), sh("cat >/dev/null")); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a failed command gives %v", err)
	}
	if _, err := harness.Pipe(sh("echo x"), exec.Command("/nonexistent")); err == nil {
		t.Error("a command that is not there is no error")
	}
}

func TestProc(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for used := time.Duration(0); used == 0; time.Sleep(10 * time.Millisecond) {
		var err error
		if used, err = harness.CPUTime(pid); err != nil {
			t.Fatal(err)
		}
	}
	now, err := harness.Memory(pid)
	if err != nil {
		t.Fatal(err)
	}
	if peak, err := harness.PeakMemory(pid); err != nil || peak < now || now == 0 {
		t.Errorf("%d bytes are resident, %d at the peak (%v)", now, peak, err)
	}
	cancel()
	_ = cmd.Wait()
	if _, err := harness.PeakMemory(pid); err == nil {
		t.Error("a process that is gone has a peak")
	}
}

func TestResetPeak(t *testing.T) {
	pid := os.Getpid()
	// None of Go's own memory: the collector may have had that before, and have
	// it resident still, or let go of some of it at the same time.
	b, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	debug.FreeOSMemory()
	if err := harness.ResetPeak(pid); err != nil {
		t.Fatal(err)
	}
	low, err := harness.PeakMemory(pid)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	if high, err := harness.PeakMemory(pid); err != nil || high < low+32<<20 {
		t.Errorf("the peak went from %d to %d when %d were used (%v)", low, high, len(b), err)
	}
}

func TestMarkdown(t *testing.T) {
	s := harness.Section{Title: "Title", Columns: []string{"", "time"}}
	s.Row("a | b", "1 s")
	s.Note("%d note", 1)
	var b strings.Builder
	if err := s.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	want := "### Title\n\n|  | time |\n| --- | ---: |\n| a \\| b | 1 s |\n\n- 1 note\n\n"
	if b.String() != want {
		t.Errorf("the section is written as\n%s\nwant\n%s", b.String(), want)
	}
}
