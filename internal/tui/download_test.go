package tui

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tinkex/tinkex"
)

// held lets through so many requests for files and holds back the others until
// it is released.
type held struct {
	release chan struct{}
	free    atomic.Int32
}

func (h *held) answer(_ http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/tinkex/v1/files/") || h.free.Add(-1) >= 0 {
		return false
	}
	select {
	case <-h.release:
		return false
	case <-r.Context().Done():
		return true
	}
}

// TestStoppedBeforeAnythingWasDone says so in a sentence.
func TestStoppedBeforeAnythingWasDone(t *testing.T) {
	t.Parallel()
	h := &held{release: make(chan struct{})}
	defer close(h.release)
	d := drive(t, Options{Client: through(t, world(t), h.answer), Dir: t.TempDir()}).loaded()
	d.size(250, 24)
	d.press("end", "enter", "a", "d", "enter", "x")
	d.idle()
	d.shows("Stopped with 3 checkpoints left; the same download goes on from there next time.")
}

// TestDownload downloads several, stops that, and goes on.
func TestDownload(t *testing.T) {
	t.Parallel()
	h := &held{release: make(chan struct{})}
	h.free.Store(1)
	dir := filepath.Join(t.TempDir(), "models")
	d := drive(t, Options{Client: through(t, world(t), h.answer), Dir: dir}).loaded()
	d.size(250, 24)
	d.press("end", "enter", "a", "d")
	d.shows("Download 3 checkpoints of 2.9 MiB", "Directory: ")
	d.press("enter")
	d.shows("Downloading 3 checkpoints: ")
	d.press("o")
	d.until("one is there", func() bool { return d.m.op.state().done == 1 })
	d.shows("Under way", " of 2.9 MiB", "weights/epoch-")
	// There is one operation at a time, and quitting asks.
	d.press("esc", "D")
	d.shows("Downloading 3 checkpoints is under way; wait for it, or x stops it.")
	d.press("q")
	d.shows("What has been fetched stays", "Stop it and quit? [y/N]")
	d.press("n")
	if d.quit {
		t.Fatal("it quit")
	}
	d.press("x")
	d.idle()
	d.shows("Downloaded 1 checkpoint to ", "stopped with 2 checkpoints left; the same download goes on from there next time.", "2 marked")
	close(h.release)
	d.press("d", "enter")
	d.idle()
	d.shows("Downloaded 2 checkpoints to ")
	for _, name := range []string{"epoch-1", "epoch-2", "epoch-3"} {
		file := filepath.Join(dir, tinkex.TinkerPath{RunID: runB, Type: tinkex.Training, Name: name}.DirName(), "adapter_model.safetensors")
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	d.press("a", "d", "enter")
	d.idle()
	d.shows("3 failed and stay marked (e shows why): ")
	d.press("e")
	d.shows("already exists; remove it or name another directory")
}

// TestQuitStops: what is under way has stopped before the program ends.
func TestQuitStops(t *testing.T) {
	t.Parallel()
	h := &held{release: make(chan struct{})}
	d := drive(t, Options{Client: through(t, world(t), h.answer), Dir: t.TempDir()}).loaded()
	d.press("tab", "d", "enter", "ctrl+c", "ctrl+c")
	op := d.m.op
	if d.quit || op == nil {
		t.Fatal("it did not wait for the download to stop")
	}
	d.until("it quits", func() bool { return d.quit })
	select {
	case <-op.ended:
	default:
		t.Error("the download has not ended")
	}
}

func TestDirectory(t *testing.T) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	for text, want := range map[string]string{
		" models ": "models", "~": home, "~/models": filepath.Join(home, "models"), "~other/x": "~other/x", "a/~": "a/~",
	} {
		if got, err := directory(text); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := directory("  "); err == nil {
		t.Error("nothing is a directory")
	}
}

func TestQuit(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"q", "ctrl+c"} {
		d := drive(t, Options{Client: many(1)}).loaded()
		d.press("tab", key)
		d.until("it quits", func() bool { return d.quit })
	}
}

func TestDownloadIntoTheCurrentDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	d := drive(t, Options{Client: client(t, world(t).URL), Dir: "."}).loaded()
	d.size(250, 24)
	d.press("end", "enter", "d", "enter")
	d.idle()
	d.shows("Downloaded 1 checkpoint to the current directory.")
}
