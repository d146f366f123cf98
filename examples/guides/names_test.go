package guides

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are all that explains the Go packages.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{"../../README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/guides/*.md"} {
		names, err := filepath.Glob(filepath.Join(here, "../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			rel, err := filepath.Rel(here, name)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, rel)
		}
	}
	if len(found) < 10 {
		t.Fatalf("the pages are %v", found)
	}
	return found
}

var goName = regexp.MustCompile(`\b(tinkex|checkpoint|tinkextest)(\.[A-Z]\w*)(\.[A-Z]\w*)?`)

// What pages call tinkex.X or checkpoint.X.Y is there.
func TestNamedIdentifiersExist(t *testing.T) {
	names := map[string]bool{}
	for pkg, dir := range map[string]string{"tinkex": "../..", "checkpoint": "../../checkpoint", "tinkextest": "../../tinkextest"} {
		exported(t, pkg, filepath.Join(here, dir), names)
	}
	for _, known := range []string{"tinkex.RestClient.AllCheckpoints", "tinkex.ErrNotFound", "checkpoint.DownloadOptions.Dir", "tinkex.Future.Await", "checkpoint.PartialError"} {
		if !names[known] {
			t.Fatalf("%s was not found among %d names", known, len(names))
		}
	}
	looked := 0
	for _, page := range pages(t) {
		// Code between fences is compiled.
		for i, part := range strings.Split(read(t, page), "```") {
			if i%2 == 1 {
				continue
			}
			for _, m := range goName.FindAllString(part, -1) {
				if looked++; !names[m] {
					t.Errorf("%s: there is no %s", page, m)
				}
			}
		}
	}
	if looked < 150 {
		t.Errorf("%d names were looked up", looked)
	}
}

var errorName = regexp.MustCompile(`^(Err[A-Z]\w*|[A-Z]\w*Error)$`)

// The table of errors has every one that programs can test for.
func TestTableOfErrorsIsComplete(t *testing.T) {
	names := map[string]bool{}
	exported(t, "tinkex", filepath.Join(here, "../.."), names)
	exported(t, "checkpoint", filepath.Join(here, "../../checkpoint"), names)
	page := read(t, "../../docs/guides/checkpoint_management.md")
	_, table, _ := strings.Cut(page, "\n## Errors\n")
	table, _, _ = strings.Cut(table, "\n## ")
	looked := 0
	for name := range names {
		_, short, _ := strings.Cut(name, ".")
		if !errorName.MatchString(short) {
			continue
		}
		if looked++; !regexp.MustCompile(`\b` + short + `\b`).MatchString(table) {
			t.Errorf("the table of errors lacks %s", name)
		}
	}
	if looked < 20 {
		t.Fatalf("only %d errors were found", looked)
	}
}

// exported adds a package's exported names: pkg.Name and pkg.Type.Member.
func exported(t *testing.T, pkg, dir string, names map[string]bool) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				name := decl.Name.Name
				if decl.Recv != nil {
					name = typeName(decl.Recv.List[0].Type) + "." + name
				}
				names[pkg+"."+name] = true
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, n := range spec.Names {
							names[pkg+"."+n.Name] = true
						}
					case *ast.TypeSpec:
						names[pkg+"."+spec.Name.Name] = true
						if s, ok := spec.Type.(*ast.StructType); ok {
							for _, f := range s.Fields.List {
								for _, n := range f.Names {
									names[pkg+"."+spec.Name.Name+"."+n.Name] = true
								}
							}
						}
					}
				}
			}
		}
	}
}

// typeName is the name of a receiver's type.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

var link = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)

// Links between pages, and to headings on them, lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	looked := 0
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			file, anchor := m[1], m[2]
			if strings.Contains(file, "://") {
				continue
			}
			looked++
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(filepath.Join(here, target)); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", page, m[0], err)
				continue
			}
			if anchor != "" && !anchors(read(t, target))[anchor] {
				t.Errorf("%s: %s has no heading %q", page, target, anchor)
			}
		}
	}
	if looked < 40 {
		t.Errorf("%d links were found", looked)
	}
}

var notInAnchors = regexp.MustCompile("[^a-z0-9 _-]")

// anchors are where a page's headings can be found, as GitHub makes them.
func anchors(page string) map[string]bool {
	found := map[string]bool{}
	for i, part := range strings.Split(page, "```") {
		if i%2 == 1 {
			continue
		}
		for line := range strings.SplitSeq(part, "\n") {
			if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
				found[strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(title), ""), " ", "-")] = true
			}
		}
	}
	return found
}

var measured = regexp.MustCompile(`\d+\.\d+ (?:s|MiB)`)

// What the comparison says was measured is what the benchmarks say.
func TestComparisonIsMeasured(t *testing.T) {
	benchmarks := read(t, "../../docs/benchmarks.md")
	numbers := measured.FindAllString(read(t, "../../docs/guides/comparison.md"), -1)
	if len(numbers) < 6 {
		t.Errorf("the numbers are %v", numbers)
	}
	for _, n := range numbers {
		if !strings.Contains(benchmarks, " "+n+" |") {
			t.Errorf("docs/benchmarks.md does not say %s", n)
		}
	}
}

// Every guide can be found from the README.
func TestREADMEHasAllGuides(t *testing.T) {
	readme := read(t, "../../README.md")
	for _, page := range pages(t)[1:] {
		if name, _ := filepath.Rel("../..", page); !strings.Contains(readme, "("+filepath.ToSlash(name)+")") {
			t.Errorf("README.md does not link to %s", name)
		}
	}
}
