package tinkex

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// tracingTransport makes a client span of every HTTP request, until its
// answer's body has been read, and tells the server by the traceparent header.
// It is not there at all unless Options.TracerProvider is set.
//
// A span names the server and the path, never a header, a query or a body.
type tracingTransport struct {
	next   http.RoundTripper
	tracer trace.Tracer
}

// trace has requests and operations traced.
func (t *transport) trace(provider trace.TracerProvider) {
	t.tracer = provider.Tracer("github.com/tinkex/tinkex", trace.WithInstrumentationVersion(Version))
	next := t.http.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	t.http.Transport = &tracingTransport{next, t.tracer}
}

// RoundTrip implements http.RoundTripper.
func (t *tracingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/session_heartbeat") {
		return t.next.RoundTrip(r) // nobody asked for it
	}
	ctx, span := t.tracer.Start(r.Context(), r.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", r.Method),
		attribute.String("server.address", r.URL.Hostname()),
		attribute.String("url.scheme", r.URL.Scheme),
		attribute.String("url.path", r.URL.Path),
	))
	if port, err := strconv.Atoi(r.URL.Port()); err == nil {
		span.SetAttributes(attribute.Int("server.port", port))
	}
	r = r.Clone(ctx)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		// What errors say may have URLs in it.
		span.SetStatus(codes.Error, "no answer")
		span.End()
		return nil, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", resp.StatusCode))
	if resp.StatusCode >= 400 {
		span.SetStatus(codes.Error, strconv.Itoa(resp.StatusCode))
	}
	if id := resp.Header.Get("X-Request-Id"); id != "" {
		span.SetAttributes(attribute.String("tinkex.http_request_id", clean(id, 128)))
	}
	resp.Body = &tracedBody{ReadCloser: resp.Body, span: span}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (t *tracingTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// tracedBody ends the span when the answer is read or given up.
type tracedBody struct {
	io.ReadCloser
	span trace.Span
	end  sync.Once
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end.Do(func() { b.span.End() })
	}
	return n, err
}

func (b *tracedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end.Do(func() { b.span.End() })
	return err
}

// operation starts the span of what takes several requests. What it returns
// ends the span.
func (t *transport) operation(ctx context.Context, op string) (context.Context, func(error)) {
	if t.tracer == nil {
		return ctx, func(error) {}
	}
	name, _, _ := strings.Cut(op, " ") // the rest says what with
	ctx, span := t.tracer.Start(ctx, "tinkex."+name, trace.WithAttributes(attribute.String("tinkex.operation", op)))
	return ctx, func(err error) {
		var e *Error
		switch {
		case err == nil:
		case errors.As(err, &e) && e.Status != 0:
			span.SetStatus(codes.Error, strconv.Itoa(e.Status))
		default:
			span.SetStatus(codes.Error, "failed")
		}
		span.End()
	}
}
