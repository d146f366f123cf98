package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type downloadFlags struct {
	output string
	force  bool
	jobs   int
}

func (a *app) checkpointDownloadCommand() *cobra.Command {
	var f downloadFlags
	cmd := &cobra.Command{
		Use:   "download PATH...",
		Short: "Download checkpoints and unpack them",
		Long: `Download checkpoints, each into a directory of its own,
<output>/<run-id>_<kind>_<name>, which appears only once it is complete. What is
interrupted is continued by the same command: until then the files are in a
hidden directory, .<run-id>_<kind>_<name>.partial.

A tinkex server tells every file's SHA-256, and each file is checked while it is
written. Other servers give an archive; what can be checked of that is checked.
'tinkex checkpoint verify' checks again later.
` + latestHelp + `
With -f json the answer is {"downloaded": [{"tinker_path", "destination",
"size_bytes", "fetched_bytes", "verified", "files": [{"name", "size_bytes",
"sha256"}]}], "failed": [{"tinker_path", "error"}]}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint download tinker://RUN/weights/0001 -o ./models",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.jobs < 1 {
				return usagef("--jobs: %d: expected at least 1", f.jobs)
			}
			paths, err := parsePaths(args)
			if err != nil {
				return err
			}
			return a.checkpointDownload(cmd.Context(), paths, f)
		},
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", ".", "directory to make the checkpoints' directories in")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace a directory that is there, once the new one is complete")
	cmd.Flags().IntVar(&f.jobs, "jobs", 8, "how many connections to read from at once, for all checkpoints together")
	return cmd
}

type downloadedJSON struct {
	Downloaded []downloadJSON `json:"downloaded"`
	Failed     []failedJSON   `json:"failed"`
}

type downloadJSON struct {
	TinkerPath   string            `json:"tinker_path"`
	Destination  string            `json:"destination"`
	SizeBytes    int64             `json:"size_bytes"`
	FetchedBytes int64             `json:"fetched_bytes"`
	Verified     bool              `json:"verified"`
	Files        []checkpoint.File `json:"files"`
}

// downloadMemory is what the runtime may use, in bytes, before it collects
// garbage: the window that a download reads into and some room. Without it, it
// would let garbage grow to the size of the window.
const downloadMemory = 38 << 20

// downloadRetries is how often in a row a request of a download may fail: about
// a minute's worth. A download is worth more patience than a question.
const downloadRetries = 8

func (a *app) checkpointDownload(ctx context.Context, paths []tinkex.TinkerPath, f downloadFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if paths, err = a.resolver(client).paths(ctx, paths); err != nil {
		return err
	}
	slices.SortFunc(paths, func(p, q tinkex.TinkerPath) int { return strings.Compare(p.String(), q.String()) })
	paths = slices.Compact(paths)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(downloadMemory))
	bars := a.bars(ctx)
	if len(paths) > 1 {
		bars.addTotal()
	}
	byPath := map[tinkex.TinkerPath]*bar{}
	for i, label := range shortLabels(paths) {
		byPath[paths[i]] = bars.add(label)
	}
	var notices []string
	results := checkpoint.DownloadAll(ctx, client, paths, checkpoint.DownloadOptions{
		Dir: f.output, Force: f.force, Jobs: f.jobs, Logger: a.logger(), Retries: downloadRetries,
		Progress: func(now checkpoint.Progress) {
			byPath[now.Path].set(now.Bytes, now.Total, now.Resumed)
			if now.Bytes == now.Total {
				byPath[now.Path].end(true)
			}
		},
		Notice: func(path tinkex.TinkerPath, message string) {
			if notice := fmt.Sprintf("%s: %s", path, message); !bars.drawn() {
				a.say("%s", notice)
			} else {
				notices = append(notices, notice)
			}
		},
	})
	out := downloadedJSON{Downloaded: []downloadJSON{}, Failed: []failedJSON{}}
	var errs []error
	for i, r := range results {
		byPath[paths[i]].end(r.Err == nil)
		if r.Err != nil {
			errs = append(errs, r.Err)
			out.Failed = append(out.Failed, failedJSON{paths[i].String(), r.Err.Error()})
			continue
		}
		out.Downloaded = append(out.Downloaded, downloadJSON{
			TinkerPath: r.Path.String(), Destination: r.Dir, SizeBytes: r.SizeBytes,
			FetchedBytes: r.Fetched, Verified: r.Verified, Files: r.Files,
		})
	}
	bars.wait()
	for _, n := range notices {
		a.say("%s", n)
	}
	if a.format == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else if err := a.printDownloaded(ctx, out.Downloaded, errs); err != nil {
		return err
	}
	if ctx.Err() != nil {
		a.say("Interrupted. The same command goes on from here:\n  %s", a.again())
		return errors.Join(errSilent, ctx.Err())
	}
	return failedItems(errs, len(paths))
}

func (a *app) printDownloaded(ctx context.Context, done []downloadJSON, errs []error) error {
	for _, d := range done {
		checked := "every SHA-256 matches"
		if !d.Verified {
			checked = "the server gave no digests to check against"
		}
		again := ""
		if before := d.SizeBytes - d.FetchedBytes; before > 0 && d.Verified {
			again = fmt.Sprintf(", %s of it from before", size(before))
		}
		a.say("%s: %s in %s%s; %s", d.TinkerPath, size(d.SizeBytes), plural(len(d.Files), "file"), again, checked)
		if err := a.print("%s\n", d.Destination); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		a.printErrors(errs)
		if slices.ContainsFunc(errs, func(e error) bool { return a.networkHint(e) != "" }) {
			a.say("The same command goes on where this one stopped:\n  %s", a.again())
		}
	}
	return nil
}

// shortLabels names checkpoints as briefly as tells them apart: by their names
// within one run, and with the beginning of the run's id else.
func shortLabels(paths []tinkex.TinkerPath) []string {
	labels := make([]string, len(paths))
	for i, p := range paths {
		labels[i] = p.CheckpointID()
		if p.RunID != paths[0].RunID {
			for j, q := range paths {
				labels[j] = q.RunID[:min(8, len(q.RunID))] + " " + q.CheckpointID()
			}
			return labels
		}
	}
	return labels
}
