package hfhub

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func sections(t testing.TB, text string) map[string]map[string]string {
	t.Helper()
	s, err := ParseStored([]byte(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	out := map[string]map[string]string{}
	for _, s := range s.Sections {
		out[s.Name] = map[string]string{}
		for _, f := range s.Fields {
			out[s.Name][f.Name] = f.Value
		}
	}
	return out
}

func TestParseStored(t *testing.T) {
	type m = map[string]map[string]string
	for text, want := range map[string]m{
		"":                              {},
		"# nothing\n\n; at all":         {},
		"[a]\n":                         {"a": {}},
		"[a]\nx = 1\nY: 2 = 3\n":        {"a": {"x": "1", "y": "2 = 3"}},
		"[a]\r\nx=1\ry=2\r\n":           {"a": {"x": "1", "y": "2"}},
		"[a]\nx = 1\n  2\n\n\t3\n\n":    {"a": {"x": "1\n2\n\n3"}},
		"[a]\nx = 1\n# y\n  ; z\n  2\n": {"a": {"x": "1\n2"}},
		"  [a]\n x = 1\n [b]\ny =\n":    {"a": {"x": "1"}, "b": {"y": ""}},
		"[a]\n  x = 1\n  y = 2\n[b]":    {"a": {"x": "1", "y": "2"}, "b": {}},
		"[a]\n[b]\n  [c]\n":             {"a": {}, "b": {}, "c": {}},
		"[a]\nx = 1\n  [c]\n":           {"a": {"x": "1\n[c]"}},
		"[a] b] c\n":                    {"a] b": {}},
		"[DEFAULT]\nx = 1\n[a]\ny = 2\n[b]\nx = 3\n[DEFAULT]\nz = 4\n": {"a": {"x": "1", "y": "2", "z": "4"}, "b": {"x": "3", "z": "4"}},
		"[ü]\nx = %(y)s # not a comment\n":                             {"ü": {"x": "%(y)s # not a comment"}},
	} {
		if got := sections(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"x = 1\n":                       "line 1: there is no section yet",
		"\ufeff[a]\n":                   "line 1: there is no section yet",
		"[a]\nhf_secret\n":              "line 2: it is neither",
		"[a]\n= hf_secret\n":            "line 2: the field has no name",
		"[a]\nx = 1\nX = hf_secret\n":   "line 3: the field is there twice",
		"[a]\n[b]\n[a]\n":               "line 3: the section is there twice",
		"[a]\n[]\n":                     "line 2: it is neither",
		"[DEFAULT]\nx=1\n[DEFAULT]\nx=": "line 4: the field is there twice",
		"[\xff]\n":                      "it is not UTF-8",
	} {
		if _, err := ParseStored([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// checkReplace replaces the fields of each section in turn, and finds all others
// as they were.
func checkReplace(t *testing.T, text string) {
	t.Helper()
	s, err := ParseStored([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range s.Sections {
		if !s.replaceable(section.Name) {
			continue
		}
		want := sections(t, text)
		now := want[section.Name]
		for _, f := range section.Fields[:section.own] {
			delete(now, f.Name)
		}
		fields := []Field{{"hf_token", "hf_x"}, {"refresh_token", "=:#["}}
		for _, d := range defaultsOf(text) {
			now[d.Name] = d.Value
		}
		for _, f := range fields {
			now[f.Name] = f.Value
		}
		if got := sections(t, string(s.replace(section.Name, fields))); !reflect.DeepEqual(got, want) {
			t.Errorf("%q, %q replaced: %q, want %q", text, section.Name, got, want)
		}
	}
}

// defaultsOf are what a section has that has none of its own.
func defaultsOf(text string) []Field {
	name := "none"
	for strings.Contains(text, name) {
		name += "e"
	}
	s, err := ParseStored(fmt.Appendf(nil, "[%s]\n%s", name, text))
	if err != nil {
		return nil
	}
	return s.section(name).Fields
}

func TestReplaceStored(t *testing.T) {
	const text = "# mine\r\n[a]\r\nhf_token = 1\r\n\r\n[b]\n    hf_token: 2\n   x = 3\n     4\n# of c\n  [c]\nhf_token=5"
	s, err := ParseStored([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := "# mine\r\n[a]\r\nhf_token = 1\r\n\r\n[b]\n   hf_token = x\n   y = z\n# of c\n  [c]\nhf_token=5"
	if got := string(s.replace("b", []Field{{"hf_token", "x"}, {"y", "z"}})); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, text := range []string{text, "[a]\nx=1", "[a]\nx = 1\n\n\n", "[DEFAULT]\nd = 1\n[a]\nd = 2\n[b]\nx\t:\n\t1\n;\n"} {
		checkReplace(t, text)
	}
}

// What is read can be changed, one section at a time.
func FuzzParseStored(f *testing.F) {
	for _, text := range []string{
		"", "[a]\nhf_token = x\nrefresh_token = y\nexpires_at = 1\n\n[b]\nhf_token = z\n", "[DEFAULT]\na=1\n [b]\n  c: d\n   e\n\n\n[x]\r\n;\r y=\x1c\n",
		"[[]]]\n\u2003x=\u0085y\n", "x", "[a]\n=",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseStored([]byte(text)); err == nil {
			checkReplace(t, text)
		}
	})
}
