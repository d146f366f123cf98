package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

func (a *app) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "checkpoint",
		Aliases: []string{"checkpoints", "ckpt"},
		Short:   "List, inspect, download, verify, import, share, expire and delete checkpoints",
		Long: `Checkpoints are addressed by their tinker paths:

  tinker://<run-id>/weights/<name>           to resume training from
  tinker://<run-id>/sampler_weights/<name>   to sample from
` + exitStatusHelp,
	}
	cmd.AddCommand(
		a.checkpointListCommand(),
		a.checkpointInfoCommand(),
		a.checkpointDownloadCommand(),
		a.checkpointVerifyCommand(),
		a.checkpointImportCommand(),
		a.checkpointPublishCommand(),
		a.checkpointUnpublishCommand(),
		a.checkpointSetTTLCommand(),
		a.checkpointDeleteCommand(),
	)
	return cmd
}

// parsePaths parses every path before anything is done with one of them.
func parsePaths(args []string) ([]tinkex.TinkerPath, error) {
	paths := make([]tinkex.TinkerPath, len(args))
	for i, s := range args {
		p, err := tinkex.ParseTinkerPath(s)
		if err != nil {
			return nil, err
		}
		paths[i] = p
	}
	return paths, nil
}

// checkpointFilter selects among listed checkpoints.
type checkpointFilter struct {
	typ, before, after string

	kind  tinkex.CheckpointType
	until time.Time
	since time.Time
}

func (f *checkpointFilter) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.typ, "type", "", "only this type: weights or sampler_weights")
	cmd.Flags().StringVar(&f.before, "before", "", "only those saved before this time, e.g. 2026-01-31 or 2026-01-31T08:00:00Z (UTC unless it says)")
	cmd.Flags().StringVar(&f.after, "after", "", "only those saved after this time")
}

// parse checks the flags.
func (f *checkpointFilter) parse() error {
	var err error
	if f.typ != "" {
		if f.kind, err = tinkex.ParseCheckpointType(f.typ); err != nil {
			return usagef("--type: %q is not a type; use weights or sampler_weights", f.typ)
		}
	}
	if f.until, err = parseTime("--before", f.before); err != nil {
		return err
	}
	f.since, err = parseTime("--after", f.after)
	return err
}

func (f *checkpointFilter) set() bool { return f.typ != "" || f.before != "" || f.after != "" }

func (f *checkpointFilter) match(c tinkex.Checkpoint) bool {
	return (f.kind == "" || c.CheckpointType == f.kind) &&
		(f.until.IsZero() || c.Time.Before(f.until)) &&
		(f.since.IsZero() || c.Time.After(f.since))
}

// parseTime reads a time as people write it, in UTC unless it names a zone.
func parseTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s: %q is not a time; write 2026-01-31, 2026-01-31T08:00 or 2026-01-31T08:00:00Z", flag, s)
}

func expiresIn(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return ago(*at)
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// checkpointTable prints checkpoints. Paths come last: they are long, and
// people copy them whole.
func (a *app) checkpointTable(list []tinkex.Checkpoint) error {
	t := a.table("Type", "Size", "Public", "Created", "Expires", "Path")
	for _, c := range list {
		t.row(strings.TrimSuffix(c.CheckpointType.Segment(), "_weights"), sizeOf(c.SizeBytes), yesNo(c.Public), ago(c.Time), expiresIn(c.ExpiresAt), c.TinkerPath)
	}
	return t.render()
}
