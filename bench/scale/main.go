//go:build linux

// Scale measures a server with very many checkpoints: what pages of lists,
// look-ups and changes cost over HTTP, with SQLite and with PostgreSQL, what
// 64 clients at once get, and what memory the server needs for it; and what a
// save of 300 MB costs.
//
//	go run ./bench/scale [-checkpoints N] [-only PARTS] [-db URL] [-dir DIR] [-json]
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
	"time"

	"github.com/tinkex/tinkex/bench/internal/harness"
)

// part is a piece of the report and how it is made.
type part struct {
	name    string
	measure func(context.Context, *bencher) ([]*harness.Section, error)
}

var parts = []part{
	{"sqlite", func(ctx context.Context, b *bencher) ([]*harness.Section, error) { return b.registry(ctx, sqlite) }},
	{"postgres", func(ctx context.Context, b *bencher) ([]*harness.Section, error) { return b.registry(ctx, postgres) }},
	{"save", save},
}

// bencher holds what all parts need.
type bencher struct {
	shape   shape
	samples int
	clients int
	length  time.Duration
	db      string // URL of a PostgreSQL database, empty for one of our own

	dir    string // scratch, removed at the end
	binary string
	missed []string // targets
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	b := &bencher{}
	flag.IntVar(&b.shape.checkpoints, "checkpoints", 1_000_000, "how many checkpoints there are")
	flag.IntVar(&b.shape.runs, "runs", 10_000, "how many runs they belong to")
	flag.IntVar(&b.shape.people, "owners", 100, "how many owners these have")
	flag.IntVar(&b.samples, "samples", 300, "how often each request is measured")
	flag.IntVar(&b.clients, "clients", 64, "how many clients there are at once")
	flag.DurationVar(&b.length, "for", time.Minute, "how long they go on")
	flag.StringVar(&b.db, "db", "", "URL of a PostgreSQL database to measure in, in a schema that is dropped (default: a server of its own)")
	only := flag.String("only", strings.Join(names, ","), "parts to measure, separated by commas")
	dir := flag.String("dir", os.TempDir(), "directory for everything that is written")
	asJSON := flag.Bool("json", false, "print JSON with every measurement instead of tables")
	flag.Parse()

	chosen := strings.Split(*only, ",")
	for _, c := range chosen {
		if !slices.Contains(names, c) {
			return fmt.Errorf("-only: there is no part %q; the parts are %s", c, strings.Join(names, ", "))
		}
	}
	if err := b.shape.check(); err != nil {
		return err
	}
	if b.samples < 10 || b.clients < 1 || b.length < time.Second {
		return errors.New("expected at least 10 -samples, one of -clients and a second -for them")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if b.dir, err = os.MkdirTemp(*dir, "tinkex-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.binary, err = harness.Build(ctx, b.dir); err != nil {
		return err
	}
	sections := []*harness.Section{}
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		b.say("== %s", p.name)
		s, err := p.measure(ctx, b)
		sections = append(sections, s...)
		if err != nil {
			// What was measured before is not lost.
			return errors.Join(harness.Print(os.Stdout, *asJSON, sections), fmt.Errorf("%s: %w", p.name, err))
		}
	}
	if err := harness.Print(os.Stdout, *asJSON, sections); err != nil {
		return err
	}
	if b.missed != nil {
		b.say("missed:\n  %s", strings.Join(b.missed, "\n  "))
	} else {
		b.say("every target is reached")
	}
	return nil
}

func (b *bencher) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// target says whether something that must be so is.
func (b *bencher) target(s *harness.Section, reached bool, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if reached {
		s.Note("Reached: %s.", what)
		return
	}
	s.Note("MISSED: %s.", what)
	b.missed = append(b.missed, what)
}
