package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/wire"
)

func ptr[T any](v T) *T { return &v }

// clientConfig is what clients of this server run with. Bodies are not
// compressed: it costs more than it saves on the networks a server of one's
// own is reached over.
func clientConfig() wire.ClientConfig {
	return wire.ClientConfig{
		PJWTAuthEnabled:      ptr(true),
		CredentialSource:     "api_key",
		ParallelFwdBwdChunks: ptr(true),
		ProtoCompressFwdBwd:  ptr(false),
		CreateModelViaLoad:   ptr(true),
	}
}

type healthStatus struct {
	Status string `json:"status"`
}

type telemetryStatus struct {
	Status string `json:"status"`
}

func (s *Server) configOps(api huma.API) {
	register(api, http.MethodGet, "/healthz", "health", "Whether the server can do its work",
		func(ctx context.Context, _ *struct{}) (*reply[healthStatus], error) {
			if err := s.reg.Check(ctx); err != nil {
				s.log.ErrorContext(ctx, "health check", "error", err)
				return nil, failure(http.StatusServiceUnavailable, "a store cannot be reached or written to")
			}
			return replyWith(healthStatus{"ok"}), nil
		})
	register(api, http.MethodPost, "/client/config", "client-config", "Flags for a client to run with",
		func(context.Context, *bodyOf[wire.ClientConfigRequest]) (*reply[wire.ClientConfig], error) {
			return replyWith(clientConfig()), nil
		})
	register(api, http.MethodPost, "/client/dynamic_config", "client-dynamic-config", "Flags for a client to refresh",
		func(context.Context, *bodyOf[wire.ClientConfigRequest]) (*reply[wire.ClientDynamicConfig], error) {
			return replyWith(wire.ClientDynamicConfig{RefreshIntervalSec: 3600, SampleCancelEnabled: true, SampleCancelMaxBatchSize: 64}), nil
		})
	register(api, http.MethodPost, "/telemetry", "telemetry", "Accepts and forgets a client's telemetry",
		func(context.Context, *struct{ RawBody []byte }) (*reply[telemetryStatus], error) {
			return replyWith(telemetryStatus{"accepted"}), nil
		}, bodyLimit(8<<20))
	register(api, http.MethodGet, "/get_server_capabilities", "server-capabilities", "The base models on offer",
		func(context.Context, *struct{}) (*reply[tinkex.ServerCapabilities], error) {
			caps := tinkex.ServerCapabilities{SupportedModels: []tinkex.SupportedModel{}}
			for _, b := range s.reg.BaseModels() {
				caps.SupportedModels = append(caps.SupportedModels, tinkex.SupportedModel{
					ModelName: b.Name, MaxContextLength: ptr(b.MaxContextLength), Trainable: ptr(true), Sampleable: ptr(true),
				})
			}
			return replyWith(caps), nil
		})
}
