package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/engine/enginetest"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// value adds up the samples of a metric whose labels are at least those given,
// in pairs: of a histogram, how many observations it has.
func value(t *testing.T, m *telemetry.Telemetry, name string, labels ...string) float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, s := range f.GetMetric() {
			if has(s, labels) {
				sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func has(s *dto.Metric, labels []string) bool {
	found := 0
	for _, l := range s.GetLabel() {
		for i := 0; i < len(labels); i += 2 {
			if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
				found++
			}
		}
	}
	return 2*found == len(labels)
}

// callAll calls every method of an interface with zero values and returns the
// names of those that take a context. What they do is not of interest.
func callAll[T any](t *testing.T, on T, skip ...string) []string {
	t.Helper()
	v := reflect.ValueOf(&on).Elem()
	var names []string
	for i := range v.NumMethod() {
		m := v.Type().Method(i)
		if m.Type.NumIn() == 0 || m.Type.In(0) != reflect.TypeFor[context.Context]() {
			continue
		}
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for j := 1; j < m.Type.NumIn(); j++ {
			args = append(args, reflect.Zero(m.Type.In(j)))
		}
		func() {
			defer func() { _ = recover() }() // zero values are not always welcome
			out := v.Method(i).Call(args)
			if seq := out[0]; seq.Kind() == reflect.Func { // an iterator
				for range seq.Seq2() {
					break
				}
			}
			if w, ok := out[0].Interface().(blobstore.Writer); ok && w != nil {
				_ = w.Abort()
			}
		}()
		names = append(names, m.Name)
	}
	if len(names) < 5 {
		t.Fatalf("only %v were called", names)
	}
	return names
}

// A method that is added to the stores' interfaces must be measured too.
func TestEveryOperationIsMeasured(t *testing.T) {
	t.Parallel()
	m := telemetry.New(telemetry.Options{})
	meta, err := metastore.OpenSQLite(t.Context(), ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	for _, name := range callAll(t, m.Metastore(meta, "sqlite")) {
		if n := value(t, m, "tinkex_metastore_operation_duration_seconds", "operation", name, "store", "sqlite"); n != 1 {
			t.Errorf("metastore.Store.%s: %v observations, want 1", name, n)
		}
	}
	for _, name := range callAll(t, m.Blobstore(blobstore.NewMemory(), "memory")) {
		if name == "Create" {
			name = "Write"
		}
		if n := value(t, m, "tinkex_blobstore_operation_duration_seconds", "operation", name, "store", "memory"); n != 1 {
			t.Errorf("blobstore.Store.%s: %v observations, want 1", name, n)
		}
	}
}

// What is wrapped keeps every promise.
func TestWrappedBlobstore(t *testing.T) {
	t.Parallel()
	dirs := map[string]string{}
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		if dirs[t.Name()] == "" {
			dirs[t.Name()] = t.TempDir()
		}
		s, err := blobstore.OpenFolder(dirs[t.Name()])
		if err != nil {
			t.Fatal(err)
		}
		return telemetry.New(telemetry.Options{}).Blobstore(s, "folder")
	})
}

func TestWrappedEngine(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as the engine's own suite")
	}
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		e, err := cpu.New(cpu.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return telemetry.New(telemetry.Options{}).Engine(e)
	})
}

func TestBlobBytes(t *testing.T) {
	t.Parallel()
	m := telemetry.New(telemetry.Options{})
	for _, kind := range []string{"memory", "bucket"} {
		inner := blobstore.NewMemory()
		if kind == "bucket" { // whose readers can only be read
			var err error
			if inner, err = blobstore.Open(t.Context(), "mem://"); err != nil {
				t.Fatal(err)
			}
		}
		s := m.Blobstore(inner, kind)
		w, err := s.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "0123456")
		_, _ = io.WriteString(w, "789")
		info, err := w.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = w.Abort()
		if _, err := s.OpenRange(t.Context(), blobstore.Digest{1}, 0, -1); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("what is not there: %v", err)
		}
		if _, err := s.OpenRange(t.Context(), info.Digest, 5, 99); err == nil {
			t.Error("a range beyond the end is opened")
		}
		r, err := s.OpenRange(t.Context(), info.Digest, 2, -1)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != "23456789" {
			t.Errorf("read %q, %v", b, err)
		}
		_ = r.Close()
		for name, want := range map[string]float64{"written": 10, "read": 8} {
			if got := value(t, m, "tinkex_blobstore_bytes_total", "store", kind, "direction", name); got != want {
				t.Errorf("%s: %v bytes %s, want %v", kind, got, name, want)
			}
		}
		for name, want := range map[string]float64{"Write": 1, "OpenRange": 3} {
			if got := value(t, m, "tinkex_blobstore_operation_duration_seconds", "store", kind, "operation", name); got != want {
				t.Errorf("%s: %s was done %v times, want %v", kind, name, got, want)
			}
		}
		// Absence is an answer.
		if got := value(t, m, "tinkex_blobstore_errors_total", "store", kind); got != 1 {
			t.Errorf("%s: %v errors, want 1", kind, got)
		}
	}
}

// Labels take few values, whatever is sent.
func TestCardinality(t *testing.T) {
	t.Parallel()
	m := telemetry.New(telemetry.Options{})
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusNotFound)
	}), func(*http.Request) string { return "" })
	for _, target := range []string{"/a", "/b?c=d", "/tinkex/v1/archives/x", "/%2e%2e/x"} {
		for _, method := range []string{"GET", "BREW", "TML-SECRET", "PROPFIND"} {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, target, nil))
		}
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // a panic value
				t.Errorf("the panic became %v", p)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/abort", nil))
	}()
	err := testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(`
# HELP tinkex_http_requests_in_flight Requests being answered, waits for results included.
# TYPE tinkex_http_requests_in_flight gauge
tinkex_http_requests_in_flight 0
# HELP tinkex_http_requests_total Requests answered.
# TYPE tinkex_http_requests_total counter
tinkex_http_requests_total{method="GET",route="unmatched",status="404"} 4
tinkex_http_requests_total{method="GET",route="unmatched",status="aborted"} 1
tinkex_http_requests_total{method="other",route="unmatched",status="404"} 12
`), "tinkex_http_requests_total", "tinkex_http_requests_in_flight")
	if err != nil {
		t.Error(err)
	}
}

// sink is a connection's response, which knows what to do with a file.
type sink struct {
	http.ResponseWriter
	file    bool
	flushed bool
}

func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		_, s.file = lr.R.(*os.File)
	}
	return io.Copy(struct{ io.Writer }{s.ResponseWriter}, r)
}

func (s *sink) Flush() { s.flushed = true }

func TestHandlerKeepsTheWayToTheConnectionOpen(t *testing.T) {
	t.Parallel()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.WriteString("0123456789")
	_, _ = f.Seek(0, io.SeekStart)
	m := telemetry.New(telemetry.Options{})
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.Copy(w, io.LimitReader(f, 8)); err != nil {
			t.Error(err)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	}), func(*http.Request) string { return "/tinkex/v1/files/{run}" })
	s := &sink{ResponseWriter: httptest.NewRecorder()}
	h.ServeHTTP(s, httptest.NewRequest(http.MethodGet, "/tinkex/v1/files/x", nil))
	if !s.file || !s.flushed {
		t.Errorf("the connection sees a file: %v, a flush: %v", s.file, s.flushed)
	}
	if got := value(t, m, "tinkex_transfer_out_bytes_total", "kind", "file"); got != 8 {
		t.Errorf("%v bytes were sent, want 8", got)
	}
	if got := value(t, m, "tinkex_http_requests_total", "status", "200"); got != 1 {
		t.Errorf("%v requests with status 200, want 1", got)
	}
}

func TestExpose(t *testing.T) {
	t.Parallel()
	m := telemetry.New(telemetry.Options{})
	for _, test := range []struct {
		name            string
		local, profiles bool
		path, host      string
		header          http.Header
		want            int
	}{
		{"by address", true, false, "/metrics", "127.0.0.1:8484", nil, 200},
		{"by IPv6 address", true, false, "/metrics", "[::1]:8484", nil, 200},
		{"by name", true, false, "/metrics", "localhost:8484", nil, 200},
		{"by IPv6 address without port", true, false, "/metrics", "[::1]", nil, 200},
		{"by another name", true, false, "/metrics", "tinkex.example", nil, 404},
		{"by a name that looks like it", true, false, "/metrics", "127.0.0.1.example:80", nil, 404},
		{"through nginx", true, false, "/metrics", "127.0.0.1:8484", http.Header{"X-Real-Ip": {"1.2.3.4"}}, 404},
		{"through Caddy", true, false, "/metrics", "127.0.0.1:8484", http.Header{"X-Forwarded-For": {"1.2.3.4"}}, 404},
		{"through another proxy", true, false, "/metrics", "127.0.0.1:8484", http.Header{"Forwarded": {"for=1.2.3.4"}}, 404},
		{"on an address of its own", false, false, "/metrics", "tinkex.example", http.Header{"X-Forwarded-For": {"1.2.3.4"}}, 200},
		{"profiles unasked", false, false, "/debug/pprof/", "127.0.0.1", nil, 404},
		{"profiles", true, true, "/debug/pprof/", "127.0.0.1", nil, 200},
		{"profiles from elsewhere", true, true, "/debug/pprof/", "tinkex.example", nil, 404},
		{"a profile", false, true, "/debug/pprof/goroutine?debug=1", "127.0.0.1", nil, 200},
		{"the command line", false, true, "/debug/pprof/cmdline", "127.0.0.1", nil, 404},
		{"something else", false, true, "/metrics/x", "127.0.0.1", nil, 404},
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		r.Host = test.host
		for k, v := range test.header {
			r.Header[k] = v
		}
		w := httptest.NewRecorder()
		m.Expose(http.NotFoundHandler(), test.local, test.profiles).ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s: %d, want %d", test.name, w.Code, test.want)
		}
	}
}

func TestTracingFromEnvironment(t *testing.T) {
	// A collector that accepts everything and one that does not answer.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, test := range []struct {
		name string
		env  map[string]string
		on   bool
		says string
	}{
		{"nothing", nil, false, ""},
		{"none", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, ""},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, false, ""},
		{"an endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + l.Addr().String()}, true, ""},
		{"an endpoint for traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://" + l.Addr().String()}, true, ""},
		{"otlp", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, true, ""},
		{"console", map[string]string{"OTEL_TRACES_EXPORTER": "console"}, true, ""},
		{"gRPC", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, "http/protobuf"},
		{"unknown", map[string]string{"OTEL_TRACES_EXPORTER": "jaeger"}, true, "console"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{
				"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
				"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
			} {
				t.Setenv(name, test.env[name])
			}
			if got := telemetry.TracingAsked(); got != test.on {
				t.Errorf("asked for: %v", got)
			}
			p, err := telemetry.Tracing(t.Context(), "tinkex", "1", io.Discard)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v does not say %q", err, test.says)
				}
				return
			}
			if err != nil || (p != nil) != test.on {
				t.Fatalf("provider %v, error %v", p, err)
			}
			if p != nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := p.Shutdown(ctx); err != nil { // there is nothing to send
					t.Error(err)
				}
			}
		})
	}
}
