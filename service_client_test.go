package tinkex

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tinkex/tinkex/internal/wire"
)

func TestNewClientsDoNoIO(t *testing.T) {
	f := newFakeTinker(t)
	s := f.service()
	s.RestClient()
	f.rest()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(f.paths()) != 0 {
		t.Errorf("requests: %v", f.paths())
	}
}

func TestSessionCarriesTheOptions(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /create_session", 200, map[string]any{
		"session_id": "s1", "info_message": "hello", "warning_message": "careful\x1b[1m", "error_message": nil,
	})
	s := f.service(func(o *Options) {
		o.ProjectID, o.DisplayName, o.Tags = "p1", "run of the day", []string{"a", "b"}
		o.UserMetadata = map[string]string{"k": "v"}
	})
	if id, err := s.SessionID(t.Context()); err != nil || id != "s1" {
		t.Fatal(id, err)
	}
	var q wire.CreateSessionRequest
	f.seen("POST /create_session")[0].decode(t, &q)
	if *q.ProjectID != "p1" || *q.DisplayName != "run of the day" || !slices.Equal(q.Tags, []string{"a", "b"}) ||
		!maps.Equal(q.UserMetadata, map[string]any{"k": "v"}) || q.SDKVersion != protocolVersion || q.Type != "create_session" {
		t.Errorf("request: %+v", q)
	}
	var config wire.ClientConfigRequest
	f.seen("POST /client/config")[0].decode(t, &config)
	if config.SDKVersion != protocolVersion {
		t.Errorf("config request: %+v", config)
	}
	log := f.logs.String()
	if !strings.Contains(log, "level=INFO msg=\"message from the server\" session=s1 message=hello") ||
		!strings.Contains(log, "level=WARN msg=\"message from the server\" session=s1 message=careful[1m") || strings.Contains(log, "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}

func TestEmptyTagsAreAList(t *testing.T) {
	f := newFakeTinker(t)
	if _, err := f.service().SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	if body := string(f.seen("POST /create_session")[0].body); !strings.Contains(body, `"tags":[]`) {
		t.Errorf("request: %s", body)
	}
}

func TestSessionWithoutAnID(t *testing.T) {
	for _, id := range []string{"", "a/b", ".."} {
		f := newFakeTinker(t)
		f.answer("POST /create_session", 200, map[string]any{"session_id": id})
		_, err := f.service().SessionID(t.Context())
		wantError(t, err, nil, "names no session")
	}
}

func TestIDsCountUpWithinTheSession(t *testing.T) {
	f := newFakeTinker(t)
	f.accept("POST /create_model", func(r recorded) any { return map[string]any{} })
	f.answer("POST /create_sampling_session", 200, map[string]any{})
	s := f.service()
	var trains, samples []string
	for range 3 {
		c, err := s.CreateLoRATrainingClient(t.Context(), "m", LoRAOptions{})
		if err != nil {
			t.Fatal(err)
		}
		trains = append(trains, c.RunID())
		p, err := s.CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, p.ID())
	}
	if !slices.Equal(trains, []string{"s1:train:0", "s1:train:1", "s1:train:2"}) || !slices.Equal(samples, []string{"s1:sample:0", "s1:sample:1", "s1:sample:2"}) {
		t.Errorf("ids: %v %v", trains, samples)
	}
	if n := len(f.seen("POST /create_session")); n != 1 {
		t.Errorf("%d sessions", n)
	}
	for i, r := range f.seen("POST /create_model") {
		var q wire.CreateModelRequest
		r.decode(t, &q)
		if q.ModelSeqID != int64(i) || q.SessionID != "s1" {
			t.Errorf("request %d: %+v", i, q)
		}
	}
}

func TestLoRAOptionsOnTheWire(t *testing.T) {
	for _, test := range []struct {
		options LoRAOptions
		want    string
	}{
		{LoRAOptions{}, `"lora_config":{"rank":32,"train_unembed":true,"train_mlp":true,"train_attn":true}`},
		{LoRAOptions{Rank: 4, Seed: new(int64(0)), SkipUnembed: true}, `"lora_config":{"rank":4,"seed":0,"train_unembed":false,"train_mlp":true,"train_attn":true}`},
		{LoRAOptions{SkipAttn: true, SkipMLP: true}, `"lora_config":{"rank":32,"train_unembed":true,"train_mlp":false,"train_attn":false}`},
		{LoRAOptions{UserMetadata: map[string]string{"a": "b"}}, `"user_metadata":{"a":"b"}`},
	} {
		f := newFakeTinker(t)
		if _, err := f.service().CreateLoRATrainingClient(t.Context(), "m", test.options); err != nil {
			t.Fatal(err)
		}
		if body := string(f.seen("POST /create_model")[0].body); !strings.Contains(body, test.want) || !strings.Contains(body, `"base_model":"m"`) {
			t.Errorf("request %s does not contain %s", body, test.want)
		}
	}
}

func TestArgumentsAreCheckedBeforeASessionIsOpened(t *testing.T) {
	f := newFakeTinker(t)
	s := f.service()
	training := TinkerPath{RunID: "r", Type: Training, Name: "x"}
	sampler := TinkerPath{RunID: "r", Type: Sampler, Name: "x"}
	model := func(base string, o LoRAOptions) func() error {
		return func() error { _, err := s.CreateLoRATrainingClient(t.Context(), base, o); return err }
	}
	state := func(p TinkerPath) func() error {
		return func() error { _, err := s.CreateTrainingClientFromState(t.Context(), p, StateOptions{}); return err }
	}
	sampling := func(o SamplerOptions) func() error {
		return func() error { _, err := s.CreateSamplingClient(t.Context(), o); return err }
	}
	for says, do := range map[string]func() error{
		"no base model":             model("", LoRAOptions{}),
		"rank -1":                   model("m", LoRAOptions{Rank: -1}),
		"nothing to train":          model("m", LoRAOptions{SkipAttn: true, SkipMLP: true, SkipUnembed: true}),
		"not a training checkpoint": state(sampler),
		"unsafe":                    state(TinkerPath{RunID: "..", Type: Training, Name: "x"}),
		"neither a base model nor":  sampling(SamplerOptions{}),
		"checkpoint name contains":  sampling(SamplerOptions{Path: TinkerPath{RunID: "r", Type: Sampler, Name: "a/b c"}}),
		"segments after":            state(TinkerPath{RunID: "a/b", Type: Training, Name: "x"}),
		`unknown kind ""`:           state(TinkerPath{RunID: "r", Name: "x"}),
	} {
		if says == "checkpoint name contains" {
			says = "segments after"
		}
		e := wantError(t, do(), nil, says)
		if e.Category != CategoryUser || e.Op == "" {
			t.Errorf("%s: category %q, op %q", says, e.Category, e.Op)
		}
	}
	if len(f.paths()) != 0 {
		t.Errorf("requests: %v", f.paths())
	}
	_ = training
}

func TestCreateFromState(t *testing.T) {
	path := TinkerPath{RunID: "old:train:3", Type: Training, Name: "x"}
	for _, optimizer := range []bool{false, true} {
		f := newFakeTinker(t)
		s := f.service()
		create := s.CreateTrainingClientFromState
		if optimizer {
			create = s.CreateTrainingClientFromStateWithOptimizer
		}
		c, err := create(t.Context(), path, StateOptions{BaseModel: "m:long", UserMetadata: map[string]string{"a": "b"}})
		if err != nil {
			t.Fatal(err)
		}
		var q wire.LoadWeightsRequest
		f.seen("POST /load_weights")[0].decode(t, &q)
		if q.SessionID != "s1" || *q.ModelSeqID != 0 || q.Path != path.String() || q.Optimizer != optimizer || *q.BaseModel != "m:long" ||
			q.ModelID != "" || q.SeqID != nil || q.UserMetadata["a"] != "b" {
			t.Errorf("request: %+v", q)
		}
		if len(f.seen("POST /create_model")) != 0 {
			t.Error("a model was created besides")
		}
		// The load was request 0: the next is number 1.
		await(t, c.OptimStep(t.Context(), AdamParams{}))
		var step wire.OptimStepRequest
		f.seen("POST /optim_step")[0].decode(t, &step)
		if *step.SeqID != 1 || step.ModelID != "s1:train:0" {
			t.Errorf("the first step is %+v", step)
		}
	}
}

// Servers that know only loads onto models are told the checkpoint's own
// values: nothing of them is forgotten.
func TestCreateFromStateOnServersOfBefore(t *testing.T) {
	path := TinkerPath{RunID: "old", Type: Training, Name: "x"}
	missing := answerJSON(422, map[string]any{"detail": []any{map[string]any{"loc": []string{"body", "model_id"}, "msg": "Field required"}}})
	for _, test := range []struct {
		name   string
		config any
		load   http.HandlerFunc // of the first attempt; nil: there is none
	}{
		{"flag", map[string]any{"create_model_via_load_weights": false}, nil},
		{"missing field", map[string]any{}, missing},
		{"missing field, as a 400", map[string]any{}, answerDetail(400, "seq_id: field required")},
		{"501", map[string]any{}, answerDetail(501, "no")},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeTinker(t)
			f.answer("POST /client/config", 200, test.config)
			f.answer("POST /weights_info", 200, map[string]any{
				"base_model": "m", "is_lora": true, "lora_rank": 7, "train_unembed": false, "train_mlp": true,
			})
			accept := f.routes["POST /load_weights"]
			if test.load != nil {
				f.sequence("POST /load_weights", test.load, accept)
			}
			c, err := f.service().CreateTrainingClientFromStateWithOptimizer(t.Context(), path, StateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if body := string(f.seen("POST /create_model")[0].body); !strings.Contains(body, `"lora_config":{"rank":7,"train_unembed":false,"train_mlp":true,"train_attn":true}`) {
				t.Errorf("created with %s", body)
			}
			loads := f.seen("POST /load_weights")
			var q wire.LoadWeightsRequest
			loads[len(loads)-1].decode(t, &q)
			if q.ModelID != "s1:train:0" || *q.SeqID != 1 || !q.Optimizer || q.SessionID != "" || q.ModelSeqID != nil {
				t.Errorf("loaded with %+v", q)
			}
			await(t, c.OptimStep(t.Context(), AdamParams{}))
			var step wire.OptimStepRequest
			f.seen("POST /optim_step")[0].decode(t, &step)
			if *step.SeqID != 2 {
				t.Errorf("the first step is number %d", *step.SeqID)
			}
		})
	}
	t.Run("not a LoRA", func(t *testing.T) {
		f := newFakeTinker(t)
		f.answer("POST /client/config", 200, map[string]any{"create_model_via_load_weights": false})
		f.answer("POST /weights_info", 200, map[string]any{"base_model": "m", "is_lora": false})
		_, err := f.service().CreateTrainingClientFromState(t.Context(), path, StateOptions{})
		wantError(t, err, ErrInvalid, "not a LoRA")
	})
	t.Run("load refused", func(t *testing.T) {
		f := newFakeTinker(t)
		f.answer("POST /client/config", 200, map[string]any{"create_model_via_load_weights": false})
		f.answer("POST /weights_info", 200, map[string]any{"base_model": "m", "is_lora": true, "lora_rank": 1})
		f.answer("POST /load_weights", 400, map[string]string{"detail": "no optimizer state"})
		s := f.service()
		_, err := s.CreateTrainingClientFromState(t.Context(), path, StateOptions{})
		wantError(t, err, ErrInvalid, "no optimizer state")
		waitFor(t, func() bool { return len(f.seen("POST /unload_model")) == 1 })
	})
}

// What is wrong with the checkpoint is no reason to try another way.
func TestCreateFromStateFailuresAreFinal(t *testing.T) {
	for status, detail := range map[int]string{
		400: "path: it has no optimizer state; load it without",
		404: "checkpoint not found",
		422: "model_seq_id: expected a number",
		403: "not yours",
	} {
		f := newFakeTinker(t)
		f.answer("POST /load_weights", status, map[string]string{"detail": detail})
		_, err := f.service().CreateTrainingClientFromState(t.Context(), TinkerPath{RunID: "r", Type: Training, Name: "x"}, StateOptions{})
		if e := wantError(t, err, nil, detail); e.Status != status {
			t.Errorf("status %d", e.Status)
		}
		if len(f.seen("POST /weights_info"))+len(f.seen("POST /create_model")) != 0 {
			t.Errorf("%d: requests: %v", status, f.paths())
		}
	}
}

func TestCreateSamplingClient(t *testing.T) {
	f := newFakeTinker(t)
	s := f.service()
	path := TinkerPath{RunID: "r", Type: Sampler, Name: "x"}
	c, err := s.CreateSamplingClient(t.Context(), SamplerOptions{Path: path})
	if err != nil || c.ID() != "s1:sample:0" {
		t.Fatal(c, err)
	}
	if _, err := s.CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"}); err != nil {
		t.Fatal(err)
	}
	var q [2]wire.CreateSamplingSessionRequest
	for i, r := range f.seen("POST /create_sampling_session") {
		r.decode(t, &q[i])
	}
	if *q[0].ModelPath != path.String() || q[0].BaseModel != nil || q[0].SamplingSessionSeqID != 0 || q[0].SessionID != "s1" {
		t.Errorf("by path: %+v", q[0])
	}
	if q[1].ModelPath != nil || *q[1].BaseModel != "m" || q[1].SamplingSessionSeqID != 1 {
		t.Errorf("by base model: %+v", q[1])
	}
	f.answer("POST /create_sampling_session", 404, map[string]string{"detail": "no such checkpoint"})
	_, err = s.CreateSamplingClient(t.Context(), SamplerOptions{Path: path})
	wantError(t, err, ErrNotFound, path.String(), "no such checkpoint")
}

func TestHeartbeats(t *testing.T) {
	f := newFakeTinker(t)
	s := f.service()
	if _, err := s.SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	beats := func() int { return len(f.seen("POST /session_heartbeat")) }
	beat := func(n int) {
		t.Helper()
		for range n {
			before := beats()
			f.clock.beats <- struct{}{}
			waitFor(t, func() bool { return beats() > before })
		}
	}
	beat(3)
	var q wire.HeartbeatRequest
	f.seen("POST /session_heartbeat")[0].decode(t, &q)
	if q.SessionID != "s1" {
		t.Errorf("heartbeat of %+v", q)
	}

	// Failures are not retried, and the log hears of them when they last.
	f.answer("POST /session_heartbeat", 503, map[string]string{"detail": "restarting"})
	beat(12)
	if beats() != 15 || strings.Contains(f.logs.String(), "heartbeats are failing") {
		t.Errorf("%d heartbeats; log:\n%s", beats(), f.logs)
	}
	beat(5)
	if n := strings.Count(f.logs.String(), "heartbeats are failing"); n != 1 {
		t.Errorf("the log hears of it %d times", n)
	}

	// A session that the server has ended needs none.
	f.answer("POST /session_heartbeat", 410, map[string]string{"detail": "session ended"})
	beat(1)
	waitFor(t, func() bool { return strings.Contains(f.logs.String(), "the server has ended the session") })
	select {
	case f.clock.beats <- struct{}{}:
		t.Error("heartbeats go on")
	default:
	}
}

func TestFinishTellsHowItEnded(t *testing.T) {
	for _, test := range []struct {
		name   string
		finish func(*ServiceClient) error
		want   string
	}{
		{"close", (*ServiceClient).Close, `{"reason":{"type":"success"}}`},
		{"errored", func(s *ServiceClient) error { return s.Finish(t.Context(), Errored, "loss is NaN") }, `{"reason":{"type":"errored"},"detail":"loss is NaN"}`},
	} {
		f := newFakeTinker(t)
		s := f.service()
		if _, err := s.SessionID(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := test.finish(s); err != nil {
				t.Fatal(err)
			}
		}
		seen := f.seen("POST /sessions/s1/finish")
		if len(seen) != 1 || string(seen[0].body) != test.want || seen[0].header.Get("X-API-Key") != testKey {
			t.Errorf("%s: %d requests: %s", test.name, len(seen), seen[0].body)
		}
	}
}

func TestFinishFailures(t *testing.T) {
	for status, want := range map[int]bool{404: true, 410: true, 500: false} {
		f := newFakeTinker(t)
		f.answer("POST /sessions/s1/finish", status, map[string]string{"detail": "x"})
		s := f.service()
		if _, err := s.SessionID(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); (err == nil) != want {
			t.Errorf("%d: %v", status, err)
		}
		if n := len(f.seen("POST /sessions/s1/finish")); n > 3 {
			t.Errorf("%d: tried %d times", status, n)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%d: closing again: %v", status, err)
		}
	}
}

func TestFinishUsesTheToken(t *testing.T) {
	f, token := exchanging(t)
	s := f.service()
	if _, err := s.SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lastKey(f, "POST /sessions/s1/finish"); got != token(0) {
		t.Errorf("finished with %q", got)
	}
}

// Close leaves nothing behind, whatever is going on.
func TestCloseLeaksNothing(t *testing.T) {
	f := newFakeTinker(t)
	existing := goleak.IgnoreCurrent()
	hold := make(chan struct{})
	polled := make(chan struct{}, 100)
	s := f.service()
	c, err := s.CreateLoRATrainingClient(t.Context(), "m", LoRAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sampler, err := s.CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
	if err != nil {
		t.Fatal(err)
	}
	f.handle("POST /asample", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, wire.Future{RequestID: "q"}) })
	f.handle("POST /retrieve_future", func(_ http.ResponseWriter, r *http.Request) {
		polled <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-hold:
		}
	})
	stuck := make(chan struct{}, 1)
	f.handle("POST /save_weights", func(_ http.ResponseWriter, r *http.Request) {
		stuck <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-hold:
		}
	})
	a := c.ForwardBackward(t.Context(), []Datum{datum(1, 1)}, CrossEntropy, nil)
	b := sampler.Sample(t.Context(), Tokens(1), SampleOptions{})
	d := c.SaveState(t.Context(), "x", SaveOptions{})
	e := c.OptimStep(t.Context(), AdamParams{})
	g := sampler.ComputeLogprobs(t.Context(), Tokens(1))
	<-polled
	<-polled
	<-stuck
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"forward_backward": failure(a), "sample": failure(b), "save": failure(d), "optim_step": failure(e), "logprobs": failure(g),
		"later step":   failure(c.OptimStep(t.Context(), AdamParams{})),
		"later info":   failure(c.Info(t.Context())),
		"later sample": failure(sampler.Sample(t.Context(), Tokens(1), SampleOptions{})),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = s.CreateLoRATrainingClient(t.Context(), "m", LoRAOptions{})
	wantError(t, err, ErrClosed)
	_, err = s.CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
	wantError(t, err, ErrClosed)
	_, err = s.ServerCapabilities(t.Context())
	wantError(t, err, ErrClosed)
	// The session was there, and ended with the client.
	_, err = s.SessionID(t.Context())
	wantError(t, err, ErrClosed)
	close(hold)
	f.CloseClientConnections()
	goroutinesEnd(existing)
	goleak.VerifyNone(t, existing)
}

func failure[T any](f *Future[T]) error {
	select {
	case <-f.Done():
		_, err := f.Await(context.Background())
		return err
	case <-time.After(time.Minute):
		return errors.New("it is not done")
	}
}

func TestConcurrentClose(t *testing.T) {
	f := newFakeTinker(t)
	s := f.service()
	if _, err := s.SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(f.seen("POST /sessions/s1/finish")); n != 1 {
		t.Errorf("finished %d times", n)
	}
}

// The session belongs to the client, not to the call that happened to open it.
func TestCancelledOpeningDoesNotFailTheOthers(t *testing.T) {
	f := newFakeTinker(t)
	asked, release := make(chan struct{}), make(chan struct{})
	f.handle("POST /create_session", func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		writeJSON(w, 200, map[string]any{"session_id": "s1"})
	})
	s := f.service()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := s.SessionID(ctx)
		first <- err
	}()
	<-asked
	cancel()
	wantError(t, <-first, context.Canceled)
	close(release)
	if id, err := s.SessionID(t.Context()); err != nil || id != "s1" {
		t.Error(id, err)
	}
	if n := len(f.seen("POST /create_session")); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestRestClientOfAService(t *testing.T) {
	f := newFakeTinker(t)
	f.handle(capabilities, fine)
	s := f.service()
	if err := s.RestClient().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ServerCapabilities(t.Context()); err != nil {
		t.Errorf("closing the RestClient closed the service: %v", err)
	}
	if len(f.seen("POST /create_session")) != 0 {
		t.Error("a session was opened")
	}
	for _, text := range []string{s.String(), s.RestClient().String()} {
		if !strings.Contains(text, f.URL) || strings.Contains(text, "/api/v1") {
			t.Error(text)
		}
	}
}
