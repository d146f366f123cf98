package bench

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/telemetry"
	"github.com/tinkex/tinkex/tinkextest"
)

func BenchmarkStepInEngine(b *testing.B) {
	step, end, err := EngineStep(b.Context())
	run(b, step, end, err)
}

func BenchmarkStepOverLoopback(b *testing.B) {
	step, end, err := SDKStep(b.Context(), tinkextest.NewServer(b).Options())
	run(b, step, end, err)
}

// The same with everything that tinkex serve has besides: metrics and a line in
// the log per request, and with traces of every step as well.
func BenchmarkStepObserved(b *testing.B) {
	for name, provider := range map[string]trace.TracerProvider{"metrics": nil, "metrics+traces": sdktrace.NewTracerProvider(sdktrace.WithBatcher(nowhere{}))} {
		b.Run(name, func(b *testing.B) {
			n, err := node.Open(b.Context(), node.Options{
				Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
				Telemetry: telemetry.New(telemetry.Options{TracerProvider: provider}),
			})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = n.Close(context.Background()) }()
			srv := httptest.NewServer(n)
			defer srv.Close()
			step, end, err := SDKStep(b.Context(), tinkex.Options{BaseURL: srv.URL, APIKey: tinkextest.Key, TracerProvider: provider})
			run(b, step, end, err)
		})
	}
}

// nowhere is where spans are sent to.
type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (nowhere) Shutdown(context.Context) error                             { return nil }

func run(b *testing.B, step Step, end func() error, err error) {
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := end(); err != nil {
			b.Error(err)
		}
	}()
	for b.Loop() {
		if err := step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
