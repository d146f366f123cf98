package tinkex

// TensorData is a tensor of float32 or int64 in row-major order; exactly one
// of Float32 and Int64 is used. A sparse tensor has only its listed values
// there, in CSR layout.
type TensorData struct {
	Float32 []float32
	Int64   []int64
	// Shape has one entry per dimension; nil is one dimension of the data's length.
	Shape []int
	// CrowIndices and ColIndices are set together for a sparse two-dimensional
	// tensor: row pointers (rows+1 of them) and the values' columns.
	CrowIndices []int64
	ColIndices  []int64
}

// Floats makes a float32 tensor; without a shape it has one dimension.
func Floats(v []float32, shape ...int) TensorData {
	return TensorData{Float32: v, Shape: shapeOf(len(v), shape)}
}

// Ints makes an int64 tensor; without a shape it has one dimension.
func Ints[T ~int | ~int32 | ~int64 | ~uint8](v []T, shape ...int) TensorData {
	ids := make([]int64, len(v))
	for i, x := range v {
		ids[i] = int64(x)
	}
	return TensorData{Int64: ids, Shape: shapeOf(len(v), shape)}
}

func shapeOf(n int, shape []int) []int {
	if len(shape) == 0 {
		return []int{n}
	}
	return shape
}

// Len is the number of stored values.
func (t TensorData) Len() int { return max(len(t.Float32), len(t.Int64)) }

// Datum is one training example: the model's input and, by name, what the
// loss function needs for it ("target_tokens", "weights", "advantages",
// "logprobs").
type Datum struct {
	ModelInput   ModelInput
	LossFnInputs map[string]TensorData
}

// LossFn names a loss function of the server.
type LossFn string

// The loss functions of the protocol. A server may not know all of them.
const (
	// CrossEntropy is the sum of -weights*logprobs of target_tokens.
	CrossEntropy LossFn = "cross_entropy"
	// ImportanceSampling is the sum of -exp(logprob-logprobs)*advantages.
	ImportanceSampling LossFn = "importance_sampling"
	// PPO clips the ratio of ImportanceSampling.
	PPO LossFn = "ppo"
	// CISPO weighs logprobs by the clipped ratio.
	CISPO LossFn = "cispo"
)

// ForwardBackwardOutput is the result of a forward or forward_backward.
type ForwardBackwardOutput struct {
	// LossFnOutputs has one map of named tensors per datum, in order;
	// "logprobs" has target_tokens' shape.
	LossFnOutputs    []map[string]TensorData
	LossFnOutputType string
	// Metrics are keyed "name:reduction", for example "loss:sum".
	Metrics map[string]float64
}

// AdamParams are the hyperparameters of one AdamW step. A nil field has the
// protocol's default; the learning rate has none, because a schedule may well
// ask for 0.
type AdamParams struct {
	LearningRate float64
	Beta1        *float64 // 0.9
	Beta2        *float64 // 0.95
	Eps          *float64 // 1e-12
	WeightDecay  float64  // decoupled
	GradClipNorm float64  // global norm; 0 is no clipping
}

// OptimStepOutput is the result of an optim_step.
type OptimStepOutput struct {
	Metrics map[string]float64
}

// SavedCheckpoint is the result of a save: where the checkpoint is.
type SavedCheckpoint struct {
	Path TinkerPath
}

// LossConfig configures a loss function, by parameter name. Values are
// numbers (float64 or an integer type) or strings; nil is the server's
// defaults.
type LossConfig map[string]any
