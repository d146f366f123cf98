package wire

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
