package cpu

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
)

// TinyModel is the name of the built-in base model: a Qwen3-shaped transformer
// of 4 layers and 952,704 parameters over single bytes. Its weights are random,
// drawn from a fixed seed: it knows nothing, but it learns, so that everything
// around training can be used and tested without a download.
const TinyModel = "tinkex/tiny"

// Token ids of TinyModel. Ids 0 to 255 are the bytes themselves.
const (
	TinyEndOfText = 256 // <|endoftext|>, ends a text
	TinyStart     = 257 // <|im_start|>, opens a chat message
	TinyEnd       = 258 // <|im_end|>, closes a chat message and ends a text
	TinyPad       = 259 // <|pad|>, has no meaning
	tinyVocab     = 260
)

var tinySpecials = [...]string{"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"}

// tinySeed is part of the model: checkpoints trained over these weights are
// worth nothing over others.
const tinySeed = 0x74696e6b6578 // "tinkex"

func tinyConfig() config {
	return config{
		arch:    archQwen3,
		hidden:  128,
		inter:   448,
		layers:  4,
		heads:   4,
		kvHeads: 2,
		headDim: 32,
		vocab:   tinyVocab,
		context: 2048,
		normEps: 1e-6,
		qkNorm:  true,
		rope:    ropeConfig{kind: "default", theta: 10000},
		eos:     []int32{TinyEndOfText, TinyEnd},
	}
}

func newTiny() *base {
	cfg := tinyConfig()
	return &base{
		info: engine.BaseModel{
			Name:             TinyModel,
			Arch:             cfg.arch,
			MaxContextLength: cfg.context,
			VocabSize:        cfg.vocab,
		},
		cfg:         cfg,
		loadWeights: func() (*weights, error) { return randomWeights(&cfg, tinySeed), nil },
		loadTokens:  tinyTokens,
	}
}

// randomWeights draws a model's weights: norms are one, embeddings and linear
// weights uniform with the usual variances, and those that write to the
// residual stream smaller by its depth, so that it keeps its size.
func randomWeights(c *config, seed uint64) *weights {
	w := newWeights(c)
	data := w.slices(c)
	residual := 1 / math.Sqrt(2*float64(c.layers))
	for i, spec := range c.specs() {
		if len(spec.shape) == 1 {
			for j := range data[i] {
				data[i][j] = 1
			}
			continue
		}
		std := 1 / math.Sqrt(float64(spec.shape[1]))
		switch {
		case i == 0: // embeddings
			std = 1
			if c.tied {
				std = 1 / math.Sqrt(float64(c.hidden))
			}
		case spec.writesResidual():
			std *= residual
		}
		fillUniform(data[i], newRand(seed, spec.name), std*math.Sqrt(3))
	}
	return w
}

// writesResidual: the tensor's output is added to the residual stream.
func (s tensorSpec) writesResidual() bool {
	return strings.HasSuffix(s.name, "."+oProj.String()+".weight") ||
		strings.HasSuffix(s.name, "."+downProj.String()+".weight")
}

func tinyTokens() (*tokenTable, error) {
	t := &tokenTable{bytes: make([]string, 0, tinyVocab)}
	for i := range 256 {
		t.bytes = append(t.bytes, string([]byte{byte(i)}))
	}
	t.bytes = slices.Concat(t.bytes, tinySpecials[:])
	if len(t.bytes) != tinyVocab {
		return nil, fmt.Errorf("tokenizer has %d tokens, the model %d", len(t.bytes), tinyVocab)
	}
	return t, nil
}
