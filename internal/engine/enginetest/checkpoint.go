package enginetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// tensors reads a checkpoint's adapter.
func tensors(t *testing.T, f files) map[string][]float32 {
	t.Helper()
	raw := f[engine.AdapterWeightsFile]
	st, err := safetensors.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatalf("%s: %v", engine.AdapterWeightsFile, err)
	}
	all := map[string][]float32{}
	for _, info := range st.Tensors() {
		if info.DType != safetensors.F32 || len(info.Shape) != 2 {
			t.Errorf("tensor %s is %s%v", info.Name, info.DType, info.Shape)
		}
		if all[info.Name], err = st.Float32(info.Name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// adapterConfig reads a checkpoint's configuration.
func adapterConfig(t *testing.T, f files) map[string]any {
	t.Helper()
	var cfg map[string]any
	if err := json.Unmarshal(f[engine.AdapterConfigFile], &cfg); err != nil {
		t.Fatalf("%s: %v", engine.AdapterConfigFile, err)
	}
	return cfg
}

func testCheckpointFiles(t *testing.T, s *suite) {
	m := s.model()
	s.train(m, 0, 2)
	plain, full := s.save(m, false), s.save(m, true)
	if got, want := plain.names(), []string{engine.AdapterConfigFile, engine.AdapterWeightsFile}; !slices.Equal(got, want) {
		t.Errorf("saved %q without the optimizer, want %q", got, want)
	}
	if got, want := full.names(), append(plain.names(), engine.OptimizerFile); !slices.Equal(got, want) {
		t.Errorf("saved %q with the optimizer, want %q", got, want)
	}
	for name := range plain {
		if !bytes.Equal(plain[name], full[name]) {
			t.Errorf("%s depends on whether the optimizer is saved", name)
		}
	}
	if !full.equal(s.save(m, true)) {
		t.Error("saving twice gives different files")
	}

	cfg := adapterConfig(t, plain)
	for key, want := range map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": true,
		"base_model_name_or_path": s.base.Name, "r": 4.0, "lora_dropout": 0.0,
	} {
		if cfg[key] != want {
			t.Errorf("%s: %q is %v, want %v", engine.AdapterConfigFile, key, cfg[key], want)
		}
	}
	if alpha, _ := cfg["lora_alpha"].(float64); !(alpha > 0) {
		t.Errorf("lora_alpha is %v", cfg["lora_alpha"])
	}
	targets, _ := cfg["target_modules"].([]any)
	if len(targets) == 0 {
		t.Error("target_modules is empty")
	}
	all := tensors(t, plain)
	for name, v := range all {
		module, ok := strings.CutPrefix(name, "base_model.model.")
		if !ok || !strings.HasSuffix(name, ".lora_A.weight") && !strings.HasSuffix(name, ".lora_B.weight") {
			t.Errorf("PEFT does not know tensor %s", name)
		}
		pair := strings.Replace(name, ".lora_A.", ".lora_B.", 1)
		if _, ok := all[pair]; !ok {
			t.Errorf("tensor %s has no partner", name)
		}
		known := slices.ContainsFunc(targets, func(m any) bool { return strings.Contains("."+module, "."+m.(string)+".") })
		if !known {
			t.Errorf("target_modules %v does not cover tensor %s", targets, name)
		}
		for i, x := range v {
			if x-x != 0 {
				t.Errorf("%s[%d] is %v", name, i, x)
				break
			}
		}
	}
}

// brokenWriter fails at the nth operation.
type brokenWriter struct{ left int }

var errDisk = errors.New("disk full")

func (b *brokenWriter) tick() error {
	if b.left--; b.left < 0 {
		return errDisk
	}
	return nil
}

func (b *brokenWriter) Create(string) (io.WriteCloser, error) {
	if err := b.tick(); err != nil {
		return nil, err
	}
	return brokenFile{b}, nil
}

type brokenFile struct{ b *brokenWriter }

func (f brokenFile) Write(p []byte) (int, error) { return len(p), f.b.tick() }
func (f brokenFile) Close() error                { return f.b.tick() }

func testSaveFailures(t *testing.T, s *suite) {
	m := s.model(func(c *engine.ModelConfig) { c.Rank = 1 })
	s.train(m, 0, 1)
	s.forwardBackward(m, s.batch(1, 1))
	for n := 0; n < 200; n++ {
		if m.Save(t.Context(), &brokenWriter{left: n}, true) == nil {
			if n < 6 {
				t.Fatalf("saved three files in %d operations", n)
			}
			return
		}
		if n < 12 || n%16 == 0 {
			err := s.unchanged(m, "Save", func() error { return m.Save(t.Context(), &brokenWriter{left: n}, true) })
			if !errors.Is(err, errDisk) {
				t.Fatalf("the writer's error is lost: %v", err)
			}
		}
	}
}

func testExactResume(t *testing.T, s *suite) {
	straight := s.model()
	s.train(straight, 0, 3)
	checkpoint := s.save(straight, true)
	s.train(straight, 3, 3)
	want := s.save(straight, true)

	other := int64(99)
	resumed := s.model(func(c *engine.ModelConfig) { c.Seed = &other })
	s.train(resumed, 50, 1) // a past that must not show
	s.forwardBackward(resumed, s.batch(60, 1))
	s.load(resumed, checkpoint, true)
	if !s.save(resumed, true).equal(checkpoint) {
		t.Error("saving what was just loaded gives different files")
	}
	s.train(resumed, 3, 3)
	if !s.save(resumed, true).equal(want) {
		t.Error("training after a load with optimizer differs from training straight through")
	}

	weightsOnly := s.model()
	s.train(weightsOnly, 50, 1)
	s.forwardBackward(weightsOnly, s.batch(60, 1))
	s.load(weightsOnly, checkpoint, false)
	loaded := s.save(weightsOnly, true)
	if !bytes.Equal(loaded[engine.AdapterWeightsFile], checkpoint[engine.AdapterWeightsFile]) {
		t.Error("a load without optimizer gives other weights")
	}
	s.train(weightsOnly, 3, 1)
	once := s.model()
	s.load(once, checkpoint, true)
	s.train(once, 3, 1)
	if bytes.Equal(s.save(weightsOnly, false)[engine.AdapterWeightsFile], s.save(once, false)[engine.AdapterWeightsFile]) {
		t.Error("the step after a load without optimizer equals the one with it: one of them restores nothing, or too much")
	}
	fresh := s.model()
	s.load(fresh, checkpoint, false)
	s.train(fresh, 3, 1)
	if !s.save(fresh, true).equal(s.save(weightsOnly, true)) {
		t.Error("a load without optimizer does not start AdamW afresh")
	}
}

func testResumeWithGradients(t *testing.T, s *suite) {
	a := s.model()
	s.train(a, 0, 1)
	s.forwardBackward(a, s.batch(7, 2))
	checkpoint := s.save(a, true)
	s.forwardBackward(a, s.batch(8, 2))
	s.step(a, adam)

	b := s.model()
	s.load(b, checkpoint, true)
	s.forwardBackward(b, s.batch(8, 2))
	s.step(b, adam)
	if !s.save(a, true).equal(s.save(b, true)) {
		t.Error("accumulated gradients do not survive a checkpoint with optimizer")
	}

	// Before the first step there are no moments, but there may be gradients.
	c := s.model()
	s.forwardBackward(c, s.batch(9, 1))
	checkpoint = s.save(c, true)
	s.step(c, adam)
	d := s.model()
	s.load(d, checkpoint, true)
	s.step(d, adam)
	if !s.save(c, true).equal(s.save(d, true)) {
		t.Error("gradients before the first step do not survive a checkpoint with optimizer")
	}
}

func testLoadFailures(t *testing.T, s *suite) {
	source := s.model()
	s.train(source, 0, 1)
	good := s.save(source, true)
	s.forwardBackward(source, s.batch(2, 1))
	withGrad := s.save(source, true)

	m := s.model()
	s.train(m, 5, 1)
	s.forwardBackward(m, s.batch(6, 1))
	load := func(what string, f files, optimizer bool, want error) {
		t.Helper()
		err := s.unchanged(m, what, func() error { return m.Load(t.Context(), f.fs(), optimizer) })
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	of := func(edit func(*engine.ModelConfig)) files { return s.save(s.model(edit), true) }
	load("another rank", of(func(c *engine.ModelConfig) { c.Rank = 5 }), true, engine.ErrIncompatible)
	load("fewer modules", of(func(c *engine.ModelConfig) { c.TrainUnembed = false }), true, engine.ErrIncompatible)
	load("no optimizer", s.save(source, false), true, engine.ErrNoOptimizer)
	load("nothing at all", files{}, false, engine.ErrIncompatible)

	edited := func(name string, f func([]byte) []byte) files {
		c := withGrad.clone()
		c[name] = f(bytes.Clone(c[name]))
		return c
	}
	without := func(name string) files {
		c := good.clone()
		delete(c, name)
		return c
	}
	replace := func(name, from, to string) files {
		return edited(name, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(from), []byte(to)) })
	}
	load("another base model", replace(engine.AdapterConfigFile, `"`+s.base.Name+`"`, `"somebody/else"`), true, engine.ErrIncompatible)
	load("no configuration", without(engine.AdapterConfigFile), false, engine.ErrIncompatible)
	load("no weights", without(engine.AdapterWeightsFile), false, engine.ErrIncompatible)
	load("configuration that is no JSON", edited(engine.AdapterConfigFile, func(b []byte) []byte { return b[:len(b)/2] }), false, engine.ErrIncompatible)
	for _, name := range []string{engine.AdapterWeightsFile, engine.OptimizerFile} {
		load(name+" cut off", edited(name, func(b []byte) []byte { return b[:len(b)-4] }), true, engine.ErrIncompatible)
		load(name+" empty", edited(name, func([]byte) []byte { return nil }), true, engine.ErrIncompatible)
		load(name+" with NaN", edited(name, func(b []byte) []byte {
			return append(b[:len(b)-4], 0, 0, 0xc0, 0x7f)
		}), true, engine.ErrIncompatible)
		load(name+" with another tensor name", replace(name, "lora_B.weight", "lora_C.weight"), true, engine.ErrIncompatible)
		load(name+" of another type", replace(name, `"F32"`, `"I32"`), true, engine.ErrIncompatible)
	}
	s.load(m, good, true)

	// A sampler is as choosy.
	for what, f := range map[string]files{
		"another base model": replace(engine.AdapterConfigFile, `"`+s.base.Name+`"`, `"somebody/else"`),
		"no weights":         without(engine.AdapterWeightsFile),
		"NaN":                edited(engine.AdapterWeightsFile, func(b []byte) []byte { return append(b[:len(b)-4], 0, 0, 0xc0, 0x7f) }),
	} {
		if _, err := s.eng.NewSampler(t.Context(), s.base.Name, f.fs()); !errors.Is(err, engine.ErrIncompatible) {
			t.Errorf("NewSampler with %s: %v", what, err)
		}
	}

	// An unusual alpha is part of the adapter.
	was := adapterConfig(t, good)["lora_alpha"].(float64)
	alpha := []byte(`"lora_alpha": ` + jsonNumber(t, was))
	double := edited(engine.AdapterConfigFile, func(b []byte) []byte {
		if !bytes.Contains(b, alpha) {
			t.Skipf("%s writes lora_alpha in its own way", engine.AdapterConfigFile)
		}
		return bytes.ReplaceAll(b, alpha, []byte(`"lora_alpha": `+jsonNumber(t, 2*was)))
	})
	s.load(m, double, false)
	if got := adapterConfig(t, s.save(m, false))["lora_alpha"]; got != 2*was {
		t.Errorf("lora_alpha %v was saved as %v", 2*was, got)
	}
	n := s.model()
	s.load(n, good, false)
	b := s.batch(1, 1)
	if x, y := s.forwardBackward(m, b).Metrics["loss:sum"], s.forwardBackward(n, b).Metrics["loss:sum"]; x == y || math.IsNaN(x) {
		t.Errorf("lora_alpha makes no difference: loss %v and %v", x, y)
	}
}

// testDescribe: whatever an engine saves, it describes such that it can be
// loaded again.
func testDescribe(t *testing.T, s *suite) {
	for _, flags := range [][3]bool{{true, false, false}, {false, true, false}, {false, false, true}, {true, true, true}} {
		want := engine.ModelConfig{BaseModel: s.base.Name, Rank: 3, TrainAttn: flags[0], TrainMLP: flags[1], TrainUnembed: flags[2]}
		f := s.save(s.model(func(c *engine.ModelConfig) { *c = want }), false)
		for _, asked := range []string{"", s.base.Name} {
			got, err := s.eng.Describe(f.fs(), asked)
			if err != nil || got != want {
				t.Errorf("%+v, asked for %q, is described as %+v, %v", want, asked, got, err)
			}
		}
		delete(f, engine.AdapterWeightsFile) // is not looked at
		got, err := s.eng.Describe(f.fs(), "")
		if err != nil || got != want {
			t.Errorf("without weights: %+v, %v", got, err)
		}
	}
	good := s.save(s.model(), false)
	base := []byte(`"` + s.base.Name + `"`)
	with := func(from, to []byte) files {
		f := good.clone()
		f[engine.AdapterConfigFile] = bytes.ReplaceAll(f[engine.AdapterConfigFile], from, to)
		return f
	}
	// An adapter that does not say what it is for is for what is asked.
	nameless := with(base, []byte("null"))
	if got, err := s.eng.Describe(nameless.fs(), s.base.Name); err != nil || got.BaseModel != s.base.Name {
		t.Errorf("nameless: %+v, %v", got, err)
	}
	s.load(s.model(), nameless, false)
	for _, tc := range []struct {
		name  string
		files files
		asked string
		want  error
	}{
		{"no configuration", files{}, "", engine.ErrIncompatible},
		{"no JSON", with([]byte("{"), nil), "", engine.ErrIncompatible},
		{"another method", with([]byte(`"LORA"`), []byte(`"IA3"`)), "", engine.ErrIncompatible},
		{"nameless and not asked", nameless, "", engine.ErrIncompatible},
		{"another base model than asked", with(base, []byte(`"somebody/else"`)), s.base.Name, engine.ErrIncompatible},
		{"an unknown base model", with(base, []byte(`"somebody/else"`)), "", engine.ErrUnknownModel},
		{"an unknown base model asked", good, "somebody/else", engine.ErrUnknownModel},
	} {
		if got, err := s.eng.Describe(tc.files.fs(), tc.asked); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

func jsonNumber(t *testing.T, v float64) string {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
