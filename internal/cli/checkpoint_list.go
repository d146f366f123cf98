package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

type listFlags struct {
	runID         string
	limit, offset int
	filter        checkpointFilter
}

// checkpointListJSON is the stable form of checkpoint list -f json.
type checkpointListJSON struct {
	RunID       string              `json:"run_id,omitempty"`
	Checkpoints []tinkex.Checkpoint `json:"checkpoints"`
	// TotalCount counts what there is before filters, limit and offset.
	TotalCount int `json:"total_count"`
}

func (a *app) checkpointListCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List checkpoints, newest first",
		Long: `List your checkpoints, newest first.

With -f json the answer is {"checkpoints": [...], "total_count": N}; total_count
counts what there is before filters, limit and offset.
` + exitStatusHelp,
		Example: "  tinkex checkpoint list --limit 0\n  tinkex checkpoint list --run-id RUN --type weights -f json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.limit < 0 || f.offset < 0 {
				return usagef("--limit and --offset may not be negative; --limit 0 is all")
			}
			if err := f.filter.parse(); err != nil {
				return err
			}
			return a.checkpointList(cmd.Context(), &f)
		},
	}
	cmd.Flags().StringVar(&f.runID, "run-id", "", "only this training run's")
	cmd.Flags().IntVar(&f.limit, "limit", 20, "how many to show; 0 is all")
	cmd.Flags().IntVar(&f.offset, "offset", 0, "how many to skip")
	f.filter.addFlags(cmd)
	return cmd
}

func (a *app) checkpointList(ctx context.Context, f *listFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	list, total, err := selectCheckpoints(ctx, client, f)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(checkpointListJSON{RunID: f.runID, Checkpoints: list, TotalCount: total})
	}
	if len(list) == 0 {
		a.say("No checkpoints.")
		return nil
	}
	if err := a.checkpointTable(list); err != nil {
		return err
	}
	if !f.filter.set() && f.offset+len(list) < total {
		a.say("%d of %d; --limit 0 shows all.", len(list), total)
	}
	return nil
}

// selectCheckpoints fetches no more pages than the limit needs.
func selectCheckpoints(ctx context.Context, client *tinkex.RestClient, f *listFlags) ([]tinkex.Checkpoint, int, error) {
	list := []tinkex.Checkpoint{}
	if f.runID == "" && !f.filter.set() && f.limit > 0 {
		page, err := client.ListCheckpoints(ctx, tinkex.ListOptions{Limit: f.limit, Offset: f.offset})
		if err != nil {
			return nil, 0, err
		}
		total := len(page.Checkpoints)
		if page.Cursor != nil {
			total = page.Cursor.TotalCount
		}
		return append(list, page.Checkpoints...), total, nil
	}
	total, skip := 0, f.offset
	keep := func(c tinkex.Checkpoint) {
		total++
		if !f.filter.match(c) || f.limit > 0 && len(list) == f.limit {
			return
		}
		if skip > 0 {
			skip--
			return
		}
		list = append(list, c)
	}
	if f.runID != "" {
		page, err := client.ListRunCheckpoints(ctx, f.runID)
		if err != nil {
			return nil, 0, err
		}
		for _, c := range page.Checkpoints {
			keep(c)
		}
		return list, total, nil
	}
	for c, err := range client.AllCheckpoints(ctx, tinkex.PageOptions{PageSize: 1000}) {
		if err != nil {
			return nil, 0, err
		}
		keep(c)
	}
	return list, total, nil
}
