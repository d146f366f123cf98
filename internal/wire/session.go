package wire

// ClientConfigRequest asks for the flags a client should run with.
type ClientConfigRequest struct {
	SDKVersion string `json:"sdk_version,omitempty"`
}

// ClientConfig holds those flags that this project reads or sets; each has a
// default in the clients, used when the field is absent.
type ClientConfig struct {
	PJWTAuthEnabled        *bool  `json:"pjwt_auth_enabled,omitempty" doc:"Exchange the API key for a short-lived JWT before anything else"`
	CredentialSource       string `json:"credential_default_source,omitempty"`
	ParallelFwdBwdChunks   *bool  `json:"parallel_fwdbwd_chunks,omitempty"`
	ProtoCompressFwdBwd    *bool  `json:"proto_compress_fwdbwd,omitempty" doc:"Compress forward_backward bodies with zstd"`
	FwdBwdMaxChunkLen      int    `json:"fwdbwd_max_chunk_len,omitempty" doc:"Datums per forward_backward request"`
	FwdBwdMaxChunkBytes    int    `json:"fwdbwd_max_chunk_bytes_count,omitempty" doc:"Estimated bytes per forward_backward request, before compression"`
	CreateModelViaLoad     *bool  `json:"create_model_via_load_weights,omitempty" doc:"A load may itself create the model"`
	SampleRetrieveFutures  *bool  `json:"sample_use_retrieve_futures,omitempty"`
	SampleJoinSession      *bool  `json:"sample_join_sampling_session,omitempty"`
	CustomLossServerSide   *bool  `json:"custom_loss_server_side,omitempty"`
	SampleMaxConcurrentReq int    `json:"sample_max_concurrent_requests,omitempty"`
}

// ClientDynamicConfig holds the flags a client refreshes while it runs.
type ClientDynamicConfig struct {
	RefreshIntervalSec       int  `json:"refresh_interval_sec"`
	SampleCancelEnabled      bool `json:"sample_cancel_enabled"`
	SampleCancelMaxBatchSize int  `json:"sample_cancel_max_batch_size"`
}

// AuthToken is a short-lived JWT in exchange for a key.
type AuthToken struct {
	JWT string `json:"jwt"`
}

// CreateSessionRequest opens a session.
type CreateSessionRequest struct {
	Tags         []string       `json:"tags" required:"false" doc:"Sent even when empty: the official server requires the list"`
	UserMetadata map[string]any `json:"user_metadata,omitempty"`
	SDKVersion   string         `json:"sdk_version,omitempty"`
	ProjectID    *string        `json:"project_id,omitempty"`
	DisplayName  *string        `json:"display_name,omitempty"`
	Type         string         `json:"type,omitempty"`
}

// CreateSessionResponse names the session; the messages are for its user.
type CreateSessionResponse struct {
	Type           string `json:"type"`
	SessionID      string `json:"session_id"`
	InfoMessage    string `json:"info_message,omitempty"`
	WarningMessage string `json:"warning_message,omitempty"`
	ErrorMessage   string `json:"error_message,omitempty"`
}

// HeartbeatRequest keeps a session alive; clients send one every 10 s. A
// finished session answers 410.
type HeartbeatRequest struct {
	SessionID string `json:"session_id"`
	Type      string `json:"type,omitempty"`
}

// FinishSessionRequest ends a session.
type FinishSessionRequest struct {
	Reason FinishReason `json:"reason"`
	Detail *string      `json:"detail,omitempty"`
}

// FinishReason is how the client says it ended.
type FinishReason struct {
	Type string `json:"type" enum:"success,errored,interrupted"`
}

// SetProjectRequest moves a session into a project.
type SetProjectRequest struct {
	ProjectID string `json:"project_id"`
}

// Typed is an answer that says nothing but its type.
type Typed struct {
	Type string `json:"type"`
}
