package archive

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{
		"adapter_config.json", "a", "a/b/c", "...a", "a..b", ".hidden", "a b", " a", "-rf", "~", "$HOME", "a;b", "a&b", "%41", "a'b",
		"CONSOLE", "con1", "COM10", "COM", "LPTX", "nul_", "auxiliary.txt", "COM\u2074", "c", "1",
		"Ünïcödé", "数据.bin", "अनुमान", "e\u0301", "\U0001f600", strings.Repeat("x", 255), strings.Repeat("é", 127),
		strings.Repeat("x/", 31) + "x", strings.Repeat(strings.Repeat("x", 250)+"/", 4) + "x",
	} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for kind, names := range map[error][]string{
		ErrPath: {
			"/", "/etc/passwd", "//server/share", "..", "../a", "a/..", "a/../b", "../../../../etc/passwd",
			`a\b`, `\`, `\\server\share`, `..\a`, `C:\a`, "C:a", "c:/a", "Z:", "a/../../b",
		},
		ErrName: {
			"", ".", "a/./b", "./a/", "a//b", "a/", "a/.",
			"nul", "NUL", "Nul.txt", "nul.tar.gz", "a/con", "con/a", "aux.", "prn", "com1", "COM9.log", "LPT1", "lpt0", "com¹", "LPT³.x",
			"conin$", "CONOUT$", "CLOCK$", "nul ", "nul .txt", "AUX  .x",
			"a.", "a ", "a./b", "a /b", "...", "a<b", "a>b", "ab:c", `a"b`, "a|b", "a?b", "a*b", "file:stream", "abc:def/x",
			"a\x00b", "a\nb", "a\rb", "a\tb", "\x1b[2J", "a\x7fb", "a\u0085b", "a\u200bb", "a\u202eb", "\ufeffa", "a\u2028b", "a\u00adb",
			"\xff", "a\xc3\x28", "\xed\xa0\x80",
			strings.Repeat("x", 256), strings.Repeat("é", 128), strings.Repeat("x/", 32) + "x", strings.Repeat(strings.Repeat("x", 200)+"/", 6) + "x",
		},
	} {
		for _, name := range names {
			err := checkName(name)
			if !errors.Is(err, kind) || !errors.Is(err, ErrUnsafe) {
				t.Errorf("%q: %v, want %v", name, err, kind)
			}
			var member *MemberError
			if !errors.As(err, &member) || member.Name != name {
				t.Errorf("%q: %v does not name it", name, err)
			}
		}
	}
}

func TestFoldName(t *testing.T) {
	for _, same := range [][]string{
		{"readme", "README", "ReadMe"},
		{"a/b", "A/B"},
		{"\u00e9", "\u00c9", "e\u0301", "E\u0301"}, // é in all its forms
		{"straße", "STRASSE", "straSSe", "STRAẞE"},
		{"\u212b", "\u00c5", "\u00e5", "a\u030a"}, // Ångström and Å
		{"k", "K", "\u212a"},                      // Kelvin
		{"σίσυφος", "ΣΊΣΥΦΟΣ", "σίσυφοσ"},
		{"\ufb01le", "file", "FILE"}, // the ligature fi
		{"\uac00", "\u1100\u1161"},   // Hangul, composed and not
		{"\uf900", "\u8c48"},         // a compatibility ideograph
		{"a\ufe0f", "a", "A\u034f"},  // variation selector, grapheme joiner
		{"ǆ", "Ǆ", "ǅ"},
		{"\uab79", "\u13a9"}, // Cherokee
		{"\u1e9b\u0323", "\u1e9b\u0323"},
	} {
		for _, name := range same[1:] {
			if foldName(name) != foldName(same[0]) {
				t.Errorf("%q and %q are not taken for the same", name, same[0])
			}
		}
	}
	for _, other := range [][2]string{{"a", "b"}, {"a", "ä"}, {"a/b", "ab"}, {"数", "据"}, {"1", "２"}, {"o", "0"}} {
		if foldName(other[0]) == foldName(other[1]) {
			t.Errorf("%q and %q are taken for the same", other[0], other[1])
		}
	}
}

// TestFoldCase goes through all of Unicode.
func TestFoldCase(t *testing.T) {
	for r := range unicode.MaxRune + 1 {
		if checkPart("", string(r)) != nil || unicode.IsMark(r) {
			continue
		}
		key := foldName(string(r))
		if again := foldName(key); again != key {
			t.Errorf("%U: folded %q, folded again %q", r, key, again)
		}
		for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
			if other := foldName(string(c)); other != key && !unicode.IsMark(c) {
				t.Errorf("%U is folded %q, %U is folded %q", r, key, c, other)
			}
		}
		for _, form := range []norm.Form{norm.NFC, norm.NFD} {
			if other := foldName(form.String(string(r))); other != key {
				t.Errorf("%U is folded %q, in another composition %q", r, key, other)
			}
		}
	}
}

func FuzzFoldName(f *testing.F) {
	for _, name := range []string{"a", "É", "e\u0301", "STRAẞE", "\u0390", "\u1fd3", "\u0345\u0301", "ŉ"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			t.Skip()
		}
		if strings.ContainsRune(norm.NFD.String(name), '\u0345') {
			t.Skip("the one mark that folds to a letter, to different effect with and without composition")
		}
		key := foldName(name)
		for how, other := range map[string]string{
			"upper case": strings.ToUpper(name),
			"lower case": strings.ToLower(name),
			"again":      key,
		} {
			if how == "again" && foldName(other) != key {
				t.Errorf("%q: folded %q, folded again %q", name, key, foldName(other))
			}
			if strings.EqualFold(name, other) && foldName(other) != key {
				t.Errorf("%q: %s %q is not taken for the same", name, how, other)
			}
		}
	})
}
