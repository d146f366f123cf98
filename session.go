package tinkex

// Session describes a session: what one client created in it.
type Session struct {
	TrainingRunIDs []string          `json:"training_run_ids"`
	SamplerIDs     []string          `json:"sampler_ids"`
	UserMetadata   map[string]string `json:"user_metadata,omitempty"`
	DisplayName    string            `json:"display_name,omitempty"`
}

// SessionList is one page of session ids, newest first.
type SessionList struct {
	Sessions []string `json:"sessions"`
}

// SamplerInfo describes a sampling session.
type SamplerInfo struct {
	SamplerID string `json:"sampler_id"`
	BaseModel string `json:"base_model"`
	// ModelPath is the tinker path of the weights, empty for the base model.
	ModelPath string `json:"model_path,omitempty"`
}
