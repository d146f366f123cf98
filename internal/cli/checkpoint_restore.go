package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex/checkpoint"
)

type restoreFlags struct {
	selectFlags
	from, toRun, ttl  string
	jobs              int
	overwrite, dryRun bool
}

func (a *app) checkpointRestoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore --from TARGET",
		Short: "Bring checkpoints back from a mirror",
		Long: `Make checkpoints, on a server of your own, of what 'tinkex checkpoint mirror' has
kept: training states with their optimizer, so that training goes on exactly, and
weights to sample from. TARGET is ` + mirrorTargetHelp + `.
The mirror may be of another server, the hosted one included.

Checkpoints keep their kind, name, time and metadata. Those of a run come into a
run that stands for it, always the same one, or into --to-run; where each comes
from is in its user metadata, as restored_from. They are private and never expire,
unless --ttl says so. Only what the server does not have is sent, and a second
restore changes nothing; one that was interrupted goes on where it stopped.

The selection is made of what the mirror has; --run is the run's id on the server
that was mirrored.
` + selectionHelp + `
The paths of what was restored go to standard output. With -f json the answer is
{"mirror", "dry_run", "restored": [{"origin", "tinker_path", "size_bytes"}],
"present": [...], "failed": [{"tinker_path", "error"}], "left", "sent_bytes"};
present were there already.
` + exitStatusHelp,
		Example: "  tinkex checkpoint restore --from /backup/tinker\n  tinkex checkpoint restore --from /backup/tinker --run RUN --name 'step-*'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.from == "":
				return usagef("--from TARGET is required: the directory or bucket URL of a mirror")
			case f.jobs < 1:
				return usagef("--jobs: %d: expected at least 1", f.jobs)
			case f.overwrite && f.dryRun:
				return usagef("--overwrite and --dry-run cannot be combined")
			}
			if err := f.parse(time.Now()); err != nil {
				return err
			}
			if f.selection.RunID == latest {
				return usagef("--run latest: give a run's id; which of a mirror's runs was the latest, nobody knows")
			}
			opts := checkpoint.RestoreOptions{Selection: f.selection, ToRun: f.toRun, Overwrite: f.overwrite, DryRun: f.dryRun, Jobs: f.jobs}
			if f.ttl != "" {
				var err error
				if opts.TTL, err = parseTTL(f.ttl); err != nil {
					return err
				}
			}
			return a.checkpointRestore(cmd.Context(), f.from, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "directory or bucket URL of the mirror (required)")
	flags.StringVar(&f.toRun, "to-run", "", "a run of yours to restore into (default one that stands for the mirrored run)")
	flags.StringVar(&f.ttl, "ttl", "", "time to live in seconds, or with a unit: 90m, 24h, 7d (default for ever)")
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace checkpoints of the same name that have other files")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what the mirror has of the selection, and do nothing")
	flags.IntVar(&f.jobs, "jobs", checkpoint.DefaultImportJobs, "how many uploads to have on their way at once")
	f.addFlags(cmd)
	return cmd
}

type restoredJSON struct {
	Mirror    string                   `json:"mirror"`
	DryRun    bool                     `json:"dry_run"`
	Restored  []restoredCheckpointJSON `json:"restored"`
	Present   []restoredCheckpointJSON `json:"present"`
	Failed    []failedJSON             `json:"failed"`
	Left      []string                 `json:"left"`
	SentBytes int64                    `json:"sent_bytes"`
}

type restoredCheckpointJSON struct {
	Origin     string `json:"origin"`
	TinkerPath string `json:"tinker_path,omitempty"`
	SizeBytes  int64  `json:"size_bytes"`
}

func restoredOf(list []checkpoint.RestoredCheckpoint, dryRun bool) []restoredCheckpointJSON {
	out := []restoredCheckpointJSON{}
	for _, c := range list {
		j := restoredCheckpointJSON{Origin: c.Origin.String(), SizeBytes: c.SizeBytes}
		if !dryRun {
			j.TinkerPath = c.Path.String()
		}
		out = append(out, j)
	}
	return out
}

func (a *app) checkpointRestore(ctx context.Context, from string, opts checkpoint.RestoreOptions) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	bars := a.bars(ctx)
	var move func(done, total int)
	opts.Progress = func(p checkpoint.RestoreProgress) {
		if move == nil {
			move = bars.addCount("restoring")
		}
		move(p.Done+p.Failed, p.Total)
	}
	r, err := checkpoint.Restore(ctx, client, from, opts)
	bars.wait()
	failed, errs := mirrorFailures(r.Failed)
	total := len(r.Restored) + len(r.Present) + len(r.Failed) + len(r.Left)
	var partial *checkpoint.PartialError
	if err != nil && !errors.As(err, &partial) && total == 0 {
		return err
	}
	if a.format == "json" {
		if err := a.printJSON(restoredJSON{
			Mirror: r.Mirror, DryRun: opts.DryRun, Restored: restoredOf(r.Restored, opts.DryRun), Present: restoredOf(r.Present, false),
			Failed: failed, Left: pathStrings(r.Left), SentBytes: r.SentBytes,
		}); err != nil {
			return err
		}
	} else if err := a.printRestored(ctx, r, opts.DryRun, errs); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		a.say("Interrupted; %s left. The same command goes on from here:\n  %s", plural(len(r.Left), "checkpoint"), a.again())
		return errors.Join(errSilent, ctx.Err())
	case err != nil && partial == nil:
		return err
	}
	return failedItems(errs, total)
}

func (a *app) printRestored(ctx context.Context, r checkpoint.Restored, dryRun bool, errs []error) error {
	var bytes int64
	for _, c := range r.Restored {
		bytes += c.SizeBytes
		path := c.Path
		if dryRun {
			path = c.Origin
		}
		if err := a.print("%s\n", path); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		a.printErrors(errs)
	}
	switch {
	case len(r.Restored)+len(r.Present)+len(errs)+len(r.Left) == 0:
		a.say("No checkpoints of the mirror match.")
	case dryRun:
		a.say("The mirror has %s of the selection, %s.", plural(len(r.Restored), "checkpoint"), size(bytes))
	default:
		line := fmt.Sprintf("Restored %s (%s, of which %s had to be sent)", plural(len(r.Restored), "checkpoint"), size(bytes), size(r.SentBytes))
		if n := len(r.Present); n > 0 {
			line += fmt.Sprintf(", %d were there already", n)
		}
		if n := len(errs); n > 0 {
			line += fmt.Sprintf(", %d failed", n)
		}
		a.say("%s.", line)
	}
	return nil
}
