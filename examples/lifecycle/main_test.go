package main

import (
	"bytes"
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
