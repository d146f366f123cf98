package wire

import "time"

// Blob is bytes by their digest.
type Blob struct {
	SHA256    string `json:"sha256" doc:"64 hexadecimal digits"`
	SizeBytes int64  `json:"size_bytes"`
}

// MissingBlobsRequest asks which blobs are still to be sent.
type MissingBlobsRequest struct {
	Blobs []Blob `json:"blobs"`
}

// ImportRequest makes checkpoints of an adapter whose bytes were sent.
type ImportRequest struct {
	Name         string            `json:"name"`
	Types        []string          `json:"types,omitempty" doc:"weights, sampler_weights or both; both if left out"`
	BaseModel    string            `json:"base_model,omitempty" doc:"Needed if the adapter's configuration does not say"`
	RunID        string            `json:"run_id,omitempty" doc:"A run of one's own to import into; left out, one is made"`
	Overwrite    bool              `json:"overwrite,omitempty"`
	TTLSeconds   *int64            `json:"ttl_seconds,omitempty"`
	UserMetadata map[string]string `json:"user_metadata,omitempty"`
	Files        []ImportFile      `json:"files"`
}

// ImportFile is a file of an adapter.
type ImportFile struct {
	Name string `json:"name"`
	Blob
	Parts []Blob `json:"parts,omitempty" doc:"What a file larger than one upload was sent as, in order"`
}

// RestoreRequest makes a checkpoint of what one was on a server, this one or
// another, when its bytes were sent.
type RestoreRequest struct {
	Origin          string            `json:"origin" doc:"The checkpoint's tinker path there: type and name stay, and the run has one that stands for it here"`
	RunID           string            `json:"run_id,omitempty" doc:"A run of one's own to restore into instead"`
	BaseModel       string            `json:"base_model" doc:"It need not be on offer here"`
	LoRARank        int               `json:"lora_rank"`
	TrainAttn       *bool             `json:"train_attn,omitempty" doc:"Left out, as the next two: true"`
	TrainMLP        *bool             `json:"train_mlp,omitempty"`
	TrainUnembed    *bool             `json:"train_unembed,omitempty"`
	RunMetadata     map[string]string `json:"run_metadata,omitempty" doc:"The run's user metadata"`
	LastRequestTime *time.Time        `json:"last_request_time,omitempty" doc:"The run's"`
	Time            *time.Time        `json:"time,omitempty" doc:"When the checkpoint was saved"`
	UserMetadata    map[string]string `json:"user_metadata,omitempty"`
	TTLSeconds      *int64            `json:"ttl_seconds,omitempty"`
	Overwrite       bool              `json:"overwrite,omitempty" doc:"Replace a checkpoint with other files"`
	Files           []ImportFile      `json:"files"`
}

// CopyRequest copies a checkpoint that one may read; no bytes move.
type CopyRequest struct {
	SourcePath string `json:"source_path"`
	Name       string `json:"name,omitempty" doc:"Left out, the source's"`
	RunID      string `json:"run_id,omitempty" doc:"A run of one's own to copy into; left out, one is made"`
	ProjectID  string `json:"project_id,omitempty" doc:"Of the run that is made"`
	TTLSeconds *int64 `json:"ttl_seconds,omitempty" doc:"The source's expiry is not inherited"`
	Overwrite  bool   `json:"overwrite,omitempty"`
}
