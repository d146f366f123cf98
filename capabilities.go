package tinkex

// ServerCapabilities lists what a server offers.
type ServerCapabilities struct {
	SupportedModels []SupportedModel `json:"supported_models"`
}

// SupportedModel is a base model on offer. Fields are nil on servers that do
// not say.
type SupportedModel struct {
	ModelName        string `json:"model_name"`
	MaxContextLength *int   `json:"max_context_length,omitempty" doc:"Tokens"`
	Trainable        *bool  `json:"trainable,omitempty"`
	Sampleable       *bool  `json:"sampleable,omitempty"`
}

// ModelInfo describes the model of a training client.
type ModelInfo struct {
	ModelID   string    `json:"model_id"`
	ModelName string    `json:"model_name,omitempty"`
	IsLoRA    *bool     `json:"is_lora,omitempty"`
	LoRARank  *int      `json:"lora_rank,omitempty"`
	ModelData ModelData `json:"model_data"`
	Type      string    `json:"type,omitempty"`
}

// ModelData describes a base model.
type ModelData struct {
	Arch        string `json:"arch,omitempty"`
	ModelName   string `json:"model_name,omitempty"`
	TokenizerID string `json:"tokenizer_id,omitempty"`
}
