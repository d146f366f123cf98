package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

const runJSONHelp = `
A run is {"training_run_id", "base_model", "model_owner", "is_lora", "lora_rank",
"corrupted", "last_request_time", "last_checkpoint", "last_sampler_checkpoint",
"user_metadata", "resumed_from"}, with checkpoints as 'tinkex checkpoint list' has
them; what there is none of, or the server does not tell, is left out.
`

func (a *app) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run",
		Aliases: []string{"runs"},
		Short:   "List and inspect training runs",
		Long:    "List and inspect training runs.\n" + exitStatusHelp,
	}
	var limit, offset int
	var watch watchFlag
	list := &cobra.Command{
		Use: "list", Short: "List training runs, newest first",
		Long: `List your training runs, newest first.
` + watchHelp + `
With -f json the answer is {"training_runs": [...], "total_count": N}.
` + runJSONHelp + exitStatusHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 || offset < 0 {
				return usagef("--limit and --offset may not be negative; --limit 0 is all")
			}
			if err := watch.parse(); err != nil {
				return err
			}
			return a.runList(cmd.Context(), limit, offset, watch)
		},
	}
	list.Flags().IntVar(&limit, "limit", 20, "how many to show; 0 is all")
	list.Flags().IntVar(&offset, "offset", 0, "how many to skip")
	watch.add(list)
	info := &cobra.Command{
		Use: "info ID|PATH", Short: "Show a training run, by its id or a checkpoint's path", Args: cobra.ExactArgs(1),
		Long: `Show a training run, named by its id, by the path of one of its checkpoints, or latest.

With -f json the answer is the run.
` + runJSONHelp + exitStatusHelp,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runInfo(cmd.Context(), args[0]) },
	}
	cmd.AddCommand(list, info)
	return cmd
}

// runListJSON is the stable form of run list -f json.
type runListJSON struct {
	TrainingRuns []tinkex.TrainingRun `json:"training_runs"`
	TotalCount   int                  `json:"total_count"`
}

func (a *app) runList(ctx context.Context, limit, offset int, watch watchFlag) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	return a.show(ctx, watch, func(ctx context.Context) (shown, error) {
		list, err := fetchRuns(ctx, client, limit, offset)
		return shown{list, func(a *app) error { return a.printRuns(list, offset) }}, err
	})
}

func fetchRuns(ctx context.Context, client *tinkex.RestClient, limit, offset int) (runListJSON, error) {
	list := runListJSON{TrainingRuns: []tinkex.TrainingRun{}}
	if limit > 0 {
		page, err := client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: limit, Offset: offset})
		list.TrainingRuns, list.TotalCount = append(list.TrainingRuns, page.TrainingRuns...), page.Cursor.TotalCount
		return list, err
	}
	for r, err := range client.AllTrainingRuns(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return list, err
		}
		if list.TotalCount++; list.TotalCount > offset {
			list.TrainingRuns = append(list.TrainingRuns, r)
		}
	}
	return list, nil
}

func (a *app) printRuns(list runListJSON, offset int) error {
	if a.format == "json" {
		return a.printJSON(list)
	}
	if len(list.TrainingRuns) == 0 {
		a.say("No training runs%s.", beyond(offset))
		return nil
	}
	t := a.table("Base model", "LoRA", "Last request", "Last checkpoint", "Status", "Run").droppable("Last checkpoint", "LoRA")
	for _, r := range list.TrainingRuns {
		last := "-"
		if r.LastCheckpoint != nil {
			last = strings.TrimPrefix(r.LastCheckpoint.CheckpointID, "weights/")
		}
		t.row(r.BaseModel, rankOf(r), ago(r.LastRequestTime), last, statusOf(r), r.TrainingRunID)
	}
	if err := t.render(); err != nil {
		return err
	}
	if offset+len(list.TrainingRuns) < list.TotalCount {
		a.say("%d of %d; --limit 0 shows all.", len(list.TrainingRuns), list.TotalCount)
	}
	return nil
}

// beyond says after how many there is nothing.
func beyond(offset int) string {
	if offset == 0 {
		return ""
	}
	return fmt.Sprintf(" after the first %d", offset)
}

func rankOf(r tinkex.TrainingRun) string {
	switch {
	case !r.IsLoRA:
		return "no"
	case r.LoRARank == nil:
		return "yes"
	}
	return fmt.Sprintf("rank %d", *r.LoRARank)
}

func statusOf(r tinkex.TrainingRun) string {
	if r.Corrupted {
		return "lost steps"
	}
	return "ok"
}

func (a *app) runInfo(ctx context.Context, id string) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	given := id
	if strings.HasPrefix(id, tinkex.Scheme) {
		path, err := tinkex.ParseTinkerPath(id)
		if err != nil {
			return err
		}
		id = path.RunID
	}
	if id, err = a.resolver(client).run(ctx, id, given); err != nil {
		return err
	}
	r, err := client.GetTrainingRun(ctx, id)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(r)
	}
	rows := []string{
		"Run", r.TrainingRunID,
		"Base model", r.BaseModel,
		"Owner", r.ModelOwner,
		"LoRA", rankOf(r),
		"Last request", exactTime(r.LastRequestTime),
		"Status", statusOf(r),
	}
	if r.Corrupted {
		rows[len(rows)-1] = "steps were lost that no checkpoint holds; resume from the last one"
	}
	for _, c := range []struct {
		name string
		c    *tinkex.Checkpoint
	}{{"Last checkpoint", r.LastCheckpoint}, {"Last sampler checkpoint", r.LastSamplerCheckpoint}} {
		if c.c != nil {
			rows = append(rows, c.name, fmt.Sprintf("%s (%s, %s)", c.c.TinkerPath, sizeOf(c.c.SizeBytes), ago(c.c.Time)))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.UserMetadata)) {
		rows = append(rows, "Metadata "+k, r.UserMetadata[k])
	}
	return a.properties(rows...)
}
