package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// Spans that could not be sent yet are given that long when a command ends,
// and a server. A collector that is gone must not hold anybody up.
const (
	commandFlush = 2 * time.Second
	serverFlush  = 5 * time.Second
)

// startTracing traces the command if the environment asks for it, as
// OpenTelemetry's variables say. Commands other than serve do their work
// without traces if that cannot be done.
func (a *app) startTracing(cmd *cobra.Command) error {
	if !telemetry.TracingAsked() {
		return nil
	}
	serve := cmd.Name() == "serve"
	service := "tinkex"
	if serve {
		service = "tinkex-server"
	}
	ctx := cmd.Context()
	provider, err := telemetry.Tracing(ctx, service, tinkex.Version, a.Stderr)
	if err != nil {
		if serve {
			return usagef("%v", err)
		}
		a.say("not traced: %v", err)
		return nil
	}
	// The SDK tells nobody else of spans that it cannot send, and would tell
	// standard error.
	log := telemetry.Logger(a.logger())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	a.tracing = provider
	flush := commandFlush
	var span trace.Span
	if serve {
		flush = serverFlush
	} else {
		ctx, span = provider.Tracer("github.com/tinkex/tinkex").Start(ctx, cmd.CommandPath())
		cmd.SetContext(ctx)
	}
	a.endTracing = func(code int, err error) {
		if span != nil {
			span.SetAttributes(attribute.Int("process.exit.code", code))
			if err != nil {
				span.SetStatus(codes.Error, "failed")
			}
			span.End()
		}
		ctx, cancel := context.WithTimeout(context.Background(), flush)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("traces were not sent", "error", err)
		}
	}
	return nil
}
