//go:build linux

package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// sampleEvery is how often a running process's peak memory is read. The
// kernel keeps the peak, so only growth in the last moments can be missed. The
// resource usage that wait4 reports would not do: a process inherits the peak
// of the one that forked it.
const sampleEvery = 10 * time.Millisecond

// Usage is what a run took.
type Usage struct {
	Wall time.Duration `json:"wall_ns"`
	Peak int64         `json:"peak_bytes"` // the largest process's resident memory
}

// Pipe runs commands at once, each one's standard output the next one's
// standard input, and waits for all of them.
func Pipe(cmds ...*exec.Cmd) (Usage, error) {
	var ends []*os.File
	closeEnds := func() {
		for _, e := range ends {
			_ = e.Close()
		}
	}
	for i := range cmds[1:] {
		r, w, err := os.Pipe()
		if err != nil {
			closeEnds()
			return Usage{}, err
		}
		cmds[i].Stdout, cmds[i+1].Stdin = w, r
		ends = append(ends, r, w)
	}
	errOut := make([]bytes.Buffer, len(cmds))
	peaks := make([]*Watch, len(cmds))
	began := time.Now()
	var failed error
	started := 0
	for i, c := range cmds {
		c.Stderr = &errOut[i]
		if failed = c.Start(); failed != nil {
			break
		}
		peaks[i] = WatchPeak(c.Process.Pid)
		started++
	}
	closeEnds() // ours; the processes have theirs
	for i, c := range cmds[:started] {
		if err := c.Wait(); err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w\n%s", filepath.Base(c.Path), err, &errOut[i])
		}
	}
	u := Usage{Wall: time.Since(began)}
	for _, p := range peaks[:started] {
		u.Peak = max(u.Peak, p.Stop())
	}
	return u, failed
}

// Watch follows a process's peak memory.
type Watch struct {
	stop chan struct{}
	done sync.WaitGroup
	peak int64
}

// WatchPeak starts to follow a process, until Stop or its end.
func WatchPeak(pid int) *Watch {
	w := &Watch{stop: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			p, err := PeakMemory(pid)
			if err != nil {
				return
			}
			w.peak = max(w.peak, p)
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	})
	return w
}

// Stop ends the watch and returns the peak in bytes.
func (w *Watch) Stop() int64 {
	close(w.stop)
	w.done.Wait()
	return w.peak
}

// Median is the middle value, or the mean of the middle two. It is zero of
// nothing.
func Median[T ~int64 | ~float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
