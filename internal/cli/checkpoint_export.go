package cli

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type exportFlags struct {
	output string
	noCard bool
	force  bool
	jobs   int
}

func (a *app) checkpointExportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export PATH",
		Short: "Write a checkpoint as PEFT and the Hugging Face Hub take it",
		Long: `Write a checkpoint as PEFT and the Hugging Face Hub take it: the adapter, whose
adapter_config.json names the base model, and README.md, a model card that says
where it comes from. An optimizer's state is left out. What peft loads is the
directory itself:

  AutoPeftModelForCausalLM.from_pretrained("my-adapter")

The files are fetched and verified as 'tinkex checkpoint download' does, and the
directory appears complete or not at all; what is interrupted is continued by
the same command. 'tinkex checkpoint push-hf' does both and uploads it.

The directory goes to standard output. With -f json the answer is
{"tinker_path", "destination", "base_model", "size_bytes", "verified", "files":
[{"name", "size_bytes", "sha256"}]}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint export tinker://RUN/sampler_weights/final -o my-adapter",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.jobs < 1 {
				return usagef("--jobs: %d: expected at least 1", f.jobs)
			}
			if cmd.Flags().Changed("output") && f.output == "" {
				return usagef("--output: it is empty: expected the directory to make")
			}
			paths, err := parsePaths(args)
			if err != nil {
				return err
			}
			return a.checkpointExport(cmd.Context(), paths[0], f)
		},
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "the adapter's directory, which is made (default <run-id>_<kind>_<name>)")
	cmd.Flags().BoolVar(&f.noCard, "no-model-card", false, "do not write a README.md")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace a checkpoint's directory that is there, once the new one is complete")
	cmd.Flags().IntVar(&f.jobs, "jobs", 8, "how many connections to read from at once")
	return cmd
}

type exportedJSON struct {
	TinkerPath  string            `json:"tinker_path"`
	Destination string            `json:"destination"`
	BaseModel   string            `json:"base_model"`
	SizeBytes   int64             `json:"size_bytes"`
	Verified    bool              `json:"verified"`
	Files       []checkpoint.File `json:"files"`
}

// fetching is how a checkpoint is fetched for something else, with a bar.
func (a *app) fetching(bars *bars, jobs int) (opts checkpoint.DownloadOptions, end func(done bool)) {
	var b *bar
	complete := false
	opts = checkpoint.DownloadOptions{
		Jobs: jobs, Logger: a.logger(), Retries: downloadRetries,
		Progress: func(now checkpoint.Progress) {
			if b == nil {
				b = bars.add("fetching")
			}
			b.set(now.Bytes, now.Total, now.Resumed)
			if now.Bytes == now.Total && !complete {
				complete = true
				b.end(true)
			}
		},
		Notice: func(_ tinkex.TinkerPath, message string) {
			if bars == nil {
				a.say("%s", message)
			}
		},
	}
	return opts, func(done bool) {
		if !complete {
			b.end(done)
		}
	}
}

func (a *app) checkpointExport(ctx context.Context, path tinkex.TinkerPath, f exportFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if path, err = a.resolver(client).path(ctx, path); err != nil {
		return err
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(downloadMemory))
	bars := a.bars(ctx)
	download, end := a.fetching(bars, f.jobs)
	start := time.Now()
	d, err := checkpoint.Export(ctx, client, path, checkpoint.ExportOptions{
		Dir: f.output, Force: f.force, NoModelCard: f.noCard, Download: download,
	})
	end(err == nil)
	bars.wait()
	if ctx.Err() != nil {
		a.say("Interrupted. The same command goes on from here:\n  %s", a.again())
		return errors.Join(errSilent, ctx.Err())
	}
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(exportedJSON{path.String(), d.Dir, d.BaseModel, d.SizeBytes, d.Verified, d.Files})
	}
	checked := "every SHA-256 matched"
	if !d.Verified {
		checked = "the server gave no digests to check against"
	}
	a.say("Exported %s in %s in %v; %s.", size(d.SizeBytes), plural(len(d.Files), "file"), time.Since(start).Round(time.Millisecond), checked)
	if d.BaseModel == "" {
		a.say("Nothing says which base model it is for: name it in README.md.")
	}
	return a.print("%s\n", d.Dir)
}
