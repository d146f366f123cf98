//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/bench/internal/link"
)

const (
	// killAt is how much of a checkpoint is on disk when its download is
	// killed, and killPoll how often that is looked at.
	killAt   = 0.95
	killPoll = time.Millisecond
)

// resumed is one killed download and the one after it.
type resumed struct {
	Round  int     `json:"round"`
	OnDisk float64 `json:"on_disk_at_kill"` // of the checkpoint's size
	Sent   float64 `json:"sent_before"`
	Again  float64 `json:"sent_after"`
	Wall   float64 `json:"second_run_seconds"`
}

// resume kills a download near its end and measures what the next run moves.
func resume(ctx context.Context, b *bencher) (_ *harness.Section, err error) {
	if err := b.free(b.size * 4); err != nil {
		return nil, err
	}
	s, err := b.seed(ctx, "resume", b.size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	srv, proxy, err := b.serveThrough(s, link.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, proxy.Close(), srv.Stop()) }()
	section := &harness.Section{
		Title:   fmt.Sprintf("%s, killed at %.0f%% and run again", humanize.Bytes(uint64(s.size)), 100*killAt),
		Columns: []string{"run", "on disk at the kill", "sent before", "sent by the second run", "second run took"},
	}
	var data []resumed
	for round := 1; round <= b.rounds; round++ {
		r, err := b.killAndResume(ctx, s, "http://"+proxy.Addr(), proxy)
		if err != nil {
			return nil, err
		}
		r.Round = round
		b.say("resume %d of %d: %.1f%% sent again", round, b.rounds, 100*r.Again)
		data = append(data, r)
		percent := func(f float64) string { return fmt.Sprintf("%.2f%%", 100*f) }
		section.Row(fmt.Sprint(round), percent(r.OnDisk), percent(r.Sent), percent(r.Again), fmt.Sprintf("%.2f s", r.Wall))
	}
	section.Note("Bytes are counted on the connections to the server, headers and metadata included, as parts of the checkpoint's size. The second run must move less than 6%%.")
	section.Data = data
	return section, nil
}

func (b *bencher) killAndResume(ctx context.Context, s *seeded, url string, proxy *link.Proxy) (r resumed, err error) {
	out, err := b.outDir()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	whole := float64(s.size)
	before := proxy.Received()
	if r.OnDisk, err = killNearEnd(ctx, b, s, url, out); err != nil {
		return r, err
	}
	middle := settled(proxy)
	r.Sent = float64(middle-before) / whole
	usage, err := b.ours(s, url, 0).get(ctx, out)
	if err != nil {
		return r, fmt.Errorf("the second run: %w", err)
	}
	r.Again, r.Wall = float64(proxy.Received()-middle)/whole, usage.Wall.Seconds()
	return r, s.verify(out)
}

// settled counts what a link has carried once nothing moves any more.
func settled(proxy *link.Proxy) int64 {
	for {
		n := proxy.Received()
		time.Sleep(100 * time.Millisecond)
		if proxy.Received() == n {
			return n
		}
	}
}

// killNearEnd starts a download and kills it once enough of it is on disk.
func killNearEnd(ctx context.Context, b *bencher, s *seeded, url, out string) (onDisk float64, err error) {
	cmd := b.download(ctx, s, url, out, 0)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var end error
	ended := make(chan struct{})
	go func() {
		end = cmd.Wait()
		close(ended)
	}()
	poll := time.NewTicker(killPoll)
	defer poll.Stop()
	for {
		select {
		case <-ended:
			return onDisk, errors.Join(end, fmt.Errorf("the first run ended by itself before it could be killed: .%s.partial* beside the target was last seen holding %.1f%%",
				s.path.DirName(), 100*onDisk))
		case <-poll.C:
		}
		if onDisk = partialBytes(out, s.path.DirName()) / float64(s.size); onDisk < killAt {
			continue
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			return onDisk, err
		}
		<-ended
		if _, err := os.Stat(filepath.Join(out, s.path.DirName())); err == nil {
			return onDisk, errors.New("the first run was complete before it could be killed; take a larger -size")
		}
		return onDisk, nil
	}
}

// partialBytes is what an unfinished download of the name has on disk. Space
// that is only reserved does not count, nor do holes.
func partialBytes(dir, name string) float64 {
	partials, _ := filepath.Glob(filepath.Join(dir, "."+name+".partial*"))
	var total int64
	for _, p := range partials {
		_ = filepath.WalkDir(p, func(_ string, d fs.DirEntry, _ error) error {
			if d == nil || d.IsDir() {
				return nil
			}
			if info, err := d.Info(); err == nil { // it may have vanished
				size := info.Size()
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					size = min(size, st.Blocks*512)
				}
				total += size
			}
			return nil
		})
	}
	return float64(total)
}
