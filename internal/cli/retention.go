package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/retention"
)

func (a *app) retentionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Show, set, preview or remove the policy by which the server deletes old checkpoints",
		Long: `A retention policy says which of your checkpoints the server keeps. It has the
rules of 'tinkex checkpoint prune' and applies to all of your runs, those to come
included, until it is removed. The server must be tinkex serve.
` + exitStatusHelp,
	}
	cmd.AddCommand(a.retentionShowCommand(), a.retentionSetCommand(), a.retentionUnsetCommand(), a.retentionPreviewCommand())
	return cmd
}

const retentionRulesHelp = `
  --keep-last N      the newest N
  --keep-every N     those whose name ends in a multiple of N, or in no number
  --keep-within AGE  those saved within this time before now
  --keep-daily N     the newest of each of the last N days that have one
  --keep-weekly N    the newest of each of the last N weeks that have one

Each run and, in it, each type is judged by itself. Public checkpoints are kept, and
each run's latest of each type, unless --include-public or --include-latest let
them go.
`

// policyJSON is the stable form of a server's policy.
type policyJSON struct {
	KeepLast          int      `json:"keep_last"`
	KeepEvery         int      `json:"keep_every"`
	KeepWithinSeconds int64    `json:"keep_within_seconds"`
	KeepDaily         int      `json:"keep_daily"`
	KeepWeekly        int      `json:"keep_weekly"`
	TimeZone          string   `json:"time_zone"`
	Types             []string `json:"types"`
	IncludePublic     bool     `json:"include_public"`
	IncludeLatest     bool     `json:"include_latest"`
	All               bool     `json:"all"`
}

// retentionJSON is the stable form of retention show|set -f json.
type retentionJSON struct {
	Policy    policyJSON `json:"policy"`
	SetAt     time.Time  `json:"set_at"`
	AppliedAt *time.Time `json:"applied_at"`
	Removed   int        `json:"removed"`
	Refused   string     `json:"refused"`
}

const retentionJSONHelp = `
With -f json the answer is {"policy": {"keep_last", "keep_every",
"keep_within_seconds", "keep_daily", "keep_weekly", "time_zone", "types",
"include_public", "include_latest", "all"}, "set_at", "applied_at", "removed",
"refused"}, where 0, "" and [] are no rule and no restriction.
`

func retentionJSONOf(r tinkex.Retention) retentionJSON {
	p := r.Policy
	out := retentionJSON{SetAt: r.SetAt, AppliedAt: r.AppliedAt, Removed: r.Removed, Refused: r.Refused, Policy: policyJSON{
		KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithinSeconds: int64(p.KeepWithin / time.Second),
		KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly, TimeZone: p.TimeZone, Types: []string{},
		IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest, All: p.All,
	}}
	for _, t := range p.Types {
		out.Policy.Types = append(out.Policy.Types, t.Segment())
	}
	return out
}

func (a *app) retentionShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show the policy that is set, and what came of it",
		Long:    "Show the policy that is set, when it was applied last, and how many checkpoints\nwent then.\n" + retentionJSONHelp + exitStatusHelp,
		Example: "  tinkex retention show",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRetention(func(client *tinkex.RestClient) error {
				r, err := client.Retention(cmd.Context())
				if err != nil {
					return err
				}
				return a.printRetention(r)
			})
		},
	}
}

func (a *app) printRetention(r tinkex.Retention) error {
	if a.format == "json" {
		return a.printJSON(retentionJSONOf(r))
	}
	applied := "not yet"
	if r.AppliedAt != nil {
		applied = ago(*r.AppliedAt)
	}
	pairs := []string{"Keeps", describePolicy(r.Policy), "Set", ago(r.SetAt), "Applied", applied}
	switch {
	case r.Refused != "":
		pairs = append(pairs, "Refused", r.Refused)
	case r.AppliedAt != nil:
		pairs = append(pairs, "Removed", plural(r.Removed, "checkpoint"))
	}
	return a.properties(pairs...)
}

// describePolicy spells a policy as the options do.
func describePolicy(p tinkex.RetentionPolicy) string {
	text := retention.Policy{
		KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithin: p.KeepWithin, KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly,
		IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest,
	}.String()
	if p.TimeZone != "" {
		text += ", time-zone " + p.TimeZone
	}
	for _, t := range p.Types {
		text += ", type " + t.Segment()
	}
	if p.All {
		text += ", all"
	}
	return text
}

// retentionFlags are a policy for the server.
type retentionFlags struct {
	policyFlags
	zone  string
	types []string
	all   bool
	yes   bool
}

func (f *retentionFlags) addFlags(cmd *cobra.Command) {
	f.policyFlags.addFlags(cmd)
	cmd.Flags().StringVar(&f.zone, "time-zone", "", "where days begin, such as Europe/Berlin (default UTC)")
	cmd.Flags().StringSliceVar(&f.types, "type", nil, "only this type: weights or sampler_weights; the others stay, and do not count")
	cmd.Flags().BoolVar(&f.all, "all", false, "go ahead even if nothing at all is kept")
}

// parse returns the policy, and whether one is given at all.
func (f *retentionFlags) parse(cmd *cobra.Command) (p tinkex.RetentionPolicy, given bool, err error) {
	if given, err = f.parseRules(cmd); err != nil {
		return p, given, err
	}
	p = f.policy.ForServer()
	p.TimeZone, p.All = f.zone, f.all
	if p.KeepWithin%time.Second != 0 {
		return p, given, usagef("--keep-within: %q: expected whole seconds", f.within)
	}
	if cmd.Flags().Changed("time-zone") && strings.TrimSpace(f.zone) == "" {
		return p, given, usagef("--time-zone: it is empty: expected one such as Europe/Berlin")
	}
	if cmd.Flags().Changed("type") && len(f.types) == 0 {
		return p, given, usagef("--type is empty; give it a value, or leave it out to select all")
	}
	for _, s := range f.types {
		t, err := tinkex.ParseCheckpointType(s)
		switch {
		case err != nil:
			return p, given, usagef("--type: %q is no type; use weights or sampler_weights", s)
		case slices.Contains(p.Types, t):
			return p, given, usagef("--type: %s is there twice", t.Segment())
		}
		p.Types = append(p.Types, t)
	}
	others := p.TimeZone != "" || len(p.Types) > 0 || p.IncludePublic || p.IncludeLatest || p.All
	if !given && others {
		return p, given, usagef("say what to keep: --keep-last N, --keep-every N, --keep-within AGE, --keep-daily N or --keep-weekly N")
	}
	return p, given, nil
}

func (a *app) retentionSetCommand() *cobra.Command {
	var f retentionFlags
	cmd := &cobra.Command{
		Use:   "set (--keep-last N | --keep-every N | --keep-within AGE | --keep-daily N | --keep-weekly N)...",
		Short: "Have the server delete the checkpoints that no rule keeps, from now on",
		Long: `Have the server delete the checkpoints that no rule keeps, within a minute and
then every hour. The policy takes the place of another. What any rule keeps is
kept:
` + retentionRulesHelp + `
It asks first, saying what would go now; 'tinkex retention preview' shows that
without setting anything. A policy that would leave nothing at all is refused when
it is set, and not applied when it comes to that later, unless --all. What the
server deletes is in its log, with the reason.
` + retentionJSONHelp + exitStatusHelp,
		Example: "  tinkex retention set --keep-last 3 --keep-every 1000\n  tinkex retention set --keep-within 7d --keep-weekly 8 --type weights -y",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, given, err := f.parse(cmd)
			if err != nil {
				return err
			}
			if !given {
				return usagef("say what to keep: --keep-last N, --keep-every N, --keep-within AGE, --keep-daily N or --keep-weekly N")
			}
			return a.withRetention(func(client *tinkex.RestClient) error { return a.retentionSet(cmd.Context(), client, p, f.yes) })
		},
	}
	f.addFlags(cmd)
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) retentionSet(ctx context.Context, client *tinkex.RestClient, p tinkex.RetentionPolicy, yes bool) error {
	if !yes {
		plan, err := client.PreviewRetention(ctx, &p)
		if err != nil {
			return err
		}
		if plan.Refused != "" {
			return usagef("%s; use --all if that is meant", plan.Refused)
		}
		preview(a, plan.Remove, func(c tinkex.Checkpoint) string { return c.TinkerPath })
		all := len(plan.Keep) + len(plan.Remove)
		question := "Have the server delete %d of %s for good, and go on so?"
		if err := a.confirm(ctx, fmt.Sprintf(question, len(plan.Remove), plural(all, "checkpoint"))); err != nil {
			return err
		}
	}
	r, err := client.SetRetention(ctx, p)
	if errors.Is(err, tinkex.ErrConflict) {
		return usagef("%v; here that is --all", err) // its message says why
	}
	if err != nil {
		return err
	}
	if a.format == "table" {
		a.say("The server applies it within a minute, and then every hour.")
	}
	return a.printRetention(r)
}

func (a *app) retentionUnsetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "unset",
		Short:   "Remove the policy",
		Long:    "Remove the policy: nothing is deleted because of it any more.\n\nWith -f json the answer is {\"removed\": true}.\n" + exitStatusHelp,
		Example: "  tinkex retention unset",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRetention(func(client *tinkex.RestClient) error {
				if err := client.UnsetRetention(cmd.Context()); err != nil {
					return err
				}
				if a.format == "json" {
					return a.printJSON(map[string]bool{"removed": true})
				}
				a.say("The retention policy is removed. Checkpoints stay until they are deleted or expire.")
				return nil
			})
		},
	}
}

// retentionPlanJSON is the stable form of retention preview -f json.
type retentionPlanJSON struct {
	Keep    []tinkex.KeptCheckpoint `json:"keep"`
	Remove  []tinkex.Checkpoint     `json:"remove"`
	Freed   checkpoint.Freed        `json:"freed"`
	Refused string                  `json:"refused"`
}

func (a *app) retentionPreviewCommand() *cobra.Command {
	var f retentionFlags
	cmd := &cobra.Command{
		Use:   "preview",
		Short: "Show what a policy would delete now, and why it keeps what it keeps",
		Long: `Show what a policy would delete now, and why it keeps what it keeps: the one that
the options describe, or without any the one that is set. Nothing is deleted.
` + retentionRulesHelp + `
With -f json the answer is {"keep": [{..., "reasons": [...]}], "remove": [...],
"freed": {"bytes", "exact", "unknown"}, "refused"}, where refused says why the
policy would not be applied and is empty if it would.
` + exitStatusHelp,
		Example: "  tinkex retention preview\n  tinkex retention preview --keep-last 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, given, err := f.parse(cmd)
			if err != nil {
				return err
			}
			policy := &p
			if !given {
				policy = nil
			}
			return a.withRetention(func(client *tinkex.RestClient) error { return a.retentionPreview(cmd.Context(), client, policy) })
		},
	}
	f.addFlags(cmd)
	return cmd
}

// allBut lists the caller's other checkpoints, those of types that the policy
// does not apply to among them: they share files too.
func allBut(ctx context.Context, client *tinkex.RestClient, removed []tinkex.Checkpoint) ([]tinkex.Checkpoint, error) {
	if len(removed) == 0 {
		return nil, nil
	}
	goes := map[string]bool{}
	for _, c := range removed {
		goes[c.TinkerPath] = true
	}
	var others []tinkex.Checkpoint
	for c, err := range client.AllCheckpoints(ctx, tinkex.PageOptions{PageSize: onePage}) {
		if err != nil {
			return nil, err
		}
		if !goes[c.TinkerPath] {
			others = append(others, c)
		}
	}
	return others, nil
}

func (a *app) retentionPreview(ctx context.Context, client *tinkex.RestClient, p *tinkex.RetentionPolicy) error {
	plan, err := client.PreviewRetention(ctx, p)
	if err != nil {
		return err
	}
	out := checkpoint.Pruned{Plan: checkpoint.Plan{Remove: plan.Remove}}
	for _, k := range plan.Keep {
		out.Keep = append(out.Keep, checkpoint.Kept{Checkpoint: k.Checkpoint, Reasons: k.Reasons})
	}
	kept, err := allBut(ctx, client, plan.Remove)
	if err != nil {
		return err
	}
	bars := &pruneBars{a: a, ctx: ctx}
	out.Freed, err = checkpoint.Measure(ctx, client, plan.Remove, kept, bars.measured)
	bars.wait()
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(retentionPlanJSON{
			Keep: append([]tinkex.KeptCheckpoint{}, plan.Keep...), Remove: append([]tinkex.Checkpoint{}, plan.Remove...), Freed: out.Freed, Refused: plan.Refused,
		})
	}
	if len(plan.Keep)+len(plan.Remove) == 0 {
		a.say("There are no checkpoints that it applies to.")
		return nil
	}
	if err := a.pruneTable(out.Plan); err != nil {
		return err
	}
	if plan.Refused != "" {
		a.say("It would not be applied: %s.", plan.Refused)
		return nil
	}
	a.say("Would delete %s%s, and keep %d.", plural(len(plan.Remove), "checkpoint"), freeing(out), len(plan.Keep))
	return nil
}

// withRetention calls do with a client, and tells a server without retention
// policies from an owner without one.
func (a *app) withRetention(do func(client *tinkex.RestClient) error) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	err = do(client)
	var e *tinkex.Error
	switch {
	case !errors.As(err, &e) || e.Status != http.StatusNotFound:
		return err
	case strings.Contains(e.Message, "no retention policy is set"):
		a.say("tinkex: no retention policy is set; 'tinkex retention set' sets one")
	default:
		a.say("tinkex: this server has no retention policies: they are an extension of tinkex serve")
	}
	return errors.Join(errSilent, err)
}
