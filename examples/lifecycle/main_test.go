package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/tinkextest"
)

func TestLifecycle(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, tinkextest.NewServer(t).Options(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	const want = `saved weights/step-0005
resumed
listed weights/step-0005
downloaded adapter_config.json
downloaded adapter_model.safetensors
downloaded optimizer_state.safetensors
downloaded checkpoint_complete
`
	if out.String() != want {
		t.Errorf("it printed\n%s", out.String())
	}
}

// The guide shows this program, not one like it.
func TestGuideShowsThisProgram(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/getting_started.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(guide), "```go\n")
	code, _, ok := strings.Cut(code, "```")
	if !ok || !strings.Contains(string(source), code) {
		t.Error("docs/guides/getting_started.md differs from main.go; copy func run into it")
	}
}
