package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type pruneFlags struct {
	policyFlags
	all, dryRun, yes bool
	selectFlags
}

// policyFlags are the rules of a retention policy.
type policyFlags struct {
	policy checkpoint.Policy
	within string
}

func (a *app) checkpointPruneCommand() *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use:   "prune (--keep-last N | --keep-every N | --keep-within AGE | --keep-daily N | --keep-weekly N)...",
		Short: "Delete checkpoints that no rule keeps",
		Long: `Delete the checkpoints that no rule keeps. The rules are applied to each training
run and, in it, to each type by itself; what any rule keeps is kept. Public
checkpoints are kept, and each run's latest of each type, unless --include-public or
--include-latest let them go. Filters narrow down what the rules see: what they do
not select is neither deleted nor counted.

  --keep-last N      the newest N
  --keep-every N     those whose name ends in a multiple of N (step-500, step-1000 with
                     500), and those whose name does not end in a number
  --keep-within AGE  those saved within this time before now
  --keep-daily N     the newest of each of the last N days that have one
  --keep-weekly N    the newest of each of the last N weeks that have one

Days and weeks (from Monday) are UTC's. Pruning again with the same rules deletes
only what has become old since or is new, so it may be run daily.
` + selectionHelp + `
--dry-run prints what would be done with each checkpoint and why, and deletes nothing.
The bytes freed leave out files that others of your checkpoints share, if the server
tells; otherwise they are an upper bound, and said to be.

With -f json the answer is {"dry_run", "keep": [{..., "reasons": [...]}], "remove":
[...], "freed": {"bytes", "exact", "unknown"}, "deleted": [paths], "already_gone":
[paths], "failed": [{"tinker_path", "error"}]}, where keep and remove are the plan,
with the members of 'tinkex checkpoint list', and after an interruption "left": [paths]
that were not come to, or are not known to be deleted.
` + exitStatusHelp,
		Example: `  tinkex checkpoint prune --keep-last 3 --dry-run
  tinkex checkpoint prune --run latest --keep-last 2 --keep-every 1000
  tinkex checkpoint prune --keep-within 7d --keep-weekly 8 --type weights -y`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.parsePolicy(cmd); err != nil {
				return err
			}
			now := time.Now()
			if err := f.parse(now); err != nil {
				return err
			}
			return a.checkpointPrune(cmd.Context(), now, &f)
		},
	}
	flags := cmd.Flags()
	f.policyFlags.addFlags(cmd)
	flags.BoolVar(&f.all, "all", false, "go ahead even if nothing at all is kept")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be done, and do nothing")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.selectFlags.addFlags(cmd)
	return cmd
}

func (f *policyFlags) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&f.policy.KeepLast, "keep-last", 0, "keep the newest N")
	flags.IntVar(&f.policy.KeepEvery, "keep-every", 0, "keep those whose name ends in a multiple of N, or in no number")
	flags.StringVar(&f.within, "keep-within", "", "keep those saved within this time, e.g. 36h or 7d")
	flags.IntVar(&f.policy.KeepDaily, "keep-daily", 0, "keep the newest of each of the last N days")
	flags.IntVar(&f.policy.KeepWeekly, "keep-weekly", 0, "keep the newest of each of the last N weeks")
	flags.BoolVar(&f.policy.IncludePublic, "include-public", false, "public checkpoints may go too")
	flags.BoolVar(&f.policy.IncludeLatest, "include-latest", false, "each run's latest may go too")
}

// parseRules reads the rules and reports whether there are any.
func (f *policyFlags) parseRules(cmd *cobra.Command) (rules bool, err error) {
	for _, name := range []string{"keep-last", "keep-every", "keep-daily", "keep-weekly"} {
		if !cmd.Flags().Changed(name) {
			continue
		}
		rules = true
		if n, err := cmd.Flags().GetInt(name); err != nil || n < 1 {
			return false, usagef("--%s: %d: expected at least 1; leave the option out for no such rule", name, n)
		}
	}
	if cmd.Flags().Changed("keep-within") {
		rules = true
		if f.policy.KeepWithin, err = parseAge("--keep-within", f.within); err != nil {
			return false, err
		}
		if f.policy.KeepWithin <= 0 {
			return false, usagef("--keep-within: %q is no time at all", f.within)
		}
	}
	return rules, nil
}

func (f *pruneFlags) parsePolicy(cmd *cobra.Command) error {
	rules, err := f.parseRules(cmd)
	switch {
	case err != nil:
		return err
	case !rules:
		return usagef("say what to keep: --keep-last N, --keep-every N, --keep-within AGE, --keep-daily N or --keep-weekly N; to delete everything, see 'tinkex checkpoint delete --run'")
	case f.policy.IncludePublic && f.private:
		return usagef("--include-public and --private contradict each other: no public checkpoint is selected")
	case f.public && !f.policy.IncludePublic:
		return usagef("--public selects what is kept, because it is public; use --include-public to let it go")
	}
	return nil
}

// pruneJSON is the stable form of checkpoint prune -f json.
type pruneJSON struct {
	DryRun bool                `json:"dry_run"`
	Keep   []checkpoint.Kept   `json:"keep"`
	Remove []tinkex.Checkpoint `json:"remove"`
	Freed  checkpoint.Freed    `json:"freed"`
	deletedJSON
}

func (a *app) checkpointPrune(ctx context.Context, now time.Time, f *pruneFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := f.resolve(ctx, client)
	if err != nil {
		return err
	}
	bars := &pruneBars{a: a, ctx: ctx}
	opts := checkpoint.PruneOptions{
		Selection: s, DryRun: f.dryRun, All: f.all, Now: now, Measured: bars.measured,
		Progress: func(p checkpoint.DeleteProgress) { bars.deleted(p.Done+p.Failed, p.Total) },
	}
	opts.Confirm = func(p checkpoint.Pruned) error {
		bars.wait()
		if !f.yes {
			if err := a.confirmPrune(ctx, p); err != nil {
				return err
			}
		}
		bars.deleted(0, len(p.Remove)) // before the server has answered
		return nil
	}
	p, err := checkpoint.Prune(ctx, client, f.policy, opts)
	bars.wait()
	var partial *checkpoint.PartialError
	switch {
	case errors.Is(err, checkpoint.ErrKeepsNothing):
		return usagef("these rules keep nothing of the %s selected; use --all to delete them all", plural(len(p.Remove), "checkpoint"))
	case err != nil && !errors.As(err, &partial) && len(p.Deleted.Left) == 0:
		return err
	}
	if a.format == "json" {
		out := pruneJSON{DryRun: f.dryRun, Keep: p.Keep, Remove: p.Remove, Freed: p.Freed, deletedJSON: deletedOf(p.Deleted)}
		if out.Keep == nil {
			out.Keep = []checkpoint.Kept{}
		}
		if out.Remove == nil {
			out.Remove = []tinkex.Checkpoint{}
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
		return deletedError(p.Deleted, err)
	}
	switch {
	case len(p.Keep)+len(p.Remove) == 0:
		a.say("No checkpoints match.")
		return nil
	case f.dryRun:
		if err := a.pruneTable(p.Plan); err != nil {
			return err
		}
		a.say("Would delete %s%s, and keep %d.", plural(len(p.Remove), "checkpoint"), freeing(p), len(p.Keep))
		return nil
	case len(p.Remove) == 0:
		a.say("Nothing to delete, of %s.", plural(len(p.Keep), "checkpoint"))
		return nil
	}
	a.reportDeleted(p.Deleted, freeing(p))
	return deletedError(p.Deleted, err)
}

// freeing says how much a deletion frees, if anything is known about it.
func freeing(p checkpoint.Pruned) string {
	f := p.Freed
	switch {
	case f.Unknown == len(p.Remove):
		return ""
	case f.Unknown > 0:
		return fmt.Sprintf(", freeing %s and %s of unknown size", size(f.Bytes), plural(f.Unknown, "checkpoint"))
	case !f.Exact:
		return ", freeing up to " + size(f.Bytes) + " (shared files may remain)"
	}
	return ", freeing " + size(f.Bytes)
}

func (a *app) confirmPrune(ctx context.Context, p checkpoint.Pruned) error {
	preview(a, p.Remove, func(c tinkex.Checkpoint) string { return c.TinkerPath })
	all := len(p.Keep) + len(p.Remove)
	return a.confirm(ctx, fmt.Sprintf("Delete %d of %s for good%s?", len(p.Remove), plural(all, "checkpoint"), freeing(p)))
}

// pruneTable prints what is to become of each checkpoint, by run and type.
func (a *app) pruneTable(p checkpoint.Plan) error {
	t := a.table("Plan", "Size", "Created", "Why", "Path").droppable("Size", "Created")
	row := func(plan string, c tinkex.Checkpoint, why string) {
		t.row(plan, sizeOf(c.SizeBytes), ago(c.Time), why, c.TinkerPath)
	}
	// Both lists are in the same order, group by group, so they are merged.
	keep, remove := p.Keep, p.Remove
	for len(keep)+len(remove) > 0 && t.failed() == nil {
		if len(remove) == 0 || len(keep) > 0 && checkpoint.PlanOrder(keep[0].Checkpoint, remove[0]) < 0 {
			row("keep", keep[0].Checkpoint, strings.Join(keep[0].Reasons, ", "))
			keep = keep[1:]
		} else {
			row("delete", remove[0], "no rule keeps it")
			remove = remove[1:]
		}
	}
	return t.render()
}

// pruneBars shows one phase after the other.
type pruneBars struct {
	a    *app
	ctx  context.Context
	bars *bars
	move func(done, total int)
}

func (b *pruneBars) start(name string) {
	if b.move == nil {
		b.bars = b.a.bars(b.ctx)
		b.move = b.bars.addCount(name)
	}
}

func (b *pruneBars) measured(done, total int) {
	b.start("reading manifests")
	b.move(done, total)
}

func (b *pruneBars) deleted(done, total int) {
	b.start("deleting")
	b.move(done, total)
}

// wait ends a phase.
func (b *pruneBars) wait() {
	b.bars.wait()
	b.bars, b.move = nil, nil
}
