package tinkex

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tinkex/tinkex/internal/wire"
)

// flags are what a server asks its clients to run with. Their defaults are
// the official client's (tinker 0.38.0, types/client_config_response.py).
type flags struct {
	exchangeKey    bool // for a JWT, before anything else
	parallelChunks bool
	compress       bool // forward_backward bodies, with zstd
	maxChunkLen    int  // datums per forward_backward request
	maxChunkBytes  int  // estimated, before compression
	createViaLoad  bool // a load may itself create the model
	maxSamples     int  // sampling requests at the same time
}

func defaultFlags() flags {
	return flags{
		parallelChunks: true,
		maxChunkLen:    1024,
		maxChunkBytes:  5_000_000,
		createViaLoad:  true,
		maxSamples:     2000,
	}
}

// flags asks the server once. A server that does not know the question is one
// that runs with the defaults.
func (t *transport) flags(ctx context.Context) (flags, error) {
	const op = "read client config"
	return t.config.get(ctx, t.life, op, func(ctx context.Context) (flags, error) {
		body, err := json.Marshal(wire.ClientConfigRequest{SDKVersion: protocolVersion})
		if err != nil {
			return flags{}, err
		}
		f := defaultFlags()
		r, err := t.do(ctx, &call{
			op: op, method: http.MethodPost, path: "/client/config", rawKey: true, pausable: true,
			body: body, contentType: wire.ContentTypeJSON,
		})
		var e *Error
		if errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed) {
			return f, nil
		}
		if err != nil {
			return flags{}, err
		}
		var c wire.ClientConfig
		if err := json.Unmarshal(r.body, &c); err != nil {
			t.log.Debug("client config cannot be read; using the defaults", "error", err)
			return f, nil
		}
		f.apply(c)
		if f.exchangeKey {
			t.cred.useJWT()
		}
		return f, nil
	})
}

func (f *flags) apply(c wire.ClientConfig) {
	for _, b := range []struct {
		to   *bool
		from *bool
	}{
		{&f.exchangeKey, c.PJWTAuthEnabled},
		{&f.parallelChunks, c.ParallelFwdBwdChunks},
		{&f.compress, c.ProtoCompressFwdBwd},
		{&f.createViaLoad, c.CreateModelViaLoad},
	} {
		if b.from != nil {
			*b.to = *b.from
		}
	}
	for _, n := range []struct {
		to   *int
		from int
	}{
		{&f.maxChunkLen, c.FwdBwdMaxChunkLen},
		{&f.maxChunkBytes, c.FwdBwdMaxChunkBytes},
		{&f.maxSamples, c.SampleMaxConcurrentReq},
	} {
		if n.from > 0 {
			*n.to = n.from
		}
	}
}
