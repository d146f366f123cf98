package tinkex

import "time"

// TrainingRun describes a run: one model in training and its checkpoints.
type TrainingRun struct {
	TrainingRunID string `json:"training_run_id"`
	BaseModel     string `json:"base_model"`
	ModelOwner    string `json:"model_owner"`
	IsLoRA        bool   `json:"is_lora"`
	// Corrupted runs lost steps that no checkpoint holds; resume from the last one.
	Corrupted             bool              `json:"corrupted"`
	LoRARank              *int              `json:"lora_rank,omitempty"`
	LastRequestTime       time.Time         `json:"last_request_time"`
	LastCheckpoint        *Checkpoint       `json:"last_checkpoint,omitempty"`
	LastSamplerCheckpoint *Checkpoint       `json:"last_sampler_checkpoint,omitempty"`
	UserMetadata          map[string]string `json:"user_metadata,omitempty"`
	// ResumedFrom is the tinker path of the checkpoint that the run began with.
	// It is empty if there was none, and on servers that do not say.
	ResumedFrom string `json:"resumed_from,omitempty" doc:"An extension: the checkpoint that the run began with"`
}

// TrainingRunList is one page of training runs, newest first.
type TrainingRunList struct {
	TrainingRuns []TrainingRun `json:"training_runs"`
	Cursor       Cursor        `json:"cursor"`
}
