package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestReferenceIsCurrent(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n")
	want := strings.Split(Reference(), "\n")
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			t.Fatalf("docs/cli.md is not current; run: go generate ./internal/cli\nline %d is   %s\nand must be %s", i+1, have[i], want[i])
		}
	}
	if len(have) != len(want) {
		t.Fatalf("docs/cli.md is not current, it has %d lines instead of %d; run: go generate ./internal/cli", len(have), len(want))
	}
}

func TestReferenceDependsOnNoMachine(t *testing.T) {
	want := Reference()
	for k, v := range map[string]string{"HOME": "/home/zoe", "XDG_DATA_HOME": "/data/zoe", "LOCALAPPDATA": "/local/zoe", "NO_COLOR": "1", "TINKEX_DB": "postgres://zoe", "TINKER_API_KEY": "tml-zoe"} {
		t.Setenv(k, v)
	}
	if got := Reference(); got != want {
		t.Error("it is another one in another environment")
	}
	if strings.Contains(want, "zoe") {
		t.Error("it shows the environment")
	}
}

func TestReferenceHasEveryCommandAndFlag(t *testing.T) {
	ref := Reference()
	for _, want := range []string{
		"\n## tinkex checkpoint list\n", "\n## tinkex serve\n", "\n## tinkex completion\n", "(#tinkex-key-create)",
		"| `--limit int` | `20` | how many to show; 0 is all |",
		"| `-f, --format string` | `table` |",
		"| `--data-dir string` | the system's place",
		"`{\"training_runs\": [...], \"total_count\": N}`",
		"\n- [`tinkex checkpoint mirror`](#tinkex-checkpoint-mirror): keep a verified copy", "\ntinkex checkpoint mirror --to TARGET\n",
		"\n- [`tinkex demo`](#tinkex-demo): show the whole life",
	} {
		if !strings.Contains(ref, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if strings.Contains(ref, "Exit status: 0 done;") {
		t.Error("what all commands share is repeated")
	}
	if strings.Count(ref, "Exit status: 0 clean;") != 1 {
		t.Error("fsck's own exit status is not there")
	}
}

// What the program asks the environment for is in the reference.
func TestReferenceHasTheEnvironment(t *testing.T) {
	var known []string
	for _, e := range environment {
		known = append(known, e[0])
	}
	asked := regexp.MustCompile(`os\.(?:Getenv|LookupEnv)\("([A-Z0-9_]+)"\)`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			// These are for tests and benchmarks.
			if slices.Contains([]string{"pgtest", "s3test", "testproc", "pyvenv", "bench", "conformance", "tools", ".git"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range asked.FindAllStringSubmatch(string(b), -1) {
			found++
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s asks for %s; add it to environment in reference.go and run: go generate ./internal/cli", path, m[1])
			}
		}
		return nil
	})
	if err != nil || found < 5 {
		t.Errorf("%d questions to the environment were found (%v)", found, err)
	}
}

func TestMarkdown(t *testing.T) {
	for in, want := range map[string]string{
		"plain, with 'tinkex gc' and --limit.":                   "plain, with `tinkex gc` and `--limit`.",
		"a_b *c* <d e> [f] x|y":                                  `a\_b \*c\* \<d e> \[f] x\|y`,
		"is {\"a\": {\"b\"},\n\"c_d\"}; that is it_all":          "is `{\"a\": {\"b\"}, \"c_d\"}`; that is it\\_all",
		"<output>/<run-id>_x, .<run-id>.partial. TINKER_API_KEY": "`<output>/<run-id>_x`, `.<run-id>.partial`. `TINKER_API_KEY`",
		"broken {\"a": "broken `{\"a`",
	} {
		if got := markdown(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
