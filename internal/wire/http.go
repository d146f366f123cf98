package wire

// Paths and headers of the protocol.
const (
	APIPrefix = "/api/v1"
	// ExtensionPrefix is that of what this project adds to the protocol.
	ExtensionPrefix = "/tinkex/v1"

	HeaderAPIKey         = "X-API-Key"
	HeaderIdempotencyKey = "X-Idempotency-Key"
	HeaderRequestID      = "X-Request-Id"
	// HeaderShouldRetry overrules a client's own rule for one answer: "true"
	// or "false".
	HeaderShouldRetry = "X-Should-Retry"
	// HeaderOfficialSDK is sent by the official Python SDK with every request.
	HeaderOfficialSDK = "X-Stainless-Package-Version"
	// HeaderWeightsToken carries the access token for another owner's weights.
	HeaderWeightsToken = "X-Tinker-Weights-Access-Token"

	ContentTypeJSON     = "application/json"
	ContentTypeProtobuf = "application/x-protobuf"
	// ContentTypeLines is a JSON value a line.
	ContentTypeLines = "application/x-ndjson"
)

// ErrorBody is every HTTP error's body.
type ErrorBody struct {
	Detail string `json:"detail"`
}
