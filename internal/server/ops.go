package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex/internal/wire"
)

// Bounds of request bodies, in bytes. The official client sends
// forward_backward in chunks of about 5 MB.
const (
	maxJSONBody     = 1 << 20
	maxImportBody   = 8 << 20 // lists of digests: enough for a terabyte in parts
	maxSampleBody   = 32 << 20
	maxTrainingBody = 128 << 20
)

// bodyTimeout is how long a body may take to arrive.
const bodyTimeout = 2 * time.Minute

type reply[T any] struct{ Body T }

func replyWith[T any](v T) *reply[T] { return &reply[T]{Body: v} }

// bodyOf is an operation's input when it is only a JSON body.
type bodyOf[T any] struct{ Body T }

// register adds an operation under the protocol's prefix.
func register[I, O any](api huma.API, method, path, id, summary string, handler func(context.Context, *I) (*O, error), opts ...func(*huma.Operation)) {
	registerAt(api, method, wire.APIPrefix+path, id, summary, handler, opts...)
}

// extend adds an operation to the protocol.
func extend[I, O any](api huma.API, method, path, id, summary string, handler func(context.Context, *I) (*O, error), opts ...func(*huma.Operation)) {
	registerAt(api, method, wire.ExtensionPrefix+path, id, summary, handler, opts...)
}

func registerAt[I, O any](api huma.API, method, path, id, summary string, handler func(context.Context, *I) (*O, error), opts ...func(*huma.Operation)) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		MaxBodyBytes: maxJSONBody, BodyReadTimeout: bodyTimeout,
		Errors: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound},
	}
	for _, o := range opts {
		o(&op)
	}
	huma.Register(api, op, handler)
}

func bodyLimit(n int64) func(*huma.Operation) {
	return func(op *huma.Operation) { op.MaxBodyBytes = n }
}

func status(code int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.DefaultStatus = code }
}
