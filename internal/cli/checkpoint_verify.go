package cli

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex/checkpoint"
)

func (a *app) checkpointVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR...",
		Short: "Check downloaded checkpoints against their manifests",
		Long: `Read every file of downloaded checkpoints again and compare it with the manifest
that the download kept beside them (` + checkpoint.ManifestFile + `). Missing, changed and
extra files are told apart; safetensors headers are checked against their files.
It needs no server.

With -f json the answer is {"verified": [{"directory", "tinker_path", "intact",
"digests", "files_checked", "bytes_checked", "missing", "changed": [{"name",
"reason"}], "extra", "damaged"}], "failed": [{"directory", "error"}]}; digests is
"server", "download" (the server gave none; they are of what arrived) or "none".
` + exitStatusHelp,
		Example: "  tinkex checkpoint verify ./models/*",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.checkpointVerify(cmd.Context(), args) },
	}
}

type verifiedJSON struct {
	Directory  string                  `json:"directory"`
	TinkerPath string                  `json:"tinker_path,omitempty"`
	Intact     bool                    `json:"intact"`
	Digests    checkpoint.DigestSource `json:"digests"`
	Checked    int                     `json:"files_checked"`
	Bytes      int64                   `json:"bytes_checked"`
	Missing    []string                `json:"missing"`
	Changed    []checkpoint.Fault      `json:"changed"`
	Extra      []string                `json:"extra"`
	Damaged    []checkpoint.Fault      `json:"damaged"`
}

type verifyFailedJSON struct {
	Directory string `json:"directory"`
	Error     string `json:"error"`
}

func (a *app) checkpointVerify(ctx context.Context, dirs []string) error {
	out := struct {
		Verified []verifiedJSON     `json:"verified"`
		Failed   []verifyFailedJSON `json:"failed"`
	}{[]verifiedJSON{}, []verifyFailedJSON{}}
	var errs []error
	bars := a.bars(ctx)
	reading := bars.add("reading")
	// What is printed beside a bar would be drawn over.
	var later []func() error
	show := func(say func() error) error {
		switch {
		case a.format == "json":
			return nil
		case bars.drawn():
			later = append(later, say)
			return nil
		}
		return say()
	}
	var before int64
	for _, dir := range dirs {
		v, err := checkpoint.VerifyWith(ctx, dir, checkpoint.VerifyOptions{
			Progress: func(bytes int64) { reading.set(before+bytes, 0, 0) },
		})
		before += v.Bytes
		if err != nil {
			errs = append(errs, err)
			out.Failed = append(out.Failed, verifyFailedJSON{dir, err.Error()})
			_ = show(func() error {
				a.printError(ctx, err)
				return nil
			})
			continue
		}
		if !v.Intact() {
			errs = append(errs, checkpoint.ErrNotIntact)
		}
		out.Verified = append(out.Verified, verifiedJSON{
			v.Dir, v.Path, v.Intact(), v.Digests, v.Checked, v.Bytes,
			append([]string{}, v.Missing...), append([]checkpoint.Fault{}, v.Changed...),
			append([]string{}, v.Extra...), append([]checkpoint.Fault{}, v.Damaged...),
		})
		if err := show(func() error { return a.printVerification(v) }); err != nil {
			reading.end(false)
			bars.wait()
			return err
		}
	}
	reading.end(ctx.Err() == nil)
	bars.wait()
	for _, say := range later {
		if err := say(); err != nil {
			return err
		}
	}
	if a.format == "json" {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.Join(errSilent, ctx.Err())
	}
	return failedItems(errs, len(dirs))
}

func (a *app) printVerification(v checkpoint.Verification) error {
	verdict := "intact"
	if !v.Intact() {
		verdict = "NOT INTACT"
	}
	against := map[checkpoint.DigestSource]string{
		checkpoint.DigestsFromServer: "the server's digests",
		checkpoint.DigestsOfArrival:  "the digests of what arrived (the server gave none)",
		checkpoint.NoDigests:         "nothing: there is no " + checkpoint.ManifestFile + ", so only safetensors headers were checked",
	}[v.Digests]
	if err := a.print("%s  %s\n", v.Dir, verdict); err != nil {
		return err
	}
	lines := []string{plural(v.Checked, "file") + ", " + size(v.Bytes) + ", compared with " + against}
	for _, name := range v.Missing {
		lines = append(lines, "missing  "+name)
	}
	for _, f := range v.Changed {
		lines = append(lines, "changed  "+f.Name+": "+f.Reason)
	}
	for _, f := range v.Damaged {
		lines = append(lines, "damaged  "+f.Name+": "+f.Reason)
	}
	for _, name := range v.Extra {
		lines = append(lines, "extra    "+name)
	}
	for _, l := range lines {
		if err := a.print("    %s\n", l); err != nil {
			return err
		}
	}
	if !v.Intact() && v.Path != "" {
		into := ""
		if parent := filepath.Dir(v.Dir); parent != "." {
			into = " -o " + quote(parent)
		}
		a.say("Download it again: tinkex checkpoint download %s%s --force", v.Path, into)
	}
	return nil
}
