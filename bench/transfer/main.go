//go:build linux

// Transfer measures how long a checkpoint takes to arrive: with this
// project's command, with curl and tar, with the published tinker command and
// with aria2c, in turns and in one run, over loopback and through a slow link;
// what memory that takes on both sides; and what is fetched again after a
// download was killed.
//
//	go run ./bench/transfer [-size SIZE] [-rounds N] [-only PARTS] [-large] [-dir DIR] [-json]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex/bench/internal/harness"
)

// part is a section of the report and how it is made.
type part struct {
	name    string
	measure func(context.Context, *bencher) (*harness.Section, error)
}

var parts = []part{
	{"loopback", loopback},
	{"link", slowLink},
	{"parallel", parallel},
	{"resume", resume},
	{"large", large},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "transfer:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	size := flag.String("size", "2.1GB", "size of the checkpoint")
	linkSize := flag.String("link-size", "400MB", "size of the checkpoint that goes through the slow link; never more than -size")
	largeSize := flag.String("large-size", "20GB", "size of the checkpoint of -large")
	rounds := flag.Int("rounds", 5, "measured rounds; one more warms up")
	only := flag.String("only", "", "parts to measure, separated by commas: "+strings.Join(names, ", ")+" (default all but large)")
	withLarge := flag.Bool("large", false, "measure a very large checkpoint too; needs more than twice its size on disk")
	dir := flag.String("dir", os.TempDir(), "directory for everything that is written; the disk decides more than the network does")
	asJSON := flag.Bool("json", false, "print JSON with every measurement instead of tables")
	flag.Parse()

	chosen := names[:len(names)-1]
	if *only != "" {
		chosen = strings.Split(*only, ",")
	}
	if *withLarge && !slices.Contains(chosen, "large") {
		chosen = append(slices.Clone(chosen), "large")
	}
	for _, c := range chosen {
		if !slices.Contains(names, c) {
			return fmt.Errorf("-only: there is no part %q; the parts are %s", c, strings.Join(names, ", "))
		}
	}
	if *rounds < 1 {
		return errors.New("-rounds: expected at least 1")
	}
	b := &bencher{rounds: *rounds}
	for _, s := range []struct {
		flag, value string
		to          *int64
	}{{"size", *size, &b.size}, {"link-size", *linkSize, &b.linkSize}, {"large-size", *largeSize, &b.largeSize}} {
		n, err := humanize.ParseBytes(s.value)
		if err != nil || n < 1<<20 || n > 1<<45 {
			return fmt.Errorf("-%s: %q is not a size from 1MiB up, such as 400MB or 2.1GB", s.flag, s.value)
		}
		*s.to = int64(n)
	}
	b.linkSize = min(b.linkSize, b.size)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.open(ctx, *dir); err != nil {
		return errors.Join(err, b.close())
	}
	defer func() { err = errors.Join(err, b.close()) }()
	sections := []*harness.Section{}
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		b.say("== %s", p.name)
		s, err := p.measure(ctx, b)
		if err != nil {
			// What was measured before is not lost.
			return errors.Join(harness.Print(os.Stdout, *asJSON, sections), fmt.Errorf("%s: %w", p.name, err))
		}
		s.Name = p.name
		sections = append(sections, s)
	}
	about := b.about(ctx)
	if len(sections) > 0 {
		last := sections[len(sections)-1]
		last.Notes = append(last.Notes, about)
	}
	return harness.Print(os.Stdout, *asJSON, sections)
}
