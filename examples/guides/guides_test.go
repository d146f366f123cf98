// Package guides sees to it that the Go code in the README and in the guides
// compiles and runs: whatever they show is here, or in examples/lifecycle, line
// by line.
package guides

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sources are the files whose code tests run.
func sources(t *testing.T) []string {
	t.Helper()
	found := []string{"../lifecycle/main.go", "../../tinkextest/example_test.go"}
	here, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range here {
		if name != "guides_test.go" {
			found = append(found, name)
		}
	}
	return found
}

func TestShownCodeIsRunCode(t *testing.T) {
	guides, err := filepath.Glob("../../docs/guides/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var code []string
	sources := sources(t)
	for _, name := range sources {
		code = append(code, read(t, name))
	}
	shown := 0
	for _, name := range append(guides, "../../README.md") {
		for _, block := range blocks(read(t, name)) {
			shown++
			if !isIn(block, code) {
				t.Errorf("%s shows this, which is in none of %v:\n%s", name, sources, block)
			}
		}
	}
	if shown < 25 {
		t.Errorf("%d blocks of Go were found; the README and the guides have more", shown)
	}
}

// here is where the tests begin; some go elsewhere.
var here, _ = os.Getwd()

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(here, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// blocks returns the Go code of a guide.
func blocks(guide string) []string {
	var found []string
	for {
		_, rest, ok := strings.Cut(guide, "```go\n")
		if !ok {
			return found
		}
		block, after, _ := strings.Cut(rest, "```")
		found, guide = append(found, block), after
	}
}

// isIn reports whether a block is part of the code, as it is or as the body of
// a function.
func isIn(block string, code []string) bool {
	lines := strings.SplitAfter(block, "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != "" {
			lines[i] = "\t" + line
		}
	}
	body := strings.Join(lines, "")
	for _, c := range code {
		if strings.Contains(c, "\n"+block) || strings.Contains(c, "\n"+body) {
			return true
		}
	}
	return false
}

// The check itself can tell.
func TestIsIn(t *testing.T) {
	code := []string{"package x\n\nfunc f() {\n\ta := 1\n\n\tb(a)\n}\n"}
	for block, want := range map[string]bool{
		"a := 1\n\nb(a)\n":       true,
		"func f() {\n\ta := 1\n": true,
		"a := 2\n":               false,
		":= 1\n":                 false,
		"b(a)\na := 1\n":         false,
	} {
		if got := isIn(block, code); got != want {
			t.Errorf("%q: %t", block, got)
		}
	}
}
