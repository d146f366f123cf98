package cpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

const (
	configFile  = "config.json"
	singleFile  = "model.safetensors"
	indexFile   = "model.safetensors.index.json"
	genConfFile = "generation_config.json"
)

// openHuggingFace describes the model in dir. It reads the configuration and
// the headers of the weights' files, and checks that every tensor is there.
func openHuggingFace(name, dir string) (*base, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	fsys := os.DirFS(dir)
	cfg, repo, err := readConfig(fsys)
	if err != nil {
		return nil, err
	}
	shards, err := locateTensors(fsys, &cfg)
	if err != nil {
		return nil, err
	}
	tokenizer := name
	if repo != "" {
		tokenizer = repo
	}
	return &base{
		info: engine.BaseModel{
			Name:             name,
			Arch:             cfg.arch,
			TokenizerID:      tokenizer,
			MaxContextLength: cfg.context,
			VocabSize:        cfg.vocab,
		},
		alias:       repo,
		cfg:         cfg,
		loadWeights: func() (*weights, error) { return readWeights(fsys, &cfg, shards) },
		loadTokens:  func() (*tokenTable, error) { return readTokenizer(fsys, cfg.vocab) },
	}, nil
}

// hfConfig is the part of config.json that decides what a model computes.
type hfConfig struct {
	Architectures     []string  `json:"architectures"`
	NameOrPath        string    `json:"_name_or_path"`
	HiddenSize        int       `json:"hidden_size"`
	IntermediateSize  int       `json:"intermediate_size"`
	NumHiddenLayers   int       `json:"num_hidden_layers"`
	NumAttentionHeads int       `json:"num_attention_heads"`
	NumKeyValueHeads  *int      `json:"num_key_value_heads"`
	HeadDim           *int      `json:"head_dim"`
	VocabSize         int       `json:"vocab_size"`
	MaxPositions      int       `json:"max_position_embeddings"`
	RMSNormEps        *float64  `json:"rms_norm_eps"`
	HiddenAct         string    `json:"hidden_act"`
	TieWordEmbeddings *bool     `json:"tie_word_embeddings"`
	AttentionBias     bool      `json:"attention_bias"`
	MLPBias           bool      `json:"mlp_bias"`
	UseSlidingWindow  bool      `json:"use_sliding_window"`
	LayerTypes        []string  `json:"layer_types"`
	EOS               tokenIDs  `json:"eos_token_id"`
	RopeTheta         *float64  `json:"rope_theta"`
	RopeScaling       *ropeJSON `json:"rope_scaling"`
	RopeParameters    *ropeJSON `json:"rope_parameters"` // newer files: both of the above in one
	Quantization      *struct{} `json:"quantization_config"`
	PartialRotary     *float64  `json:"partial_rotary_factor"`
}

type ropeJSON struct {
	RopeType string   `json:"rope_type"`
	Type     string   `json:"type"` // older spelling of rope_type
	Theta    *float64 `json:"rope_theta"`
	Factor   float64  `json:"factor"`
	Low      float64  `json:"low_freq_factor"`
	High     float64  `json:"high_freq_factor"`
	OrigCtx  float64  `json:"original_max_position_embeddings"`
}

// tokenIDs reads an id, a list of ids, or null.
type tokenIDs []int32

func (t *tokenIDs) UnmarshalJSON(raw []byte) error {
	var one *int32
	if json.Unmarshal(raw, &one) == nil {
		*t = nil
		if one != nil {
			*t = tokenIDs{*one}
		}
		return nil
	}
	var many []int32
	if err := json.Unmarshal(raw, &many); err != nil {
		return errors.New("eos_token_id must be a token id or a list of them")
	}
	*t = many
	return nil
}

// readConfig reads config.json and the repository it says it is from, if any.
func readConfig(fsys fs.FS) (config, string, error) {
	raw, err := fs.ReadFile(fsys, configFile)
	if err != nil {
		return config{}, "", err
	}
	var h hfConfig
	if err := json.Unmarshal(raw, &h); err != nil {
		return config{}, "", fmt.Errorf("%s: %w", configFile, err)
	}
	c, err := h.config()
	if err != nil {
		return config{}, "", fmt.Errorf("%s: %w", configFile, err)
	}
	eos, err := generationEOS(fsys)
	if err != nil {
		return config{}, "", err
	}
	if len(eos) > 0 {
		c.eos = eos // chat models list more end tokens here than in config.json
	}
	for _, id := range c.eos {
		if id < 0 || int(id) >= c.vocab {
			return config{}, "", fmt.Errorf("%s: eos_token_id %d is outside the vocabulary of %d tokens", configFile, id, c.vocab)
		}
	}
	repo := h.NameOrPath
	if !isRepoID(repo) {
		repo = ""
	}
	return c, repo, nil
}

func generationEOS(fsys fs.FS) ([]int32, error) {
	raw, err := fs.ReadFile(fsys, genConfFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var g struct {
		EOS tokenIDs `json:"eos_token_id"`
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		return nil, fmt.Errorf("%s: %w", genConfFile, err)
	}
	return g.EOS, nil
}

// isRepoID tells "owner/name" or "name" from a path on somebody's disk.
func isRepoID(s string) bool {
	return s != "" && !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, ".") &&
		!strings.Contains(s, `\`) && strings.Count(s, "/") <= 1
}

// config checks that the model is one this package computes exactly, and
// reports the first thing that is not.
func (h *hfConfig) config() (config, error) {
	c := config{
		hidden:  h.HiddenSize,
		inter:   h.IntermediateSize,
		layers:  h.NumHiddenLayers,
		heads:   h.NumAttentionHeads,
		kvHeads: h.NumAttentionHeads,
		vocab:   h.VocabSize,
		context: h.MaxPositions,
		normEps: 1e-6,
		eos:     h.EOS,
	}
	if len(h.Architectures) != 1 {
		return c, fmt.Errorf("architectures is %q, expected one", h.Architectures)
	}
	switch h.Architectures[0] {
	case "LlamaForCausalLM":
		c.arch = archLlama
	case "Qwen3ForCausalLM":
		c.arch, c.qkNorm = archQwen3, true
	default:
		return c, fmt.Errorf("architecture %s is not supported; LlamaForCausalLM and Qwen3ForCausalLM are", h.Architectures[0])
	}
	const widest = 1 << 24 // keeps every product of two sizes within an int
	for _, size := range []struct {
		name string
		v    int
	}{
		{"hidden_size", c.hidden}, {"intermediate_size", c.inter}, {"num_hidden_layers", c.layers},
		{"num_attention_heads", c.heads}, {"vocab_size", c.vocab}, {"max_position_embeddings", c.context},
	} {
		if size.v < 1 || size.v > widest {
			return c, fmt.Errorf("%s is %d, expected between 1 and %d", size.name, size.v, widest)
		}
	}
	if h.NumKeyValueHeads != nil {
		c.kvHeads = *h.NumKeyValueHeads
	}
	if c.kvHeads < 1 || c.heads%c.kvHeads != 0 {
		return c, fmt.Errorf("num_key_value_heads is %d, expected a divisor of num_attention_heads, %d", c.kvHeads, c.heads)
	}
	switch {
	case h.HeadDim != nil:
		c.headDim = *h.HeadDim
	case c.arch == archQwen3:
		c.headDim = 128 // Qwen3Config's default
	default:
		c.headDim = c.hidden / c.heads
	}
	if c.headDim < 2 || c.headDim%2 != 0 || c.headDim > 1<<12 {
		return c, fmt.Errorf("head_dim is %d, expected an even number up to %d", c.headDim, 1<<12)
	}
	if h.RMSNormEps != nil {
		c.normEps = *h.RMSNormEps
	}
	if !(c.normEps > 0) || math.IsInf(c.normEps, 0) {
		return c, fmt.Errorf("rms_norm_eps is %v, expected a positive number", c.normEps)
	}
	if h.TieWordEmbeddings != nil {
		c.tied = *h.TieWordEmbeddings
	}
	switch {
	case h.HiddenAct != "" && h.HiddenAct != "silu":
		return c, fmt.Errorf("hidden_act %q is not supported; silu is", h.HiddenAct)
	case h.AttentionBias:
		return c, errors.New("attention_bias is not supported")
	case h.MLPBias:
		return c, errors.New("mlp_bias is not supported")
	case h.UseSlidingWindow:
		return c, errors.New("use_sliding_window is not supported")
	case h.Quantization != nil:
		return c, errors.New("quantized weights are not supported; use the model in bf16, f16 or f32")
	case h.PartialRotary != nil && *h.PartialRotary != 1:
		return c, fmt.Errorf("partial_rotary_factor %v is not supported", *h.PartialRotary)
	}
	for _, t := range h.LayerTypes {
		if t != "full_attention" {
			return c, fmt.Errorf("layer type %q is not supported; full_attention is", t)
		}
	}
	var err error
	c.rope, err = h.rope()
	return c, err
}

func (h *hfConfig) rope() (ropeConfig, error) {
	r := ropeConfig{theta: 10000, kind: "default"}
	if h.RopeTheta != nil {
		r.theta = *h.RopeTheta
	}
	for _, j := range []*ropeJSON{h.RopeScaling, h.RopeParameters} {
		if j == nil {
			continue
		}
		if j.Theta != nil {
			r.theta = *j.Theta
		}
		if j.RopeType == "" {
			j.RopeType = j.Type
		}
		if j.RopeType != "" {
			r.kind = j.RopeType
		}
		r.factor, r.low, r.high, r.origCtx = j.Factor, j.Low, j.High, j.OrigCtx
	}
	if !(r.theta > 0) || math.IsInf(r.theta, 0) {
		return r, fmt.Errorf("rope_theta is %v, expected a positive number", r.theta)
	}
	switch r.kind {
	case "default":
	case "linear":
		if !(r.factor > 0) {
			return r, fmt.Errorf("rope_scaling.factor is %v, expected a positive number", r.factor)
		}
	case "llama3":
		if !(r.factor > 0) || !(r.low > 0) || !(r.high > r.low) || !(r.origCtx > 0) {
			return r, errors.New("rope_scaling of type llama3 needs positive factor, low_freq_factor < high_freq_factor and original_max_position_embeddings")
		}
	default:
		return r, fmt.Errorf("rope_scaling of type %q is not supported; default, linear and llama3 are", r.kind)
	}
	return r, nil
}

// locateTensors maps every tensor of the model to the file it is in, having
// checked its shape and element type.
func locateTensors(fsys fs.FS, c *config) (map[string]string, error) {
	where, err := tensorFiles(fsys)
	if err != nil {
		return nil, err
	}
	need := map[string][]tensorSpec{} // by file
	for _, s := range c.specs() {
		file, ok := where(s.name)
		if !ok {
			return nil, fmt.Errorf("%s: tensor %q is missing", indexFile, s.name)
		}
		need[file] = append(need[file], s)
	}
	shards := map[string]string{}
	for _, file := range slices.Sorted(maps.Keys(need)) {
		f, err := safetensors.OpenFS(fsys, file)
		if err != nil {
			return nil, err
		}
		for _, s := range need[file] {
			if err := checkBaseTensor(f, s); err != nil {
				f.Close()
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			shards[s.name] = file
		}
		f.Close()
	}
	return shards, nil
}

func checkBaseTensor(f *safetensors.File, s tensorSpec) error {
	t, ok := f.Info(s.name)
	if !ok {
		return fmt.Errorf("tensor %q is missing", s.name)
	}
	if !slices.Equal(t.Shape, s.shape) {
		return fmt.Errorf("tensor %q has shape %v, config.json makes it %v", s.name, t.Shape, s.shape)
	}
	switch t.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
		return nil
	}
	return fmt.Errorf("tensor %q is %s; F32, BF16 and F16 are supported", s.name, t.DType)
}

// tensorFiles says which file a tensor is in: by the index if the model is
// sharded, else model.safetensors.
func tensorFiles(fsys fs.FS) (func(tensor string) (string, bool), error) {
	raw, err := fs.ReadFile(fsys, indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := fs.Stat(fsys, singleFile); err != nil {
			return nil, fmt.Errorf("it has neither %s nor %s", singleFile, indexFile)
		}
		return func(string) (string, bool) { return singleFile, true }, nil
	}
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	for tensor, file := range index.WeightMap {
		if path.Base(file) != file || !fs.ValidPath(file) {
			return nil, fmt.Errorf("%s: tensor %q is said to be in %q, which is not a file name", indexFile, tensor, file)
		}
	}
	return func(t string) (string, bool) { f, ok := index.WeightMap[t]; return f, ok }, nil
}

// readWeights reads the tensors, one file after another.
func readWeights(fsys fs.FS, c *config, shards map[string]string) (*weights, error) {
	w := newWeights(c)
	dst := w.slices(c)
	open := map[string]*safetensors.File{}
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	for i, s := range c.specs() {
		file := shards[s.name]
		if open[file] == nil {
			f, err := safetensors.OpenFS(fsys, file)
			if err != nil {
				return nil, err
			}
			open[file] = f
		}
		if err := checkBaseTensor(open[file], s); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := open[file].ReadFloat32(s.name, dst[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return w, nil
}
