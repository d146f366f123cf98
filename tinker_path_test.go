package tinkex

import (
	"errors"
	"strings"
	"testing"
)

func TestParseTinkerPath(t *testing.T) {
	for s, want := range map[string]TinkerPath{
		"tinker://s:train:0/weights/0001":         {"s:train:0", Training, "0001"},
		"tinker://run-abc123/sampler_weights/a.b": {"run-abc123", Sampler, "a.b"},
		"tinker://r/external_weights/x_Y-1":       {"r", External, "x_Y-1"},
	} {
		got, err := ParseTinkerPath(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%s parses to %+v, %v", s, got, err)
		}
	}
	for s, says := range map[string]string{
		"":                                              `does not start with "tinker://"`,
		"http://run/weights/a":                          `does not start with "tinker://"`,
		"tinker://run":                                  "1 segments",
		"tinker://run/weights/a/b":                      "4 segments",
		"tinker://run/other/a":                          `unknown kind "other"`,
		"tinker:///weights/a":                           "run id is empty",
		"tinker://run/weights/":                         "checkpoint name is empty",
		"tinker://run/weights/..":                       "unsafe",
		"tinker://./weights/a":                          "unsafe",
		"tinker://run/weights/a b":                      "contains ' '",
		"tinker://run/weights/a:b":                      "contains ':'",
		"tinker://run/weights/\x00":                     `contains '\x00'`,
		"tinker://run/weights/ä":                        "contains 'ä'",
		"tinker://run/weights/a%2fb":                    "contains '%'",
		"tinker://run/weights/" + long(MaxNameLength+1): "129 bytes",
	} {
		_, err := ParseTinkerPath(s)
		var e *Error
		if !errors.Is(err, ErrInvalidPath) || !errors.As(err, &e) || e.Category != CategoryUser || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want it to say %q", s, err, says)
		}
	}
	if _, err := NewTinkerPath("r", Training, long(MaxNameLength)); err != nil {
		t.Error(err)
	}
	if err := (TinkerPath{}).Validate(); !errors.Is(err, ErrInvalidPath) {
		t.Errorf("the zero path: %v", err)
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func FuzzParseTinkerPath(f *testing.F) {
	f.Add("tinker://s:train:0/weights/0001")
	f.Add("tinker://../weights/..")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseTinkerPath(s)
		if err != nil {
			return
		}
		if p.String() != s || strings.ContainsAny(p.DirName(), "/\\\x00") || p.Validate() != nil {
			t.Errorf("%q parses to %+v, which formats as %q", s, p, p.String())
		}
	})
}
