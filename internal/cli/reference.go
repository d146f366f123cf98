package cli

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

//go:generate go run ../tools/clidoc ../../docs/cli.md

// environment is what the commands take from the environment.
var environment = [][2]string{
	{"TINKER_API_KEY", "the API key, unless `--api-key` or `--profile` gives one; else the key of the profile in use"},
	{"TINKER_BASE_URL", "the server, unless `--base-url` or `--profile` names one; else that of the profile in use, or the hosted service"},
	{"TINKEX_PROFILE", "the profile of `tinkex login` to use, unless `--profile` names one"},
	{"TINKEX_NO_KEYRING", "anything but nothing: `tinkex login` stores keys in a file"},
	{"TINKER_PROJECT_ID", "the project of sessions that a Go program opens"},
	{"TINKER_TAGS", "the tags of sessions that a Go program opens, separated by commas"},
	{"TINKEX_DB", "`tinkex serve`, `key`, `migrate`, `gc`, `fsck`: the PostgreSQL database, unless `--db` names one"},
	{"TINKEX_BLOBS", "`tinkex serve`, `gc`, `fsck`: the bucket, unless `--blobs` names one"},
	{"PGPASSWORD", "the database's password, as PostgreSQL's own programs take it"},
	{"AWS_ACCESS_KEY_ID", "a bucket's key, with `AWS_SECRET_ACCESS_KEY`, as Amazon's own programs take them"},
	{"AWS_SECRET_ACCESS_KEY", "see `AWS_ACCESS_KEY_ID`"},
	{"HF_TOKEN", "`tinkex checkpoint push-hf`: the Hugging Face Hub's token, or `HUGGING_FACE_HUB_TOKEN`; without either what `hf auth login` keeps"},
	{"HUGGING_FACE_HUB_TOKEN", "see `HF_TOKEN`"},
	{"HF_OIDC_RESOURCE", "`tinkex checkpoint push-hf`: a repository of the Hub, or a user, that trusts this CI job, which gets a short-lived token instead of those"},
	{"HF_OIDC_ID_TOKEN", "the job's ID token for `HF_OIDC_RESOURCE`, unless GitHub Actions is to make it"},
	{"ACTIONS_ID_TOKEN_REQUEST_URL", "where GitHub Actions (`GITHUB_ACTIONS=true`) makes ID tokens, with `ACTIONS_ID_TOKEN_REQUEST_TOKEN`; both are there in jobs with `permissions: id-token: write`"},
	{"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "see `ACTIONS_ID_TOKEN_REQUEST_URL`"},
	{"GITHUB_ACTIONS", "see `ACTIONS_ID_TOKEN_REQUEST_URL`"},
	{"HF_DEVICE_CODE_OAUTH_CLIENT_ID", "what a Hub other than https://huggingface.co knows the `hf` command by, where `hf auth login` needs it to be set"},
	{"HF_TOKEN_PATH", "where `hf auth login` keeps the token, unless it is `token` in `HF_HOME`; `stored_tokens` beside it says when it has to be renewed"},
	{"HF_HOME", "where the `hf` command keeps its things, unless it is `huggingface` in `XDG_CACHE_HOME`, or `~/.cache/huggingface`"},
	{"XDG_CACHE_HOME", "see `HF_HOME`"},
	{"HF_ENDPOINT", "the Hub's address, if it is another than https://huggingface.co"},
	{"OTEL_TRACES_EXPORTER", "where traces go: `otlp`, `console` (standard error) or `none`; nowhere, unless one of these is set"},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", "the collector that traces are sent to; OpenTelemetry's other variables count as well"},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "the same, with the whole path"},
	{"OTEL_SDK_DISABLED", "`true`: no traces, whatever the others say"},
	{"NO_COLOR", "anything but nothing: no colours"},
	{"TERM", "`dumb`: `tinkex ui` and `--watch` move no cursor"},
	{"LC_ALL", "the terminal's character set, or `LC_CTYPE`, or `LANG`; what one that is not UTF-8 cannot show is escaped"},
	{"LC_CTYPE", "see `LC_ALL`"},
	{"LANG", "see `LC_ALL`"},
	{"XDG_CONFIG_HOME", "profiles are in `tinkex` in it, or in the system's place for configuration"},
	{"DBUS_SESSION_BUS_ADDRESS", "Linux: the message bus that the keyring is reached over"},
	{"XDG_DATA_HOME", "Linux: the default data directory is `tinkex` in it, or `~/.local/share/tinkex`"},
	{"LOCALAPPDATA", "Windows: the default data directory is `tinkex` in it. On macOS it is `~/Library/Application Support/tinkex`"},
}

var exitCodes = [][2]string{
	{fmt.Sprint(exitDone), "done"},
	{fmt.Sprint(exitFailed), "failed; of `tinkex fsck`: faults were found"},
	{fmt.Sprint(exitUsage), "wrong usage: nothing was tried"},
	{fmt.Sprint(exitPartly), "some of several items failed; standard error names them"},
	{fmt.Sprint(exitNotFound), "not found, or no access; the two are told apart nowhere"},
	{fmt.Sprint(exitAuth), "authentication failed"},
	{fmt.Sprint(exitInterrupted), "interrupted"},
	{fmt.Sprint(exitPipe), "nobody reads the output any more, as after `\\| head`; nothing is said"},
}

// Reference is the command line in Markdown: every command with its flags, made
// of the help texts. It is the same on every machine.
func Reference() string {
	root := (&app{}).root()
	var b strings.Builder
	b.WriteString(`# Commands

<!-- Made by "go generate ./internal/cli" from the help texts; a test fails when it is not current. -->

Data goes to standard output, prose and progress to standard error. Progress is drawn on terminals only. ` + "`-f json`" + `
prints one JSON document, whose form does not change. What follows is what ` + "`tinkex COMMAND --help`" + ` says.

`)
	for _, c := range leaves(root) {
		fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", c.CommandPath(), anchor(c.CommandPath()), markdown(lowerFirst(c.Short)))
	}
	b.WriteString("\n## Flags of all commands\n\n")
	b.WriteString(flagTable(root.PersistentFlags()))
	b.WriteString("\n## Environment\n\n")
	b.WriteString(twoColumns("variable", "what", environment))
	b.WriteString("\n## Exit status\n\n")
	b.WriteString(twoColumns("status", "what", exitCodes))
	described := map[*cobra.Command]bool{root: true}
	for _, c := range leaves(root) {
		if group := c.Parent(); !described[group] && group.Long != "" {
			describe(&b, group)
			described[group] = true
		}
		describe(&b, c)
		described[c] = true
	}
	return b.String()
}

// leaves are the commands that do something, in the order of their paths.
func leaves(c *cobra.Command) []*cobra.Command {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	if !c.HasSubCommands() || c.Name() == "completion" {
		return []*cobra.Command{c}
	}
	var found []*cobra.Command
	if alsoByItself(c) {
		found = append(found, c)
	}
	for _, sub := range c.Commands() {
		found = append(found, leaves(sub)...)
	}
	slices.SortStableFunc(found, func(a, b *cobra.Command) int { return cmp.Compare(a.CommandPath(), b.CommandPath()) })
	return found
}

// alsoByItself reports whether a command with commands does something without
// one of them too.
func alsoByItself(c *cobra.Command) bool { return c.HasSubCommands() && strings.Contains(c.Use, " ") }

func describe(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
	// Flags of parents are in a table of their own.
	use := c.CommandPath() + strings.TrimPrefix(c.Use, c.Name())
	if c.HasSubCommands() && !alsoByItself(c) {
		use += " COMMAND"
	}
	fmt.Fprintf(b, "```text\n%s\n```\n\n", use)
	if len(c.Aliases) > 0 {
		fmt.Fprintf(b, "`%s` may also be written `%s`.\n\n", c.Name(), strings.Join(c.Aliases, "`, `"))
	}
	text := cmp.Or(c.Long, c.Short+".")
	for _, paragraph := range paragraphs(strings.ReplaceAll(text, strings.TrimSpace(exitStatusHelp), "")) {
		b.WriteString(paragraph + "\n\n")
	}
	if c.Example != "" {
		fmt.Fprintf(b, "```sh\n%s\n```\n\n", dedent(c.Example))
	}
	if table := flagTable(c.NonInheritedFlags()); table != "" {
		b.WriteString(table + "\n")
	}
	if c.Name() == "completion" {
		b.WriteString("Shells:")
		for i, sub := range c.Commands() {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(b, " `%s`", sub.CommandPath())
		}
		b.WriteString(".\n")
		return
	}
	trimmed := strings.TrimRight(b.String(), "\n")
	b.Reset()
	b.WriteString(trimmed + "\n")
}

// paragraphs makes Markdown of a help text. What is indented there was laid out
// by hand and stays as it is.
func paragraphs(text string) []string {
	var made []string
	for p := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		var prose, laidOut []string
		flush := func() {
			if len(prose) > 0 {
				made = append(made, markdown(strings.Join(prose, "\n")))
			}
			if len(laidOut) > 0 {
				made = append(made, "```text\n"+dedent(strings.Join(laidOut, "\n"))+"\n```")
			}
			prose, laidOut = nil, nil
		}
		for line := range strings.SplitSeq(strings.Trim(p, "\n"), "\n") {
			indented := strings.HasPrefix(line, "  ")
			if indented && len(prose) > 0 || !indented && len(laidOut) > 0 {
				flush()
			}
			if indented {
				laidOut = append(laidOut, line)
			} else {
				prose = append(prose, line)
			}
		}
		flush()
	}
	return made
}

// code is what Markdown shows as code: paths, flags, quoted commands, and names
// of the environment.
var code = regexp.MustCompile(`tinker://\S*[^\s.,;:)]|'tinkex [^']*'|--[a-z][a-z-]*|-f json|\b[A-Z]{2,}_[A-Z_]+\b|\.?<[a-z-]+>[^\s,;]*[^\s,;.]`)

// markdown escapes prose. JSON, which ends where its braces do, is code.
func markdown(s string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, `{"`)
		if i < 0 {
			break
		}
		end, depth := i, 0
		for ; end < len(s); end++ {
			switch s[end] {
			case '{':
				depth++
			case '}':
				depth--
			}
			if depth == 0 {
				break
			}
		}
		end = min(end+1, len(s))
		b.WriteString(inline(s[:i]))
		b.WriteString("`" + strings.ReplaceAll(s[i:end], "\n", " ") + "`")
		s = s[end:]
	}
	b.WriteString(inline(s))
	return b.String()
}

func inline(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range code.FindAllStringIndex(s, -1) {
		b.WriteString(escape(s[at:m[0]]))
		b.WriteString("`" + strings.Trim(s[m[0]:m[1]], "'") + "`")
		at = m[1]
	}
	b.WriteString(escape(s[at:]))
	return b.String()
}

var escape = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "|", `\|`).Replace

// machineDefaults are the flags whose defaults the machine or its environment
// has a say in, and what stands for them.
var machineDefaults = map[string]string{"data-dir": "the system's place for a program's data", "no-color": ""}

func flagTable(flags *pflag.FlagSet) string {
	var rows [][3]string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		arg, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if arg = strings.TrimSuffix(arg, "Array"); arg != "" {
			name += " " + arg
		}
		value := f.DefValue
		switch value {
		case "0", "0s", "false", "[]":
			value = ""
		}
		if value != "" {
			if known, ok := machineDefaults[f.Name]; ok {
				value = known
			} else {
				value = "`" + value + "`"
			}
		}
		rows = append(rows, [3]string{"`" + name + "`", value, markdown(usage)})
	})
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("| flag | default | |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r[0], r[1], r[2])
	}
	return b.String()
}

func twoColumns(first, second string, rows [][2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|---|---|\n", first, second)
	for _, r := range rows {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r[0], r[1])
	}
	return b.String()
}

// dedent removes the indentation that all lines have.
func dedent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	common := -1
	for _, l := range lines {
		if n := len(l) - len(strings.TrimLeft(l, " ")); strings.TrimSpace(l) != "" && (common < 0 || n < common) {
			common = n
		}
	}
	for i, l := range lines {
		lines[i] = strings.TrimRight(l[min(max(common, 0), len(l)):], " ")
	}
	return strings.Join(lines, "\n")
}

// anchor is where a heading of this name is found.
func anchor(heading string) string { return strings.ReplaceAll(heading, " ", "-") }

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
