package telemetry

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope names the instrumentation in traces.
const scope = "github.com/tinkex/tinkex"

// Options configures a Telemetry. The zero value works.
type Options struct {
	Version, Revision string
	// TracerProvider receives the spans. Nil traces nothing.
	TracerProvider trace.TracerProvider
	// StoredMaxAge is how old the figures of what is stored may be at least
	// before a scrape has them counted anew. If less than or equal to 0, 15 s.
	StoredMaxAge time.Duration
}

// Telemetry is one server's. It is safe for concurrent use.
type Telemetry struct {
	reg    *prometheus.Registry
	own    []prometheus.Collector // those whose names are this package's
	tracer trace.Tracer           // nil: no traces
	maxAge time.Duration

	inFlight     prometheus.Gauge
	requests     *prometheus.CounterVec   // method, route, status
	requestTime  *prometheus.HistogramVec // method, route
	transferred  *prometheus.CounterVec   // kind
	futures      *prometheus.CounterVec   // type, outcome
	futureWait   *prometheus.HistogramVec // type
	futureRun    *prometheus.HistogramVec // type
	metaTime     *prometheus.HistogramVec // store, operation
	metaErrors   *prometheus.CounterVec   // store, operation
	blobTime     *prometheus.HistogramVec // store, operation
	blobErrors   *prometheus.CounterVec   // store, operation
	blobBytes    *prometheus.CounterVec   // store, direction
	engineTime   *prometheus.HistogramVec // operation
	engineErrors *prometheus.CounterVec   // operation
	engineTokens *prometheus.CounterVec   // operation
	engineSteps  prometheus.Counter

	stored *stored // once Watch was called
}

// Buckets, in seconds.
var (
	requestBuckets = []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 60}
	storeBuckets   = []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1, 3, 10}
	workBuckets    = []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300, 1000}
)

// New returns a Telemetry that nothing has been measured with yet.
func New(opts Options) *Telemetry {
	t := &Telemetry{reg: prometheus.NewRegistry(), maxAge: opts.StoredMaxAge}
	if t.maxAge <= 0 {
		t.maxAge = 15 * time.Second
	}
	if opts.TracerProvider != nil {
		t.tracer = opts.TracerProvider.Tracer(scope, trace.WithInstrumentationVersion(opts.Version))
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(t, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tinkex_" + name, Help: help}, labels))
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return register(t, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tinkex_" + name, Help: help, Buckets: buckets}, labels))
	}
	t.inFlight = register(t, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tinkex_http_requests_in_flight", Help: "Requests being answered, waits for results included.",
	}))
	t.requests = counters("http_requests_total", "Requests answered.", "method", "route", "status")
	t.requestTime = histograms("http_request_duration_seconds", "Time from a request's header to its answer's end.", requestBuckets, "method", "route")
	t.transferred = counters("transfer_out_bytes_total", "Bytes of checkpoints sent to clients.", "kind")

	t.futures = counters("futures_completed_total", "Requests carried out or given up, by how they ended.", "type", "outcome")
	t.futureWait = histograms("future_wait_seconds", "Time from a request's acceptance until it is carried out.", workBuckets, "type")
	t.futureRun = histograms("future_run_seconds", "Time that carrying a request out takes.", workBuckets, "type")

	t.metaTime = histograms("metastore_operation_duration_seconds", "Time of an operation on the metadata, failed ones included.", storeBuckets, "store", "operation")
	t.metaErrors = counters("metastore_errors_total", "Failed operations on the metadata. Absence is no failure.", "store", "operation")
	t.blobTime = histograms("blobstore_operation_duration_seconds", "Time of an operation on blobs, failed ones included; of a write, the time within the store.", storeBuckets, "store", "operation")
	t.blobErrors = counters("blobstore_errors_total", "Failed operations on blobs. Absence is no failure.", "store", "operation")
	t.blobBytes = counters("blobstore_bytes_total", "Bytes read from blobs and written to them.", "store", "direction")

	t.engineTime = histograms("engine_operation_duration_seconds", "Time of an operation of the engine, failed ones included.", workBuckets, "operation")
	t.engineErrors = counters("engine_errors_total", "Operations that the engine failed at through no fault of its input.", "operation")
	t.engineTokens = counters("engine_tokens_total", "Tokens computed.", "operation")
	t.engineSteps = register(t, prometheus.NewCounter(prometheus.CounterOpts{Name: "tinkex_engine_steps_total", Help: "Optimizer steps taken."}))

	build := register(t, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tinkex_build_info", Help: "Always 1; the labels say what is running.",
	}, []string{"version", "revision", "goversion"}))
	build.WithLabelValues(opts.Version, opts.Revision, runtime.Version()).Set(1)
	t.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t
}

func register[C prometheus.Collector](t *Telemetry, c C) C {
	t.reg.MustRegister(c)
	t.own = append(t.own, c)
	return c
}

// Metrics answers with the metrics, in the formats that Prometheus asks for.
func (t *Telemetry) Metrics() http.Handler {
	return promhttp.HandlerFor(t.reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Gatherer is where the metrics come from.
func (t *Telemetry) Gatherer() prometheus.Gatherer { return t.reg }

// Close stops what Watch started.
func (t *Telemetry) Close() {
	if t.stored != nil {
		t.stored.close()
	}
}

// child starts a span within one that is being recorded. Without one there is
// nothing to be a part of: what a server does by itself is not traced.
func (t *Telemetry) child(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if t.tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nil
	}
	return t.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
}

// finish ends a span. What an error says may be about anything, so the span
// has its kind only.
func finish(span trace.Span, failure string) {
	if span == nil {
		return
	}
	if failure != "" {
		span.SetAttributes(attribute.String("error.type", failure))
		span.SetStatus(codes.Error, failure)
	}
	span.End()
}

// interrupted reports whether an error is the end of the caller's patience.
func interrupted(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// operation is one call of something that was wrapped.
type operation struct {
	began  time.Time
	span   trace.Span
	time   prometheus.Observer
	errors *prometheus.CounterVec
	labels [2]string // of errors; the second may be empty
	// answers are errors that are none.
	answers func(error) bool
}

// end takes note of how the call ended. It is deferred with the address of
// the call's named error.
func (o *operation) end(err *error) {
	o.time.Observe(time.Since(o.began).Seconds())
	failure := ""
	switch e := *err; {
	case e == nil || o.answers(e):
	case interrupted(e):
		failure = "interrupted"
	default:
		failure = "failed"
		if o.labels[1] == "" {
			o.errors.WithLabelValues(o.labels[0]).Inc()
		} else {
			o.errors.WithLabelValues(o.labels[0], o.labels[1]).Inc()
		}
	}
	finish(o.span, failure)
}
