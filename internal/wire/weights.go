package wire

import "time"

// SaveWeightsRequest saves a model: as a training checkpoint, for a sampler or
// in external form, depending on where it is posted.
type SaveWeightsRequest struct {
	ModelID      string            `json:"model_id"`
	Path         *string           `json:"path,omitempty" doc:"The checkpoint's name"`
	SeqID        *int64            `json:"seq_id,omitempty"`
	TTLSeconds   *int64            `json:"ttl_seconds,omitempty"`
	Overwrite    bool              `json:"overwrite,omitempty"`
	UserMetadata map[string]string `json:"user_metadata,omitempty"`

	// For a sampler without a name: an unlisted snapshot that a sampling
	// session is opened on. Kind "inflight" is one that later saves move.
	SamplingSessionSeqID *int64 `json:"sampling_session_seq_id,omitempty"`
	Kind                 string `json:"kind,omitempty" enum:"snapshot,inflight"`

	AgeEncryptionRecipients []string `json:"age_encryption_recipients,omitempty"`
	Type                    string   `json:"type,omitempty"`
}

// SaveWeightsResult is the result of any save.
type SaveWeightsResult struct {
	Path              string `json:"path,omitempty"`
	SamplingSessionID string `json:"sampling_session_id,omitempty"`
	SizeBytes         *int64 `json:"size_bytes,omitempty"`
	Type              string `json:"type"`
}

// LoadWeightsRequest loads a checkpoint, either onto a model just created
// (ModelID and SeqID) or as what creates it (SessionID and ModelSeqID).
type LoadWeightsRequest struct {
	ModelID            string           `json:"model_id,omitempty"`
	SeqID              *int64           `json:"seq_id,omitempty"`
	SessionID          string           `json:"session_id,omitempty"`
	ModelSeqID         *int64           `json:"model_seq_id,omitempty"`
	BaseModel          *string          `json:"base_model,omitempty"`
	UserMetadata       map[string]any   `json:"user_metadata,omitempty"`
	Path               string           `json:"path"`
	Optimizer          bool             `json:"optimizer"`
	OptimizerConfig    *OptimizerConfig `json:"optimizer_config,omitempty"`
	WeightsAccessToken *string          `json:"weights_access_token,omitempty"`
	Type               string           `json:"type,omitempty"`
}

// LoadWeightsResult is the result of a LoadWeightsRequest.
type LoadWeightsResult struct {
	Path    string `json:"path"`
	ModelID string `json:"model_id"`
	Type    string `json:"type"`
}

// CopyWeightsRequest copies a checkpoint, either into a session of the
// caller's, as its run ModelSeqID, or into a project, as a session of its own.
type CopyWeightsRequest struct {
	SessionID            string  `json:"session_id,omitempty"`
	ModelSeqID           *int64  `json:"model_seq_id,omitempty" minimum:"0"`
	DestinationProjectID string  `json:"destination_project_id,omitempty"`
	SourcePath           string  `json:"source_path"`
	TTLSeconds           *int64  `json:"ttl_seconds,omitempty" doc:"The source's expiry is not inherited"`
	WeightsAccessToken   *string `json:"weights_access_token,omitempty"`
}

// CopyWeightsResponse says where the copy is.
type CopyWeightsResponse struct {
	TinkerPath string `json:"tinker_path"`
}

// WeightsInfoRequest asks what a checkpoint was trained as.
type WeightsInfoRequest struct {
	TinkerPath string `json:"tinker_path"`
}

// SetTTLRequest sets when a checkpoint expires, counted from now; null is never.
type SetTTLRequest struct {
	TTLSeconds *int64 `json:"ttl_seconds" required:"false"`
}

// ArchiveURL is where a checkpoint can be downloaded, until Expires.
type ArchiveURL struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// ExternalWeightsURLs has a signed URL per file.
type ExternalWeightsURLs struct {
	URLs    map[string]string `json:"urls"`
	Expires time.Time         `json:"expires"`
}

// Manifest is a checkpoint's content, and where its files can be fetched one by
// one until Expires.
type Manifest struct {
	TinkerPath string         `json:"tinker_path"`
	Digest     string         `json:"digest" doc:"Identifies the content: equal files give equal digests"`
	SizeBytes  int64          `json:"size_bytes"`
	Expires    time.Time      `json:"expires"`
	Files      []ManifestFile `json:"files"`
}

// ManifestFile is a file of a Manifest.
type ManifestFile struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256" doc:"64 hexadecimal digits"`
	URL       string `json:"url" doc:"Signed; it supports ranges and needs no credential"`
}
