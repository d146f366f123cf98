package telemetry

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Unmatched is the route of what no route matches.
const Unmatched = "unmatched"

// methods are those that become labels; all others share one.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true,
	http.MethodPatch: true, http.MethodDelete: true, http.MethodOptions: true,
}

// transfers are the routes that checkpoints leave by.
var transfers = map[string]string{"/tinkex/v1/archives/": "archive", "/tinkex/v1/files/": "file"}

// untraced routes are asked for again and again by machines.
var untraced = map[string]bool{"/healthz": true, "/readyz": true, "/metrics": true}

// Handler measures requests. route gives the pattern of a request's route,
// without method, or "".
func (t *Telemetry) Handler(next http.Handler, route func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		pattern, method := route(r), r.Method
		if pattern == "" {
			pattern = Unmatched
		}
		if !methods[method] {
			method = "other"
		}
		t.inFlight.Inc()
		defer t.inFlight.Dec()
		var span trace.Span
		if t.tracer != nil && !untraced[pattern] {
			ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
			ctx, span = t.tracer.Start(ctx, method+" "+pattern, trace.WithSpanKind(trace.SpanKindServer),
				trace.WithAttributes(attribute.String("http.request.method", method), attribute.String("http.route", pattern)))
			r = r.WithContext(ctx)
			// Should the request be passed on, it is by us.
			propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
		}
		rec := &recorder{ResponseWriter: w}
		defer func() {
			p := recover()
			if rec.status == 0 && p == nil {
				rec.status = http.StatusOK
			}
			status, failure := strconv.Itoa(rec.status), ""
			switch {
			case p != nil:
				status, failure = "aborted", "aborted"
			case rec.status >= 500:
				failure = status
			}
			t.requests.WithLabelValues(method, pattern, status).Inc()
			t.requestTime.WithLabelValues(method, pattern).Observe(time.Since(began).Seconds())
			for prefix, kind := range transfers {
				if strings.HasPrefix(pattern, prefix) && rec.status/100 == 2 {
					t.transferred.WithLabelValues(kind).Add(float64(rec.bytes))
				}
			}
			if span != nil {
				span.SetAttributes(attribute.Int("http.response.status_code", rec.status), attribute.Int64("http.response.body.size", rec.bytes))
				if id := w.Header().Get("X-Request-Id"); id != "" {
					span.SetAttributes(attribute.String("tinkex.http_request_id", id))
				}
				finish(span, failure)
			}
			if p != nil {
				panic(p)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// recorder remembers status and size, and keeps the way to the connection
// open: ReadFrom lets local files go out by sendfile.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

func (w *recorder) begin() {
	if w.status < 200 {
		w.status = http.StatusOK
	}
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
