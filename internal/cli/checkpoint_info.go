package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

// checkpointInfoJSON is the stable form of checkpoint info -f json. What the
// server tells only the checkpoint's owner is left out for others.
type checkpointInfoJSON struct {
	tinkex.Checkpoint
	TrainingRunID string `json:"training_run_id"`
	Owned         bool   `json:"owned"`
	IsLoRA        bool   `json:"is_lora"`
	LoRARank      *int   `json:"lora_rank,omitempty"`
	TrainAttn     *bool  `json:"train_attn,omitempty"`
	TrainMLP      *bool  `json:"train_mlp,omitempty"`
	TrainUnembed  *bool  `json:"train_unembed,omitempty"`
}

func (a *app) checkpointInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info PATH",
		Short: "Show a checkpoint and how it was trained",
		Long:  "Show a checkpoint of your own, or what others may know of a public one.\n" + exitStatusHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tinkex.ParseTinkerPath(args[0])
			if err != nil {
				return err
			}
			return a.checkpointInfo(cmd.Context(), path)
		},
	}
}

func (a *app) checkpointInfo(ctx context.Context, path tinkex.TinkerPath) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	info := checkpointInfoJSON{TrainingRunID: path.RunID}
	weights, err := client.WeightsInfo(ctx, path)
	if err != nil {
		return err
	}
	info.IsLoRA, info.LoRARank = weights.IsLoRA, weights.LoRARank
	info.TrainAttn, info.TrainMLP, info.TrainUnembed = weights.TrainAttn, weights.TrainMLP, weights.TrainUnembed
	info.Checkpoint = tinkex.Checkpoint{CheckpointID: path.CheckpointID(), CheckpointType: path.Type, TinkerPath: path.String(), Public: true}
	list, err := client.ListRunCheckpoints(ctx, path.RunID)
	switch {
	case errors.Is(err, tinkex.ErrNotFound), errors.Is(err, tinkex.ErrForbidden):
		// Somebody else's, and public.
	case err != nil:
		return err
	default:
		for _, c := range list.Checkpoints {
			if c.TinkerPath == path.String() {
				info.Checkpoint, info.Owned = c, true
			}
		}
	}
	info.BaseModel = weights.BaseModel
	if a.format == "json" {
		return a.printJSON(info)
	}
	readers := "you"
	switch {
	case !info.Owned:
		readers = "everybody; it is somebody else's"
	case info.Public:
		readers = "everybody"
	}
	rows := []string{
		"Path", path.String(),
		"Type", path.Type.Segment(),
		"Training run", path.RunID,
		"Base model", info.BaseModel,
		"LoRA", loraOf(weights),
		"Readable by", readers,
	}
	if info.Owned {
		rows = append(rows,
			"Size", exactSize(info.SizeBytes),
			"Created", exactTime(info.Time),
		)
		if info.ExpiresAt == nil {
			rows = append(rows, "Expires", "never")
		} else {
			rows = append(rows, "Expires", exactTime(*info.ExpiresAt))
		}
		for k, v := range info.UserMetadata {
			rows = append(rows, "Metadata "+k, v)
		}
	}
	return a.properties(rows...)
}

func loraOf(w tinkex.WeightsInfo) string {
	if !w.IsLoRA {
		return "no"
	}
	s := "yes"
	if w.LoRARank != nil {
		s = fmt.Sprintf("rank %d", *w.LoRARank)
	}
	var parts []string
	for _, p := range []struct {
		name string
		on   *bool
	}{{"attention", w.TrainAttn}, {"MLP", w.TrainMLP}, {"unembedding", w.TrainUnembed}} {
		if p.on != nil && *p.on {
			parts = append(parts, p.name)
		}
	}
	if len(parts) > 0 {
		s += ", on " + strings.Join(parts, ", ")
	}
	return s
}

func exactSize(n *int64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprintf("%s (%d bytes)", size(*n), *n)
}

func exactTime(t time.Time) string {
	return fmt.Sprintf("%s (%s)", t.UTC().Format(time.RFC3339), ago(t))
}
