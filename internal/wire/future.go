package wire

// Future is the immediate answer to a request whose result comes later.
type Future struct {
	RequestID         string   `json:"request_id"`
	ModelID           string   `json:"model_id,omitempty"`
	SampleSequenceIDs []string `json:"sample_sequence_ids,omitempty" doc:"Sampling only: one id per requested sequence, in the result's order"`
}

// RetrieveFutureRequest asks for a result, waiting for it a while.
type RetrieveFutureRequest struct {
	RequestID         string `json:"request_id"`
	AllowMetadataOnly bool   `json:"allow_metadata_only,omitempty"`
}

// TypeTryAgain is FutureStatus.Type while a result is not there yet.
const TypeTryAgain = "try_again"

// FutureStatus is what retrieve_future answers when it does not answer the
// result itself: to be asked again, or failed.
type FutureStatus struct {
	Type             string `json:"type,omitempty"`
	RequestID        string `json:"request_id,omitempty"`
	QueueState       string `json:"queue_state,omitempty" enum:"active,paused_capacity,paused_rate_limit"`
	QueueStateReason string `json:"queue_state_reason,omitempty"`

	Error    string `json:"error,omitempty"`
	Category string `json:"category,omitempty" enum:"user,server,unknown"`
	// StatusCode is this project's addition: the HTTP status the failure would
	// have had if it had been known when the request was made. Official
	// clients ignore it.
	StatusCode int `json:"status_code,omitempty"`

	// Status is "complete_metadata" when the payload is large and the client
	// allowed to be told its size first.
	Status              string `json:"status,omitempty"`
	ResponsePayloadSize int64  `json:"response_payload_size,omitempty"`
}

// RetrieveFuturesRequest waits for any of a sampling session's results.
type RetrieveFuturesRequest struct {
	Target              FuturesTarget `json:"target"`
	PrevCursor          int64         `json:"prev_cursor,omitempty"`
	Timeout             *float64      `json:"timeout,omitempty" doc:"Seconds; 0 answers at once"`
	RetrievedRequestIDs []string      `json:"retrieved_request_ids,omitempty"`
}

// FuturesTarget names a sampling session and one of its clones.
type FuturesTarget struct {
	Type              string `json:"type,omitempty"`
	SamplingSessionID string `json:"sampling_session_id"`
	ClonedSamplerID   int64  `json:"cloned_sampler_id,omitempty"`
}

// RetrieveFuturesResponse lists what completed after the cursor.
type RetrieveFuturesResponse struct {
	Completions []FutureCompletion `json:"completions"`
	Cursor      int64              `json:"cursor"`
}

// FutureCompletion is one completed request.
type FutureCompletion struct {
	State     string `json:"state" enum:"finished,failed"`
	RequestID string `json:"request_id"`
}

// CancelFutureRequest gives up on a sampling request.
type CancelFutureRequest struct {
	RequestID string `json:"request_id"`
}
