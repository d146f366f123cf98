package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tinkex/tinkex"
)

// A command's help names every member of what it prints with -f json, except
// those that it says another command has as well.
func TestJSONIsDocumented(t *testing.T) {
	for name, form := range map[string]any{
		"checkpoint list": checkpointListJSON{Checkpoints: []tinkex.Checkpoint{{}}}, "checkpoint delete": deletedJSON{},
		"run list": struct {
			Runs  []tinkex.TrainingRun `json:"training_runs"`
			Total int                  `json:"total_count"`
		}{},
		"run info": tinkex.TrainingRun{}, "session info": tinkex.Session{}, "checkpoint mirror": mirrorJSON{},
		"checkpoint restore": restoredJSON{}, "checkpoint push-hf": pushedHFJSON{}, "checkpoint export": exportedJSON{},
		"retention set": retentionJSON{}, "profile use": profileJSON{}, "profile list": profileJSON{},
		"checkpoint mirror verify": mirrorVerifiedJSON{},
	} {
		cmd, _, err := (&app{}).root().Find(strings.Fields(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, member := range membersOf(reflect.TypeOf(form)) {
			if !strings.Contains(cmd.Long, `"`+member+`"`) {
				t.Errorf("%s: its help says nothing of %q", name, member)
			}
		}
	}
	// These have no type of their own.
	for name, want := range map[string]string{
		"checkpoint publish": `{"tinker_path", "public"}`, "checkpoint unpublish": `{"tinker_path", "public"}`, "version": `{"version", "revision"`,
		"serve": `{"url", "pid"}`, "key create": `{"id", "key", "owner"}`, "key list": `{"keys": [{"id", "name"`,
	} {
		if cmd, _, err := (&app{}).root().Find(strings.Fields(name)); err != nil || !strings.Contains(cmd.Long, want) {
			t.Errorf("%s: its help lacks %s (%v)", name, want, err)
		}
	}
}

// membersOf are the names of a type's members in JSON, and of its elements'.
// What the elements of members that are objects have is documented elsewhere.
func membersOf(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, membersOf(f.Type)...)
			continue
		case name == "" || name == "-":
			continue
		}
		names = append(names, name)
		if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			names = append(names, membersOf(f.Type.Elem())...)
		}
	}
	return names
}

var (
	fenced = regexp.MustCompile("(?s)```sh\n(.*?)```")
	inSpan = regexp.MustCompile("`(tinkex [^`]+)`")
	// severally is between commands of one line that only shows them.
	severally = regexp.MustCompile(`\s{2,}(tinkex )`)
	// theirs is the first column of tables whose second one is ours.
	theirs  = regexp.MustCompile(`(?m)^\|[^|]*\|`)
	comment = regexp.MustCompile(`(?:^|\s)#.*`)
)

// Every command in the README and the guides is one, with flags that it has.
func TestDocumentedCommandsExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/guides/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, page := range append(pages, "../../README.md", "../../docs/cli.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "\r\n", "\n")
		if strings.HasPrefix(filepath.Base(page), "coming_from_") {
			text = theirs.ReplaceAllString(text, "|")
		}
		var lines []string
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Split(strings.ReplaceAll(m[1], "\\\n", " "), "\n")...)
		}
		for _, m := range inSpan.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			lines = append(lines, strings.ReplaceAll(m[1], "\n", " "))
		}
		for _, line := range lines {
			for _, command := range commandsOf(line) {
				checked++
				if why := notACommand(command); why != "" {
					t.Errorf("%s: %s: %s", filepath.Base(page), strings.Join(command, " "), why)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("%d commands were checked", checked)
	}
}

// commandsOf returns the tinkex commands of a line of shell, as words. Where a
// word shows several, a|b, there is a command for each.
func commandsOf(line string) [][]string {
	line = comment.ReplaceAllString(line, "")
	line = severally.ReplaceAllString(line, " ; $1")
	var found [][]string
	for part := range strings.SplitSeq(strings.NewReplacer(" | ", ";", " || ", ";", " && ", ";").Replace(line), ";") {
		words := wordsOf(part)
		if len(words) < 2 || words[0] != "tinkex" || strings.ToUpper(words[1]) == words[1] {
			continue
		}
		several := [][]string{nil}
		for _, w := range words {
			var next [][]string
			for _, s := range several {
				for alternative := range strings.SplitSeq(w, "|") {
					next = append(next, append(s[:len(s):len(s)], alternative))
				}
			}
			several = next
		}
		found = append(found, several...)
	}
	return found
}

// wordsOf splits a command into words, as a shell does with quotes.
func wordsOf(s string) []string {
	var words []string
	for i, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '\'' || r == '"' }) {
		if i%2 == 1 && strings.ContainsAny(s, `'"`) {
			words = append(words, part)
			continue
		}
		for w := range strings.FieldsSeq(part) {
			words = append(words, strings.Trim(w, "[]()"))
		}
	}
	return words
}

// notACommand says what is wrong with a command, or "".
func notACommand(words []string) string {
	root := (&app{}).root()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		return err.Error()
	}
	if cmd == root {
		return "there is no such command"
	}
	if cmd.HasSubCommands() && cmd.Flags().NArg() == 0 && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && rest[0] != "COMMAND" && rest[0] != "..." {
		return "there is no subcommand " + rest[0]
	}
	return unknownFlag(cmd, rest)
}

func unknownFlag(cmd *cobra.Command, args []string) string {
	cmd.InheritedFlags() // adds the parents'
	flags := cmd.Flags()
	flags.ParseErrorsAllowlist = pflag.ParseErrorsAllowlist{}
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch {
		case name == "--help", name == "-", !strings.HasPrefix(name, "-"):
		case strings.HasPrefix(name, "--") && flags.Lookup(name[2:]) == nil && cmd.InheritedFlags().Lookup(name[2:]) == nil:
			return "there is no flag " + name
		case !strings.HasPrefix(name, "--") && flags.ShorthandLookup(name[1:2]) == nil && cmd.InheritedFlags().ShorthandLookup(name[1:2]) == nil:
			return "there is no flag " + name
		}
	}
	return ""
}

func TestNotACommand(t *testing.T) {
	for line, want := range map[string]int{
		"tinkex checkpoint list --limit 0 -f json # all":               0,
		"tinkex checkpoint list --name 'step-*' | tinkex version":      0,
		"tinkex checkpoint publish|unpublish tinker://RUN/weights/A":   0,
		"tinkex run list|info       tinkex session list|lst":           1,
		"tinkex checkpoint list --lmit 0":                              1,
		"tinkex chekpoint list && tinkex gc":                           1,
		"tinkex serve -x || tinkex checkpoint lst":                     2,
		"TINKER_BASE_URL=x python train.py; cat tinkex.md; tinkex":     0,
		`tinkex checkpoint list --before "2026-01-31 08:00" --nam 'a'`: 1,
	} {
		wrong := 0
		for _, c := range commandsOf(line) {
			if notACommand(c) != "" {
				wrong++
			}
		}
		if wrong != want {
			t.Errorf("%s: %d are wrong, want %d", line, wrong, want)
		}
	}
}
