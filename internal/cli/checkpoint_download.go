package cli

import (
	"context"
	"sync"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sync/errgroup"

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
		Long: `Download checkpoints. Each is unpacked into a directory of its own,
<output>/<run-id>_<kind>_<name>, which appears only once it is complete.

With -f json the answer is {"downloaded": [{"tinker_path", "destination",
"size_bytes", "files": [{"name", "size_bytes", "sha256"}]}], "failed": [...]}.
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
	cmd.Flags().IntVar(&f.jobs, "jobs", 4, "how many checkpoints to download at once")
	return cmd
}

type downloadedJSON struct {
	Downloaded []downloadJSON `json:"downloaded"`
	Failed     []failedJSON   `json:"failed"`
}

type downloadJSON struct {
	TinkerPath  string     `json:"tinker_path"`
	Destination string     `json:"destination"`
	SizeBytes   int64      `json:"size_bytes"`
	Files       []fileJSON `json:"files"`
}

type fileJSON struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
}

func (a *app) checkpointDownload(ctx context.Context, paths []tinkex.TinkerPath, f downloadFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	bars := a.bars(ctx)
	out := downloadedJSON{Downloaded: []downloadJSON{}, Failed: []failedJSON{}}
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(f.jobs)
	for _, p := range paths {
		g.Go(func() error {
			bar := bars.add(p.DirName())
			d, err := checkpoint.Download(ctx, client, p, checkpoint.DownloadOptions{
				Dir: f.output, Force: f.force,
				Progress: func(now checkpoint.Progress) { bar.set(now.Bytes, now.Total) },
			})
			bar.end(err == nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				out.Failed = append(out.Failed, failedJSON{p.String(), err.Error()})
				return nil
			}
			j := downloadJSON{TinkerPath: p.String(), Destination: d.Dir, SizeBytes: d.SizeBytes}
			for _, file := range d.Files {
				j.Files = append(j.Files, fileJSON{file.Name, file.Size, file.SHA256})
			}
			out.Downloaded = append(out.Downloaded, j)
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
	bars.wait()
	if a.format == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, d := range out.Downloaded {
			a.say("%s, %s in %s", d.TinkerPath, size(d.SizeBytes), plural(len(d.Files), "file"))
			if err := a.print("%s\n", d.Destination); err != nil {
				return err
			}
		}
		for _, e := range errs {
			a.printError(ctx, e)
		}
	}
	return failedItems(errs, len(paths))
}

// bars draws progress on a terminal's standard error, and nowhere else.
type bars struct{ p *mpb.Progress }

type bar struct{ b *mpb.Bar }

func (a *app) bars(ctx context.Context) bars {
	if !a.StderrTerminal || a.format == "json" {
		return bars{}
	}
	return bars{mpb.NewWithContext(ctx, mpb.WithOutput(a.Stderr), mpb.WithAutoRefresh())}
}

func (b bars) add(name string) bar {
	if b.p == nil {
		return bar{}
	}
	return bar{b.p.AddBar(0,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Name(name+" ", decor.WCSyncSpaceR), decor.Counters(decor.SizeB1024(0), "% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), decor.Name(" "), decor.EwmaETA(decor.ET_STYLE_GO, 30)),
	)}
}

func (b bar) set(bytes, total int64) {
	if b.b == nil {
		return
	}
	if total > 0 {
		b.b.SetTotal(total, false)
	}
	b.b.SetCurrent(bytes)
}

func (b bar) end(done bool) {
	switch {
	case b.b == nil:
	case done:
		b.b.SetTotal(-1, true)
	default:
		b.b.Abort(false)
	}
}

func (b bars) wait() {
	if b.p != nil {
		b.p.Wait()
	}
}
