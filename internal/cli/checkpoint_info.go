package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// ReadableBy is "owner" or "everybody".
	ReadableBy string `json:"readable_by"`
	// ResumedFrom is the checkpoint that the run began with.
	ResumedFrom string              `json:"resumed_from,omitempty"`
	TrainingRun *tinkex.TrainingRun `json:"training_run,omitempty"`
	// Digest and Files are told by servers of this project.
	Digest string     `json:"digest,omitempty"`
	Files  []infoFile `json:"files,omitempty"`
}

type infoFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size_bytes"`
	SHA256 string `json:"sha256"`
}

func (a *app) checkpointInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info PATH",
		Short: "Show a checkpoint and how it was trained",
		Long: `Show a checkpoint of your own, or what others may know of a public one: its run,
its LoRA configuration, its files with sizes and digests (on servers that tell
them), when it expires, who can read it, and where its run was resumed from.
` + latestHelp + `
With -f json the answer has the members of 'tinkex checkpoint list' and
{"training_run_id", "owned", "is_lora", "lora_rank", "train_attn", "train_mlp",
"train_unembed", "readable_by": "owner" or "everybody", "resumed_from",
"training_run": {...}, "digest", "files": [{"name", "size_bytes", "sha256"}]};
what the server does not tell is left out.
` + exitStatusHelp,
		Args: cobra.ExactArgs(1),
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
	if path, err = a.resolver(client).path(ctx, path); err != nil {
		return err
	}
	info, weights, err := readCheckpointInfo(ctx, client, path)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(info)
	}
	if err := a.properties(info.rows(path, weights)...); err != nil || len(info.Files) == 0 {
		return err
	}
	if err := a.print("\n"); err != nil {
		return err
	}
	t := a.table("File", "Size", "SHA-256")
	for _, f := range info.Files {
		t.row(f.Name, size(f.Size), f.SHA256)
	}
	return t.render()
}

// readCheckpointInfo asks for all there is to know of a checkpoint.
func readCheckpointInfo(ctx context.Context, client *tinkex.RestClient, path tinkex.TinkerPath) (checkpointInfoJSON, tinkex.WeightsInfo, error) {
	info := checkpointInfoJSON{TrainingRunID: path.RunID}
	weights, err := client.WeightsInfo(ctx, path)
	if err != nil {
		return info, weights, err
	}
	info.IsLoRA, info.LoRARank = weights.IsLoRA, weights.LoRARank
	info.TrainAttn, info.TrainMLP, info.TrainUnembed = weights.TrainAttn, weights.TrainMLP, weights.TrainUnembed
	info.Checkpoint = tinkex.Checkpoint{CheckpointID: path.CheckpointID(), CheckpointType: path.Type, TinkerPath: path.String(), Public: true}
	list, err := client.ListRunCheckpoints(ctx, path.RunID)
	switch {
	case errors.Is(err, tinkex.ErrNotFound), errors.Is(err, tinkex.ErrForbidden):
		// Somebody else's, and public.
	case err != nil:
		return info, weights, err
	default:
		for _, c := range list.Checkpoints {
			if c.TinkerPath == path.String() {
				info.Checkpoint, info.Owned = c, true
			}
		}
	}
	info.BaseModel = weights.BaseModel
	info.ReadableBy = "owner"
	if info.Public {
		info.ReadableBy = "everybody"
	}
	if err := info.addRun(ctx, client, path); err != nil {
		return info, weights, err
	}
	return info, weights, info.addFiles(ctx, client, path)
}

// addRun adds what only the owner may know of the run.
func (info *checkpointInfoJSON) addRun(ctx context.Context, client *tinkex.RestClient, path tinkex.TinkerPath) error {
	if !info.Owned {
		return nil
	}
	r, err := client.GetTrainingRun(ctx, path.RunID)
	if errors.Is(err, tinkex.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info.TrainingRun, info.ResumedFrom = &r, r.ResumedFrom
	return nil
}

// addFiles adds the manifest, if the server has one.
func (info *checkpointInfoJSON) addFiles(ctx context.Context, client *tinkex.RestClient, path tinkex.TinkerPath) error {
	m, err := client.Manifest(ctx, path)
	if errors.Is(err, tinkex.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info.Digest = m.Digest
	if info.SizeBytes == nil {
		info.SizeBytes = &m.SizeBytes
	}
	for _, f := range m.Files {
		info.Files = append(info.Files, infoFile{f.Name, f.SizeBytes, f.SHA256})
	}
	return nil
}

// rows are what people are shown, without the files.
func (info *checkpointInfoJSON) rows(path tinkex.TinkerPath, weights tinkex.WeightsInfo) []string {
	readers := "you only"
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
	}
	if info.ResumedFrom != "" {
		rows = append(rows, "Run resumed from", info.ResumedFrom)
	}
	rows = append(rows,
		"Base model", info.BaseModel,
		"LoRA", loraOf(weights),
		"Readable by", readers,
	)
	if info.SizeBytes != nil {
		rows = append(rows, "Size", exactSize(info.SizeBytes))
	}
	if info.Digest != "" {
		rows = append(rows, "Digest", info.Digest)
	}
	if r := info.TrainingRun; r != nil {
		rows = append(rows, "Run's last request", exactTime(r.LastRequestTime))
		if r.Corrupted {
			rows = append(rows, "Run", "lost steps that no checkpoint holds")
		}
	}
	if info.Owned {
		rows = append(rows, "Created", exactTime(info.Time), "Expires", expiryOf(info.ExpiresAt))
	}
	for _, k := range slices.Sorted(maps.Keys(info.UserMetadata)) {
		rows = append(rows, "Metadata "+k, info.UserMetadata[k])
	}
	return rows
}

func expiryOf(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return exactTime(*at)
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
