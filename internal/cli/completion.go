package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// Completion asks the server, briefly and in silence: somebody has pressed a
// key, and what comes too late or says what is wrong would be in the way.
const (
	completionTimeout = 2 * time.Second // see Env.CompletionTimeout
	completionMax     = 1000
)

type completer = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective)

// setUpCompletion says what the words of all commands may be.
func (a *app) setUpCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Long = completionHelp
			a.hardenBash(root, c)
		}
	}
	words := map[string]completer{
		"run info":     one(a.completeRunOrPath),
		"session info": one(a.completeSession),
		"profile use":  one(a.completeProfile),
		"profile show": one(a.completeProfile),
	}
	flags := map[string]completer{
		"run":        a.completeRun,
		"run-id":     a.completeRun,
		"type":       fixed(tinkex.Training.Segment(), tinkex.Sampler.Segment()),
		"base-model": a.completeBaseModel,
		"format":     fixed("table", "json"),
		"log-format": fixed("text", "json"),
		"progress":   fixed(progressModes...),
		"sort":       fixed(orderNames()...),
		"by":         fixed(string(tinkex.UsageByOwner), string(tinkex.UsageByRun), string(tinkex.UsageByKind)),
		"profile":    a.completeProfile,
		"data-dir":   directories,
		"output":     directories,
		"dir":        directories,
	}
	// Flags whose words are nobody's to know, and no files.
	for _, name := range []string{
		"before", "after", "min-size", "max-size", "expiring", "name", "metadata", "ttl", "keep-within", "watch",
		"base-url", "api-key", "addr", "public-url", "db", "blobs", "owner",
	} {
		flags[name] = cobra.NoFileCompletions
	}
	// Where --name is a pattern, and not what something is to be called.
	selecting := []string{"checkpoint list", "checkpoint delete", "checkpoint prune", "checkpoint mirror"}
	var each func(*cobra.Command)
	each = func(cmd *cobra.Command) {
		name := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		if f := words[name]; f != nil {
			cmd.ValidArgsFunction = f
		} else if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
			cmd.ValidArgsFunction = a.completerOf(cmd.Use)
		}
		set := func(f *pflag.Flag) {
			if _, has := cmd.GetFlagCompletionFunc(f.Name); has {
				return
			}
			if f.Name == "name" && slices.Contains(selecting, name) {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, a.completeName)
			} else if c := flags[f.Name]; c != nil {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, c) // the flag is there
			} else if !strings.HasPrefix(f.Value.Type(), "string") {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
			}
		}
		cmd.LocalNonPersistentFlags().VisitAll(set)
		cmd.PersistentFlags().VisitAll(set)
		for _, sub := range cmd.Commands() {
			each(sub)
		}
	}
	each(root)
}

// completerOf completes a command's words by what its use line calls them.
func (a *app) completerOf(use string) completer {
	_, words, _ := strings.Cut(use, " ")
	word, _, _ := strings.Cut(strings.TrimPrefix(words, "("), " ")
	switch word {
	case "PATH":
		return one(a.completePath)
	case "PATH...":
		return a.completePath
	case "DIR":
		return one(directories)
	case "DIR...":
		return directories
	}
	return cobra.NoFileCompletions
}

const completionHelp = `Print a script that lets a shell complete commands, options, and what is on the
server: runs, paths step by step, base models. For every new shell:

  bash         echo 'source <(tinkex completion bash)' >>~/.bashrc
  zsh          echo 'source <(tinkex completion zsh)' >>~/.zshrc      (after compinit)
  fish         tinkex completion fish >~/.config/fish/completions/tinkex.fish
  powershell   tinkex completion powershell | Out-String | Invoke-Expression   (in $PROFILE)

The server is given two seconds to answer; what cannot be found out is not completed.`

// hardenBash makes the script for bash do without the bash-completion package,
// which macOS and containers lack.
func (a *app) hardenBash(root, completion *cobra.Command) {
	for _, c := range completion.Commands() {
		if c.Name() != "bash" {
			continue
		}
		c.RunE = func(cmd *cobra.Command, _ []string) error {
			noDescriptions, _ := cmd.Flags().GetBool("no-descriptions")
			var script bytes.Buffer
			if err := root.GenBashCompletionV2(&script, !noDescriptions); err != nil {
				return err
			}
			own := strings.NewReplacer(bashWords, bashOwnWords, bashDirectories, bashOwnDirectories).Replace(script.String())
			_, err := io.WriteString(a.Stdout, own+bashDirectoriesFunction)
			return err
		}
	}
}

// bashWords is how the script takes the line apart, and bashOwnWords how it
// does where that function is missing. Words are separated by spaces only: bash
// separates them at colons too, which are within runs' ids.
const (
	bashWords    = `    _get_comp_words_by_ref "$@" cur prev words cword` + "\n"
	bashOwnWords = `    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line="${COMP_LINE:0:COMP_POINT}"
    read -ra words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur="${words[cword]}"
    prev="${words[cword > 0 ? cword - 1 : 0]}"
`
)

// bashDirectories is how the script completes directories, and
// bashOwnDirectories how it does where that function is missing. The value of a
// flag begins after the equal sign.
const (
	bashDirectories         = "_filedir -d"
	bashOwnDirectories      = "__tinkex_directories"
	bashDirectoriesFunction = `
__tinkex_directories() {
    if [[ $cur == --*=* ]]; then
        cur="${cur#*=}"
    fi
    if declare -F _filedir >/dev/null 2>&1; then
        _filedir -d
        return
    fi
    local IFS=$'\n'
    COMPREPLY=($(compgen -d -- "$cur"))
    if [[ $(type -t compopt) == builtin ]]; then
        compopt -o filenames
    fi
}
`
)

func fixed(words ...string) completer {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// one completes the first argument only.
func one(c completer) completer {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, args, toComplete)
	}
}

func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func orderNames() []string {
	var names []string
	for _, o := range checkpoint.Orders() {
		names = append(names, string(o))
	}
	return names
}

const asTheyCome = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder

// asking gives f a client, and not much time.
func (a *app) asking(cmd *cobra.Command, f func(context.Context, *tinkex.RestClient) []cobra.Completion) []cobra.Completion {
	timeout := completionTimeout
	if a.CompletionTimeout > 0 {
		timeout = a.CompletionTimeout
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil || c.key.value == "" {
		return nil
	}
	a.verbose = false
	client, err := tinkex.NewRestClient(tinkex.Options{
		APIKey: c.key.value, BaseURL: c.baseURL.value, Timeout: timeout, MaxRetries: -1, Logger: a.logger(),
	})
	if err != nil {
		return nil
	}
	defer client.Close()
	return f(ctx, client)
}

// some are the items of a list, as many as are worth offering, or as there were
// before it failed.
func some[T any](list iter.Seq2[T, error]) []T {
	var items []T
	for item, err := range list {
		if err != nil {
			break
		}
		if items = append(items, item); len(items) == completionMax {
			break
		}
	}
	return items
}

func runsOf(ctx context.Context, client *tinkex.RestClient) []tinkex.TrainingRun {
	return some(client.AllTrainingRuns(ctx, tinkex.PageOptions{PageSize: completionMax}))
}

// offer adds a candidate, if it begins with what is there.
func (a *app) offer(list []cobra.Completion, toComplete, word, description string) []cobra.Completion {
	if !strings.HasPrefix(word, toComplete) || a.printable(word) != word {
		return list
	}
	return append(list, cobra.CompletionWithDesc(word, a.printable(description)))
}

func (a *app) completeRun(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.asking(cmd, func(ctx context.Context, client *tinkex.RestClient) []cobra.Completion {
		var list []cobra.Completion
		for i, r := range runsOf(ctx, client) {
			if i == 0 {
				list = a.offer(list, toComplete, latest, "the newest run")
			}
			list = a.offer(list, toComplete, r.TrainingRunID, describeRun(r))
		}
		return list
	}), asTheyCome
}

func describeRun(r tinkex.TrainingRun) string { return r.BaseModel + ", " + ago(r.LastRequestTime) }

func (a *app) completeRunOrPath(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if toComplete != "" && strings.HasPrefix(toComplete, tinkex.Scheme[:min(len(toComplete), len(tinkex.Scheme))]) {
		return a.completePath(cmd, args, toComplete)
	}
	return a.completeRun(cmd, args, toComplete)
}

// completePath completes a path step by step: the run, the kind, the name.
func (a *app) completePath(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := asTheyCome
	list := a.asking(cmd, func(ctx context.Context, client *tinkex.RestClient) []cobra.Completion {
		var list []cobra.Completion
		rest, isPath := strings.CutPrefix(toComplete, tinkex.Scheme)
		run, kind, hasKind := strings.Cut(rest, "/")
		if !isPath || !hasKind {
			directive |= cobra.ShellCompDirectiveNoSpace
			for i, r := range runsOf(ctx, client) {
				if i == 0 {
					list = a.offer(list, toComplete, tinkex.Scheme+latest+"/", "the newest run")
				}
				list = a.offer(list, toComplete, tinkex.Scheme+r.TrainingRunID+"/", describeRun(r))
			}
			return list
		}
		asked := run
		if run == latest {
			newest, err := client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
			if err != nil || len(newest.TrainingRuns) == 0 {
				return nil
			}
			asked = newest.TrainingRuns[0].TrainingRunID
		}
		all, err := client.ListRunCheckpoints(ctx, asked)
		if err != nil {
			return nil
		}
		kind, _, hasName := strings.Cut(kind, "/")
		if !hasName {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return a.offerCheckpoints(all.Checkpoints, tinkex.Scheme+run+"/", kind, hasName, toComplete, args)
	})
	return list, directive
}

// completeName offers the names of checkpoints, of the run that is given or of
// the newest ones.
func (a *app) completeName(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	run := cmd.Flag("run").Value.String() + cmd.Flag("run-id").Value.String()
	return a.asking(cmd, func(ctx context.Context, client *tinkex.RestClient) []cobra.Completion {
		asked, err := newResolver(client, io.Discard).run(ctx, run, "--run")
		if err != nil {
			return nil
		}
		var all []tinkex.Checkpoint
		if asked == "" {
			all = some(client.AllCheckpoints(ctx, tinkex.PageOptions{PageSize: completionMax}))
		} else if list, err := client.ListRunCheckpoints(ctx, asked); err == nil {
			all = list.Checkpoints
		}
		counts := map[string]int{}
		var names []string
		for _, c := range all {
			if p, err := c.Path(); err == nil {
				if counts[p.Name]++; counts[p.Name] == 1 {
					names = append(names, p.Name)
				}
			}
		}
		var list []cobra.Completion
		for _, name := range names {
			list = a.offer(list, toComplete, name, plural(counts[name], "checkpoint"))
		}
		return list
	}), asTheyCome
}

// offerCheckpoints offers the kinds there are, or the names of one kind.
func (a *app) offerCheckpoints(all []tinkex.Checkpoint, prefix, kind string, names bool, toComplete string, args []string) []cobra.Completion {
	var list []cobra.Completion
	counts := map[string]int{}
	for _, c := range all {
		p, err := c.Path()
		if err != nil {
			continue
		}
		segment := p.Type.Segment()
		counts[segment]++
		if !names || segment != kind {
			continue
		}
		if counts[segment] == 1 {
			list = a.offer(list, toComplete, prefix+kind+"/"+latest, "the newest of them")
		}
		if word := prefix + kind + "/" + p.Name; !slices.Contains(args, word) {
			list = a.offer(list, toComplete, word, sizeOf(c.SizeBytes)+", "+ago(c.Time))
		}
	}
	if names {
		return list
	}
	for _, t := range []tinkex.CheckpointType{tinkex.Training, tinkex.Sampler, tinkex.External} {
		if n := counts[t.Segment()]; n > 0 {
			list = a.offer(list, toComplete, prefix+t.Segment()+"/", plural(n, "checkpoint"))
		}
	}
	return list
}

func (a *app) completeSession(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.asking(cmd, func(ctx context.Context, client *tinkex.RestClient) []cobra.Completion {
		var list []cobra.Completion
		for i, id := range some(client.AllSessions(ctx, tinkex.PageOptions{PageSize: completionMax})) {
			if i == 0 {
				list = a.offer(list, toComplete, latest, "the newest session")
			}
			list = a.offer(list, toComplete, id, "")
		}
		return list
	}), asTheyCome
}

// completeBaseModel offers what the server trains, and what runs there are of.
func (a *app) completeBaseModel(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.asking(cmd, func(ctx context.Context, client *tinkex.RestClient) []cobra.Completion {
		var list []cobra.Completion
		seen := map[string]bool{}
		add := func(model, description string) {
			if !seen[model] {
				seen[model] = true
				list = a.offer(list, toComplete, model, description)
			}
		}
		runs := map[string]int{}
		var models []string
		for _, r := range runsOf(ctx, client) {
			if runs[r.BaseModel]++; runs[r.BaseModel] == 1 {
				models = append(models, r.BaseModel)
			}
		}
		for _, m := range models {
			add(m, plural(runs[m], "run"))
		}
		if can, err := client.ServerCapabilities(ctx); err == nil {
			for _, m := range can.SupportedModels {
				add(m.ModelName, "")
			}
		}
		return list
	}), asTheyCome
}

func (a *app) completeProfile(_ *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	store, err := a.profiles()
	if err != nil {
		return nil, asTheyCome
	}
	profiles, current, err := store.List()
	if err != nil {
		return nil, asTheyCome
	}
	var list []cobra.Completion
	for _, p := range profiles {
		description := p.BaseURL
		if p.Name == current {
			description = fmt.Sprintf("%s, in use", p.BaseURL)
		}
		list = a.offer(list, toComplete, p.Name, description)
	}
	return list, asTheyCome
}
