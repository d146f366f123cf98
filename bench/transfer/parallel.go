//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/bench/internal/harness"
)

// together is how many downloads run at once.
const together = 4

// parallel measures the server's memory under several downloads at once.
func parallel(ctx context.Context, b *bencher) (_ *harness.Section, err error) {
	if err := b.free(b.size * (together + 2)); err != nil {
		return nil, err
	}
	s, err := b.seed(ctx, "parallel", b.size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	srv, err := harness.Serve(b.binary, s.dataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	tarURL, err := archiveURL(ctx, srv.URL, s.path)
	if err != nil {
		return nil, err
	}
	section := &harness.Section{
		Title:   fmt.Sprintf("%d downloads of %s at once, over loopback", together, humanize.Bytes(uint64(s.size))),
		Columns: []string{"", "all done after", "server's peak", "largest client's peak"},
	}
	discard := contender{name: "curl of the tar, to nowhere", needs: "curl", get: func(ctx context.Context, _ string) (harness.Usage, error) {
		return harness.Pipe(exec.CommandContext(ctx, "curl", "-sfL", "-o", "/dev/null", tarURL))
	}}
	var runs []measurement
	for i, c := range []contender{b.ours(s, srv.URL, 0), discard} {
		if c.needs != "" {
			if _, err := exec.LookPath(c.needs); err != nil {
				section.Note("SKIPPED: %s: %v.", c.name, err)
				continue
			}
		}
		r, err := b.atOnce(ctx, s, srv, c, i == 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		runs = append(runs, r)
		section.Row(c.name, fmt.Sprintf("%.2f s", r.Wall.Seconds()), harness.MiB(r.ServerPeak), harness.MiB(r.Peak))
	}
	section.Data = runs
	section.Note("The server's peak must be below 100 MiB.")
	return section, nil
}

func (b *bencher) atOnce(ctx context.Context, s *seeded, srv *harness.Server, c contender, verify bool) (r measurement, err error) {
	out, err := b.outDir()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	if err := harness.ResetPeak(srv.PID); err != nil {
		return r, err
	}
	r = measurement{Contender: c.name}
	began := time.Now()
	var usages [together]harness.Usage
	var all errgroup.Group
	dir := func(i int) string { return filepath.Join(out, strconv.Itoa(i)) }
	for i := range together {
		all.Go(func() (err error) {
			usages[i], err = c.get(ctx, dir(i))
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return r, err
	}
	r.Wall = time.Since(began)
	if r.ServerPeak, err = harness.PeakMemory(srv.PID); err != nil {
		return r, err
	}
	for i, u := range usages {
		r.Peak = max(r.Peak, u.Peak)
		if verify {
			if err := s.verify(dir(i)); err != nil {
				return r, err
			}
		}
	}
	b.say("%d at once: %-40s %8.2f s  server %s", together, c.name, r.Wall.Seconds(), harness.MiB(r.ServerPeak))
	return r, nil
}
