package cpu

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// hfJSON is the config.json of a model of shape c.
func hfJSON(c *config) map[string]any {
	h := map[string]any{
		"architectures":           []string{map[string]string{archLlama: "LlamaForCausalLM", archQwen3: "Qwen3ForCausalLM"}[c.arch]},
		"model_type":              c.arch,
		"hidden_size":             c.hidden,
		"intermediate_size":       c.inter,
		"num_hidden_layers":       c.layers,
		"num_attention_heads":     c.heads,
		"num_key_value_heads":     c.kvHeads,
		"head_dim":                c.headDim,
		"vocab_size":              c.vocab,
		"max_position_embeddings": c.context,
		"rms_norm_eps":            c.normEps,
		"hidden_act":              "silu",
		"tie_word_embeddings":     c.tied,
		"attention_bias":          false,
		"eos_token_id":            c.eos[0],
		"rope_theta":              c.rope.theta,
	}
	if c.rope.kind == "llama3" {
		h["rope_scaling"] = map[string]any{
			"rope_type": "llama3", "factor": c.rope.factor, "low_freq_factor": c.rope.low,
			"high_freq_factor": c.rope.high, "original_max_position_embeddings": c.rope.origCtx,
		}
	}
	return h
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeTensors(t testing.TB, path string, ts []safetensors.Tensor) {
	t.Helper()
	var b bytes.Buffer
	if err := safetensors.Write(&b, ts, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func hfTensors(c *config, w *weights) []safetensors.Tensor {
	var ts []safetensors.Tensor
	data := w.slices(c)
	for i, s := range c.specs() {
		ts = append(ts, safetensors.Tensor{Name: s.name, Shape: s.shape, F32: data[i]})
	}
	return ts
}

// writeHuggingFace writes a model directory and returns it.
func writeHuggingFace(t testing.TB, c *config, w *weights) string {
	t.Helper()
	dir := t.TempDir()
	writeJSON(t, filepath.Join(dir, configFile), hfJSON(c))
	writeTensors(t, filepath.Join(dir, singleFile), hfTensors(c, w))
	return dir
}

// halves rewrites an F32 safetensors file with elements of two bytes.
func halves(t *testing.T, path string, dtype safetensors.DType, convert func(float32) uint16) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	head := map[string]any{}
	var data []byte
	for _, info := range f.Tensors() {
		v, err := f.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		from := len(data)
		for _, x := range v {
			data = binary.LittleEndian.AppendUint16(data, convert(x))
		}
		head[info.Name] = map[string]any{"dtype": dtype, "shape": info.Shape, "data_offsets": []int{from, len(data)}}
	}
	js, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(js)))
	if err := os.WriteFile(path, slices.Concat(out, js, data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func bf16(v float32) uint16 { return uint16(math.Float32bits(v) >> 16) }

// f16 truncates values of ordinary size.
func f16(v float32) uint16 {
	b := math.Float32bits(v)
	exp := int(b>>23&0xff) - 127 + 15
	if exp <= 0 {
		return uint16(b >> 16 & 0x8000)
	}
	return uint16(b>>16&0x8000) | uint16(exp)<<10 | uint16(b>>13&0x3ff)
}

func openDir(t *testing.T, dir string) *Engine {
	t.Helper()
	e, err := New(Options{Models: []ModelDir{{Name: "test/model", Dir: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// scored returns the log probabilities of a prompt.
func scored(t *testing.T, e *Engine, model string, prompt []int32) []float32 {
	t.Helper()
	s, err := e.NewSampler(context.Background(), model, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Sample(context.Background(), &engine.SampleRequest{
		Prompt: prompt, NumSamples: 1, MaxTokens: 1, TopP: 1, PromptLogprobs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.PromptLogprobs[1:]
}

func TestHuggingFaceModels(t *testing.T) {
	for _, arch := range []string{archLlama, archQwen3} {
		c := smallConfig(arch)
		w := randomWeights(&c, 3)
		prompt := randomBatch(1, 1, 40, c.vocab).Data[0].Tokens
		lps := newReference(&c, w, nil).logprobs(prompt)
		check := func(name string, e *Engine, tolerance float64) {
			t.Helper()
			for i, got := range scored(t, e, "test/model", prompt) {
				want := lps[i][prompt[i+1]]
				if math.Abs(float64(got)-want) > tolerance {
					t.Fatalf("%s, %s: logprob %d is %v, want %v", arch, name, i+1, got, want)
				}
			}
		}
		dir := writeHuggingFace(t, &c, w)
		e := openDir(t, dir)
		check("f32", e, 1e-5)
		want := engine.BaseModel{Name: "test/model", Arch: arch, TokenizerID: "test/model", MaxContextLength: c.context, VocabSize: c.vocab}
		if got := e.BaseModels(); len(got) != 1 || got[0] != want {
			t.Errorf("BaseModels() = %+v, want %+v", got, want)
		}

		halves(t, filepath.Join(dir, singleFile), safetensors.BF16, bf16)
		check("bf16", openDir(t, dir), 0.1)

		dir = writeHuggingFace(t, &c, w)
		halves(t, filepath.Join(dir, singleFile), safetensors.F16, f16)
		check("f16", openDir(t, dir), 0.02)

		// The same tensors over two shards.
		dir = writeHuggingFace(t, &c, w)
		ts := hfTensors(&c, w)
		index := map[string]string{}
		for i, part := range [][]safetensors.Tensor{ts[:5], ts[5:]} {
			file := fmt.Sprintf("model-%05d-of-00002.safetensors", i+1)
			writeTensors(t, filepath.Join(dir, file), part)
			for _, tensor := range part {
				index[tensor.Name] = file
			}
		}
		os.Remove(filepath.Join(dir, singleFile))
		writeJSON(t, filepath.Join(dir, indexFile), map[string]any{"metadata": map[string]any{}, "weight_map": index})
		check("shards", openDir(t, dir), 1e-5)
	}
}

func TestHuggingFaceConfig(t *testing.T) {
	c := smallConfig(archQwen3)
	w := randomWeights(&c, 3)
	for _, tc := range []struct {
		name string
		edit func(h map[string]any)
		want string // part of the error; empty if the model is fine
	}{
		{"as is", func(map[string]any) {}, ""},
		{"rope_parameters", func(h map[string]any) {
			delete(h, "rope_theta")
			h["rope_parameters"] = map[string]any{"rope_type": "default", "rope_theta": 100.0}
		}, ""},
		{"several end tokens", func(h map[string]any) { h["eos_token_id"] = []int{1, 2} }, ""},
		{"no end token", func(h map[string]any) { h["eos_token_id"] = nil }, ""},
		{"architecture", func(h map[string]any) { h["architectures"] = []string{"GPT2LMHeadModel"} }, "GPT2LMHeadModel is not supported"},
		{"no architecture", func(h map[string]any) { delete(h, "architectures") }, "architectures"},
		{"zero layers", func(h map[string]any) { h["num_hidden_layers"] = 0 }, "num_hidden_layers is 0"},
		{"huge", func(h map[string]any) { h["vocab_size"] = 1 << 30 }, "vocab_size"},
		{"heads", func(h map[string]any) { h["num_key_value_heads"] = 3 }, "num_key_value_heads is 3"},
		{"odd head", func(h map[string]any) { h["head_dim"] = 5 }, "head_dim is 5"},
		{"activation", func(h map[string]any) { h["hidden_act"] = "gelu" }, "gelu"},
		{"bias", func(h map[string]any) { h["attention_bias"] = true }, "attention_bias"},
		{"window", func(h map[string]any) { h["use_sliding_window"] = true }, "use_sliding_window"},
		{"layer type", func(h map[string]any) { h["layer_types"] = []string{"sliding_attention"} }, "sliding_attention"},
		{"quantized", func(h map[string]any) { h["quantization_config"] = map[string]any{"bits": 4} }, "quantized"},
		{"rope type", func(h map[string]any) { h["rope_scaling"] = map[string]any{"rope_type": "yarn", "factor": 4} }, "yarn"},
		{"rope numbers", func(h map[string]any) { h["rope_scaling"] = map[string]any{"type": "llama3", "factor": 4} }, "llama3 needs"},
		{"rope theta", func(h map[string]any) { h["rope_theta"] = -1 }, "rope_theta"},
		{"eps", func(h map[string]any) { h["rms_norm_eps"] = 0 }, "rms_norm_eps"},
		{"end token", func(h map[string]any) { h["eos_token_id"] = 999 }, "eos_token_id 999"},
		{"end token type", func(h map[string]any) { h["eos_token_id"] = "x" }, "eos_token_id"},
		{"shape", func(h map[string]any) { h["intermediate_size"] = 20 }, "config.json makes it [20 12]"},
		{"tied", func(h map[string]any) { h["num_hidden_layers"] = 3 }, `"model.layers.2.input_layernorm.weight" is missing`},
		{"not a number", func(h map[string]any) { h["hidden_size"] = "wide" }, "config.json"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := writeHuggingFace(t, &c, w)
			h := hfJSON(&c)
			tc.edit(h)
			writeJSON(t, filepath.Join(dir, configFile), h)
			_, err := New(Options{Models: []ModelDir{{Name: "m", Dir: dir}}})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("New: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("New: %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestHuggingFaceNames(t *testing.T) {
	c := smallConfig(archQwen3)
	w := randomWeights(&c, 3)
	for _, tc := range []struct{ path, tokenizer string }{
		{"Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"},
		{"/home/somebody/model", "my-model"},
		{"./model", "my-model"},
		{"", "my-model"},
	} {
		dir := writeHuggingFace(t, &c, w)
		h := hfJSON(&c)
		h["_name_or_path"] = tc.path
		writeJSON(t, filepath.Join(dir, configFile), h)
		e, err := New(Options{Models: []ModelDir{{Name: "my-model", Dir: dir}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.BaseModels()[0].TokenizerID; got != tc.tokenizer {
			t.Errorf("_name_or_path %q: tokenizer %q, want %q", tc.path, got, tc.tokenizer)
		}
	}
}

func TestBrokenDirectories(t *testing.T) {
	c := smallConfig(archQwen3)
	w := randomWeights(&c, 3)
	for _, tc := range []struct {
		name string
		edit func(dir string)
		want string
	}{
		{"no config", func(dir string) { os.Remove(filepath.Join(dir, configFile)) }, configFile},
		{"no weights", func(dir string) { os.Remove(filepath.Join(dir, singleFile)) }, "neither"},
		{"cut off", func(dir string) { os.Truncate(filepath.Join(dir, singleFile), 1000) }, singleFile},
		{"index escapes", func(dir string) {
			m := map[string]string{}
			for _, s := range c.specs() {
				m[s.name] = "../" + singleFile
			}
			writeJSON(t, filepath.Join(dir, indexFile), map[string]any{"weight_map": m})
		}, "not a file name"},
		{"index incomplete", func(dir string) {
			writeJSON(t, filepath.Join(dir, indexFile), map[string]any{"weight_map": map[string]string{}})
		}, "is missing"},
		{"shard missing", func(dir string) {
			m := map[string]string{}
			for _, s := range c.specs() {
				m[s.name] = "model-1.safetensors"
			}
			writeJSON(t, filepath.Join(dir, indexFile), map[string]any{"weight_map": m})
		}, "model-1.safetensors"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := writeHuggingFace(t, &c, w)
			tc.edit(dir)
			_, err := New(Options{Models: []ModelDir{{Name: "m", Dir: dir}}})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New: %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// Weights that vanish after start-up are an error of the call, not of the
// engine, and the next call tries again.
func TestWeightsAreReadAtFirstUse(t *testing.T) {
	c := smallConfig(archLlama)
	dir := writeHuggingFace(t, &c, randomWeights(&c, 3))
	e := openDir(t, dir)
	if e.bases[0].weights != nil {
		t.Error("New has read the weights")
	}
	m, err := e.NewModel(context.Background(), engine.ModelConfig{BaseModel: "test/model", Rank: 2, TrainAttn: true})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, singleFile)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	b := randomBatch(1, 1, 4, c.vocab)
	if _, err := m.ForwardBackward(context.Background(), b); err == nil {
		t.Fatal("trained without weights")
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ForwardBackward(context.Background(), b); err != nil {
		t.Error(err)
	}
}

func TestStopStringsNeedTokenizer(t *testing.T) {
	c := smallConfig(archQwen3)
	dir := writeHuggingFace(t, &c, randomWeights(&c, 3))
	vocab := map[string]int{"Ġa": 1, "b": 2, "Ċ": 3, "Ã": 4, "©": 5}
	req := &engine.SampleRequest{Prompt: []int32{1}, NumSamples: 1, MaxTokens: 2, TopP: 1, StopStrings: []string{"x"}}
	for _, tc := range []struct {
		name string
		file any
		ok   bool
	}{
		{"no file", nil, false},
		{"not byte-level", map[string]any{"model": map[string]any{"vocab": vocab}, "decoder": map[string]any{"type": "Metaspace"}}, false},
		{"no object", []int{1}, false},
		{"unigram", map[string]any{"model": map[string]any{"vocab": [][]any{{"a", 1}}}, "decoder": map[string]any{"type": "ByteLevel"}}, false},
		{"byte-level", map[string]any{
			"model":        map[string]any{"vocab": vocab},
			"added_tokens": []map[string]any{{"id": 6, "content": "<|end|>"}, {"id": 99, "content": "<|beyond|>"}},
			"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []map[string]any{
				{"type": "Split"}, {"type": "ByteLevel"},
			}},
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.file != nil {
				writeJSON(t, filepath.Join(dir, "tokenizer.json"), tc.file)
			}
			s, err := openDir(t, dir).NewSampler(context.Background(), "test/model", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Check(req)
			var bad *engine.InputError
			if tc.ok && err != nil || !tc.ok && !errors.As(err, &bad) {
				t.Errorf("Check: %v", err)
			}
		})
	}
	table, err := readTokenizer(os.DirFS(dir), c.vocab)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int32]string{0: "", 1: " a", 2: "b", 3: "\n", 4: "\xc3", 5: "\xa9", 6: "<|end|>", 99: ""}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got := table.text(id); got != want[id] {
			t.Errorf("token %d is %q, want %q", id, got, want[id])
		}
	}
}
