package tinkex

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/testproc"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(lastOnes{m}) }

// lastOnes gives the goroutines that are about to end the time that a busy
// machine needs for it, which is more than goleak's half a second.
type lastOnes struct{ *testing.M }

func (l lastOnes) Run() int {
	code := l.M.Run()
	goroutinesEnd()
	return code
}

// goroutinesEnd waits until there are no goroutines but those, for a minute at
// most.
func goroutinesEnd(but ...goleak.Option) {
	for began := time.Now(); goleak.Find(but...) != nil && time.Since(began) < time.Minute; {
		continue
	}
}

const testKey = "tml-secret-0123456789"

// fakeClock is time that only sleeping moves.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	sleeps []time.Duration
	// onSleep, if set, decides how a sleep ends.
	onSleep func(ctx context.Context, d time.Duration) error
	beats   chan struct{} // one heartbeat per value
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), beats: make(chan struct{})}
}

func (c *fakeClock) clock() clock {
	return clock{
		now: func() time.Time {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.now
		},
		sleep: func(ctx context.Context, d time.Duration) error {
			if d <= 0 {
				return ctx.Err()
			}
			c.mu.Lock()
			c.sleeps = append(c.sleeps, d)
			c.now = c.now.Add(d)
			hook := c.onSleep
			c.mu.Unlock()
			if hook != nil {
				return hook(ctx, d)
			}
			return ctx.Err()
		},
		beat: func(ctx context.Context, d time.Duration) error {
			select {
			case <-c.beats:
				c.advance(d)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *fakeClock) slept() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sleeps)
}

// recorded is a request as a fake server saw it.
type recorded struct {
	method, path, query string
	header              http.Header
	body                []byte
}

func (r recorded) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("%s %s: body %q: %v", r.method, r.path, r.body, err)
	}
}

// fakeServer answers as its routes say, and 404 otherwise.
type fakeServer struct {
	*httptest.Server
	t     *testing.T
	clock *fakeClock
	logs  *testproc.Output

	mu       sync.Mutex
	requests []recorded
	routes   map[string]http.HandlerFunc
}

func newFakeServer(t *testing.T) *fakeServer {
	f := &fakeServer{t: t, clock: newFakeClock(), logs: new(testproc.Output), routes: map[string]http.HandlerFunc{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// handle sets the handler of "METHOD /path", below /api/v1 or, if it says so,
// below /tinkex/v1.
func (f *fakeServer) handle(route string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[route] = h
}

// answer sets a fixed JSON answer.
func (f *fakeServer) answer(route string, status int, v any) {
	f.handle(route, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, status, v) })
}

// sequence answers one handler after another; the last one stays.
func (f *fakeServer) sequence(route string, hs ...http.HandlerFunc) {
	var mu sync.Mutex
	i := 0
	f.handle(route, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := hs[min(i, len(hs)-1)]
		i++
		mu.Unlock()
		h(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func answerJSON(status int, v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, status, v) }
}

func answerDetail(status int, detail string) http.HandlerFunc {
	return answerJSON(status, map[string]string{"detail": detail})
}

// hangUp closes the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), wire.APIPrefix)
	if !ok && !strings.HasPrefix(path, wire.ExtensionPrefix+"/") {
		f.t.Errorf("request for %s, which is below neither %s nor %s", r.URL, wire.APIPrefix, wire.ExtensionPrefix)
	}
	route := r.Method + " " + path
	f.mu.Lock()
	f.requests = append(f.requests, recorded{r.Method, path, r.URL.RawQuery, r.Header.Clone(), body})
	h := f.routes[route]
	f.mu.Unlock()
	if h == nil {
		h = answerDetail(http.StatusNotFound, "no route "+route)
	}
	h(w, r)
}

// seen returns the requests for a route.
func (f *fakeServer) seen(route string) []recorded {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []recorded
	for _, r := range f.requests {
		if r.method+" "+r.path == route {
			out = append(out, r)
		}
	}
	return out
}

// forget drops the requests seen so far.
func (f *fakeServer) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = nil
}

func (f *fakeServer) paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, r := range f.requests {
		out = append(out, r.method+" "+r.path)
	}
	return out
}

func (f *fakeServer) options() Options {
	return Options{
		APIKey: testKey, BaseURL: f.URL, Tags: []string{},
		Logger: slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (f *fakeServer) rest(change ...func(*Options)) *RestClient {
	f.t.Helper()
	o := f.options()
	for _, c := range change {
		c(&o)
	}
	c, err := newRestClient(o, f.clock.clock())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (f *fakeServer) service(change ...func(*Options)) *ServiceClient {
	f.t.Helper()
	o := f.options()
	for _, c := range change {
		c(&o)
	}
	s, err := newServiceClient(o, f.clock.clock())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

// fakeTinker is a fakeServer that accepts a whole life: sessions, models, and
// requests whose results are there at once.
type fakeTinker struct {
	*fakeServer

	mu      sync.Mutex
	results map[string]http.HandlerFunc // by request id
	n       int
}

func newFakeTinker(t *testing.T) *fakeTinker {
	f := &fakeTinker{fakeServer: newFakeServer(t), results: map[string]http.HandlerFunc{}}
	f.answer("POST /client/config", 200, map[string]any{})
	f.answer("POST /create_session", 200, map[string]any{"session_id": "s1", "type": "create_session"})
	f.answer("POST /session_heartbeat", 200, map[string]any{"type": "session_heartbeat"})
	f.answer("POST /sessions/s1/finish", 200, map[string]any{})
	f.answer("POST /create_sampling_session", 200, map[string]any{"sampling_session_id": "s1:sample:0"})
	f.answer("POST /get_info", 200, map[string]any{
		"model_id": "s1:train:0", "model_name": "m", "is_lora": true, "lora_rank": 8,
		"model_data": map[string]any{"arch": "qwen3", "model_name": "m", "tokenizer_id": "tok:v1"},
	})
	f.accept("POST /create_model", func(recorded) any { return map[string]any{"model_id": "s1:train:0", "type": "create_model"} })
	f.accept("POST /optim_step", func(recorded) any { return map[string]any{"metrics": map[string]float64{"grad_norm:mean": 1}} })
	f.accept("POST /save_weights", func(r recorded) any {
		var q wire.SaveWeightsRequest
		_ = json.Unmarshal(r.body, &q)
		return map[string]any{"path": "tinker://" + q.ModelID + "/weights/" + *q.Path, "type": "save_weights"}
	})
	f.accept("POST /save_weights_for_sampler", func(r recorded) any {
		var q wire.SaveWeightsRequest
		_ = json.Unmarshal(r.body, &q)
		if q.Path == nil {
			return map[string]any{"sampling_session_id": fmt.Sprintf("s1:sample:%d", *q.SamplingSessionSeqID)}
		}
		return map[string]any{"path": "tinker://" + q.ModelID + "/sampler_weights/" + *q.Path}
	})
	f.accept("POST /load_weights", func(r recorded) any {
		var q wire.LoadWeightsRequest
		_ = json.Unmarshal(r.body, &q)
		id := q.ModelID
		if id == "" {
			id = fmt.Sprintf("%s:train:%d", q.SessionID, *q.ModelSeqID)
		}
		return map[string]any{"path": q.Path, "model_id": id}
	})
	f.accept("POST /unload_model", func(recorded) any { return map[string]any{"model_id": "s1:train:0", "type": "unload_model"} })
	f.handle("POST /forward_backward", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var q pb.ForwardBackwardRequest
		if err := proto.Unmarshal(body, &q); err != nil {
			writeJSON(w, 400, map[string]string{"detail": err.Error()})
			return
		}
		writeJSON(w, 200, f.promise(protobufResult(scoreAll(&q))))
	})
	f.handle("POST /retrieve_future", func(w http.ResponseWriter, r *http.Request) {
		var q wire.RetrieveFutureRequest
		_ = json.NewDecoder(r.Body).Decode(&q)
		f.mu.Lock()
		h := f.results[q.RequestID]
		f.mu.Unlock()
		if h == nil {
			h = answerDetail(404, "no such request")
		}
		h(w, r)
	})
	return f
}

// promise registers a result and returns what accepts the request.
func (f *fakeTinker) promise(result http.HandlerFunc) wire.Future {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	id := fmt.Sprintf("r%d", f.n)
	f.results[id] = result
	return wire.Future{RequestID: id}
}

// accept makes a route accept requests with results computed by fn.
func (f *fakeTinker) accept(route string, fn func(recorded) any) {
	f.handle(route, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		writeJSON(w, 200, f.promise(answerJSON(200, fn(recorded{body: body}))))
	})
}

func protobufResult(m proto.Message) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", wire.ContentTypeProtobuf)
		_, _ = w.Write(b)
	}
}

// scoreAll answers logprob -token/10 for every target token, and their
// weighted sum as the loss.
func scoreAll(q *pb.ForwardBackwardRequest) *pb.ForwardBackwardOutput {
	var values []float32
	offsets := []int64{0}
	loss := 0.0
	for _, d := range q.Data {
		targets, _ := wire.UnpackInt64(d.LossFnInputs["target_tokens"].GetDense())
		weights, _ := wire.UnpackFloat32(d.LossFnInputs["weights"].GetDense())
		for i, id := range targets {
			lp := -float32(id) / 10
			values = append(values, lp)
			if i < len(weights) {
				loss += float64(-weights[i] * lp)
			}
		}
		offsets = append(offsets, int64(4*len(values)))
	}
	return &pb.ForwardBackwardOutput{
		LossFnOutputType: "tinker:ArrayRecord",
		LossFnOutputs: []*pb.ArrayRecord{{NumDatums: int64(len(q.Data)), Fields: map[string]*pb.BatchedTensor{
			"logprobs": {Data: wire.PackFloat32(values), Offsets: wire.PackInt64(offsets), Dtype: pb.DType_DTYPE_FLOAT32},
		}}},
		Metrics: map[string]float64{"loss:sum": loss, "clock:unique": float64(q.SeqId)},
	}
}

func (f *fakeTinker) training(change ...func(*Options)) *TrainingClient {
	f.t.Helper()
	c, err := f.service(change...).CreateLoRATrainingClient(f.t.Context(), "m", LoRAOptions{Rank: 8})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// datum is an example of n tokens whose targets are first, first+1, ...
func datum(n, first int) Datum {
	tokens := make([]int, n)
	targets := make([]int, n)
	weights := make([]float32, n)
	for i := range n {
		tokens[i], targets[i], weights[i] = 1, first+i, 1
	}
	return Datum{ModelInput: Tokens(tokens...), LossFnInputs: map[string]TensorData{
		"target_tokens": Ints(targets), "weights": Floats(weights),
	}}
}

// await fails the test unless the future succeeds.
func await[T any](t *testing.T, f *Future[T]) T {
	t.Helper()
	v, err := f.Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wantError(t *testing.T, err, target error, contains ...string) *Error {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is a %T: %v", err, err)
	}
	if target != nil && !errors.Is(err, target) {
		t.Errorf("error is not %q: %v", target, err)
	}
	for _, s := range contains {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
	return e
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
