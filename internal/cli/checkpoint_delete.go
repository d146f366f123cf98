package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
)

// deleteJobs is how many deletions are under way at once.
const deleteJobs = 32

type deleteFlags struct {
	runID  string
	filter checkpointFilter
	yes    bool
}

func (a *app) checkpointDeleteCommand() *cobra.Command {
	var f deleteFlags
	cmd := &cobra.Command{
		Use:   "delete (PATH... | --run-id ID)",
		Short: "Delete checkpoints",
		Long: `Delete checkpoints, by their paths or all of a training run that match the
filters. It asks once before it does; without a terminal to ask on, -y is needed.

With -f json the answer is {"deleted": [paths], "failed": [{"tinker_path", "error"}]}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint delete tinker://RUN/weights/0001 tinker://RUN/weights/0002\n  tinkex checkpoint delete --run-id RUN --type weights --before 2026-06-01 -y",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && f.runID == "":
				return usagef("give the paths of checkpoints, or --run-id for all of a run's")
			case len(args) > 0 && f.runID != "":
				return usagef("give either paths or --run-id, not both")
			case f.filter.set() && f.runID == "":
				return usagef("--type, --before and --after select among a run's checkpoints; give --run-id")
			}
			if err := f.filter.parse(); err != nil {
				return err
			}
			paths, err := parsePaths(args)
			if err != nil {
				return err
			}
			return a.checkpointDelete(cmd.Context(), paths, &f)
		},
	}
	cmd.Flags().StringVar(&f.runID, "run-id", "", "delete this training run's checkpoints")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.filter.addFlags(cmd)
	return cmd
}

func (a *app) checkpointDelete(ctx context.Context, paths []tinkex.TinkerPath, f *deleteFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	var bytes int64
	if f.runID != "" {
		list, _, err := selectCheckpoints(ctx, client, &listFlags{runID: f.runID, filter: f.filter})
		if err != nil {
			return err
		}
		for _, c := range list {
			p, err := c.Path()
			if err != nil {
				return err
			}
			paths = append(paths, p)
			if c.SizeBytes != nil {
				bytes += *c.SizeBytes
			}
		}
	}
	if len(paths) == 0 {
		if a.format == "json" {
			return a.printJSON(deletedJSON{Deleted: []string{}, Failed: []failedJSON{}})
		}
		a.say("No checkpoints match.")
		return nil
	}
	if !f.yes {
		if err := a.confirmDelete(paths, bytes); err != nil {
			return err
		}
	}
	return a.deleteAll(ctx, client, paths)
}

// confirmDelete asks once, saying how many and how much.
func (a *app) confirmDelete(paths []tinkex.TinkerPath, bytes int64) error {
	const shown = 10
	for i, p := range paths {
		if i == shown {
			a.say("  and %d more", len(paths)-shown)
			break
		}
		a.say("  %s", p)
	}
	what := plural(len(paths), "checkpoint")
	if bytes > 0 {
		what += " of " + size(bytes)
	}
	return a.confirm(fmt.Sprintf("Delete %s for good?", what))
}

// confirm asks a question that only "yes" or "y" answers; anything else ends
// the command.
func (a *app) confirm(question string) error {
	if !a.StdinTerminal {
		return usagef("%s There is no terminal to ask on; use --yes to go ahead.", question)
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && line == "" {
		a.say("")
		return errors.New("not confirmed; nothing was done")
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed; nothing was done")
}

type deletedJSON struct {
	Deleted []string     `json:"deleted"`
	Failed  []failedJSON `json:"failed"`
}

type failedJSON struct {
	TinkerPath string `json:"tinker_path"`
	Error      string `json:"error"`
}

func (a *app) deleteAll(ctx context.Context, client *tinkex.RestClient, paths []tinkex.TinkerPath) error {
	out := deletedJSON{Deleted: []string{}, Failed: []failedJSON{}}
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(deleteJobs)
	for _, p := range paths {
		g.Go(func() error {
			err := ctx.Err()
			if err == nil {
				err = client.DeleteCheckpoint(ctx, p)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				out.Failed = append(out.Failed, failedJSON{p.String(), err.Error()})
			} else {
				out.Deleted = append(out.Deleted, p.String())
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	if a.format == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, f := range out.Failed {
			a.say("tinkex: %s", f.Error)
		}
		a.say("Deleted %d of %s.", len(out.Deleted), plural(len(paths), "checkpoint"))
	}
	return failedItems(errs, len(paths))
}
