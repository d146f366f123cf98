package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/mirror"
)

type importFlags struct {
	name      string
	types     []string
	baseModel string
	runID     string
	overwrite bool
	ttl       string
	jobs      int
}

func (a *app) checkpointImportCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import (DIR --name NAME | MIRROR)",
		Short: "Make checkpoints of a PEFT adapter directory, or of a mirror",
		Long: `Make checkpoints of a PEFT adapter directory: adapter_config.json,
adapter_model.safetensors and, if it is there, optimizer_state.safetensors as
tinkex saves it. By default it becomes a checkpoint to resume training from and
one to sample from, in a run of its own.

Only what the server does not have is sent. The checkpoints appear once all of
it is there; a command that was cut short goes on where it stopped if it is run
again within a day. The server must be tinkex serve.

A mirror's directory or bucket URL in place of DIR brings back all that is in it, as
'tinkex checkpoint restore --from MIRROR' does, which can select and has that JSON;
--name and --base-model are for adapters: a mirror's checkpoints keep theirs.

The paths of the checkpoints go to standard output. With -f json the answer is
{"checkpoints": [...], "training_run_id", "files": [{"name", "size_bytes",
"sha256"}], "sent_bytes", "ignored": [...]}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint import ./my-adapter --name from-peft\n  tinkex checkpoint import ./my-adapter --name from-peft --type sampler_weights --base-model Qwen/Qwen3-0.6B",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isMirror(args[0]) {
				opts, err := f.restoreOptions()
				if err != nil {
					return err
				}
				return a.checkpointRestore(cmd.Context(), args[0], opts)
			}
			opts, err := f.options()
			if err != nil {
				return err
			}
			return a.checkpointImport(cmd.Context(), args[0], opts)
		},
	}
	cmd.Flags().StringVar(&f.name, "name", "", "name of the checkpoints (required)")
	cmd.Flags().StringSliceVar(&f.types, "type", nil, "only this type: weights or sampler_weights (default both)")
	cmd.Flags().StringVar(&f.baseModel, "base-model", "", "the server's base model that the adapter is for (default what adapter_config.json says)")
	cmd.Flags().StringVar(&f.runID, "run-id", "", "a run of yours to import into, or latest (default a new one)")
	cmd.Flags().BoolVar(&f.overwrite, "overwrite", false, "replace checkpoints of that name in the run")
	cmd.Flags().StringVar(&f.ttl, "ttl", "", "time to live in seconds, or with a unit: 90m, 24h, 7d (default for ever)")
	cmd.Flags().IntVar(&f.jobs, "jobs", checkpoint.DefaultImportJobs, "how many uploads to have on their way at once")
	return cmd
}

// isMirror reports whether an import is of a mirror rather than an adapter.
func isMirror(source string) bool {
	if strings.Contains(source, "://") {
		return true
	}
	_, err := os.Stat(filepath.Join(source, mirror.HeaderFile))
	return err == nil
}

// restoreOptions are those of the import of a mirror.
func (f *importFlags) restoreOptions() (checkpoint.RestoreOptions, error) {
	switch {
	case f.name != "":
		return checkpoint.RestoreOptions{}, usagef("--name is for adapters: the checkpoints of a mirror keep their names; 'tinkex checkpoint restore --from MIRROR --name PATTERN' selects by them")
	case f.baseModel != "":
		return checkpoint.RestoreOptions{}, usagef("--base-model is for adapters: the checkpoints of a mirror keep theirs")
	case f.runID == latest:
		return checkpoint.RestoreOptions{}, usagef("--run-id latest: give a run's id to bring a mirror into")
	}
	parsed := *f
	parsed.name = "any"
	opts, err := parsed.options()
	return checkpoint.RestoreOptions{
		Selection: checkpoint.Selection{Types: opts.Types}, ToRun: opts.RunID, Overwrite: opts.Overwrite, TTL: opts.TTL, Jobs: opts.Jobs,
	}, err
}

func (f *importFlags) options() (checkpoint.ImportOptions, error) {
	opts := checkpoint.ImportOptions{Name: f.name, BaseModel: f.baseModel, RunID: f.runID, Overwrite: f.overwrite, Jobs: f.jobs}
	if f.name == "" {
		return opts, usagef("--name NAME is required: what the checkpoints are to be called")
	}
	if err := tinkex.ValidateName(f.name); err != nil {
		return opts, usagef("--name: %v", err)
	}
	if f.jobs < 1 {
		return opts, usagef("--jobs: %d: expected at least 1", f.jobs)
	}
	for _, s := range f.types {
		t, err := tinkex.ParseCheckpointType(s)
		if err != nil || t == tinkex.External {
			return opts, usagef("--type: %q cannot be imported as; use weights or sampler_weights", s)
		}
		opts.Types = append(opts.Types, t)
	}
	var err error
	if f.ttl != "" {
		opts.TTL, err = parseTTL(f.ttl)
	}
	return opts, err
}

type importedJSON struct {
	Checkpoints   []tinkex.Checkpoint `json:"checkpoints"`
	TrainingRunID string              `json:"training_run_id"`
	Files         []checkpoint.File   `json:"files"`
	SentBytes     int64               `json:"sent_bytes"`
	Ignored       []string            `json:"ignored"`
}

func (a *app) checkpointImport(ctx context.Context, dir string, opts checkpoint.ImportOptions) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if opts.RunID, err = a.resolver(client).run(ctx, opts.RunID, "--run-id latest"); err != nil {
		return err
	}
	bars := a.bars(ctx)
	hashing := bars.add("reading")
	var sending *bar
	opts.Progress = func(p checkpoint.ImportProgress) {
		hashing.set(p.Hashed, p.Total, 0)
		if p.ToSend <= 0 {
			return
		}
		if sending == nil {
			sending = bars.add("sending")
		}
		sending.set(p.Sent, p.ToSend, 0)
	}
	start := time.Now()
	d, err := checkpoint.Import(ctx, client, dir, opts)
	hashing.end(err == nil)
	sending.end(err == nil)
	bars.wait()
	if err != nil && ctx.Err() != nil {
		a.say("Interrupted; no checkpoint was made. What was sent is kept for a day, and the same command goes on from there:\n  %s", a.again())
		return errors.Join(errSilent, err)
	}
	if err != nil {
		return err
	}
	if a.format == "json" {
		out := importedJSON{
			Checkpoints: d.Checkpoints, TrainingRunID: d.TrainingRunID, SentBytes: d.SentBytes,
			Files: d.Files, Ignored: append([]string{}, d.Ignored...),
		}
		return a.printJSON(out)
	}
	var total int64
	for _, f := range d.Files {
		total += f.Size
	}
	a.say("Imported %s in %s, of which %s had to be sent, in %v.", size(total), plural(len(d.Files), "file"), size(d.SentBytes), time.Since(start).Round(time.Millisecond))
	if len(d.Ignored) > 0 {
		a.say("Not part of an adapter and left alone: %s.", strings.Join(d.Ignored, ", "))
	}
	for _, c := range d.Checkpoints {
		if err := a.print("%s\n", c.TinkerPath); err != nil {
			return err
		}
	}
	return nil
}
