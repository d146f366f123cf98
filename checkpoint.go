package tinkex

import "time"

// Checkpoint describes a saved checkpoint.
type Checkpoint struct {
	// CheckpointID identifies it within its run: "weights/<name>".
	CheckpointID   string         `json:"checkpoint_id"`
	CheckpointType CheckpointType `json:"checkpoint_type"`
	Time           time.Time      `json:"time" doc:"When it was saved"`
	TinkerPath     string         `json:"tinker_path"`
	// SizeBytes is the sum of its files' sizes; nil if the server does not say.
	SizeBytes    *int64            `json:"size_bytes,omitempty"`
	Public       bool              `json:"public"`
	UserMetadata map[string]string `json:"user_metadata,omitempty"`
	// ExpiresAt is nil if it never expires.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// BaseModel is empty on servers that do not say.
	BaseModel string `json:"base_model,omitempty"`
}

// Path parses TinkerPath.
func (c Checkpoint) Path() (TinkerPath, error) { return ParseTinkerPath(c.TinkerPath) }

// Cursor says which part of a list an answer holds.
type Cursor struct {
	Offset     int `json:"offset"`
	Limit      int `json:"limit"`
	TotalCount int `json:"total_count"`
}

// CheckpointList is one page of checkpoints, newest first. Cursor is nil when
// the answer is not paged.
type CheckpointList struct {
	Checkpoints []Checkpoint `json:"checkpoints"`
	Cursor      *Cursor      `json:"cursor,omitempty"`
}

// WeightsInfo is what one needs to know to load a checkpoint. Flags are nil
// on servers that do not say.
type WeightsInfo struct {
	BaseModel    string `json:"base_model"`
	IsLoRA       bool   `json:"is_lora"`
	LoRARank     *int   `json:"lora_rank,omitempty"`
	TrainUnembed *bool  `json:"train_unembed,omitempty"`
	TrainMLP     *bool  `json:"train_mlp,omitempty"`
	TrainAttn    *bool  `json:"train_attn,omitempty"`
}

// ArchiveURL is where a checkpoint's tar can be fetched without credentials,
// until Expires.
type ArchiveURL struct {
	URL     string
	Expires time.Time // zero if the server does not say
}
