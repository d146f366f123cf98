package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type deleteFlags struct {
	allRuns, yes bool
	selectFlags
}

func (a *app) checkpointDeleteCommand() *cobra.Command {
	var f deleteFlags
	cmd := &cobra.Command{
		Use:   "delete (PATH... | - | --run RUN | --all-runs)",
		Short: "Delete checkpoints",
		Long: `Delete checkpoints: by their paths, by paths on standard input (-, one a line), or
all of a training run, or of all runs, that the filters select. It asks once before
it does, saying how many and how much; without a terminal to ask on, -y is needed.
32 are deleted at a time. One that is already gone is a failure if it was named on
the command line, and counts as done otherwise. To keep some of a run's checkpoints
by rules, see 'tinkex checkpoint prune'.
` + latestHelp + selectionHelp + `
With -f json the answer is {"deleted": [paths], "already_gone": [paths],
"failed": [{"tinker_path", "error"}]}, and after an interruption "left": [paths] that
were not come to, or are not known to be deleted.
` + exitStatusHelp,
		Example: `  tinkex checkpoint delete tinker://RUN/weights/0001 tinker://RUN/weights/0002
  tinkex checkpoint delete --run RUN --type weights --before 2026-06-01 -y
  tinkex checkpoint delete --all-runs --before 90d --private
  tinkex checkpoint list --name 'tmp-*' --limit 0 --paths | tinkex checkpoint delete - -y`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(time.Now()); err != nil {
				return err
			}
			if err := f.check(args); err != nil {
				return err
			}
			if slices.Equal(args, []string{"-"}) {
				paths, err := a.readPaths()
				if err != nil {
					return err
				}
				return a.checkpointDelete(cmd.Context(), paths, true, &f)
			}
			paths, err := parsePaths(args)
			if err != nil {
				return err
			}
			return a.checkpointDelete(cmd.Context(), paths, len(args) == 0, &f)
		},
	}
	cmd.Flags().BoolVar(&f.allRuns, "all-runs", false, "of all runs; needs a filter")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.addFlags(cmd)
	return cmd
}

func (f *deleteFlags) check(args []string) error {
	byRun, filters := f.selection.RunID != "", f.selection.Filters()
	switch {
	case byRun && f.allRuns:
		return usagef("give either --run or --all-runs, not both")
	case len(args) > 0 && (byRun || f.allRuns):
		return usagef("give either paths or --run, not both")
	case filters && !byRun && !f.allRuns:
		return usagef("filters select among a run's checkpoints; give --run, or --all-runs")
	case len(args) == 0 && f.allRuns && !filters:
		return usagef("--all-runs alone would delete every checkpoint you have; say which with a filter, such as --before 90d or --name 'tmp-*'")
	case len(args) == 0 && !byRun && !f.allRuns:
		return usagef("give the paths of checkpoints, - to read them from standard input, or --run for all of a run's")
	case slices.Contains(args, "-") && len(args) > 1:
		return usagef("give either paths or - to read them from standard input, not both")
	case slices.Contains(args, "-") && !f.yes:
		return usagef("standard input has the paths, so it cannot answer a question too; use --yes to go ahead")
	}
	return nil
}

// readPaths reads paths from standard input, one a line. Empty lines and those
// that start with # say nothing.
func (a *app) readPaths() ([]tinkex.TinkerPath, error) {
	var paths []tinkex.TinkerPath
	in := bufio.NewScanner(a.Stdin)
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := tinkex.ParseTinkerPath(line)
		if err != nil {
			return nil, fmt.Errorf("line %d of standard input: %w; nothing was deleted", n, err)
		}
		paths = append(paths, p)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read standard input: %w; nothing was deleted", err)
	}
	return paths, nil
}

// checkpointDelete deletes the paths, or what the flags select. In bulk, what
// is gone already is done.
func (a *app) checkpointDelete(ctx context.Context, paths []tinkex.TinkerPath, bulk bool, f *deleteFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if paths, err = a.resolver(client).paths(ctx, paths); err != nil {
		return err
	}
	var sizes *sizes
	if f.selection.RunID != "" || f.allRuns {
		s, err := f.resolve(ctx, client)
		if err != nil {
			return err
		}
		sizes = newSizes()
		for c, err := range s.All(ctx, client) {
			if err != nil {
				return err
			}
			p, err := c.Path()
			if err != nil {
				return err
			}
			paths = append(paths, p)
			sizes.add(c)
		}
	} else if !f.yes && a.StdinTerminal {
		sizes = lookUpSizes(ctx, client, paths)
	}
	if len(paths) == 0 {
		if a.format == "json" {
			return a.printJSON(deletedOf(checkpoint.Deleted{}))
		}
		if sizes == nil {
			a.say("There are no paths on standard input.")
		} else {
			a.say("No checkpoints match.")
		}
		return nil
	}
	if !f.yes {
		preview(a, paths, tinkex.TinkerPath.String)
		question := fmt.Sprintf("Delete %s%s for good?", plural(len(paths), "checkpoint"), sizes.of())
		if err := a.confirm(ctx, question); err != nil {
			return err
		}
	}
	bars := a.bars(ctx)
	move := bars.addCount("deleting")
	move(0, len(paths)) // before the server has answered
	d, err := checkpoint.Delete(ctx, client, paths, checkpoint.DeleteOptions{
		GoneIsDone: bulk,
		Progress:   func(p checkpoint.DeleteProgress) { move(p.Done+p.Failed, p.Total) },
	})
	bars.wait()
	if a.format == "json" {
		if err := a.printJSON(deletedOf(d)); err != nil {
			return err
		}
	} else {
		a.reportDeleted(d, "")
	}
	return deletedError(d, err)
}

// sizes adds up the sizes of checkpoints. A nil one knows none.
type sizes struct {
	bytes   int64
	unknown int
}

func newSizes() *sizes { return &sizes{} }

func (s *sizes) add(c tinkex.Checkpoint) {
	if c.SizeBytes == nil {
		s.unknown++
		return
	}
	s.bytes += *c.SizeBytes
}

// of says " of 3.2 GiB".
func (s *sizes) of() string {
	switch {
	case s == nil || s.bytes == 0:
		return ""
	case s.unknown > 0:
		return " of more than " + size(s.bytes)
	}
	return " of " + size(s.bytes)
}

// lookUpSizes asks the lists of the paths' runs. What they do not know is
// unknown: deleting it will say why.
func lookUpSizes(ctx context.Context, client *tinkex.RestClient, paths []tinkex.TinkerPath) *sizes {
	sum := newSizes()
	runs := map[string]map[string]tinkex.Checkpoint{}
	for _, p := range paths {
		known, ok := runs[p.RunID]
		if !ok {
			known = map[string]tinkex.Checkpoint{}
			list, err := client.ListRunCheckpoints(ctx, p.RunID)
			if err == nil || !errors.Is(err, tinkex.ErrNotFound) {
				for _, c := range list.Checkpoints {
					known[c.TinkerPath] = c
				}
			}
			runs[p.RunID] = known
		}
		sum.add(known[p.String()])
	}
	return sum
}
