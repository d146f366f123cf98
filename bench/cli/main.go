//go:build linux

// Cli measures the command itself: how long it takes to start, to list a
// hundred thousand checkpoints and to prune ten thousand, beside the published
// tinker command where that can do the same, against the same server.
//
//	go run ./bench/cli [-rounds N] [-list N] [-prune N] [-json]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/pyvenv"
	"github.com/tinkex/tinkex/internal/seed"
)

const key = "tml-bench"

// The targets: how much of the published command's time ours may take.
const (
	mostOfStart = 1.0 / 20
	mostOfList  = 1.0 / 10
	// And what a prune of ten thousand may take.
	pruneTime   = 60 * time.Second
	pruneMemory = 64 << 20
)

// bencher holds what all parts need.
type bencher struct {
	rounds      int
	list, prune int

	dir     string // scratch, removed at the end
	binary  string
	venv    string // of the published command
	version string
	noVenv  error // why there is none
}

func main() {
	b := &bencher{}
	flag.IntVar(&b.rounds, "rounds", 10, "rounds, in which both commands take turns; one more warms up")
	flag.IntVar(&b.list, "list", 100_000, "how many checkpoints are listed")
	flag.IntVar(&b.prune, "prune", 10_000, "how many checkpoints are pruned")
	asJSON := flag.Bool("json", false, "print JSON with every measurement instead of tables")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "cli:", err)
		os.Exit(1)
	}
}

func (b *bencher) run(ctx context.Context, asJSON bool) (err error) {
	if b.rounds < 1 || b.list < 10 || b.prune < 10 {
		return errors.New("-rounds: expected at least 1; -list and -prune: at least 10")
	}
	if b.dir, err = os.MkdirTemp("", "tinkex-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.binary, err = harness.Build(ctx, b.dir); err != nil {
		return err
	}
	if b.venv, b.noVenv = pyvenv.Dir(); b.noVenv == nil {
		b.version, b.noVenv = pyvenv.Version(b.venv)
	}
	var sections []*harness.Section
	for _, measure := range []func(context.Context) (*harness.Section, error){b.start, b.lists, b.prunes} {
		s, err := measure(ctx)
		if err != nil {
			return errors.Join(harness.Print(os.Stdout, asJSON, sections), err)
		}
		sections = append(sections, s)
	}
	return harness.Print(os.Stdout, asJSON, sections)
}

// serve starts a server on n checkpoints of one run.
func (b *bencher) serve(ctx context.Context, name string, n int) (*harness.Server, string, error) {
	dir := filepath.Join(b.dir, name)
	run, err := fill(ctx, dir, n)
	if err != nil {
		return nil, "", fmt.Errorf("seed %d checkpoints: %w", n, err)
	}
	s, err := harness.Serve(b.binary, dir, "--log-level", "warn")
	return s, run, err
}

// fill puts n checkpoints of a run into a data directory that is made.
func fill(ctx context.Context, dir string, n int) (run string, err error) {
	stores, err := seed.OpenDir(ctx, dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	const owner, session = "tml:user:bench", "00000000-0000-4000-8000-000000000001"
	if err := stores.Key(ctx, key, owner); err != nil {
		return "", err
	}
	var files []metastore.File
	for name, content := range map[string]string{"adapter_config.json": "{}", "adapter_model.safetensors": "weights"} {
		f, err := stores.File(ctx, seed.File{Name: name, Body: strings.NewReader(content)})
		if err != nil {
			return "", err
		}
		files = append(files, f)
	}
	run = session + ":train:0"
	now := time.Now().UTC()
	start := now.Add(-time.Duration(n) * time.Minute)
	lora := metastore.LoRA{BaseModel: "tinkex/tiny", Rank: 8, TrainAttn: true, TrainMLP: true, TrainUnembed: true}
	return run, metastore.Fill(ctx, stores.Meta,
		[]metastore.Session{{ID: session, Owner: owner, CreatedAt: start, LastHeartbeat: now}},
		[]metastore.Run{{ID: run, SessionID: session, Owner: owner, LoRA: lora, CreatedAt: start, LastRequestAt: now, State: metastore.RunEnded}},
		func(yield func(metastore.Checkpoint) bool) {
			for i := range n {
				c := metastore.Checkpoint{
					RunID: run, Owner: owner, Kind: metastore.KindTraining, Name: fmt.Sprintf("step-%06d", i), Listed: true,
					LoRA: lora, CreatedAt: start.Add(time.Duration(i) * time.Minute), Files: files,
				}
				if ctx.Err() != nil || !yield(c) {
					return
				}
			}
		})
}

// ours is our command against a server, theirs the published one.
func (b *bencher) ours(url string, args ...string) func(context.Context) *exec.Cmd {
	return b.command(b.binary, url, args)
}

func (b *bencher) theirs(url string, args ...string) func(context.Context) *exec.Cmd {
	return b.command(pyvenv.Command(b.venv, "tinker"), url, args)
}

func (b *bencher) command(program, url string, args []string) func(context.Context) *exec.Cmd {
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(pyvenv.Environ(url, key), "XDG_CONFIG_HOME="+b.dir) // no profiles of whoever measures
		return cmd
	}
}

// pair is what both commands do.
type pair struct {
	what         string
	ours, theirs func(context.Context) *exec.Cmd
	most         float64 // target: the part of their time that ours may take; 0 is none
	check        func(ours, theirs []byte) error
}

// compare has both commands take turns.
func (b *bencher) compare(ctx context.Context, s *harness.Section, rounds int, pairs []pair) error {
	s.Columns = []string{"", "tinkex", "memory", "tinker", "memory", "ours takes"}
	all := map[string][]harness.Usage{}
	s.Data = all
	for _, p := range pairs {
		var ours, theirs []time.Duration
		var ratios []float64
		var ourPeak, theirPeak int64
		for round := -1; round < rounds; round++ {
			u, out, err := b.timed(p.ours(ctx))
			if err != nil {
				return err
			}
			var v harness.Usage
			var reference []byte
			if b.noVenv == nil {
				if v, reference, err = b.timed(p.theirs(ctx)); err != nil {
					return err
				}
			}
			if p.check != nil {
				if err := p.check(out, reference); err != nil {
					return fmt.Errorf("%s: %w", p.what, err)
				}
			}
			if round < 0 {
				continue
			}
			ours, theirs = append(ours, u.Wall), append(theirs, v.Wall)
			ourPeak, theirPeak = max(ourPeak, u.Peak), max(theirPeak, v.Peak)
			all["tinkex "+p.what] = append(all["tinkex "+p.what], u)
			if b.noVenv == nil {
				ratios = append(ratios, float64(u.Wall)/float64(v.Wall))
				all["tinker "+p.what] = append(all["tinker "+p.what], v)
			}
		}
		if b.noVenv != nil {
			s.Row(p.what, duration(harness.Median(ours)), harness.MiB(ourPeak), "", "", "")
			continue
		}
		ratio := harness.Median(ratios)
		s.Row(p.what, duration(harness.Median(ours)), harness.MiB(ourPeak), duration(harness.Median(theirs)), harness.MiB(theirPeak), part(ratio))
		if p.most > 0 {
			s.Note("%s: ours takes %s of their time; %s.", p.what, part(ratio), verdict(ratio <= p.most, "it may take at most "+part(p.most)))
		}
	}
	if b.noVenv != nil {
		s.Note("SKIPPED: the published tinker command: %v.", b.noVenv)
	} else {
		s.Note("The published command is %s. Medians of %d rounds after one to warm up; memory is the largest peak.", b.version, rounds)
	}
	return nil
}

// timed runs a command and returns what it printed. It prints into a file, so
// that nobody else is at work while it is timed.
func (b *bencher) timed(cmd *exec.Cmd) (u harness.Usage, out []byte, err error) {
	f, err := os.CreateTemp(b.dir, "printed-")
	if err != nil {
		return u, nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	cmd.Stdout = f
	if u, err = harness.Pipe(cmd); err != nil {
		return u, nil, err
	}
	out, err = os.ReadFile(f.Name())
	return u, out, err
}

func (b *bencher) start(ctx context.Context) (_ *harness.Section, err error) {
	srv, _, err := b.serve(ctx, "start", 10)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	s := &harness.Section{Name: "start", Title: "Starting"}
	return s, b.compare(ctx, s, b.rounds, []pair{
		{what: "version", ours: b.ours(srv.URL, "version"), theirs: b.theirs(srv.URL, "version"), most: mostOfStart},
		{what: "checkpoint list, of 10", ours: b.ours(srv.URL, "checkpoint", "list"), theirs: b.theirs(srv.URL, "checkpoint", "list")},
	})
}

func (b *bencher) lists(ctx context.Context) (_ *harness.Section, err error) {
	srv, _, err := b.serve(ctx, "list", b.list)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	s := &harness.Section{Name: "list", Title: fmt.Sprintf("Listing %d checkpoints as JSON", b.list)}
	return s, b.compare(ctx, s, max(b.rounds/3, 1), []pair{{
		what:   "checkpoint list --limit 0, JSON",
		ours:   b.ours(srv.URL, "checkpoint", "list", "--limit", "0", "-f", "json"),
		theirs: b.theirs(srv.URL, "--format", "json", "checkpoint", "list", "--limit", "0"),
		most:   mostOfList, check: b.sameList,
	}})
}

// sameList checks that both commands have listed everything.
func (b *bencher) sameList(ours, theirs []byte) error {
	for who, out := range map[string][]byte{"tinkex": ours, "tinker": theirs} {
		if who == "tinker" && b.noVenv != nil {
			continue
		}
		var list struct {
			Checkpoints []json.RawMessage `json:"checkpoints"`
		}
		if err := json.Unmarshal(out, &list); err != nil {
			return fmt.Errorf("%s did not print a list: %w", who, err)
		}
		if len(list.Checkpoints) != b.list {
			return fmt.Errorf("%s lists %d checkpoints of %d", who, len(list.Checkpoints), b.list)
		}
	}
	return nil
}

// prunes measures what the published command has no counterpart of.
func (b *bencher) prunes(ctx context.Context) (_ *harness.Section, err error) {
	s := &harness.Section{
		Name: "prune", Title: fmt.Sprintf("Pruning %d checkpoints", b.prune),
		Columns: []string{"", "time", "memory"},
	}
	var took []time.Duration
	var peak int64
	for round := range max(b.rounds/3, 1) {
		srv, run, err := b.serve(ctx, fmt.Sprintf("prune-%d", round), b.prune+1)
		if err != nil {
			return nil, err
		}
		u, _, err := b.timed(b.ours(srv.URL, "checkpoint", "prune", "--run-id", run, "--keep-last", "1", "-y")(ctx))
		if err == nil {
			err = b.onlyOne(ctx, srv)
		}
		if err := errors.Join(err, srv.Stop()); err != nil {
			return nil, err
		}
		took, peak = append(took, u.Wall), max(peak, u.Peak)
	}
	s.Data = took
	s.Row("checkpoint prune --keep-last 1", duration(harness.Median(took)), harness.MiB(peak))
	s.Note("%s; %s.", verdict(harness.Median(took) < pruneTime, "it must take less than "+pruneTime.String()),
		verdict(peak < pruneMemory, "and less than "+harness.MiB(pruneMemory)))
	return s, nil
}

// onlyOne checks that nothing but the newest is left.
func (b *bencher) onlyOne(ctx context.Context, srv *harness.Server) error {
	_, out, err := b.timed(b.ours(srv.URL, "checkpoint", "list", "--paths", "--limit", "0")(ctx))
	if err == nil && strings.Count(string(out), "\n") != 1 {
		err = fmt.Errorf("after the prune there is %.200q", out)
	}
	return err
}

func duration(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// part writes a ratio as what people read it as.
func part(r float64) string { return fmt.Sprintf("1/%.1f", 1/r) }

func verdict(reached bool, target string) string {
	if reached {
		return "Reached: " + target
	}
	return "MISSED: " + target
}
