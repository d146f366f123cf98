package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type copyFlags struct {
	name, runID, project, ttl string
	overwrite                 bool
}

func (a *app) checkpointCopyCommand() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "copy PATH",
		Short: "Copy a checkpoint on the server, without moving its bytes",
		Long: `Copy a checkpoint of yours, or a public one of somebody else's, to a private one
of yours. The server does it, and the two share their storage: no bytes move, and
tinkex du shows none added. The copy is of the same kind and, unless --name says
otherwise, name, in a run of its own that cannot be trained; training resumes
from it as from any other. It stays when the source expires or is deleted.

--name, --run-id and --overwrite need tinkex serve; the rest works wherever the
protocol's own copy call does.

The path of the copy goes to standard output. With -f json the answer is
{"source_path", "tinker_path"}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint copy tinker://RUN/weights/0001\n  tinkex checkpoint copy tinker://RUN/weights/0001 --name best --run-id RUN",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tinkex.ParseTinkerPath(args[0])
			if err != nil {
				return err
			}
			opts, err := f.options()
			if err != nil {
				return err
			}
			return a.checkpointCopy(cmd.Context(), path, opts)
		},
	}
	cmd.Flags().StringVar(&f.name, "name", "", "name of the copy (default the source's)")
	cmd.Flags().StringVar(&f.runID, "run-id", "", "a run of yours to copy into (default a new one)")
	cmd.Flags().StringVar(&f.project, "project", "", "project of the new run")
	cmd.Flags().StringVar(&f.ttl, "ttl", "", "time to live in seconds, or with a unit: 90m, 24h, 7d (default for ever)")
	cmd.Flags().BoolVar(&f.overwrite, "overwrite", false, "replace what has that name in the run")
	return cmd
}

func (f *copyFlags) options() (checkpoint.CopyOptions, error) {
	opts := checkpoint.CopyOptions{Name: f.name, RunID: f.runID, ProjectID: f.project, Overwrite: f.overwrite}
	switch {
	case f.runID != "" && f.project != "":
		return opts, usagef("--run-id and --project contradict each other: the run has its project")
	case f.overwrite && f.runID == "":
		return opts, usagef("--overwrite is for --run-id: in a run of its own there is nothing to replace")
	case f.name != "":
		if err := tinkex.ValidateName(f.name); err != nil {
			return opts, usagef("--name: %v", err)
		}
	}
	var err error
	if f.ttl != "" {
		opts.TTL, err = parseTTL(f.ttl)
	}
	return opts, err
}

func (a *app) checkpointCopy(ctx context.Context, path tinkex.TinkerPath, opts checkpoint.CopyOptions) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	r := a.resolver(client)
	if path, err = r.path(ctx, path); err != nil {
		return err
	}
	if opts.RunID, err = r.run(ctx, opts.RunID, "--run-id latest"); err != nil {
		return err
	}
	to, err := checkpoint.Copy(ctx, client, path, opts)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(struct {
			SourcePath string `json:"source_path"`
			TinkerPath string `json:"tinker_path"`
		}{path.String(), to.String()})
	}
	return a.print("%s\n", to)
}
