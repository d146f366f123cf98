// Package engine says what a training engine is: the part of the server that
// holds base models, trains LoRA adapters over them and samples from them.
//
// The package holds only the contract. Implementations live in sub-packages
// (package cpu is the embedded default) and are all held to the one suite in
// package enginetest.
package engine

import (
	"context"
	"io"
	"io/fs"
)

// Names of the files that make up a checkpoint. They are part of the contract
// because PEFT, the official clients and other engines read them by name.
const (
	AdapterConfigFile  = "adapter_config.json"
	AdapterWeightsFile = "adapter_model.safetensors"
	// OptimizerFile holds everything beyond the weights that the next step
	// depends on: AdamW's moments and step count, and gradients accumulated
	// since the last step, if any.
	OptimizerFile = "optimizer_state.safetensors"
)

// Engine trains and samples adapters over the base models it offers.
//
// An Engine is safe for concurrent use, and so are its Samplers. A Model is
// used by one goroutine at a time.
//
// Errors: bad input is an *InputError and changes nothing; a base model that
// is not offered is ErrUnknownModel; a checkpoint that does not fit what it is
// loaded onto is ErrIncompatible. Everything else is the engine's own fault.
// A method that fails leaves the model as it was before the call.
//
// Determinism: the same sequence of calls with the same arguments gives
// bit-identical weights, losses and samples on the same machine, whatever else
// the engine is doing at the time. Unseeded samples are the only exception.
type Engine interface {
	// BaseModels lists the models on offer, in a stable order.
	BaseModels() []BaseModel

	// CheckConfig reports whether NewModel would accept cfg; it is cheap.
	CheckConfig(cfg ModelConfig) error

	// Describe tells from an adapter's configuration what NewModel is to be
	// given for a model that Load accepts the adapter on. baseModel is for
	// adapters that do not say what they are for; one that says otherwise is
	// ErrIncompatible, as is whatever could not be loaded onto any model. It
	// is cheap: whether the tensors are as the configuration says, Load finds
	// out.
	Describe(files fs.FS, baseModel string) (ModelConfig, error)

	// NewModel starts training a fresh adapter.
	NewModel(ctx context.Context, cfg ModelConfig) (Model, error)

	// NewSampler samples from a base model, with the adapter in files on top
	// of it or, when files is nil, from the base model alone. The files are
	// read before NewSampler returns.
	NewSampler(ctx context.Context, baseModel string, files fs.FS) (Sampler, error)

	// Close releases everything. No method may be called after it.
	Close() error
}

// BaseModel describes a model on offer.
type BaseModel struct {
	Name             string
	Arch             string // "qwen3", "llama"
	TokenizerID      string // Hugging Face id of the tokenizer, empty if there is none
	MaxContextLength int    // tokens
	VocabSize        int
}

// ModelConfig is what a LoRA adapter is created from. It is also what a
// checkpoint remembers, so that a resumed model never differs from the saved
// one in a flag the caller forgot.
type ModelConfig struct {
	BaseModel    string
	Rank         int
	Seed         *int64 // nil: chosen by the engine
	TrainAttn    bool
	TrainMLP     bool
	TrainUnembed bool
}

// Model is one adapter in training. At least the adapter's weights, AdamW's
// state and the accumulated gradients belong to it.
type Model interface {
	Config() ModelConfig

	// Check reports whether ForwardBackward would accept the batch, without
	// running it: shapes, token ids, weights, the loss and its configuration.
	// It is cheap and may be called while another method of the Model runs.
	Check(batch *Batch) error

	// ForwardBackward computes the loss of every datum and, unless
	// batch.ForwardOnly, adds the gradient of their sum to the accumulated
	// gradients.
	ForwardBackward(ctx context.Context, batch *Batch) (*ForwardBackwardOutput, error)

	// OptimStep applies the accumulated gradients with AdamW and clears them.
	// A step without gradients still advances the step count and decays
	// weights, as AdamW does. The metrics are keyed "name:reduction".
	OptimStep(ctx context.Context, p AdamParams) (map[string]float64, error)

	// Save writes the checkpoint's files to dst: the adapter as PEFT lays it
	// out and, if optimizer is set, OptimizerFile. Equal weights give
	// byte-identical adapter files.
	Save(ctx context.Context, dst FileWriter, optimizer bool) error

	// Load replaces the adapter's weights by those in files and, if optimizer
	// is set, the rest of the training state by OptimizerFile's, so that the
	// next step equals the saved model's next step bit for bit. Without
	// optimizer AdamW starts afresh. A checkpoint of another base model, rank
	// or set of flags is ErrIncompatible; a missing OptimizerFile is
	// ErrNoOptimizer. An adapter from elsewhere may have only some of the
	// modules that a flag stands for: those are what is trained from then on.
	Load(ctx context.Context, files fs.FS, optimizer bool) error

	// Close frees the model. It may be called more than once.
	Close() error
}

// Sampler generates text with fixed weights.
type Sampler interface {
	// Check reports whether Sample would accept the request; it is cheap.
	Check(req *SampleRequest) error
	Sample(ctx context.Context, req *SampleRequest) (*SampleOutput, error)
	Close() error
}

// FileWriter receives the files of a checkpoint, one after another: a file is
// closed before the next one is created. The writer need not be sought.
type FileWriter interface {
	Create(name string) (io.WriteCloser, error)
}

// DType is a tensor's element type.
type DType int

// The two element types of the public protocol.
const (
	Float32 DType = iota
	Int64
)

// Tensor is a dense tensor in row-major order; exactly one of F and I is used.
type Tensor struct {
	DType DType
	Shape []int
	F     []float32
	I     []int64
}

// Datum is one training example. Inputs are the loss function's, by name:
// "target_tokens" (int64, [T] or [T, K]), "weights" (float32, same shape) for
// cross_entropy; "target_tokens", "logprobs", "advantages" ([T]) for the
// policy-gradient losses.
type Datum struct {
	Tokens []int32 // [T], the model's input
	Inputs map[string]Tensor
}

// Batch is the argument of ForwardBackward.
type Batch struct {
	Data        []Datum
	Loss        string             // "cross_entropy", "importance_sampling", "ppo", "cispo"
	LossConfig  map[string]float64 // e.g. clip_low_threshold, clip_high_threshold
	ForwardOnly bool
}

// ForwardBackwardOutput has one map of named tensors per datum, in the batch's
// order. Every loss gives "logprobs", of target_tokens' shape.
type ForwardBackwardOutput struct {
	OutputType string
	Outputs    []map[string]Tensor
	Metrics    map[string]float64 // "loss:sum" at least
}

// AdamParams are one step's hyperparameters.
type AdamParams struct {
	LearningRate float64
	Beta1        float64
	Beta2        float64
	Eps          float64
	WeightDecay  float64 // decoupled
	GradClipNorm float64 // global norm; 0 is no clipping
}

// SampleRequest asks for continuations of Prompt.
type SampleRequest struct {
	Prompt     []int32
	NumSamples int
	MaxTokens  int // 0: up to the context's end

	Seed        *uint64
	Temperature float64 // 0 is greedy
	TopK        int     // <= 0 is no limit
	TopP        float64 // 1 is no limit

	// Stop conditions. The token or text that stops a sequence is its end and
	// part of it. With none set, the model's end-of-text tokens stop it;
	// NoStop disables those too.
	StopTokens  []int32
	StopStrings []string
	NoStop      bool

	PromptLogprobs      bool
	PromptLogprobsLastN int       // 0: all
	TopKPromptLogprobs  int       // 0: none
	TopKSampleLogprobs  int       // 0: none
	TargetPromptTokens  [][]int64 // [len(Prompt)-1][K]; -1 asks for nothing
	PromptAltTokensK    int       // 0: none
}

// SampleOutput answers a SampleRequest. Log probabilities are the model's own,
// at temperature 1 and before truncation, natural logarithm.
type SampleOutput struct {
	Sequences []Sequence
	// PromptLogprobs has len(Prompt) entries, NaN where none was computed
	// (the first position always).
	PromptLogprobs       []float32
	TopKPromptLogprobs   [][]TokenLogprob // per prompt position
	TargetPromptLogprobs [][]float32      // shape of TargetPromptTokens; 0 where -1 was asked
	PromptAltTokens      [][]TokenLogprob // [len(Prompt)-1][K]
}

// Sequence is one continuation.
type Sequence struct {
	Tokens       []int32
	Logprobs     []float32
	TopKLogprobs [][]TokenLogprob
	Stopped      bool // by a stop condition, rather than by length
}

// TokenLogprob is a token with its log probability.
type TokenLogprob struct {
	Token   int32
	Logprob float32
}
