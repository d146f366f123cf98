package telemetry

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Tracing makes a provider as OpenTelemetry's environment variables say, or
// nil if they ask for no traces: OTEL_TRACES_EXPORTER (otlp, console, none), or
// an endpoint in OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, turn them on. The other variables of the
// SDK and of the OTLP exporter count as well. console writes to console.
//
// The provider is to be shut down, which sends what it still has.
func Tracing(ctx context.Context, service, version string, console io.Writer) (*sdktrace.TracerProvider, error) {
	exporter, err := exporterFromEnv(ctx, console)
	if err != nil || exporter == nil {
		return nil, err
	}
	// Detected attributes that contradict each other are not worth failing for.
	res, _ := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res)), nil
}

// TracingAsked reports whether the environment asks for traces. It costs
// nothing.
func TracingAsked() bool { return exporterName() != "none" }

// exporterName is "none", or what the environment asks for, known or not.
func exporterName() string {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return "none"
	}
	name := os.Getenv("OTEL_TRACES_EXPORTER")
	if name == "" {
		if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
			return "none"
		}
		return "otlp"
	}
	return name
}

func exporterFromEnv(ctx context.Context, console io.Writer) (sdktrace.SpanExporter, error) {
	switch name := exporterName(); name {
	case "none":
		return nil, nil //nolint:nilnil // no exporter is a valid answer
	case "console":
		return stdouttrace.New(stdouttrace.WithWriter(console))
	case "otlp":
		for _, v := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
			if p := os.Getenv(v); p != "" {
				if p != "http/protobuf" {
					return nil, fmt.Errorf("%s: %q is not spoken here; use http/protobuf (port 4318 of most collectors)", v, p)
				}
				break
			}
		}
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not known; use otlp, console or none", name)
	}
}
