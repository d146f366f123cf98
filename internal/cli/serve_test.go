package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/testproc"
)

// served is `tinkex serve` at work.
type served struct {
	t    *testing.T
	url  string
	log  *testproc.Output
	stop func() int
}

func serve(t *testing.T, args ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &served{t: t, log: &testproc.Output{}}
	var out testproc.Output
	done := make(chan int, 1)
	go func() {
		done <- Main(append([]string{"serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir()}, args...),
			Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: s.log, Context: ctx})
	}()
	s.stop = sync.OnceValue(func() int {
		cancel()
		return <-done
	})
	t.Cleanup(func() { s.stop() })
	deadline := time.After(time.Minute)
	for !strings.HasSuffix(out.String(), "\n") {
		select {
		case code := <-done:
			done <- code
			t.Fatalf("serve %v ended with %d: %s", args, code, s.log)
		case <-deadline:
			t.Fatalf("serve %v: %s", args, s.log)
		case <-time.After(5 * time.Millisecond):
		}
	}
	s.url = strings.TrimSpace(out.String())
	return s
}

// What is said to be the server's address is one that this machine reaches it by,
// and the key one that it takes.
func TestServeSaysWhereItIs(t *testing.T) {
	dir := t.TempDir()
	run(t, "key", "create", "--data-dir", dir).want(t, exitDone, []string{"tml-"}, nil)
	s := serve(t, "--addr", "0.0.0.0:0", "--data-dir", dir)
	if !strings.HasPrefix(s.url, "http://127.0.0.1:") || status(t, s.url+"/healthz", "") != http.StatusOK {
		t.Errorf("it is at %s", s.url)
	}
	for anyKey, want := range map[bool]string{true: "TINKER_API_KEY=tml-me\n", false: "TINKER_API_KEY=KEY\n"} {
		var out, said strings.Builder
		a := &app{Env: Env{Stdout: &out, Stderr: &said, StderrTerminal: true}, format: "table"}
		if err := a.announce("http://127.0.0.1:1", anyKey); err != nil || out.String() != "http://127.0.0.1:1\n" || !strings.Contains(said.String(), want) {
			t.Errorf("%v: %q, %q, %v", anyKey, out.String(), said.String(), err)
		}
	}
}

func status(t *testing.T, url, host string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestServeMetrics(t *testing.T) {
	elsewhere := regexp.MustCompile(`msg="serving metrics" url=(http://\S+)/metrics`)
	const metrics, profiles = "/metrics", "/debug/pprof/"
	for name, test := range map[string]struct {
		args   []string
		main   []string // that the main address answers
		beside []string // that the other one answers; nil if there is none
	}{
		"by default":        {nil, []string{metrics}, nil},
		"with profiles":     {[]string{"--pprof"}, []string{metrics, profiles}, nil},
		"behind a proxy":    {[]string{"--public-url", "https://tinkex.example"}, nil, nil},
		"off":               {[]string{"--metrics-addr", "off"}, nil, nil},
		"elsewhere":         {[]string{"--metrics-addr", "127.0.0.1:0"}, nil, []string{metrics}},
		"all of it there":   {[]string{"--metrics-addr", "127.0.0.1:0", "--pprof"}, nil, []string{metrics, profiles}},
		"and from a proxy":  {[]string{"--metrics-addr", "127.0.0.1:0", "--public-url", "https://tinkex.example"}, nil, []string{metrics}},
		"by name elsewhere": {[]string{"--metrics-addr", "localhost:0"}, nil, []string{metrics}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, test.args...)
			check := func(url, host string, answers []string) {
				t.Helper()
				for _, path := range []string{metrics, profiles} {
					want := http.StatusNotFound
					for _, a := range answers {
						if a == path {
							want = http.StatusOK
						}
					}
					if got := status(t, url+path, host); got != want {
						t.Errorf("%s%s for %q: %d, want %d", url, path, host, got, want)
					}
				}
				for _, path := range []string{"/healthz", "/readyz"} {
					// The checks have a limit, which a busy machine may miss.
					got := status(t, url+path, host)
					for began := time.Now(); got != http.StatusOK && time.Since(began) < time.Minute; got = status(t, url+path, host) {
						time.Sleep(100 * time.Millisecond)
					}
					if got != http.StatusOK {
						t.Errorf("%s%s: %d", url, path, got)
					}
				}
			}
			check(s.url, "", test.main)
			check(s.url, "tinkex.example", nil)
			found := elsewhere.FindStringSubmatch(s.log.String())
			if (found != nil) != (test.beside != nil) {
				t.Fatalf("the log is\n%s", s.log)
			}
			if found != nil {
				check(found[1], "", test.beside)
				check(found[1], "tinkex.example", test.beside)
				if got := status(t, found[1]+"/api/v1/checkpoints", ""); got != http.StatusNotFound {
					t.Errorf("the metrics' address answers for checkpoints: %d", got)
				}
			}
			if code := s.stop(); code != exitDone {
				t.Errorf("it ended with %d: %s", code, s.log)
			}
		})
	}
}

func TestServeMetricsAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	run(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--metrics-addr", l.Addr().String()).
		want(t, exitFailed, nil, []string{"--metrics-addr", l.Addr().String()})
}

func TestServeLogLevel(t *testing.T) {
	for _, test := range []struct {
		args      []string
		has, lack string
	}{
		{nil, "path=/nothing", "path=/healthz"},
		{[]string{"--log-level", "debug"}, "path=/healthz", "path=/readyz"},
		{[]string{"--log-level", "warn"}, "", "path=/nothing"},
		{[]string{"--log-level", "warn", "-v"}, "path=/healthz", "path=/readyz"},
		{[]string{"--log-format", "json"}, `"path":"/nothing"`, "path=/nothing"},
	} {
		s := serve(t, test.args...)
		for _, path := range []string{"/nothing", "/healthz"} {
			status(t, s.url+path, "")
		}
		s.stop()
		if log := s.log.String(); !strings.Contains(log, test.has) || strings.Contains(log, test.lack) {
			t.Errorf("serve %v: the log should have %q and not %q:\n%s", test.args, test.has, test.lack, log)
		}
	}
}

// backend collects spans as a collector would.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	spans map[string][]*traces.Span // by service
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{spans: map[string][]*traces.Span{}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &req)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, from := range req.GetResourceSpans() {
			service := ""
			for _, a := range from.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					service = a.GetValue().GetStringValue()
				}
			}
			for _, s := range from.GetScopeSpans() {
				b.spans[service] = append(b.spans[service], s.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(b.Close)
	return b
}

// find returns the span of a name, whose trace is of interest.
func (b *backend) find(service, name string) *traces.Span {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.spans[service] {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

// From the command to the server's database, one trace.
func TestTracesOfCommandAndServer(t *testing.T) {
	b := newBackend(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", b.URL)
	t.Setenv("TINKER_API_KEY", "tml-secret-of-the-test")
	s := serve(t)
	t.Setenv("TINKER_BASE_URL", s.url)
	run(t, "checkpoint", "list").want(t, exitDone, []string{}, nil)
	run(t, "checkpoint", "info", "tinker://none/weights/x").want(t, exitNotFound, nil, nil)
	if code := s.stop(); code != exitDone { // which sends what it has
		t.Errorf("serve ended with %d: %s", code, s.log)
	}
	root := b.find("tinkex", "tinkex checkpoint list")
	if root == nil {
		t.Fatalf("the command sent %v", b.spans)
	}
	for _, name := range []string{"GET /api/v1/checkpoints", "metastore.Checkpoints"} {
		if span := b.find("tinkex-server", name); span == nil || !bytes.Equal(span.GetTraceId(), root.GetTraceId()) {
			t.Errorf("%s is not in the command's trace: %v", name, span)
		}
	}
	if span := b.find("tinkex", "tinkex checkpoint info"); span.GetStatus().GetCode() != traces.Status_STATUS_CODE_ERROR {
		t.Errorf("the command that failed: %v", span)
	}
	for service, spans := range b.spans {
		for _, span := range spans {
			if strings.Contains(span.String(), "secret-of-the-test") {
				t.Errorf("%s tells the key: %v", service, span)
			}
		}
	}
}

// Traces that cannot be made or sent are no reason to fail.
func TestTracesThatGoNowhere(t *testing.T) {
	newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts and never answers
	for _, test := range []struct{ exporter, endpoint, says string }{
		{"jaeger", "", "not traced: OTEL_TRACES_EXPORTER"},
		{"otlp", "http://" + l.Addr().String(), ""},
		{"otlp", "http://127.0.0.1:1", ""},
		{"console", "", `"Name":"tinkex checkpoint list"`},
	} {
		t.Setenv("OTEL_TRACES_EXPORTER", test.exporter)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", test.endpoint)
		r := run(t, "-f", "json", "checkpoint", "list").want(t, exitDone, []string{"checkpoints"}, []string{test.says})
		if test.says == "" && r.stderr != "" {
			t.Errorf("%+v: stderr is %s", test, r.stderr)
		}
		decode[map[string]any](t, r)
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "jaeger")
	run(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir()).want(t, exitUsage, nil, []string{"OTEL_TRACES_EXPORTER"})
}
