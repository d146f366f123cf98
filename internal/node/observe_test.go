package node_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/telemetry"
	"github.com/tinkex/tinkex/internal/testproc"
)

// observed is a node with everything that watches it.
type observed struct {
	*node.Node
	t     *testing.T
	url   string
	watch *telemetry.Telemetry
	log   *testproc.Output
	clock atomic.Int64 // how far ahead
}

func observe(t *testing.T, dir string, traces trace.TracerProvider) *observed {
	t.Helper()
	o := &observed{t: t, log: &testproc.Output{}}
	o.watch = telemetry.New(telemetry.Options{Version: "test", Revision: "abc", TracerProvider: traces, StoredMaxAge: 1})
	n, err := node.Open(t.Context(), node.Options{
		Stores: node.Stores{DataDir: dir}, Version: "test", Telemetry: o.watch,
		Logger: slog.New(slog.NewJSONHandler(o.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    func() time.Time { return time.Now().Add(time.Duration(o.clock.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Node = n
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	srv := httptest.NewServer(o.watch.Expose(n, true, false))
	t.Cleanup(srv.Close)
	o.url = srv.URL
	return o
}

func (o *observed) client(opts tinkex.Options) *tinkex.ServiceClient {
	o.t.Helper()
	opts.BaseURL, opts.APIKey, opts.Logger = o.url, "tml-test", slog.New(slog.DiscardHandler)
	svc, err := tinkex.NewServiceClient(opts)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = svc.Close() })
	return svc
}

// send returns the status, header and body of an answer; header is in pairs.
func (o *observed) send(method, target string, header ...string) (int, http.Header, string) {
	o.t.Helper()
	if !strings.HasPrefix(target, "http") {
		target = o.url + target
	}
	req, err := http.NewRequestWithContext(o.t.Context(), method, target, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// scrape reads every sample, by `name{label="value",...}`; of a histogram, its
// count.
func (o *observed) scrape() map[string]float64 {
	o.t.Helper()
	status, _, body := o.send(http.MethodGet, "/metrics")
	if status != http.StatusOK {
		o.t.Fatalf("/metrics: %d %s", status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	samples := map[string]float64{}
	for name, f := range families {
		for _, s := range f.GetMetric() {
			var labels []string
			for _, l := range s.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			samples[key] = s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

// moved waits until the samples have moved by what is wanted since before.
// Some are counted a moment after what they count.
func (o *observed) moved(what string, before, want map[string]float64) map[string]float64 {
	o.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		now := o.scrape()
		var wrong []string
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got := now[name] - before[name]; got != want[name] {
				wrong = append(wrong, fmt.Sprintf("%s moved by %v, want %v", name, got, want[name]))
			}
		}
		if len(wrong) == 0 {
			return now
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("%s:\n%s", what, strings.Join(wrong, "\n"))
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func await[T any](t *testing.T, f *tinkex.Future[T]) T {
	t.Helper()
	v, err := f.Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := observe(t, dir, nil)
	svc := o.client(tinkex.Options{})
	last := o.moved("at first", nil, map[string]float64{
		`tinkex_build_info{goversion="` + runtime.Version() + `",revision="abc",version="test"}`: 1,
		"tinkex_ready": 1, `tinkex_readiness_check{check="metastore"}`: 1, `tinkex_readiness_check{check="disk"}`: 1,
		"tinkex_models_live": 0, "tinkex_checkpoints": 0, `tinkex_runs{state="live"}`: 0, "tinkex_sessions": 0,
	})
	if last["tinkex_disk_free_bytes"] <= 0 || last["tinkex_disk_free_bytes"] > last["tinkex_disk_size_bytes"] {
		t.Errorf("%v of %v bytes are free", last["tinkex_disk_free_bytes"], last["tinkex_disk_size_bytes"])
	}

	tc, err := svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 4})
	if err != nil {
		t.Fatal(err)
	}
	last = o.moved("a model", last, map[string]float64{
		"tinkex_models_live": 1, "tinkex_sessions": 1, `tinkex_runs{state="live"}`: 1,
		`tinkex_engine_operation_duration_seconds{operation="new_model"}`:                     1,
		`tinkex_futures_completed_total{outcome="ok",type="create_model"}`:                    1,
		`tinkex_http_requests_total{method="POST",route="/api/v1/create_model",status="200"}`: 1,
		`tinkex_metastore_operation_duration_seconds{operation="CreateRun",store="sqlite"}`:   1,
	})

	const steps, tokens = 3, 11
	for range steps {
		step(t, tc)
	}
	last = o.moved("steps", last, map[string]float64{
		"tinkex_engine_steps_total":                                                               steps,
		`tinkex_engine_tokens_total{operation="forward_backward"}`:                                steps * tokens,
		`tinkex_engine_operation_duration_seconds{operation="forward_backward"}`:                  steps,
		`tinkex_engine_operation_duration_seconds{operation="optim_step"}`:                        steps,
		`tinkex_futures_completed_total{outcome="ok",type="forward_backward"}`:                    steps,
		`tinkex_futures_completed_total{outcome="ok",type="optim_step"}`:                          steps,
		`tinkex_future_wait_seconds{type="optim_step"}`:                                           steps,
		`tinkex_future_run_seconds{type="optim_step"}`:                                            steps,
		`tinkex_http_requests_total{method="POST",route="/api/v1/forward_backward",status="200"}`: steps,
		`tinkex_http_request_duration_seconds{method="POST",route="/api/v1/forward_backward"}`:    steps,
		`tinkex_futures{state="fetched"}`:                                                         2 * steps, `tinkex_futures{state="ready"}`: 0,
		`tinkex_futures{state="running"}`: 0, `tinkex_futures{state="waiting"}`: 0,
		"tinkex_training_queue_depth": 0, "tinkex_http_requests_in_flight": 0,
	})

	// A request that is refused is no failure of the engine's.
	if _, err := tc.OptimStep(t.Context(), tinkex.AdamParams{LearningRate: -1}).Await(t.Context()); err == nil {
		t.Fatal("a negative learning rate is accepted")
	}
	last = o.moved("a refusal", last, map[string]float64{
		"tinkex_engine_steps_total": 0,
		`tinkex_futures_completed_total{outcome="invalid",type="optim_step"}`:               1,
		`tinkex_engine_errors_total{operation="optim_step"}`:                                0,
		`tinkex_http_requests_total{method="POST",route="/api/v1/optim_step",status="400"}`: 1,
	})

	state := await(t, tc.SaveState(t.Context(), "state", tinkex.SaveOptions{}))
	rest := svc.RestClient()
	size := func(p tinkex.TinkerPath) float64 {
		t.Helper()
		c, err := rest.GetCheckpoint(t.Context(), p)
		if err != nil || c.SizeBytes == nil {
			t.Fatalf("%s: %+v, %v", p, c, err)
		}
		return float64(*c.SizeBytes)
	}
	stateSize := size(state.Path)
	last = o.moved("a save", last, map[string]float64{
		"tinkex_checkpoints": 1, "tinkex_checkpoint_logical_bytes": stateSize, "tinkex_checkpoint_physical_bytes": stateSize,
		`tinkex_blobstore_bytes_total{direction="written",store="folder"}`:                         stateSize,
		`tinkex_engine_operation_duration_seconds{operation="save"}`:                               1,
		`tinkex_blobstore_operation_duration_seconds{operation="Write",store="folder"}`:            4, // three files and the one that ends them
		`tinkex_metastore_operation_duration_seconds{operation="CommitCheckpoint",store="sqlite"}`: 1,
	})
	sampler := await(t, tc.SaveWeightsForSampler(t.Context(), "sampler", tinkex.SaveOptions{}))
	samplerSize := size(sampler.Path)
	last = o.moved("a sampler of the same weights", last, map[string]float64{
		"tinkex_checkpoints": 1, "tinkex_checkpoint_logical_bytes": samplerSize, "tinkex_checkpoint_physical_bytes": 0,
		`tinkex_blobstore_bytes_total{direction="written",store="folder"}`: samplerSize,
	})

	sc, err := svc.CreateSamplingClient(t.Context(), tinkex.SamplerOptions{Path: sampler.Path})
	if err != nil {
		t.Fatal(err)
	}
	out := await(t, sc.Sample(t.Context(), tinkex.Tokens([]byte("Hello")...), tinkex.SampleOptions{
		NumSamples: 2, Params: tinkex.SamplingParams{MaxTokens: 4},
	}))
	generated := 0
	for _, s := range out.Sequences {
		generated += len(s.Tokens)
	}
	last = o.moved("samples", last, map[string]float64{
		"tinkex_samplers_open": 1, `tinkex_engine_tokens_total{operation="prompt"}`: 5,
		`tinkex_engine_tokens_total{operation="sample"}`:               float64(generated),
		`tinkex_engine_operation_duration_seconds{operation="sample"}`: 1,
		`tinkex_futures_completed_total{outcome="ok",type="sample"}`:   1,
	})

	u, err := rest.ArchiveURL(t.Context(), state.Path)
	if err != nil {
		t.Fatal(err)
	}
	_, _, body := o.send(http.MethodGet, u.URL)
	last = o.moved("a download", last, map[string]float64{
		`tinkex_transfer_out_bytes_total{kind="archive"}`:                                                                float64(len(body)),
		`tinkex_blobstore_bytes_total{direction="read",store="folder"}`:                                                  stateSize,
		`tinkex_http_requests_total{method="GET",route="/tinkex/v1/archives/{run}/{kind}/{name}/{digest}",status="200"}`: 1,
	})
	o.send(http.MethodGet, strings.Replace(u.URL, "signature=", "signature=x", 1))
	last = o.moved("a refused download", last, map[string]float64{
		`tinkex_transfer_out_bytes_total{kind="archive"}`:                                                                0,
		`tinkex_http_requests_total{method="GET",route="/tinkex/v1/archives/{run}/{kind}/{name}/{digest}",status="403"}`: 1,
	})

	for _, p := range []tinkex.TinkerPath{state.Path, sampler.Path} {
		if err := rest.DeleteCheckpoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	o.clock.Store(int64(90 * time.Minute)) // past the grace period, and the session's patience
	if _, err := o.Registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Whether it was this collection or one of the server's own.
	now := o.moved("a collection", last, map[string]float64{
		"tinkex_gc_removed_blobs_total": 4, "tinkex_gc_removed_bytes_total": stateSize,
		"tinkex_checkpoints": -2, "tinkex_checkpoint_logical_bytes": -stateSize - samplerSize, "tinkex_checkpoint_physical_bytes": -stateSize,
	})
	if got := now[`tinkex_gc_runs_total{outcome="ok"}`]; got < 1 {
		t.Errorf("%v collections", got)
	}
	if now["tinkex_gc_last_success_timestamp_seconds"] < float64(time.Now().Add(time.Hour).Unix()) {
		t.Errorf("the last collection was at %v", now["tinkex_gc_last_success_timestamp_seconds"])
	}

	problems, err := testutil.GatherAndLint(o.watch.Gatherer(), slices.Collect(func(yield func(string) bool) {
		for name := range now {
			if name, _, _ = strings.Cut(name, "{"); strings.HasPrefix(name, "tinkex_") && !yield(name) {
				return
			}
		}
	})...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if _, ok := now[name]; !ok && (name != "process_resident_memory_bytes" || hasProc()) {
			t.Errorf("there is no %s", name)
		}
	}
}

func hasProc() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

// What a stopped server parks, the next one counts.
func TestParkedModelsAreCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := observe(t, dir, nil)
	tc, err := o.client(tinkex.Options{}).CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	step(t, tc)
	if err := o.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	observe(t, dir, nil).moved("after a restart", nil, map[string]float64{
		`tinkex_runs{state="parked"}`: 1, `tinkex_runs{state="live"}`: 0, "tinkex_models_live": 0, "tinkex_checkpoints": 1,
	})
}

// readiness asks until the server is ready, or is not.
func (o *observed) readiness(want bool) health.Report {
	o.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		status, header, body := o.send(http.MethodGet, "/readyz")
		var r health.Report
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			o.t.Fatalf("%v: %s", err, body)
		}
		if (status == http.StatusOK) != r.Ready() || status != http.StatusOK && status != http.StatusServiceUnavailable ||
			header.Get("Content-Type") != "application/json" {
			o.t.Fatalf("%d %v %s", status, header, body)
		}
		if r.Ready() == want {
			return r
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("still %s", body)
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// unready asks until these checks fail and no others: a busy machine may be late
// with one of them.
func (o *observed) unready(want string) {
	o.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got := failing(o.readiness(false))
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			o.t.Errorf("what fails is %q, want %q", got, want)
			return
		}
	}
}

// failing names the checks that fail.
func failing(r health.Report) string {
	var names []string
	for name, c := range r.Checks {
		if !c.Passes() {
			names = append(names, name+": "+c.Error)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := observe(t, dir, nil)
	if r := o.readiness(true); len(r.Checks) != 5 {
		t.Errorf("%+v", r)
	}
	alive := func() {
		t.Helper()
		if status, _, body := o.send(http.MethodGet, "/healthz"); status != http.StatusOK || strings.TrimSpace(body) != `{"status":"ok"}` {
			t.Errorf("/healthz: %d %s", status, body)
		}
	}
	alive()

	// The blobs are gone, and come back.
	blobs := filepath.Join(dir, "blobs")
	if err := os.Rename(blobs, blobs+".away"); err != nil {
		t.Fatal(err)
	}
	o.unready("blobstore: failed; the server's log says why")
	alive()
	if now := o.scrape(); now["tinkex_ready"] != 0 || now[`tinkex_readiness_check{check="blobstore"}`] != 0 {
		t.Errorf("without blobs the metrics say %v", now["tinkex_ready"])
	}
	if err := os.Rename(blobs+".away", blobs); err != nil {
		t.Fatal(err)
	}
	o.readiness(true)

	// The database does not answer for a while: another has its lock.
	db, err := sql.Open("sqlite", filepath.Join(dir, "tinkex.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	var probes sync.WaitGroup
	for range 8 {
		probes.Go(func() { o.unready("metastore: no answer within 2s") })
	}
	probes.Wait()
	alive()
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	o.readiness(true)
	if text := o.log.String(); !strings.Contains(text, `"check":"blobstore","error":"`) || !strings.Contains(text, `"msg":"ready again","check":"metastore"`) {
		t.Errorf("the log does not say what happened:\n%s", text)
	}

	o.Drain()
	o.unready("not_draining: the server is stopping")
	alive()
}

// A call of the SDK and what the engine and the stores do for it are one trace.
func TestTraces(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	o := observe(t, t.TempDir(), provider)
	svc := o.client(tinkex.Options{TracerProvider: provider})

	ctx, root := provider.Tracer("test").Start(t.Context(), "loop")
	tc, err := svc.CreateLoRATrainingClient(ctx, "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	const prompt = "a prompt that is nobody's business"
	data := []tinkex.Datum{{
		ModelInput: tinkex.Tokens([]byte(prompt)...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints([]byte(prompt)), "weights": tinkex.Floats(make([]float32, len(prompt))),
		},
	}}
	pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
	optim := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-3})
	await(t, pass)
	await(t, optim)
	state := await(t, tc.SaveState(ctx, "state", tinkex.SaveOptions{}))
	sampler := await(t, tc.SaveWeightsForSampler(ctx, "sampler", tinkex.SaveOptions{}))
	sc, err := svc.CreateSamplingClient(ctx, tinkex.SamplerOptions{Path: sampler.Path})
	if err != nil {
		t.Fatal(err)
	}
	await(t, sc.Sample(ctx, tinkex.Tokens([]byte(prompt)...), tinkex.SampleOptions{Params: tinkex.SamplingParams{MaxTokens: 2}}))
	resumed, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, state.Path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resumed.OptimStep(ctx, tinkex.AdamParams{LearningRate: -1}).Await(ctx); err == nil {
		t.Fatal("a negative learning rate is accepted")
	}
	if _, err := checkpoint.Download(ctx, svc.RestClient(), state.Path, checkpoint.DownloadOptions{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	root.End()

	all := map[trace.SpanID]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		all[s.SpanContext.SpanID()] = s
	}
	// Server spans end when the client has had its answer already.
	way := func(s tracetest.SpanStub) string {
		var names []string
		for {
			names = append([]string{s.Name}, names...)
			parent, ok := all[s.Parent.SpanID()]
			if !ok {
				return strings.Join(names, " > ")
			}
			s = parent
		}
	}
	deadline := time.Now().Add(time.Minute)
	want := []string{
		"loop > POST > POST /api/v1/create_model > registry.create_model > engine.NewModel",
		"loop > POST > POST /api/v1/create_model > metastore.CreateRun",
		"loop > tinkex.forward_backward > POST > POST /api/v1/forward_backward > registry.forward_backward > engine.ForwardBackward",
		"loop > tinkex.forward_backward > POST > POST /api/v1/retrieve_future",
		"loop > tinkex.optim_step > POST > POST /api/v1/optim_step > registry.optim_step > engine.OptimStep",
		"loop > tinkex.optim_step > POST > POST /api/v1/optim_step > registry.optim_step > metastore.TouchRun",
		"loop > tinkex.save_weights > POST > POST /api/v1/save_weights > registry.save_weights > engine.Save",
		"loop > tinkex.save_weights > POST > POST /api/v1/save_weights > registry.save_weights > blobstore.Write",
		"loop > tinkex.save_weights > POST > POST /api/v1/save_weights > registry.save_weights > metastore.CommitCheckpoint",
		"loop > tinkex.sample > POST > POST /api/v1/asample > registry.sample > engine.Sample",
		"loop > tinkex.sample > POST > POST /api/v1/asample > engine.NewSampler",
		"loop > POST > POST /api/v1/load_weights > registry.load_weights > engine.Load",
		"loop > POST > POST /api/v1/load_weights > registry.load_weights > blobstore.OpenRange",
	}
	// Nor has what is done for one a parent before that ends.
	orphan := func(way string) bool {
		return !strings.HasPrefix(way, "loop") && !strings.HasPrefix(way, "GET /tinkex/v1/") && !strings.HasPrefix(way, "POST /api/v1/session_heartbeat")
	}
	var ways map[string]tracetest.SpanStub
	for {
		for _, s := range spans.GetSpans() {
			all[s.SpanContext.SpanID()] = s
		}
		ways = map[string]tracetest.SpanStub{}
		for _, s := range all {
			ways[way(s)] = s
		}
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { _, ok := ways[w]; return ok })
		var orphans []string
		for w := range ways {
			if orphan(w) {
				orphans = append(orphans, w)
			}
		}
		if len(missing)+len(orphans) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("missing:\n%s\nnobody asked for:\n%s\nthere are:\n%s",
				strings.Join(missing, "\n"), strings.Join(orphans, "\n"), strings.Join(slices.Sorted(maps.Keys(ways)), "\n"))
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}

	for _, w := range want {
		if got := ways[w].SpanContext.TraceID(); got != root.SpanContext().TraceID() {
			t.Errorf("%s is in trace %s, not %s", w, got, root.SpanContext().TraceID())
		}
	}
	for _, s := range all {
		if strings.HasPrefix(s.Name, "registry.") {
			if len(s.Links) != 1 || s.Links[0].SpanContext.SpanID() != s.Parent.SpanID() {
				t.Errorf("%s is linked to %v, not to who asked for it", s.Name, s.Links)
			}
		}
		text := fmt.Sprint(s.Name, s.Attributes, s.Events, s.Status)
		for _, secret := range []string{"tml-test", "signature", "expires=", prompt, fmt.Sprint(prompt[0], prompt[1], prompt[2], prompt[3])} {
			if strings.Contains(text, secret) {
				t.Errorf("%s tells %q: %s", way(s), secret, text)
			}
		}
	}
	if text := o.log.String(); !strings.Contains(text, `"trace_id":"`+root.SpanContext().TraceID().String()+`"`) {
		t.Error("the log does not name the trace")
	}
}

// Nothing of what is secret is written down, wherever it was put.
func TestSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	o := observe(t, t.TempDir(), provider)
	svc := o.client(tinkex.Options{})
	tc, err := svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	state := await(t, tc.SaveState(t.Context(), "state", tinkex.SaveOptions{}))
	u, err := svc.RestClient().ArchiveURL(t.Context(), state.Path)
	if err != nil {
		t.Fatal(err)
	}
	_, signature, _ := strings.Cut(u.URL, "signature=")

	const secret = "s3cr3t"
	token := "eyJ" + secret + ".eyJzdWIiOiJ4In0." + secret
	for _, header := range [][]string{
		{"X-Api-Key", "tml-" + secret}, {"X-Api-Key", secret}, {"X-Api-Key", token}, {"Authorization", "Bearer tml-" + secret},
		{"Authorization", "Bearer " + token}, {"X-Request-Id", "tml-" + secret}, {"X-Request-Id", token},
		{"X-Tinker-Weights-Access-Token", secret}, {"Cookie", "session=" + secret}, {"X-Idempotency-Key", secret},
		{"User-Agent", "x/1 tml-" + secret}, {"Referer", "http://x/?token=" + secret}, {"Traceparent", secret}, {"Range", secret},
	} {
		for _, target := range []string{
			"/api/v1/checkpoints", "/api/v1/checkpoints?api_key=tml-" + secret, "/nothing/tml-" + secret, "/api/v1/" + token,
			"/api/v1/training_runs/tml-" + secret, u.URL, u.URL + secret, "/metrics?x=" + secret, "/readyz?token=" + secret,
			"/tinkex/v1/files/a/b/c/d/e?signature=" + secret,
		} {
			_, got, _ := o.send(http.MethodGet, target, header...)
			if id := got.Get("X-Request-Id"); strings.Contains(id, secret) {
				t.Errorf("a credential became the request's id: %s", id)
			}
		}
	}
	// Errors of the stores may have been told a lot.
	for _, stores := range []node.Stores{
		{DB: "postgres://me:" + secret + "@127.0.0.1:1/db?connect_timeout=1"},
		{DB: "postgres://me@127.0.0.1:1/db?connect_timeout=1&password=" + secret},
		{Blobs: "s3://b?region=r&endpoint=http://me:" + secret + "@127.0.0.1:1"},
		{Blobs: "s3://b?region=r&secret_access_key=" + secret},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		n, err := node.Open(ctx, node.Options{Stores: stores, Logger: slog.New(slog.NewTextHandler(o.log, nil))})
		cancel()
		if err == nil {
			_ = n.Close(t.Context())
			t.Errorf("%+v is opened", stores)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells: %v", err)
		}
	}

	_, _, metrics := o.send(http.MethodGet, "/metrics")
	traces := fmt.Sprintf("%+v", spans.GetSpans())
	text := o.log.String()
	for where, what := range map[string]string{"the log": text, "metrics": metrics, "traces": traces} {
		for _, s := range []string{secret, signature, "tml-test"} {
			if at := strings.Index(what, s); at >= 0 {
				t.Errorf("%s: %q in ...%s", where, s, what[max(0, at-200):min(len(what), at+50)])
			}
		}
	}
	if n := strings.Count(text, `"msg":"request"`); n < 100 {
		t.Errorf("only %d requests are in the log", n)
	}
}

// local is a connection's response, as what sends files sees it.
type local struct {
	http.ResponseWriter
	files int
}

func (l *local) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			l.files++
		}
	}
	return io.Copy(struct{ io.Writer }{l.ResponseWriter}, r)
}

// Through all that watches it, a file of a checkpoint still reaches the
// connection as a file, which the system then sends by itself.
func TestFilesReachTheConnection(t *testing.T) {
	t.Parallel()
	o := observe(t, t.TempDir(), sdktrace.NewTracerProvider())
	svc := o.client(tinkex.Options{})
	tc, err := svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	state := await(t, tc.SaveState(t.Context(), "state", tinkex.SaveOptions{}))
	u, err := svc.RestClient().ArchiveURL(t.Context(), state.Path)
	if err != nil {
		t.Fatal(err)
	}
	w := &local{ResponseWriter: httptest.NewRecorder()}
	o.ServeHTTP(w, httptest.NewRequest(http.MethodGet, strings.TrimPrefix(u.URL, o.url), nil))
	if w.files != 3 {
		t.Errorf("%d files reached the connection, want 3", w.files)
	}
}

// Without a provider nothing is added to a client's requests.
func TestUntracedClientsSendNoTraceparent(t *testing.T) {
	t.Parallel()
	o := observe(t, t.TempDir(), nil)
	seen := &headers{next: http.DefaultTransport}
	for _, traced := range []bool{false, true} {
		opts := tinkex.Options{HTTPClient: &http.Client{Transport: seen}}
		if traced {
			opts.TracerProvider = sdktrace.NewTracerProvider()
		}
		if _, err := o.client(opts).ServerCapabilities(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := seen.last.Load().(string) != ""; got != traced {
			t.Errorf("a client that traces (%v) tells the server: %v", traced, got)
		}
	}
}

type headers struct {
	next http.RoundTripper
	last atomic.Value
}

func (h *headers) RoundTrip(r *http.Request) (*http.Response, error) {
	h.last.Store(r.Header.Get("Traceparent"))
	return h.next.RoundTrip(r)
}
