package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

func (a *app) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "checkpoint",
		Aliases: []string{"checkpoints", "ckpt"},
		Short:   "List, inspect, download, verify, import, export, copy, mirror, restore, share, expire, delete and prune checkpoints",
		Long: `Checkpoints are addressed by their tinker paths:

  tinker://<run-id>/weights/<name>           to resume training from
  tinker://<run-id>/sampler_weights/<name>   to sample from
` + latestHelp + exitStatusHelp,
	}
	cmd.AddCommand(
		a.checkpointListCommand(),
		a.checkpointInfoCommand(),
		a.checkpointDownloadCommand(),
		a.checkpointVerifyCommand(),
		a.checkpointImportCommand(),
		a.checkpointCopyCommand(),
		a.checkpointMirrorCommand(),
		a.checkpointRestoreCommand(),
		a.checkpointExportCommand(),
		a.checkpointPushHFCommand(),
		a.checkpointPublishCommand(),
		a.checkpointUnpublishCommand(),
		a.checkpointSetTTLCommand(),
		a.checkpointDeleteCommand(),
		a.checkpointPruneCommand(),
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
