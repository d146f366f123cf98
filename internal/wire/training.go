package wire

// LoRAConfig is how an adapter is created. Absent flags are true.
type LoRAConfig struct {
	Rank         int    `json:"rank"`
	Seed         *int64 `json:"seed,omitempty"`
	TrainUnembed *bool  `json:"train_unembed,omitempty"`
	TrainMLP     *bool  `json:"train_mlp,omitempty"`
	TrainAttn    *bool  `json:"train_attn,omitempty"`
}

// OptimizerConfig selects an optimizer family; this project knows "adamw".
type OptimizerConfig struct {
	Type string `json:"type"`
}

// CreateModelRequest starts a training run. The client chooses ModelSeqID, so
// both sides derive the id <session>:train:<seq>.
type CreateModelRequest struct {
	SessionID       string           `json:"session_id"`
	ModelSeqID      int64            `json:"model_seq_id" minimum:"0"`
	BaseModel       string           `json:"base_model"`
	UserMetadata    map[string]any   `json:"user_metadata,omitempty"`
	LoRAConfig      *LoRAConfig      `json:"lora_config,omitempty"`
	OptimizerConfig *OptimizerConfig `json:"optimizer_config,omitempty"`
	Type            string           `json:"type,omitempty"`
}

// CreateModelResult is the result of a CreateModelRequest.
type CreateModelResult struct {
	ModelID string `json:"model_id"`
	Type    string `json:"type"`
}

// ModelRequest names a model.
type ModelRequest struct {
	ModelID string `json:"model_id"`
	Type    string `json:"type,omitempty"`
}

// UnloadModelResult is the result of unload_model.
type UnloadModelResult struct {
	ModelID string `json:"model_id"`
	Type    string `json:"type"`
}

// OptimStepRequest applies the accumulated gradients.
type OptimStepRequest struct {
	ModelID    string      `json:"model_id"`
	SeqID      *int64      `json:"seq_id,omitempty"`
	AdamParams *AdamParams `json:"adam_params,omitempty"`
	// OptimizerParams is sent instead by optimizers other than Adam.
	OptimizerParams *OptimizerConfig `json:"optimizer_params,omitempty"`
	Type            string           `json:"type,omitempty"`
}

// AdamParams are one AdamW step's hyperparameters. Absent fields have the
// protocol's defaults (tinker.types.AdamParams): learning rate 1e-4, betas 0.9
// and 0.95, eps 1e-12, no decay and no clipping.
type AdamParams struct {
	LearningRate *float64 `json:"learning_rate,omitempty"`
	Beta1        *float64 `json:"beta1,omitempty"`
	Beta2        *float64 `json:"beta2,omitempty"`
	Eps          *float64 `json:"eps,omitempty"`
	WeightDecay  *float64 `json:"weight_decay,omitempty"`
	GradClipNorm *float64 `json:"grad_clip_norm,omitempty"`
}

// OptimStepResult is the result of an OptimStepRequest.
type OptimStepResult struct {
	Metrics map[string]float64 `json:"metrics,omitempty"`
}
