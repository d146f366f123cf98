package cli

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

type pushHFFlags struct {
	repo            string
	public, private bool
	revision        string
	message         string
	createPR        bool
	allow, ignore   []string
	noCard          bool
	force           bool
	jobs            int
}

func (a *app) checkpointPushHFCommand() *cobra.Command {
	var f pushHFFlags
	cmd := &cobra.Command{
		Use:   "push-hf PATH",
		Short: "Upload a checkpoint to the Hugging Face Hub as a PEFT adapter",
		Long: `Upload a checkpoint to the Hugging Face Hub as a PEFT adapter: what 'tinkex
checkpoint export' writes, in one commit to a model repository, which is made
(private, unless --public) if it is not there.

Without --repo the repository is tinker-<base model>-<run id> of the token's
user, and each checkpoint is a branch of it. A branch that holds another
checkpoint, or files of which nothing says that they are this one, is left alone
unless --force is given. What the Hub has already is not sent again.

The token is the one of the hf command: HF_TOKEN, or what 'hf auth login' keeps,
which is renewed on its last day. In a CI job that the repository trusts,
HF_OIDC_RESOURCE=NAMESPACE/NAME takes a short-lived one instead of either.
HF_ENDPOINT is another Hub.

The address of the commit, or of the pull request, goes to standard output. With
-f json the answer is {"checkpoint_path", "repo_id", "revision", "public",
"url", "created", "unchanged", "commit", "commit_url", "pull_request_url",
"base_model", "sent_bytes", "files": [{"name", "size_bytes", "sha256"}]}.
` + exitStatusHelp,
		Example: "  tinkex checkpoint push-hf tinker://RUN/sampler_weights/final --repo me/my-adapter\n  tinkex checkpoint push-hf tinker://RUN/weights/0100 --repo me/my-adapter --revision step-100",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			paths, err := parsePaths(args)
			if err != nil {
				return err
			}
			opts, err := f.options(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return a.checkpointPushHF(cmd.Context(), paths[0], f, opts)
		},
	}
	cmd.Flags().StringVarP(&f.repo, "repo", "r", "", "the repository, NAMESPACE/NAME or NAME (default one of the run's)")
	cmd.Flags().BoolVar(&f.public, "public", false, "make a repository that everybody sees")
	cmd.Flags().BoolVar(&f.private, "private", false, "make a private repository (the default)")
	cmd.Flags().StringVar(&f.revision, "revision", "", "the branch, which is made if it is not there (default main)")
	cmd.Flags().StringVar(&f.message, "commit-message", "", "the commit's message (default which checkpoint it is)")
	cmd.Flags().BoolVar(&f.createPR, "create-pr", false, "open a pull request instead of changing the branch")
	cmd.Flags().StringArrayVar(&f.allow, "allow-pattern", nil, "upload only files that match, such as *.json (can be repeated)")
	cmd.Flags().StringArrayVar(&f.ignore, "ignore-pattern", nil, "leave out files that match (can be repeated)")
	cmd.Flags().BoolVar(&f.noCard, "no-model-card", false, "do not write a README.md")
	cmd.Flags().BoolVar(&f.force, "force", false, "push to a branch that holds something else")
	cmd.Flags().IntVar(&f.jobs, "jobs", 8, "how many connections to fetch the checkpoint by")
	return cmd
}

func (f *pushHFFlags) options(given func(flag string) bool) (checkpoint.PushHFOptions, error) {
	opts := checkpoint.PushHFOptions{
		Repo: f.repo, Public: f.public, Revision: f.revision, CommitMessage: f.message, CreatePR: f.createPR,
		AllowPatterns: f.allow, IgnorePatterns: f.ignore, NoModelCard: f.noCard, Force: f.force,
	}
	if f.jobs < 1 {
		return opts, usagef("--jobs: %d: expected at least 1", f.jobs)
	}
	if f.public && f.private {
		return opts, usagef("--public and --private exclude each other")
	}
	for flag, value := range map[string]string{"repo": f.repo, "revision": f.revision, "commit-message": f.message} {
		if given(flag) && strings.TrimSpace(value) == "" {
			return opts, usagef("--%s: it is empty", flag)
		}
	}
	if err := checkpoint.CheckPushHF(opts); err != nil {
		return opts, usagef("%v", err)
	}
	return opts, nil
}

type pushedHFJSON struct {
	CheckpointPath string            `json:"checkpoint_path"`
	RepoID         string            `json:"repo_id"`
	Revision       string            `json:"revision"`
	Public         bool              `json:"public"`
	URL            string            `json:"url"`
	Created        bool              `json:"created"`
	Unchanged      bool              `json:"unchanged"`
	Commit         string            `json:"commit"`
	CommitURL      string            `json:"commit_url"`
	PullRequestURL string            `json:"pull_request_url"`
	BaseModel      string            `json:"base_model"`
	SentBytes      int64             `json:"sent_bytes"`
	Files          []checkpoint.File `json:"files"`
}

func (a *app) checkpointPushHF(ctx context.Context, path tinkex.TinkerPath, f pushHFFlags, opts checkpoint.PushHFOptions) error {
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
	opts.Download, opts.Logger = download, a.logger()
	var sending *bar
	opts.Progress = func(sent, total int64) {
		if total <= 0 {
			return
		}
		if sending == nil {
			sending = bars.add("sending")
		}
		sending.set(sent, total, 0)
	}
	var notices []string
	opts.Notice = func(message string) {
		if bars == nil {
			a.say("%s", message)
		} else {
			notices = append(notices, message)
		}
	}
	start := time.Now()
	d, err := checkpoint.PushHF(ctx, client, path, opts)
	end(err == nil)
	sending.end(err == nil)
	bars.wait()
	for _, n := range notices {
		a.say("%s", n)
	}
	if ctx.Err() != nil {
		a.say("Interrupted. Nothing was committed; the same command does not send again what the Hub has:\n  %s", a.again())
		return errors.Join(errSilent, ctx.Err())
	}
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(pushedHFJSON{
			CheckpointPath: path.String(), RepoID: d.Repo, Revision: d.Revision, Public: !d.Private, URL: d.URL,
			Created: d.Created, Unchanged: d.Unchanged, Commit: d.Commit, CommitURL: d.CommitURL,
			PullRequestURL: d.PullRequestURL, BaseModel: d.BaseModel, SentBytes: d.SentBytes, Files: d.Files,
		})
	}
	visible := "public"
	if d.Private {
		visible = "private"
	}
	where := visible + " repository " + d.Repo
	if d.Created {
		where = "new " + where
	}
	switch {
	case d.Unchanged:
		a.say("The %s, branch %s, has all of it already.", where, d.Revision)
	default:
		a.say("Pushed %s to the %s, branch %s; %s had to be sent, in %v.", plural(len(d.Files), "file"), where, d.Revision, size(d.SentBytes), time.Since(start).Round(time.Millisecond))
	}
	if d.PullRequestURL != "" {
		return a.print("%s\n", d.PullRequestURL)
	}
	return a.print("%s\n", d.CommitURL)
}
