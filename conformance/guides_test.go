package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	pythonName = regexp.MustCompile(`^(types\.)?[A-Z]\w*(\.\w+)*$`)
)

// firstColumn returns the code in the first cells of the tables that are headed
// by a word.
func firstColumn(page, heading string) []string {
	var found []string
	in := false
	for line := range strings.SplitSeq(page, "\n") {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			in = false
		case strings.TrimSpace(cells[1]) == heading:
			in = true
		case in:
			for _, m := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
				found = append(found, m[1])
			}
		}
	}
	return found
}

// What the guides say of the published package and of its command is there.
func TestGuidesNameWhatThePythonPackageHas(t *testing.T) {
	page := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "docs", "guides", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(b), "\r\n", "\n")
	}
	fromPython := page("coming_from_python.md")
	names := firstColumn(fromPython, "Python")
	for _, n := range names {
		if !pythonName.MatchString(n) {
			t.Errorf("%q is not the name of anything in Python", n)
		}
	}
	var commands [][]string
	add := func(command string) {
		if words := strings.Fields(command); words[0] == "tinker" {
			commands = append(commands, words[1:])
		}
	}
	for _, c := range firstColumn(fromPython, "tinker") {
		add(c)
	}
	for _, m := range codeSpan.FindAllStringSubmatch(page("comparison.md"), -1) {
		add(m[1])
	}
	if len(names) < 60 || len(commands) < 20 {
		t.Fatalf("%d names and %d commands were found", len(names), len(commands))
	}
	got := script(t, "http://127.0.0.1:1", "tml-nobody", "names", map[string]any{
		// The last of each are there to see that the script can tell.
		"names": append(names, "ServiceClient.fly"), "commands": append(commands, []string{"checkpoint", "fly"}, []string{"run", "list", "--fly"}),
	})
	got.at("missing").is([]any{"ServiceClient.fly", "checkpoint fly", "run list --fly"})
	got.at("unnamed").is([]any{}) // the tables are complete
}
