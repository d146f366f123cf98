//go:build linux

// Step measures the round trip of one forward_backward and optim_step of
// tinkex/tiny: in the engine alone, from the Go SDK and from the published
// Python SDK, both through `tinkex serve` over loopback. The three take turns
// in one run. Then it measures what an idle server uses.
//
//	go run ./bench/step [-rounds N] [-steps N] [-idle DURATION] [-json]
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/bench"
	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/pyvenv"
)

//go:embed step.py
var program string

const (
	key = "tml-bench"
	// settle is how long a server is left alone before it is called idle.
	settle = 5 * time.Second
)

func main() {
	rounds := flag.Int("rounds", 10, "rounds, in which each way takes its steps; one more warms up")
	steps := flag.Int("steps", 50, "steps of each way in a round")
	idle := flag.Duration("idle", 30*time.Second, "how long to watch idle servers; 0 leaves it out")
	asJSON := flag.Bool("json", false, "print JSON with every measurement instead of tables")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *steps, *idle, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "step:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, steps int, idle time.Duration, asJSON bool) (err error) {
	if rounds < 1 || steps < 1 {
		return errors.New("-rounds and -steps: expected at least 1")
	}
	dir, err := os.MkdirTemp("", "tinkex-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary, err := harness.Build(ctx, dir)
	if err != nil {
		return err
	}
	used, err := harness.Serve(binary, filepath.Join(dir, "used"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, used.Stop()) }()

	stepping, err := measureSteps(ctx, used, rounds, steps)
	if err != nil {
		return err
	}
	sections := []*harness.Section{stepping}
	if idle > 0 {
		fresh, err := harness.Serve(binary, filepath.Join(dir, "fresh"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, fresh.Stop()) }()
		s, err := measureIdle(ctx, idle, map[string]*harness.Server{"fresh": fresh, "after the steps": used})
		if err != nil {
			return err
		}
		sections = append(sections, s)
	}
	return harness.Print(os.Stdout, asJSON, sections)
}

// way is one way to take steps; take returns how long each of n took.
type way struct {
	name string
	take func(ctx context.Context, n int) ([]time.Duration, error)
}

func measureSteps(ctx context.Context, srv *harness.Server, rounds, steps int) (_ *harness.Section, err error) {
	inEngine, endEngine, err := bench.EngineStep(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, endEngine()) }()
	overGo, endGo, err := bench.SDKStep(ctx, tinkex.Options{BaseURL: srv.URL, APIKey: key})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, endGo()) }()
	ways := []way{{"engine alone", timed(inEngine)}, {"Go SDK", timed(overGo)}}

	s := &harness.Section{
		Name: "step", Title: fmt.Sprintf("One forward_backward + optim_step, %s, %d tokens, rank %d", cpu.TinyModel, bench.Tokens, bench.Rank),
		Columns: []string{"", "median", "ratio to the engine", "added to the engine"},
	}
	python, endPython, version, err := startPython(ctx, srv)
	if err != nil {
		s.Note("SKIPPED: the Python SDK: %v", err)
	} else {
		defer func() { err = errors.Join(err, endPython()) }()
		ways = append(ways, way{"Python SDK, " + version, python})
	}

	all := map[string][]time.Duration{}
	medians := map[string][]time.Duration{} // by round
	for round := -1; round < rounds; round++ {
		for _, w := range ways {
			took, err := w.take(ctx, steps)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			if round >= 0 {
				all[w.name] = append(all[w.name], took...)
				medians[w.name] = append(medians[w.name], harness.Median(took))
			}
		}
	}
	base := medians[ways[0].name]
	for i, w := range ways {
		if i == 0 {
			s.Row(w.name, millis(harness.Median(all[w.name])), "1", "")
			continue
		}
		var ratios []float64
		var added []time.Duration
		for r, m := range medians[w.name] {
			ratios = append(ratios, float64(m)/float64(base[r]))
			added = append(added, m-base[r])
		}
		s.Row(w.name, millis(harness.Median(all[w.name])), fmt.Sprintf("%.2f", harness.Median(ratios)), millis(harness.Median(added)))
		if w.name == "Go SDK" {
			s.Note("What the protocol and the server add, from Go: %s in the median. It must be at most 2 ms.", millis(harness.Median(added)))
		}
	}
	s.Note("%d rounds of %d steps each way, after one to warm up; ratio and difference are medians over the rounds. %d CPUs.", rounds, steps, runtime.NumCPU())
	s.Data = all
	return s, nil
}

func timed(step bench.Step) func(context.Context, int) ([]time.Duration, error) {
	return func(ctx context.Context, n int) ([]time.Duration, error) {
		took := make([]time.Duration, n)
		for i := range took {
			began := time.Now()
			if err := step(ctx); err != nil {
				return nil, err
			}
			took[i] = time.Since(began)
		}
		return took, nil
	}
}

// startPython starts the Python program, which steps when it is told to.
func startPython(ctx context.Context, srv *harness.Server) (take func(context.Context, int) ([]time.Duration, error), end func() error, version string, err error) {
	venv, err := pyvenv.Dir()
	if err != nil {
		return nil, nil, "", err
	}
	if version, err = pyvenv.Version(venv); err != nil {
		return nil, nil, "", err
	}
	cmd := exec.CommandContext(ctx, pyvenv.Command(venv, "python"), "-c", program, cpu.TinyModel, strconv.Itoa(bench.Rank), strconv.Itoa(bench.Tokens))
	cmd.Env = pyvenv.Environ(srv.URL, key)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, "", err
	}
	answers := bufio.NewReader(out)
	take = func(_ context.Context, n int) ([]time.Duration, error) {
		if _, err := fmt.Fprintln(in, n); err != nil {
			return nil, err
		}
		line, err := answers.ReadBytes('\n')
		if err != nil {
			return nil, err // end has its last words
		}
		var took []time.Duration
		return took, json.Unmarshal(line, &took)
	}
	end = func() error {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, answers)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("the Python program: %w\n%s", err, &errOut)
		}
		return nil
	}
	return take, end, version, nil
}

type idleness struct {
	CPU    time.Duration `json:"cpu_ns"`
	Memory int64         `json:"resident_bytes"`
}

func measureIdle(ctx context.Context, length time.Duration, servers map[string]*harness.Server) (*harness.Section, error) {
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(settle); err != nil {
		return nil, err
	}
	began := map[string]time.Duration{}
	for name, srv := range servers {
		cpu, err := harness.CPUTime(srv.PID)
		if err != nil {
			return nil, err
		}
		began[name] = cpu
	}
	if err := wait(length); err != nil {
		return nil, err
	}
	s := &harness.Section{
		Name: "idle", Title: fmt.Sprintf("An idle server for %v", length),
		Columns: []string{"", "CPU time", "resident memory"},
	}
	data := map[string]idleness{}
	for _, name := range []string{"fresh", "after the steps"} {
		cpu, err := harness.CPUTime(servers[name].PID)
		if err != nil {
			return nil, err
		}
		memory, err := harness.Memory(servers[name].PID)
		if err != nil {
			return nil, err
		}
		data[name] = idleness{cpu - began[name], memory}
		s.Row(name, (cpu - began[name]).String(), harness.MiB(memory))
	}
	s.Note("CPU time is counted in steps of 10 ms. It must be about nothing, and the memory below 50 MiB.")
	s.Data = data
	return s, nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }
