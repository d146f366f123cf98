package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/registry"
)

// leastGrace is the shortest grace period beside a running server.
const leastGrace = time.Minute

func (a *app) gcCommand() *cobra.Command {
	var (
		f      storeFlags
		grace  time.Duration
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove stored bytes that no checkpoint refers to",
		Long: `Remove the blobs that no checkpoint, checkpoint in quarantine or upload refers to
from the stores of a server of your own. The server does so by itself
every hour; the command works beside it.

A save writes its blobs before the checkpoint that refers to them, so blobs
younger than --grace are kept. Less than a minute is refused while a server is
running, and with --db, where it cannot be told whether one is.

With -f json the answer is {"dry_run", "blobs", "bytes", "kept_blobs",
"kept_bytes"}; kept are unreferenced ones that are too young.
` + exitStatusHelp,
		Example: "  tinkex gc --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if grace < 0 {
				return usagef("--grace: %v is negative", grace)
			}
			where, err := f.stores()
			if err != nil {
				return err
			}
			return a.gc(cmd.Context(), where, grace, dryRun)
		},
	}
	f.add(cmd.Flags(), true)
	cmd.Flags().DurationVar(&grace, "grace", registry.DefaultGCGrace, "how old a blob must be to be removed; more than a save takes")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be removed and remove nothing")
	return cmd
}

func (a *app) gc(ctx context.Context, where node.Stores, grace time.Duration, dryRun bool) (err error) {
	s, err := openStores(ctx, where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if grace < leastGrace && !dryRun {
		release, err := keepServersOut(where)
		if err != nil {
			return usagef("--grace: %v is less than %v, which could take the bytes of a save in progress: %v", grace, leastGrace, err)
		}
		defer release()
	}
	g, err := registry.Collector{Meta: s.meta, Blobs: s.blobs, Grace: grace}.Collect(ctx, dryRun)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(struct {
			DryRun    bool  `json:"dry_run"`
			Blobs     int   `json:"blobs"`
			Bytes     int64 `json:"bytes"`
			KeptBlobs int   `json:"kept_blobs"`
			KeptBytes int64 `json:"kept_bytes"`
		}{dryRun, g.Blobs, g.Bytes, g.Young, g.YoungBytes})
	}
	verb := "Removed"
	if dryRun {
		verb = "Would remove"
	}
	if err := a.print("%s %s, %s.\n", verb, plural(g.Blobs, "unreferenced blob"), size(g.Bytes)); err != nil {
		return err
	}
	if g.Young > 0 {
		a.say("%s, %s, too young: kept until unreferenced for %v (--grace).", plural(g.Young, "more blob"), size(g.YoungBytes), grace)
	}
	return nil
}
