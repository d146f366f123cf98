package telemetry_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// What a request, a query, a future and a line in the log pay. A step of
// training has four requests and two futures.
func BenchmarkOverhead(b *testing.B) {
	const route = "/api/v1/forward_backward"
	nothing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for name, provider := range map[string]trace.TracerProvider{"metrics": nil, "metrics+traces": sdktrace.NewTracerProvider()} {
		m := telemetry.New(telemetry.Options{TracerProvider: provider})
		b.Run("request/"+name, func(b *testing.B) {
			h := m.Handler(nothing, func(*http.Request) string { return route })
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, route, nil)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
		ctx := context.Background()
		if provider != nil {
			ctx, _ = provider.Tracer("bench").Start(ctx, "parent")
		}
		b.Run("query/"+name, func(b *testing.B) {
			meta := m.Metastore(noMeta{}, "none")
			b.ReportAllocs()
			for b.Loop() {
				_ = meta.Check(ctx)
			}
		})
		b.Run("future/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, end := m.Future(ctx, "ForwardBackward", "r:train:0:req:1")(ctx)
				end(nil)
			}
		})
		b.Run("log/"+name, func(b *testing.B) {
			l := telemetry.Logger(slog.New(slog.NewTextHandler(io.Discard, nil)))
			b.ReportAllocs()
			for b.Loop() {
				l.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("request_id", "a0b1c2d3e4f5a6b7"), slog.String("method", "POST"),
					slog.String("route", route), slog.String("path", route), slog.Int("status", 200),
					slog.Float64("duration_ms", 1.5), slog.Int64("bytes", 100), slog.String("owner", "a0b1c2d3e4f5"))
			}
		})
	}
}

type noMeta struct{ metastore.Store }

func (noMeta) Check(context.Context) error { return nil }
