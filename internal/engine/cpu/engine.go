package cpu

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
)

// Options configure an engine. The zero value offers TinyModel.
type Options struct {
	// Models are the base models on offer. If it is empty, TinyModel is
	// offered; a ModelDir with that Name and no Dir offers it beside others.
	Models []ModelDir

	// Logger is told when weights are loaded. If nil, nothing is logged.
	Logger *slog.Logger
}

// ModelDir is a base model in a local directory.
type ModelDir struct {
	// Name is what clients ask for, e.g. "Qwen/Qwen3-0.6B".
	Name string

	// Dir is a Hugging Face model directory: config.json, model.safetensors or
	// its shards, and, for stop strings, tokenizer.json.
	Dir string
}

// Engine is the CPU engine.
type Engine struct {
	bases  []*base
	byName map[string]*base

	// slots bounds how many goroutines compute at a time, over all models and
	// samplers: more than there are processors would only cost memory.
	slots chan struct{}
}

var _ engine.Engine = (*Engine)(nil)

// New makes an engine. It reads the headers of the models' files and refuses
// models it cannot run; the weights are read when a model is first used.
func New(opts Options) (*Engine, error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		byName: map[string]*base{},
		slots:  make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	models := opts.Models
	if len(models) == 0 {
		models = []ModelDir{{Name: TinyModel}}
	}
	for _, m := range models {
		b, err := openModel(m)
		if err != nil {
			return nil, fmt.Errorf("base model %q: %w", m.Name, err)
		}
		if e.byName[m.Name] != nil {
			return nil, fmt.Errorf("base model %q is given twice", m.Name)
		}
		b.log = log
		e.bases = append(e.bases, b)
		e.byName[m.Name] = b
	}
	return e, nil
}

func openModel(m ModelDir) (*base, error) {
	switch {
	case m.Name == "":
		return nil, fmt.Errorf("it has no name")
	case m.Dir != "":
		return openHuggingFace(m.Name, m.Dir)
	case m.Name == TinyModel:
		return newTiny(), nil
	}
	return nil, fmt.Errorf("it has no directory, and only %s is built in", TinyModel)
}

// BaseModels lists the models in the order of Options.Models.
func (e *Engine) BaseModels() []engine.BaseModel {
	infos := make([]engine.BaseModel, len(e.bases))
	for i, b := range e.bases {
		infos[i] = b.info
	}
	return infos
}

// base finds a model on offer.
func (e *Engine) base(name string) (*base, error) {
	if b := e.byName[name]; b != nil {
		return b, nil
	}
	names := make([]string, len(e.bases))
	for i, b := range e.bases {
		names[i] = b.info.Name
	}
	return nil, fmt.Errorf("%w %q: this server offers %s", engine.ErrUnknownModel, name, strings.Join(names, ", "))
}

// CheckConfig implements engine.Engine.
func (e *Engine) CheckConfig(cfg engine.ModelConfig) error {
	if _, err := e.base(cfg.BaseModel); err != nil {
		return err
	}
	if cfg.Rank < 1 || cfg.Rank > maxRank {
		return engine.Invalid("lora_config.rank", "must be between 1 and %d, got %d", maxRank, cfg.Rank)
	}
	if !cfg.TrainAttn && !cfg.TrainMLP && !cfg.TrainUnembed {
		return engine.Invalid("lora_config", "at least one of train_attn, train_mlp and train_unembed must be true")
	}
	return nil
}

// NewModel implements engine.Engine. Without a seed, adapters start from seed 0.
func (e *Engine) NewModel(ctx context.Context, cfg engine.ModelConfig) (engine.Model, error) {
	if err := e.CheckConfig(cfg); err != nil {
		return nil, err
	}
	b, err := e.base(cfg.BaseModel)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var seed int64
	if cfg.Seed != nil {
		seed = *cfg.Seed
		cfg.Seed = &seed
	}
	l := newLayout(&b.cfg, cfg.Rank, func(_ int, m module) bool { return trained(&cfg, m) })
	return &Model{eng: e, base: b, cfg: cfg, ad: newAdapter(l, seed)}, nil
}

// NewSampler implements engine.Engine. The adapter may cover any of the
// modules an adapter trained here can cover.
func (e *Engine) NewSampler(ctx context.Context, baseModel string, files fs.FS) (engine.Sampler, error) {
	b, err := e.base(baseModel)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &Sampler{eng: e, base: b}
	if files != nil {
		if s.ad, err = readAdapter(files, b); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Close forgets the base models' weights.
func (e *Engine) Close() error {
	for _, b := range e.bases {
		b.release()
	}
	return nil
}

// acquire waits for a place to compute, release gives it back.
func (e *Engine) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case e.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) release() { <-e.slots }
