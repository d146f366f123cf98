//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex/bench/internal/harness"
)

// large measures what memory a very large checkpoint takes.
func large(ctx context.Context, b *bencher) (_ *harness.Section, err error) {
	section := &harness.Section{Title: humanize.Bytes(uint64(b.largeSize)) + " over loopback"}
	if err := b.free(b.largeSize*2 + b.largeSize/10); err != nil {
		b.say("SKIPPED: %v", err)
		section.Note("SKIPPED: %v.", err)
		return section, nil
	}
	s, err := b.seed(ctx, "large", b.largeSize)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	srv, err := harness.Serve(b.binary, s.dataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	c := b.ours(s, srv.URL, 0)
	r, err := b.once(ctx, s, srv, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	section.Columns = []string{"", "time", "rate", "peak memory", "server's peak"}
	section.Row(c.name, fmt.Sprintf("%.1f s", r.Wall.Seconds()),
		humanize.Bytes(uint64(float64(s.size)/r.Wall.Seconds()))+"/s", harness.MiB(r.Peak), harness.MiB(r.ServerPeak))
	section.Note("One run. The peak memory must be below 64 MiB.")
	section.Data = r
	return section, nil
}
