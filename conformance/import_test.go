package conformance

import (
	"math"
	"strings"
	"testing"
)

// An adapter that Python's safetensors wrote, imported by our command, is
// trained on and sampled from by the published SDK.
func TestImportedAdapterServesThePublishedSDK(t *testing.T) {
	t.Parallel()
	const key = "tml-import"
	venv(t)
	url := serve(t, t.TempDir()).url
	for _, dtype := range []string{"float32", "float16"} {
		dir := t.TempDir()
		script(t, url, key, "foreign", map[string]any{"dir": dir, "seed": 3, "dtype": dtype}).at("tensors").is(16)
		out := must(t, url, key, tinkexBinary, "checkpoint", "import", dir, "--name", dtype)
		paths := strings.Fields(out)
		if len(paths) != 2 || !strings.Contains(paths[0], "/weights/"+dtype) || !strings.Contains(paths[1], "/sampler_weights/"+dtype) {
			t.Fatalf("the command printed %q", out)
		}
		d := script(t, url, key, "foreign", map[string]any{"training": paths[0], "sampler": paths[1]})
		d.at("rank").is(4)
		d.at("info", "train_attn").is(true)
		d.at("info", "train_mlp").is(false)
		d.at("info", "train_unembed").is(false)
		losses := d.at("losses").list()
		losses[0].same(d.at("before", "loss"))
		if first, last := losses[0].num(), losses[len(losses)-1].num(); !(last < first) {
			t.Errorf("%s: the loss went from %v to %v", dtype, first, last)
		}
		// Both checkpoints hold the same weights.
		scored := d.at("scored").list()
		for i, lp := range d.at("before", "logprobs", 0).list() {
			if math.Abs(lp.num()-scored[i].num()) > 1e-3 {
				t.Errorf("%s: position %d scores %v to train on and %v to sample from", dtype, i, lp.num(), scored[i].num())
			}
		}
		listed := d.at("listed").json()
		for _, p := range paths {
			if !strings.Contains(listed, p) {
				t.Errorf("%s is not among %s", p, listed)
			}
		}
	}
}
