package cpu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// peftFiles is a checkpoint of the tiny model with the given modules, made as
// another tool would make it.
func peftFiles(t *testing.T, rank int, edit func(map[string]any), has func(layer int, m module) bool) fstest.MapFS {
	t.Helper()
	c := tinyConfig()
	l := newLayout(&c, rank, has)
	ad := newAdapter(l, 3)
	for i := range ad.params {
		ad.params[i] += 0.01
	}
	cfg := map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": TinyModel, "bias": "none",
		"r": rank, "lora_alpha": 16, "target_modules": l.moduleList(), "modules_to_save": nil, "rank_pattern": map[string]int{},
		"a_field_of_tomorrow": []int{1},
	}
	if edit != nil {
		edit(cfg)
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, l.tensors("", ad.params), nil); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		engine.AdapterConfigFile:  {Data: raw},
		engine.AdapterWeightsFile: {Data: b.Bytes()},
	}
}

func attention(_ int, m module) bool { return m.attention() }

func TestReadModelConfig(t *testing.T) {
	attn := engine.ModelConfig{BaseModel: TinyModel, Rank: 4, TrainAttn: true}
	both := engine.ModelConfig{BaseModel: TinyModel, Rank: 4, TrainAttn: true, TrainMLP: true}
	for _, tc := range []struct {
		name string
		edit func(map[string]any)
		want engine.ModelConfig // zero: ErrIncompatible
	}{
		{"as is", nil, attn},
		{"old fields only", func(c map[string]any) { delete(c, "rank_pattern"); delete(c, "bias") }, attn},
		{"some modules", func(c map[string]any) { c["target_modules"] = []string{"v_proj", "up_proj"} }, both},
		{"whole paths", func(c map[string]any) {
			c["target_modules"] = []string{"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
		}, both},
		{"all-linear", func(c map[string]any) { c["target_modules"] = "all-linear" }, both},
		{"pattern", func(c map[string]any) { c["target_modules"] = `.*\.(q|k|v|o)_proj` }, attn},
		{"unembedding", func(c map[string]any) { c["target_modules"] = []string{"lm_head"} },
			engine.ModelConfig{BaseModel: TinyModel, Rank: 4, TrainUnembed: true}},
		{"bad pattern", func(c map[string]any) { c["target_modules"] = `(` }, engine.ModelConfig{}},
		{"pattern of nothing", func(c map[string]any) { c["target_modules"] = `x` }, engine.ModelConfig{}},
		{"unknown module", func(c map[string]any) { c["target_modules"] = []string{"embed_tokens"} }, engine.ModelConfig{}},
		{"no modules", func(c map[string]any) { delete(c, "target_modules") }, engine.ModelConfig{}},
		{"modules of another type", func(c map[string]any) { c["target_modules"] = 1 }, engine.ModelConfig{}},
		{"another method", func(c map[string]any) { c["peft_type"] = "IA3" }, engine.ModelConfig{}},
		{"rank 0", func(c map[string]any) { c["r"] = 0 }, engine.ModelConfig{}},
		{"rank of text", func(c map[string]any) { c["r"] = "8" }, engine.ModelConfig{}},
		{"no alpha", func(c map[string]any) { delete(c, "lora_alpha") }, engine.ModelConfig{}},
		{"negative alpha", func(c map[string]any) { c["lora_alpha"] = -1 }, engine.ModelConfig{}},
		{"bias", func(c map[string]any) { c["bias"] = "all" }, engine.ModelConfig{}},
		{"DoRA", func(c map[string]any) { c["use_dora"] = true }, engine.ModelConfig{}},
		{"rank pattern", func(c map[string]any) { c["rank_pattern"] = map[string]int{"q_proj": 2} }, engine.ModelConfig{}},
		{"alpha pattern", func(c map[string]any) { c["alpha_pattern"] = map[string]int{"q_proj": 2} }, engine.ModelConfig{}},
		{"other weights", func(c map[string]any) { c["modules_to_save"] = []string{"embed_tokens"} }, engine.ModelConfig{}},
	} {
		got, err := ReadModelConfig(peftFiles(t, 4, tc.edit, attention))
		if tc.want == (engine.ModelConfig{}) {
			if !errors.Is(err, engine.ErrIncompatible) {
				t.Errorf("%s: %+v, %v", tc.name, got, err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", tc.name, got, err, tc.want)
		}
	}
	if _, err := ReadModelConfig(fstest.MapFS{}); !errors.Is(err, engine.ErrIncompatible) {
		t.Errorf("no file: %v", err)
	}
}

// What an engine saves, it can describe again.
func TestReadModelConfigOfOwnFiles(t *testing.T) {
	for _, flags := range [][3]bool{{true, false, false}, {false, true, false}, {false, false, true}, {true, true, true}} {
		want := engine.ModelConfig{BaseModel: TinyModel, Rank: 3, TrainAttn: flags[0], TrainMLP: flags[1], TrainUnembed: flags[2]}
		m, err := newTestEngine(t).NewModel(context.Background(), want)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := encodePEFT(m.(*Model).ad, TinyModel)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadModelConfig(fstest.MapFS{engine.AdapterConfigFile: {Data: raw}})
		if err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
}

func TestForeignAdapters(t *testing.T) {
	ctx := context.Background()
	e := newTestEngine(t)
	someLayers := func(layer int, m module) bool { return m == qProj && layer == 2 || m == lmHead }
	for _, tc := range []struct {
		name  string
		files fstest.MapFS
		alpha float64 // 0: ErrIncompatible
	}{
		{"attention", peftFiles(t, 4, nil, attention), 16},
		{"one module of one layer", peftFiles(t, 4, nil, someLayers), 16},
		{"rsLoRA", peftFiles(t, 4, func(c map[string]any) { c["use_rslora"] = true }, attention), 32},
		{"fractional alpha", peftFiles(t, 4, func(c map[string]any) { c["lora_alpha"] = 0.5 }, attention), 0.5},
		{"another rank", peftFiles(t, 4, func(c map[string]any) { c["r"] = 8 }, attention), 0},
		{"too few targets", peftFiles(t, 4, func(c map[string]any) { c["target_modules"] = []string{"q_proj"} }, attention), 0},
		{"too many targets", peftFiles(t, 4, func(c map[string]any) { c["target_modules"] = []string{"q_proj", "lm_head"} }, someLayers), 16},
		{"targets without tensors", peftFiles(t, 4, func(c map[string]any) { c["target_modules"] = []string{"q_proj", "k_proj", "lm_head"} }, someLayers), 0},
	} {
		s, err := e.NewSampler(ctx, TinyModel, tc.files)
		if tc.alpha == 0 {
			if !errors.Is(err, engine.ErrIncompatible) {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got := s.(*Sampler).ad.alpha; got != tc.alpha {
			t.Errorf("%s: alpha %v, want %v", tc.name, got, tc.alpha)
		}
		if _, err := s.Sample(ctx, &engine.SampleRequest{Prompt: []int32{1}, NumSamples: 1, MaxTokens: 2, TopP: 1}); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// PEFT saves the unembedding that it has adapted beside the adapter, and with
// save_embedding_layers=True both embeddings. They are no obstacle as long as
// they are the base model's.
func TestBaseWeightsBesideAnAdapter(t *testing.T) {
	ctx := context.Background()
	rounded := func(v float32) uint16 {
		b := math.Float32bits(v)
		return uint16((b + 0x7fff + b>>16&1) >> 16)
	}
	const head, embed = "base_model.model.lm_head", "base_model.model.model.embed_tokens.weight"
	for _, tied := range []bool{false, true} {
		c := smallConfig(archQwen3)
		c.tied = tied
		w := randomWeights(&c, 3)
		e := openDir(t, writeHuggingFace(t, &c, w))
		l := newLayout(&c, 4, func(_ int, m module) bool { return m == qProj || m == lmHead })
		ad := newAdapter(l, 5)
		config, err := encodePEFT(ad, "test/model")
		if err != nil {
			t.Fatal(err)
		}
		other := slices.Clone(w.head.Data)
		other[len(other)-1] += 0.01
		shape := []int{c.vocab, c.hidden}
		for _, tc := range []struct {
			name  string
			half  safetensors.DType // of the file; empty: F32
			extra []safetensors.Tensor
			word  string // of the refusal
		}{
			{"a copy of the unembedding", "", []safetensors.Tensor{{Name: head + ".base_layer.weight", Shape: shape, F32: w.head.Data}}, ""},
			{"copies under their own names", "", []safetensors.Tensor{{Name: head + ".weight", Shape: shape, F32: w.head.Data}, {Name: embed, Shape: shape, F32: w.embed.Data}}, ""},
			{"a copy in bfloat16", safetensors.BF16, []safetensors.Tensor{{Name: head + ".base_layer.weight", Shape: shape, F32: w.head.Data}}, ""},
			{"an unembedding of its own", "", []safetensors.Tensor{{Name: head + ".base_layer.weight", Shape: shape, F32: other}}, "differs from the base model's"},
			{"an unembedding of its own in bfloat16", safetensors.BF16, []safetensors.Tensor{{Name: head + ".base_layer.weight", Shape: shape, F32: other}}, "differs from the base model's"},
			{"more tokens", "", []safetensors.Tensor{{Name: embed, Shape: []int{c.vocab + 1, c.hidden}, F32: make([]float32, (c.vocab+1)*c.hidden)}}, "has shape"},
			{"integers", "", []safetensors.Tensor{{Name: head + ".weight", Shape: []int{c.vocab, c.hidden}, I64: make([]int64, c.vocab*c.hidden)}}, "expected F32"},
			{"a weight that no model has", "", []safetensors.Tensor{{Name: "base_model.model.score.weight", Shape: []int{1}, F32: []float32{1}}}, "does not belong"},
			{"a weight of another path", "", []safetensors.Tensor{{Name: "lm_head.weight", Shape: shape, F32: w.head.Data}}, "does not belong"},
		} {
			dir := t.TempDir()
			var b bytes.Buffer
			if err := safetensors.Write(&b, append(l.tensors("", ad.params), tc.extra...), nil); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, engine.AdapterWeightsFile)
			if err := errors.Join(os.WriteFile(path, b.Bytes(), 0o600), os.WriteFile(filepath.Join(dir, engine.AdapterConfigFile), config, 0o600)); err != nil {
				t.Fatal(err)
			}
			if tc.half != "" {
				halves(t, path, tc.half, rounded)
			}
			s, err := e.NewSampler(ctx, "test/model", os.DirFS(dir))
			switch {
			case tc.word == "" && err != nil:
				t.Errorf("tied %v, %s: %v", tied, tc.name, err)
			case tc.word != "" && (!errors.Is(err, engine.ErrIncompatible) || !strings.Contains(err.Error(), tc.word)):
				t.Errorf("tied %v, %s: %v, want %q", tied, tc.name, err, tc.word)
			}
			if err == nil {
				s.Close()
			}
		}
	}
}

func TestIsRounded(t *testing.T) {
	for _, tc := range []struct {
		v, want float32
		d       safetensors.DType
		is      bool
	}{
		{1, 1, safetensors.F32, true}, {1, math.Nextafter32(1, 2), safetensors.F32, false},
		{1, 1 + 1.0/256, safetensors.BF16, true}, {1, 1 + 1.01/256, safetensors.BF16, false}, // half a unit of 2^-7
		{1 + 1.0/128, 1 + 1.0/256, safetensors.BF16, true}, {-1, 1, safetensors.BF16, false},
		{1, 1 + 1.0/2048, safetensors.F16, true}, {1, 1 + 1.01/2048, safetensors.F16, false},
		{0, 1e-9, safetensors.F16, true}, {0, 1e-7, safetensors.F16, false}, {0, 1e-9, safetensors.BF16, false},
		{1e-3, 0, safetensors.BF16, false}, {0, 0, safetensors.BF16, true},
		{float32(math.NaN()), 1, safetensors.BF16, false}, {float32(math.Inf(1)), 1, safetensors.BF16, false},
	} {
		if got := isRounded(tc.v, tc.want, tc.d); got != tc.is {
			t.Errorf("%v for %v in %s: %v", tc.v, tc.want, tc.d, got)
		}
	}
}

// An adapter may have a part of the modules that its flags stand for: training
// goes on with that part, and keeps its alpha.
func TestTrainingPartOfTheModules(t *testing.T) {
	ctx := context.Background()
	e := newTestEngine(t)
	files := peftFiles(t, 4, nil, func(layer int, m module) bool {
		return (m == qProj || m == vProj) && layer > 0 || m == lmHead
	})
	cfg, err := e.Describe(files, "")
	if want := (engine.ModelConfig{BaseModel: TinyModel, Rank: 4, TrainAttn: true, TrainUnembed: true}); err != nil || cfg != want {
		t.Fatalf("described as %+v, %v", cfg, err)
	}
	m, err := e.NewModel(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := randomBatch(1, 2, 12, 256)
	step := func() float64 {
		t.Helper()
		out, err := m.ForwardBackward(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.OptimStep(ctx, engine.AdamParams{LearningRate: 1e-2, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}); err != nil {
			t.Fatal(err)
		}
		return out.Metrics["loss:sum"]
	}
	step() // with gradients of another size than the adapter's to come
	if err := m.Load(ctx, files, false); err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(m.(*Model).ad.params)
	first := step()
	if last := step(); !(last < first) {
		t.Errorf("the loss went from %v to %v", first, last)
	}
	if after := m.(*Model).ad; after.alpha != 16 || len(after.params) != len(before) || slices.Equal(after.params, before) {
		t.Errorf("alpha %v, %d parameters after a load of %d", after.alpha, len(after.params), len(before))
	}
	for _, cfg := range []engine.ModelConfig{
		{BaseModel: TinyModel, Rank: 4, TrainAttn: true},
		{BaseModel: TinyModel, Rank: 4, TrainAttn: true, TrainUnembed: true, TrainMLP: true},
	} {
		m, err := e.NewModel(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Load(ctx, files, false); !errors.Is(err, engine.ErrIncompatible) {
			t.Errorf("onto a model of other flags: %v", err)
		}
	}
}

func TestDescribe(t *testing.T) {
	e := newTestEngine(t)
	e.bases[0].alias = "somebody/tiny"
	for _, tc := range []struct {
		says any // base_model_name_or_path
		asks string
		err  error
		word string
	}{
		{TinyModel, "", nil, ""},
		{"somebody/tiny", "", nil, ""},
		{"somebody/tiny", TinyModel, nil, ""},
		{TinyModel, "somebody/tiny", nil, ""},
		{nil, TinyModel, nil, ""},
		{"", "", engine.ErrIncompatible, "base_model_name_or_path is missing"},
		{"somebody/else", "", engine.ErrUnknownModel, "somebody/else"},
		{TinyModel, "somebody/else", engine.ErrUnknownModel, "base_model: "},
		{"somebody/else", TinyModel, engine.ErrIncompatible, "adapter_config.json"},
		// Directories say nothing.
		{"/data/models/tiny", TinyModel, nil, ""},
		{"./tiny", "somebody/tiny", nil, ""},
		{"../tiny", TinyModel, nil, ""},
		{"~/tiny", TinyModel, nil, ""},
		{"models/somebody/tiny", TinyModel, engine.ErrIncompatible, "adapter_config.json"},
		{`models\tiny`, TinyModel, nil, ""},
		{"D:/tiny", TinyModel, nil, ""},
		{"tiny/", TinyModel, nil, ""},
		{"/data/models/tiny", "", engine.ErrIncompatible, "a directory where it was trained; say which base model"},
		{"/data/models/tiny", "somebody/else", engine.ErrUnknownModel, "base_model: "},
	} {
		files := peftFiles(t, 4, func(c map[string]any) { c["base_model_name_or_path"] = tc.says }, attention)
		cfg, err := e.Describe(files, tc.asks)
		if tc.err != nil {
			if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.word) {
				t.Errorf("%v, asked for %q: %v", tc.says, tc.asks, err)
			}
			continue
		}
		if err != nil || cfg.BaseModel != TinyModel {
			t.Errorf("%v, asked for %q: %+v, %v", tc.says, tc.asks, cfg, err)
			continue
		}
		if _, err := e.NewSampler(context.Background(), cfg.BaseModel, files); err != nil {
			t.Errorf("%v, asked for %q: %v", tc.says, tc.asks, err)
		}
	}
}

// Diverged weights are an answer, not a crash.
func TestDivergenceDoesNotCrash(t *testing.T) {
	ctx := context.Background()
	m := tinyModel(t, 2).(*Model)
	b := randomBatch(1, 2, 12, 256)
	for range 3 {
		if _, err := m.ForwardBackward(ctx, b); err != nil {
			t.Fatal(err)
		}
		if _, err := m.OptimStep(ctx, engine.AdamParams{LearningRate: 1e38, Beta1: 0.9, Beta2: 0.95}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(m.ad.params, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) }) {
		t.Skip("the weights are still finite")
	}
	s := &Sampler{eng: m.eng, base: m.base, ad: m.ad}
	for _, temperature := range []float64{0, 1} {
		if _, err := s.Sample(ctx, &engine.SampleRequest{
			Prompt: []int32{1, 2}, NumSamples: 2, MaxTokens: 4, Temperature: temperature, TopP: 0.9, TopK: 10,
			PromptLogprobs: true, TopKPromptLogprobs: 2, TopKSampleLogprobs: 2, PromptAltTokensK: 2,
		}); err != nil {
			t.Error(err)
		}
	}
}
