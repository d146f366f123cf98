package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type mirrorFlags struct {
	selectFlags
	to, workDir            string
	jobs                   int
	dryRun, rebind         bool
	prune, pruneEverything bool
}

const mirrorTargetHelp = `a directory, or the URL of a bucket, such as
s3://BUCKET?region=REGION&prefix=PATH/ or azblob://CONTAINER?prefix=PATH/, whose
credentials are in the environment (AWS_ACCESS_KEY_ID, ...)`

func (a *app) checkpointMirrorCommand() *cobra.Command {
	var f mirrorFlags
	cmd := &cobra.Command{
		Use:   "mirror --to TARGET",
		Short: "Keep a verified copy of checkpoints elsewhere, incrementally",
		Long: `Bring a mirror of your checkpoints, or of a selection, up to date. TARGET is
` + mirrorTargetHelp + `.

What is there already is not fetched again: neither checkpoints nor files that
several of them share. Every file is checked against its SHA-256, and a
checkpoint's record appears when all of its bytes are there, so the mirror is
whole at any time. What is interrupted is continued by the same command. What
expires or is deleted on the server stays in the mirror, unless --prune is given.
'tinkex checkpoint restore' brings it back, 'mirror verify' reads it all again.

It is safe to run from cron: a second one to the same target fails at once and
says who is at work, and one with nothing to do prints nothing. A target belongs
to the account that was mirrored to it first.
` + selectionHelp + `
The paths of what is new in the mirror go to standard output. With -f json the
answer is {"target", "dry_run", "selected_count", "unchanged_count", "mirrored":
[{"tinker_path", "size_bytes", "fetched_bytes", "verified"}], "updated", "gone",
"failed": [{"tinker_path", "error"}], "left", "pruned", "fetched_bytes",
"freed_bytes"}; updated are those of which only the description changed, gone
those that vanished before they were fetched.
` + exitStatusHelp,
		Example: `  tinkex checkpoint mirror --to /backup/tinker
  tinkex checkpoint mirror --to 's3://backup?region=eu-central-1&prefix=tinker/' --name 'step-*'
  0 * * * *  tinkex checkpoint mirror --to /backup/tinker >/dev/null`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.to == "":
				return usagef("--to TARGET is required: a directory or a bucket's URL")
			case f.jobs < 1:
				return usagef("--jobs: %d: expected at least 1", f.jobs)
			case f.pruneEverything && !f.prune:
				return usagef("--all is for --prune")
			case f.prune && f.dryRun:
				return usagef("--prune and --dry-run cannot be combined; --dry-run tells what would be mirrored")
			}
			if err := f.parse(time.Now()); err != nil {
				return err
			}
			return a.checkpointMirror(cmd.Context(), &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "directory or bucket URL to mirror to (required)")
	flags.IntVar(&f.jobs, "jobs", 8, "how many connections to read from at once")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be mirrored, and do nothing")
	flags.BoolVar(&f.prune, "prune", false, "remove from the mirror what is no longer on the server")
	flags.BoolVar(&f.pruneEverything, "all", false, "with --prune: go ahead even if nothing at all is kept")
	flags.BoolVar(&f.rebind, "rebind", false, "make a target that belongs to another account this one's; what is in it stays")
	flags.StringVar(&f.workDir, "work-dir", "", "where downloads grow before they go to a bucket (default in the user's cache)")
	f.addFlags(cmd)
	cmd.AddCommand(a.checkpointMirrorVerifyCommand())
	return cmd
}

type mirrorJSON struct {
	Target       string         `json:"target"`
	DryRun       bool           `json:"dry_run"`
	Selected     int            `json:"selected_count"`
	Unchanged    int            `json:"unchanged_count"`
	Mirrored     []mirroredJSON `json:"mirrored"`
	Updated      []string       `json:"updated"`
	Gone         []string       `json:"gone"`
	Failed       []failedJSON   `json:"failed"`
	Left         []string       `json:"left"`
	Pruned       []string       `json:"pruned"`
	FetchedBytes int64          `json:"fetched_bytes"`
	FreedBytes   int64          `json:"freed_bytes"`
}

type mirroredJSON struct {
	TinkerPath   string `json:"tinker_path"`
	SizeBytes    int64  `json:"size_bytes"`
	FetchedBytes int64  `json:"fetched_bytes"`
	Verified     bool   `json:"verified"`
}

func pathStrings(paths []tinkex.TinkerPath) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p.String()
	}
	return out
}

func mirrorFailures(list []checkpoint.MirrorFailure) (out []failedJSON, errs []error) {
	out = []failedJSON{}
	for _, f := range list {
		out = append(out, failedJSON{f.Path.String(), f.Err.Error()})
		errs = append(errs, f.Err)
	}
	return out, errs
}

func (a *app) checkpointMirror(ctx context.Context, f *mirrorFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := f.resolve(ctx, client)
	if err != nil {
		return err
	}
	bars := a.bars(ctx)
	var moving *bar
	var notices []string
	opts := checkpoint.MirrorOptions{
		Selection: s, DryRun: f.dryRun, Prune: f.prune, PruneAll: f.pruneEverything, Rebind: f.rebind, WorkDir: f.workDir,
		Progress: func(p checkpoint.MirrorProgress) {
			if moving == nil && p.Total > 0 {
				moving = bars.add(plural(p.Total, "checkpoint"))
			}
			moving.set(p.Bytes, p.TotalBytes, 0)
		},
		Download: checkpoint.DownloadOptions{
			Jobs: f.jobs, Logger: a.logger(), Retries: downloadRetries,
			Notice: func(path tinkex.TinkerPath, message string) {
				if notice := fmt.Sprintf("%s: %s", path, message); bars == nil {
					a.say("%s", notice)
				} else {
					notices = append(notices, notice)
				}
			},
		},
	}
	m, err := checkpoint.Mirror(ctx, client, f.to, opts)
	moving.end(err == nil)
	bars.wait()
	for _, n := range notices {
		a.say("%s", n)
	}
	failed, errs := mirrorFailures(m.Failed)
	var partial *checkpoint.PartialError
	if err != nil && !errors.As(err, &partial) && len(m.Added)+len(m.Updated)+len(m.Pruned)+len(m.Left)+len(errs) == 0 {
		return err
	}
	if a.format == "json" {
		out := mirrorJSON{
			Target: m.Target, DryRun: f.dryRun, Selected: m.Selected, Unchanged: m.Unchanged, Mirrored: []mirroredJSON{},
			Updated: pathStrings(m.Updated), Gone: pathStrings(m.Gone), Failed: failed, Left: pathStrings(m.Left),
			Pruned: pathStrings(m.Pruned), FetchedBytes: m.FetchedBytes, FreedBytes: m.FreedBytes,
		}
		for _, c := range m.Added {
			out.Mirrored = append(out.Mirrored, mirroredJSON{c.Path.String(), c.SizeBytes, c.Fetched, c.Verified})
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, c := range m.Added {
			if err := a.print("%s\n", c.Path); err != nil {
				return err
			}
		}
		if ctx.Err() == nil {
			a.printErrors(errs)
		}
		a.sayMirrored(m, f)
	}
	switch {
	case ctx.Err() != nil:
		a.say("Interrupted; %s left. The same command goes on from here:\n  %s", plural(len(m.Left), "checkpoint"), a.again())
		return errors.Join(errSilent, ctx.Err())
	case err != nil && partial == nil:
		return err
	}
	return failedItems(errs, m.Selected)
}

// sayMirrored sums up, unless there is nothing to say and nobody watching.
func (a *app) sayMirrored(m checkpoint.Mirrored, f *mirrorFlags) {
	var total int64
	unverified := 0
	for _, c := range m.Added {
		total += c.SizeBytes
		if !c.Verified {
			unverified++
		}
	}
	switch {
	case m.Selected == 0 && len(m.Pruned) == 0:
		a.say("No checkpoints match.")
	case f.dryRun:
		a.say("Would mirror %s, %s at most, to %s; %d are there already.", plural(len(m.Added), "checkpoint"), size(total), m.Target, m.Unchanged+len(m.Updated))
	case m.Nothing():
		if a.StderrTerminal {
			a.say("Nothing to do: all %s are in %s.", plural(m.Selected, "checkpoint"), m.Target)
		}
	default:
		line := fmt.Sprintf("Mirrored %s of %s to %s, fetching %s; %d unchanged", plural(len(m.Added), "checkpoint"), size(total), m.Target, size(m.FetchedBytes), m.Unchanged)
		for _, also := range []struct {
			n    int
			what string
		}{
			{len(m.Updated), "updated"}, {len(m.Gone), "gone from the server meanwhile"}, {len(m.Failed), "failed"}, {len(m.Left), "left"},
			{len(m.Pruned), "removed"},
		} {
			if also.n > 0 {
				line += fmt.Sprintf(", %d %s", also.n, also.what)
			}
		}
		if m.FreedBytes > 0 {
			line += ", " + size(m.FreedBytes) + " freed"
		}
		a.say("%s.", line)
		if unverified > 0 {
			a.say("The server gave no digests for %s: the mirror has those of what arrived.", plural(unverified, "checkpoint"))
		}
	}
}

func (a *app) checkpointMirrorVerifyCommand() *cobra.Command {
	var (
		to     string
		jobs   int
		repair bool
	)
	cmd := &cobra.Command{
		Use:   "verify --to TARGET",
		Short: "Read a mirror again and compare every byte with its records",
		Long: `Read every file of a mirror again and compare it with the records: what is
missing or damaged, and of which checkpoints, and what nothing refers to. With
--repair damaged bytes are put aside, so that the next mirror fetches them anew.
No server is asked.

With -f json the answer is {"target", "intact", "checkpoints", "blobs", "bytes",
"missing": [{"tinker_path", "name", "sha256", "reason"}], "damaged": [...],
"damaged_records": [{"name", "reason"}], "extra", "put_aside"}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint mirror verify --to /backup/tinker",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case to == "":
				return usagef("--to TARGET is required: a directory or a bucket's URL")
			case jobs < 1:
				return usagef("--jobs: %d: expected at least 1", jobs)
			}
			return a.checkpointMirrorVerify(cmd.Context(), to, jobs, repair)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "directory or bucket URL of the mirror (required)")
	cmd.Flags().IntVar(&jobs, "jobs", 4, "how many files to read at once")
	cmd.Flags().BoolVar(&repair, "repair", false, "put damaged bytes aside, for the next mirror to fetch them anew")
	return cmd
}

type mirrorVerifiedJSON struct {
	Target      string                   `json:"target"`
	Intact      bool                     `json:"intact"`
	Checkpoints int                      `json:"checkpoints"`
	Blobs       int                      `json:"blobs"`
	Bytes       int64                    `json:"bytes"`
	Missing     []checkpoint.MirrorFault `json:"missing"`
	Damaged     []checkpoint.MirrorFault `json:"damaged"`
	Records     []checkpoint.Fault       `json:"damaged_records"`
	Extra       []string                 `json:"extra"`
	PutAside    []string                 `json:"put_aside"`
}

func (a *app) checkpointMirrorVerify(ctx context.Context, target string, jobs int, repair bool) error {
	bars := a.bars(ctx)
	reading := bars.add("reading")
	v, err := checkpoint.VerifyMirror(ctx, target, checkpoint.MirrorVerifyOptions{
		Jobs: jobs, Repair: repair, Progress: func(bytes int64) { reading.set(bytes, 0, 0) },
	})
	reading.end(err == nil)
	bars.wait()
	if err != nil {
		return err
	}
	if a.format == "json" {
		if err := a.printJSON(mirrorVerifiedJSON{
			v.Target, v.Intact(), v.Checkpoints, v.Blobs, v.Bytes,
			append([]checkpoint.MirrorFault{}, v.Missing...), append([]checkpoint.MirrorFault{}, v.Damaged...),
			append([]checkpoint.Fault{}, v.Records...), append([]string{}, v.Extra...), append([]string{}, v.PutAside...),
		}); err != nil {
			return err
		}
	} else if err := a.printMirrorVerification(v); err != nil {
		return err
	}
	if !v.Intact() {
		return errors.Join(errSilent, checkpoint.ErrNotIntact)
	}
	return nil
}

func (a *app) printMirrorVerification(v checkpoint.MirrorVerification) error {
	var lines []string
	for _, f := range v.Records {
		lines = append(lines, "damaged  "+f.Reason)
	}
	for _, f := range v.Missing {
		lines = append(lines, "missing  "+f.TinkerPath+" "+f.Name+": "+f.Reason)
	}
	for _, f := range v.Damaged {
		lines = append(lines, "damaged  "+f.TinkerPath+" "+f.Name+": "+f.Reason)
	}
	for _, name := range v.Extra {
		lines = append(lines, "extra    "+name)
	}
	for _, l := range lines {
		if err := a.print("%s\n", l); err != nil {
			return err
		}
	}
	verdict := "intact"
	if !v.Intact() {
		verdict = "NOT INTACT"
	}
	a.say("%s: %s; %s, %s in %s read.", v.Target, verdict, plural(v.Checkpoints, "checkpoint"), size(v.Bytes), plural(v.Blobs, "file"))
	switch {
	case len(v.PutAside) > 0:
		a.say("Put aside: %s. The next 'tinkex checkpoint mirror' fetches again what the server still has.", plural(len(v.PutAside), "damaged file"))
	case len(v.Damaged) > 0:
		a.say("Put what is damaged aside with --repair; the next 'tinkex checkpoint mirror' fetches it again if the server still has it.")
	case !v.Intact():
		a.say("The next 'tinkex checkpoint mirror' fetches it again if the server still has it.")
	}
	return nil
}
