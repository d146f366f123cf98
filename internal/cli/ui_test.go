package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

func TestUINeedsATerminal(t *testing.T) {
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
	for name, tc := range map[string]struct {
		env    Env
		args   []string
		code   int
		stderr string
	}{
		"none":       {Env{}, nil, exitUsage, "ui needs a terminal for its input and its output; 'tinkex checkpoint list' needs none"},
		"no input":   {Env{StdoutTerminal: true}, nil, exitUsage, "needs a terminal"},
		"no output":  {Env{StdinTerminal: true}, nil, exitUsage, "needs a terminal"},
		"json":       {Env{StdinTerminal: true, StdoutTerminal: true}, []string{"-f", "json"}, exitUsage, "ui has no JSON"},
		"key":        {Env{StdinTerminal: true, StdoutTerminal: true}, []string{"--api-key", "nonsense"}, exitAuth, "API key"},
		"an operand": {Env{StdinTerminal: true, StdoutTerminal: true}, []string{"tinker://run/weights/a"}, exitUsage, "Usage: tinkex ui"},
	} {
		t.Run(name, func(t *testing.T) {
			tinkexWith(t, tc.env, append([]string{"ui"}, tc.args...)...).want(t, tc.code, nil, []string{tc.stderr})
		})
	}
}

// TestUIOptions: the browser tells of a checkpoint what checkpoint info does,
// and reads times to live as set-ttl does.
func TestUIOptions(t *testing.T) {
	w := newWorld(t, "0001")
	a := &app{Env: Env{StdoutTerminal: true, NotUTF8: true}}
	c, err := a.rest()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := a.uiOptions(c, "models")
	if opts.Server != w.srv.URL || opts.Dir != "models" || !opts.ASCII {
		t.Errorf("the options are %+v", opts)
	}
	if got := opts.Text("é\x1b"); strings.Contains(got, "\x1b") || strings.Contains(got, "é") {
		t.Errorf("a text is shown as %q", got)
	}
	path, err := tinkex.ParseTinkerPath(w.path("0001"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := opts.Describe(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{path.String(), w.run, tinkextest.BaseModel, "rank 4, on attention, unembedding", "you only", "never"} {
		if !slices.Contains(d.Properties, want) {
			t.Errorf("the properties lack %q: %q", want, d.Properties)
		}
	}
	if len(d.Files) == 0 || len(d.Files[0].SHA256) != 64 || !strings.Contains(d.Files[0].Size, "bytes") {
		t.Errorf("the files are %+v", d.Files)
	}
	if ttl, err := opts.ParseTTL("90m"); err != nil || ttl != 90*time.Minute {
		t.Errorf("90m is %v, %v", ttl, err)
	}
	if _, err := opts.ParseTTL("soon"); err == nil || strings.Contains(err.Error(), "--ttl") || !strings.Contains(err.Error(), `"soon"`) {
		t.Errorf("soon is %v", err)
	}
}

func TestDumbTerminal(t *testing.T) {
	for _, tc := range []struct {
		goos, term string
		want       bool
	}{
		{"linux", "dumb", true}, {"linux", "", true}, {"linux", "xterm", false}, {"windows", "", false}, {"windows", "dumb", true},
	} {
		if got := dumbTerminal(tc.goos, tc.term); got != tc.want {
			t.Errorf("%s with TERM=%q: %v, want %v", tc.goos, tc.term, got, tc.want)
		}
	}
}
