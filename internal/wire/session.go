package wire

import "time"

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

// SearchSessionsRequest finds sessions, newest first. What is absent does not
// restrict.
type SearchSessionsRequest struct {
	SessionID    string            `json:"session_id,omitempty" doc:"Exact; together with display_name, either one is enough"`
	DisplayName  string            `json:"display_name,omitempty" doc:"Words that the name contains, whatever their case"`
	ProjectIDs   []string          `json:"project_ids,omitempty"`
	UserMetadata map[string]string `json:"user_metadata,omitempty" doc:"Pairs that must all be there"`
	Owner        *SearchOwner      `json:"owner,omitempty"`
	Statuses     []StatusQuery     `json:"statuses,omitempty" minItems:"1" doc:"Any of them"`
	Limit        int               `json:"limit,omitempty" minimum:"1" maximum:"200" default:"50"`
	Cursor       *SessionCursor    `json:"cursor,omitempty"`
}

// SearchOwner says whose sessions are meant.
type SearchOwner struct {
	Type      string   `json:"type" enum:"own,accessible,user"`
	OwnerURNs []string `json:"owner_urns,omitempty" maxItems:"10"`
}

// StatusQuery matches sessions by what became of them.
type StatusQuery struct {
	Type    string   `json:"type" enum:"active,cancelled,failed,client_finished"`
	Reasons []string `json:"reasons,omitempty" minItems:"1" doc:"Of client_finished: success, errored, interrupted"`
}

// SessionCursor is where the next page starts.
type SessionCursor struct {
	LastCreatedAt time.Time `json:"last_created_at"`
	LastSessionID string    `json:"last_session_id"`
}

// SearchSessionsResponse is a page of what was found; without a cursor it is
// the last one.
type SearchSessionsResponse struct {
	Sessions   []SessionSummary `json:"sessions"`
	NextCursor *SessionCursor   `json:"next_cursor,omitempty"`
}

// SessionSummary describes a session and what it holds.
type SessionSummary struct {
	SessionID              string            `json:"session_id"`
	CreatedAt              time.Time         `json:"created_at"`
	Owner                  string            `json:"owner"`
	ProjectID              string            `json:"project_id"`
	Status                 *SessionStatus    `json:"status,omitempty" doc:"Absent if the session neither finished nor is known to run"`
	CheckpointsCount       int               `json:"checkpoints_count"`
	CheckpointStorageBytes int64             `json:"checkpoint_storage_bytes"`
	DisplayName            *string           `json:"display_name,omitempty"`
	UserMetadata           map[string]string `json:"user_metadata,omitempty"`
}

// The types of SessionStatus and StatusQuery that this project knows.
const (
	StatusActive         = "active"
	StatusClientFinished = "client_finished"
)

// SessionStatus is what became of a session.
type SessionStatus struct {
	Type   string        `json:"type"`
	Reason *FinishReason `json:"reason,omitempty"`
	Detail *string       `json:"detail,omitempty"`
}

// SetProjectRequest moves a session into a project.
type SetProjectRequest struct {
	ProjectID string `json:"project_id"`
}

// Typed is an answer that says nothing but its type.
type Typed struct {
	Type string `json:"type"`
}
