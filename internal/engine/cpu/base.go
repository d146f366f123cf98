package cpu

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
)

// base is a model on offer. Its weights are read at first use, so that a
// server that offers ten models starts as fast as one that offers none.
type base struct {
	info  engine.BaseModel
	alias string // what config.json calls the model, if anything; adapters may name it so
	cfg   config
	log   *slog.Logger

	loadWeights func() (*weights, error)
	loadTokens  func() (*tokenTable, error)

	mu      sync.Mutex // guards the fields below; held while loading
	weights *weights
	tokens  *tokenTable

	scratch sync.Pool // of *workspace; the garbage collector empties it when idle
}

// load returns the weights, reading them if this is their first use. A failure
// is not remembered: the next use tries again.
func (b *base) load() (*weights, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.weights != nil {
		return b.weights, nil
	}
	start := time.Now()
	w, err := b.loadWeights()
	if err != nil {
		return nil, fmt.Errorf("load base model %s: %w", b.info.Name, err)
	}
	b.weights = w
	b.log.Debug("base model loaded", "model", b.info.Name, "took", time.Since(start))
	return w, nil
}

// tokenTable returns the bytes of each token, for stop strings.
func (b *base) tokenTable() (*tokenTable, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens != nil {
		return b.tokens, nil
	}
	t, err := b.loadTokens()
	if err != nil {
		return nil, err
	}
	b.tokens = t
	return t, nil
}

// release forgets what can be loaded again.
func (b *base) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.weights, b.tokens = nil, nil
}

func (b *base) workspace() *workspace {
	if ws, ok := b.scratch.Get().(*workspace); ok {
		return ws
	}
	return &workspace{}
}
