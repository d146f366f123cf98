package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex/internal/health"
)

// readiness is a report with the status that says the same to machines.
type readiness struct {
	Status     int
	RetryAfter string `header:"Retry-After"`
	Body       health.Report
}

// healthOps are for whatever looks after the server. They are open to
// everybody and tell nobody anything else.
func (s *Server) healthOps(api huma.API) {
	open := func(op *huma.Operation) { op.Security = []map[string][]string{} }
	registerAt(api, http.MethodGet, "/healthz", "alive", "Whether the process is alive; it asks nothing else",
		func(context.Context, *struct{}) (*reply[healthStatus], error) {
			return replyWith(healthStatus{"ok"}), nil
		},
		open, func(op *huma.Operation) { op.Errors = nil })
	registerAt(api, http.MethodGet, "/readyz", "ready", "Whether the server can do its work, and which check says otherwise", s.ready,
		open, func(op *huma.Operation) {
			report := api.OpenAPI().Components.Schemas.Schema(typeOf[health.Report](), true, "Report")
			op.Errors = nil
			op.Responses = map[string]*huma.Response{}
			for code, description := range map[string]string{"200": "Every check passes", "503": "Not now"} {
				op.Responses[code] = &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: report}}}
			}
		})
}

func (s *Server) ready(ctx context.Context, _ *struct{}) (*readiness, error) {
	report := s.health.Report(ctx)
	draining := health.Result{Status: health.OK, CheckedAt: s.now().UTC().Truncate(time.Millisecond)}
	select {
	case <-s.draining:
		draining.Status, draining.Error = health.Failed, "the server is stopping"
	default:
	}
	report.Add("not_draining", draining)
	r := &readiness{Status: http.StatusOK, Body: report}
	if !report.Ready() {
		r.Status, r.RetryAfter = http.StatusServiceUnavailable, "1"
	}
	return r, nil
}
