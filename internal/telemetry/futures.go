package telemetry

import (
	"context"
	"strings"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex/internal/registry"
)

// outcomes name how a request ended, for labels and spans.
var outcomes = map[registry.Code]string{
	registry.Internal: "internal", registry.Invalid: "invalid", registry.NotFound: "not_found",
	registry.Conflict: "conflict", registry.Gone: "gone", registry.Unavailable: "unavailable",
}

// Future is the registry's observer: it measures how long requests wait and
// how long they take. A request's span belongs to the trace of who asked for
// it and is linked to the span of the asking, which has usually ended by then.
func (t *Telemetry) Future(ctx context.Context, typ, id string) func(context.Context) (context.Context, func(error)) {
	accepted := time.Now()
	from := trace.SpanContextFromContext(ctx)
	label := snake(typ)
	return func(ctx context.Context) (context.Context, func(error)) {
		began := time.Now()
		t.futureWait.WithLabelValues(label).Observe(began.Sub(accepted).Seconds())
		var span trace.Span
		if t.tracer != nil && from.IsSampled() {
			ctx, span = t.tracer.Start(trace.ContextWithSpanContext(ctx, from), "registry."+label,
				trace.WithLinks(trace.Link{SpanContext: from}), trace.WithSpanKind(trace.SpanKindConsumer),
				trace.WithAttributes(attribute.String("tinkex.request_id", id), attribute.Float64("tinkex.waited_seconds", began.Sub(accepted).Seconds())))
		}
		return ctx, func(err error) {
			t.futureRun.WithLabelValues(label).Observe(time.Since(began).Seconds())
			outcome, failure := "ok", ""
			if err != nil {
				outcome = outcomes[registry.CodeOf(err)]
				failure = outcome
			}
			t.futures.WithLabelValues(label, outcome).Inc()
			finish(span, failure)
		}
	}
}

// snake spells a request's type as the protocol's paths do.
func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if unicode.IsUpper(r) {
			if i > 0 {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
