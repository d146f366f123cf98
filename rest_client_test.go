package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var trainingX = TinkerPath{RunID: "s:train:0", Type: Training, Name: "x"}

const urlOfX = "/training_runs/s:train:0/checkpoints/weights/x"

func TestCheckpointsFieldByField(t *testing.T) {
	f := newFakeServer(t)
	f.handle("GET /checkpoints", answerRaw(200, "application/json", `{"checkpoints":[
		{"checkpoint_id":"weights/x","checkpoint_type":"training","time":"2026-01-02T03:04:05.678901Z","tinker_path":"tinker://s:train:0/weights/x",
		 "size_bytes":12345678901,"public":true,"user_metadata":{"k":"v"},"expires_at":"2026-02-03T04:05:06+01:00","base_model":"m","some_new_field":{}},
		{"checkpoint_id":"sampler_weights/y","checkpoint_type":"sampler","time":"2026-01-02T03:04:05.678901","tinker_path":"tinker://s:train:0/sampler_weights/y",
		 "size_bytes":null,"expires_at":null,"user_metadata":null}],
		"cursor":{"offset":5,"limit":2,"total_count":300}}`))
	list, err := f.rest().ListCheckpoints(t.Context(), ListOptions{Limit: 2, Offset: 5})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	expires := time.Date(2026, 2, 3, 3, 5, 6, 0, time.UTC)
	first, second := list.Checkpoints[0], list.Checkpoints[1]
	if !first.ExpiresAt.Equal(expires) || !first.Time.Equal(at) || !second.Time.Equal(at) {
		t.Errorf("times: %v %v %v", first.Time, first.ExpiresAt, second.Time)
	}
	first.ExpiresAt, first.Time, second.Time = nil, time.Time{}, time.Time{}
	want := Checkpoint{CheckpointID: "weights/x", CheckpointType: Training, TinkerPath: "tinker://s:train:0/weights/x", SizeBytes: new(int64(12345678901)),
		Public: true, UserMetadata: map[string]string{"k": "v"}, BaseModel: "m"}
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	if want := (Checkpoint{CheckpointID: "sampler_weights/y", CheckpointType: Sampler, TinkerPath: "tinker://s:train:0/sampler_weights/y"}); !reflect.DeepEqual(second, want) {
		t.Errorf("got  %+v\nwant %+v", second, want)
	}
	if path, err := first.Path(); err != nil || path != trainingX {
		t.Errorf("path %v, %v", path, err)
	}
	if *list.Cursor != (Cursor{Offset: 5, Limit: 2, TotalCount: 300}) {
		t.Errorf("cursor %+v", list.Cursor)
	}
	if q := f.seen("GET /checkpoints")[0].query; q != "limit=2&offset=5" {
		t.Errorf("query %q", q)
	}
}

func TestTrainingRunsFieldByField(t *testing.T) {
	f := newFakeServer(t)
	run := `{"training_run_id":"s:train:0","base_model":"m","model_owner":"me","is_lora":true,"corrupted":true,"lora_rank":16,
		"last_request_time":"2026-01-02 03:04:05","last_checkpoint":{"checkpoint_id":"weights/x","checkpoint_type":"training","time":"2026-01-02T03:04:05Z","tinker_path":"tinker://s:train:0/weights/x"},
		"last_sampler_checkpoint":null,"user_metadata":{"k":"v"}}`
	f.handle("GET /training_runs", answerRaw(200, "application/json", `{"training_runs":[`+run+`],"cursor":{"offset":0,"limit":20,"total_count":1}}`))
	f.handle("GET /training_runs/s:train:0", answerRaw(200, "application/json", run))
	c := f.rest()
	list, err := c.ListTrainingRuns(t.Context(), ListRunsOptions{Limit: 7, Offset: 3, Scope: ScopeAccessible, ProjectID: "p 1"})
	if err != nil || list.Cursor.TotalCount != 1 {
		t.Fatal(list, err)
	}
	if q := f.seen("GET /training_runs")[0].query; q != "access_scope=accessible&limit=7&offset=3&project_id=p+1" {
		t.Errorf("query %q", q)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := TrainingRun{TrainingRunID: "s:train:0", BaseModel: "m", ModelOwner: "me", IsLoRA: true, Corrupted: true, LoRARank: new(16), LastRequestTime: at,
		LastCheckpoint: &Checkpoint{CheckpointID: "weights/x", CheckpointType: Training, Time: at, TinkerPath: "tinker://s:train:0/weights/x"}, UserMetadata: map[string]string{"k": "v"}}
	if !reflect.DeepEqual(list.TrainingRuns[0], want) {
		t.Errorf("got  %+v\nwant %+v", list.TrainingRuns[0], want)
	}
	for name, get := range map[string]func() (TrainingRun, error){
		"id":   func() (TrainingRun, error) { return c.GetTrainingRun(t.Context(), "s:train:0") },
		"path": func() (TrainingRun, error) { return c.GetTrainingRunByPath(t.Context(), trainingX) },
	} {
		if got, err := get(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("by %s: %+v, %v", name, got, err)
		}
	}
}

func TestSessionsAndSamplers(t *testing.T) {
	f := newFakeServer(t)
	f.answer("GET /sessions", 200, map[string]any{"sessions": []string{"a", "b"}})
	f.answer("GET /sessions/a", 200, map[string]any{"training_run_ids": []string{"a:train:0"}, "sampler_ids": nil, "user_metadata": map[string]string{"k": "v"}, "display_name": "d"})
	f.answer("GET /samplers/a:sample:0", 200, map[string]any{"sampler_id": "a:sample:0", "base_model": "m", "model_path": "tinker://r/sampler_weights/x"})
	c := f.rest()
	list, err := c.ListSessions(t.Context(), ListOptions{})
	if err != nil || !slices.Equal(list.Sessions, []string{"a", "b"}) || f.seen("GET /sessions")[0].query != "" {
		t.Errorf("%+v, %v", list, err)
	}
	session, err := c.GetSession(t.Context(), "a")
	if err != nil || session.TrainingRunIDs[0] != "a:train:0" || session.UserMetadata["k"] != "v" || session.DisplayName != "d" {
		t.Errorf("%+v, %v", session, err)
	}
	sampler, err := c.GetSampler(t.Context(), "a:sample:0")
	if err != nil || sampler != (SamplerInfo{SamplerID: "a:sample:0", BaseModel: "m", ModelPath: "tinker://r/sampler_weights/x"}) {
		t.Errorf("%+v, %v", sampler, err)
	}
}

func TestCapabilitiesAndWeightsInfo(t *testing.T) {
	f := newFakeServer(t)
	f.answer(capabilities, 200, map[string]any{"supported_models": []any{map[string]any{"model_name": "m", "max_context_length": 4096, "trainable": true}}})
	f.answer("POST /weights_info", 200, map[string]any{"base_model": "m", "is_lora": true, "lora_rank": 8, "train_unembed": false, "train_mlp": nil})
	c := f.rest()
	caps, err := c.ServerCapabilities(t.Context())
	if err != nil || caps.SupportedModels[0].ModelName != "m" || *caps.SupportedModels[0].MaxContextLength != 4096 || caps.SupportedModels[0].Sampleable != nil {
		t.Errorf("%+v, %v", caps, err)
	}
	info, err := c.WeightsInfo(t.Context(), trainingX)
	if err != nil || info.BaseModel != "m" || !info.IsLoRA || *info.LoRARank != 8 || *info.TrainUnembed || info.TrainMLP != nil {
		t.Errorf("%+v, %v", info, err)
	}
	if body := string(f.seen("POST /weights_info")[0].body); body != `{"tinker_path":"tinker://s:train:0/weights/x"}` {
		t.Errorf("request %s", body)
	}
}

func TestChangesOfACheckpoint(t *testing.T) {
	sampler := TinkerPath{RunID: "run-abc", Type: Sampler, Name: "0001"}
	for _, test := range []struct {
		name  string
		do    func(context.Context, *RestClient) error
		route string
		body  string
	}{
		{"delete", func(ctx context.Context, c *RestClient) error { return c.DeleteCheckpoint(ctx, trainingX) }, "DELETE " + urlOfX, ""},
		{"delete sampler", func(ctx context.Context, c *RestClient) error { return c.DeleteCheckpoint(ctx, sampler) }, "DELETE /training_runs/run-abc/checkpoints/sampler_weights/0001", ""},
		{"delete by id", func(ctx context.Context, c *RestClient) error {
			return c.DeleteCheckpointByID(ctx, "s:train:0", "weights/x")
		}, "DELETE " + urlOfX, ""},
		{"publish", func(ctx context.Context, c *RestClient) error { return c.Publish(ctx, trainingX) }, "POST " + urlOfX + "/publish", ""},
		{"unpublish", func(ctx context.Context, c *RestClient) error { return c.Unpublish(ctx, trainingX) }, "DELETE " + urlOfX + "/publish", ""},
		{"set TTL", func(ctx context.Context, c *RestClient) error { return c.SetTTL(ctx, trainingX, 90*time.Minute) }, "PUT " + urlOfX + "/ttl", `{"ttl_seconds":5400}`},
		{"remove TTL", func(ctx context.Context, c *RestClient) error { return c.RemoveTTL(ctx, trainingX) }, "PUT " + urlOfX + "/ttl", `{"ttl_seconds":null}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.handle(test.route, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
			if err := test.do(t.Context(), f.rest()); err != nil {
				t.Fatal(err)
			}
			if seen := f.seen(test.route); len(seen) != 1 || string(seen[0].body) != test.body {
				t.Errorf("requests: %v %q", f.paths(), seen[0].body)
			}
			f.answer(test.route, 404, map[string]string{"detail": "checkpoint not found"})
			e := wantError(t, test.do(t.Context(), f.rest()), ErrNotFound, "checkpoint not found")
			if verb, _, _ := strings.Cut(test.name, " "); !strings.HasPrefix(e.Op, verb) || !strings.Contains(e.Op, "tinker://") {
				t.Errorf("op %q", e.Op)
			}
		})
	}
}

// What an attempt did whose answer was lost is not a failure of the next one.
func TestLostAnswersOfChanges(t *testing.T) {
	remove := func(c *RestClient) error { return c.DeleteCheckpoint(t.Context(), trainingX) }
	publish := func(c *RestClient) error { return c.Publish(t.Context(), trainingX) }
	unpublish := func(c *RestClient) error { return c.Unpublish(t.Context(), trainingX) }
	for _, test := range []struct {
		name   string
		route  string
		do     func(*RestClient) error
		first  http.HandlerFunc
		second int
		want   error
	}{
		{"deleted, connection lost", "DELETE " + urlOfX, remove, hangUp, 404, nil},
		{"deleted, 502", "DELETE " + urlOfX, remove, answerDetail(502, "x"), 404, nil},
		{"not deleted: too many requests", "DELETE " + urlOfX, remove, answerDetail(429, "x"), 404, ErrNotFound},
		{"deleted, refused now", "DELETE " + urlOfX, remove, hangUp, 403, ErrForbidden},
		{"published", "POST " + urlOfX + "/publish", publish, hangUp, 409, nil},
		{"not found", "POST " + urlOfX + "/publish", publish, hangUp, 404, ErrNotFound},
		{"unpublished", "DELETE " + urlOfX + "/publish", unpublish, hangUp, 409, nil},
		{"unpublish not found", "DELETE " + urlOfX + "/publish", unpublish, hangUp, 404, ErrNotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.sequence(test.route, test.first, answerDetail(test.second, "second"))
			err := test.do(f.rest())
			if test.want == nil && err != nil {
				t.Error(err)
			}
			if test.want != nil {
				wantError(t, err, test.want)
			}
		})
	}
	f := newFakeServer(t)
	f.answer("POST "+urlOfX+"/publish", 409, map[string]string{"detail": "already public"})
	wantError(t, f.rest().Publish(t.Context(), trainingX), ErrConflict, "already public")
	if n := len(f.paths()); n != 1 {
		t.Errorf("a final conflict was tried %d times", n)
	}
}

func TestRESTArgumentsAreChecked(t *testing.T) {
	f := newFakeServer(t)
	c := f.rest()
	ctx := t.Context()
	bad := TinkerPath{RunID: "r", Type: Training, Name: "../x"}
	list := func(o ListOptions) error { _, err := c.ListCheckpoints(ctx, o); return err }
	second := func(_ any, err error) error { return err }
	long := strings.Repeat("x", MaxNameLength+1)
	for i, test := range []struct {
		err  error
		want error
	}{
		{list(ListOptions{Limit: -1}), ErrInvalid},
		{list(ListOptions{Offset: -1}), ErrInvalid},
		{second(c.ListTrainingRuns(ctx, ListRunsOptions{Limit: -1})), ErrInvalid},
		{second(c.ListSessions(ctx, ListOptions{Limit: -1})), ErrInvalid},
		{c.DeleteCheckpoint(ctx, bad), ErrInvalidPath},
		{c.DeleteCheckpoint(ctx, TinkerPath{}), ErrInvalidPath},
		{c.Publish(ctx, bad), ErrInvalidPath},
		{c.Unpublish(ctx, bad), ErrInvalidPath},
		{c.SetTTL(ctx, bad, time.Hour), ErrInvalidPath},
		{c.SetTTL(ctx, trainingX, 0), ErrInvalid},
		{c.SetTTL(ctx, trainingX, -time.Hour), ErrInvalid},
		{c.RemoveTTL(ctx, bad), ErrInvalidPath},
		{second(c.WeightsInfo(ctx, bad)), ErrInvalidPath},
		{second(c.ArchiveURL(ctx, bad)), ErrInvalidPath},
		{second(c.GetCheckpoint(ctx, bad)), ErrInvalidPath},
		{second(c.GetTrainingRunByPath(ctx, bad)), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, "")), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, "a/../b")), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, "..")), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, "a\x00b")), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, "a?b=c")), ErrInvalidPath},
		{second(c.GetTrainingRun(ctx, long)), ErrInvalidPath},
		{second(c.GetSession(ctx, "a/b")), ErrInvalidPath},
		{second(c.GetSampler(ctx, "")), ErrInvalidPath},
		{second(c.ListRunCheckpoints(ctx, "a/b")), ErrInvalidPath},
		{second(c.ResolveCheckpoint(ctx, "r", "other/x")), ErrInvalidPath},
		{second(c.ResolveCheckpoint(ctx, "r", "weights/../x")), ErrInvalidPath},
		{second(c.ResolveCheckpoint(ctx, "r", "")), ErrInvalidPath},
		{second(c.ResolveCheckpoint(ctx, "r/s", "x")), ErrInvalidPath},
		{c.DeleteCheckpointByID(ctx, "r", "weights/"), ErrInvalidPath},
		{second(c.ArchiveURLByID(ctx, "r", "a b")), ErrInvalidPath},
	} {
		if test.err == nil {
			t.Errorf("%d: no error", i)
			continue
		}
		if e := wantError(t, test.err, test.want); e.Category != CategoryUser || e.Op == "" {
			t.Errorf("%d: category %q, op %q: %v", i, e.Category, e.Op, e)
		}
	}
	if len(f.paths()) != 0 {
		t.Errorf("requests: %v", f.paths())
	}
}

func TestResolveCheckpoint(t *testing.T) {
	f := newFakeServer(t)
	f.answer("GET /training_runs/r/checkpoints", 200, map[string]any{"checkpoints": []any{
		map[string]any{"checkpoint_id": "sampler_weights/both", "time": "2026-01-02T03:04:05Z"},
		map[string]any{"checkpoint_id": "weights/both", "time": "2026-01-02T03:04:05Z"},
		map[string]any{"checkpoint_id": "sampler_weights/only", "time": "2026-01-02T03:04:05Z"},
		map[string]any{"checkpoint_id": "external_weights/out", "time": "2026-01-02T03:04:05Z"},
	}})
	c := f.rest()
	for _, test := range []struct {
		id       string
		want     CheckpointType
		requests int
	}{
		{"both", Training, 1}, {"only", Sampler, 1}, {"out", External, 1},
		{"weights/anything", Training, 0}, {"sampler_weights/anything", Sampler, 0},
	} {
		f.forget()
		got, err := c.ResolveCheckpoint(t.Context(), "r", test.id)
		if err != nil || got.Type != test.want || got.RunID != "r" || !strings.HasSuffix(test.id, got.Name) {
			t.Errorf("%s is %v, %v", test.id, got, err)
		}
		if n := len(f.paths()); n != test.requests {
			t.Errorf("%s took %d requests", test.id, n)
		}
	}
	_, err := c.ResolveCheckpoint(t.Context(), "r", "none")
	wantError(t, err, ErrNotFound, "no checkpoint of this name")
	_, err = c.ResolveCheckpoint(t.Context(), "unknown", "x")
	wantError(t, err, ErrNotFound)

	f.handle("DELETE /training_runs/r/checkpoints/sampler_weights/only", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	if err := c.DeleteCheckpointByID(t.Context(), "r", "only"); err != nil {
		t.Error(err)
	}
	wantError(t, c.DeleteCheckpointByID(t.Context(), "r", "none"), ErrNotFound)
}

func TestGetCheckpoint(t *testing.T) {
	f := newFakeServer(t)
	f.answer("GET /training_runs/s:train:0/checkpoints", 200, map[string]any{"checkpoints": []any{
		map[string]any{"checkpoint_id": "sampler_weights/x", "time": "2026-01-02T03:04:05Z", "public": true},
		map[string]any{"checkpoint_id": "weights/x", "time": "2026-01-02T03:04:05Z", "size_bytes": 5},
	}})
	c := f.rest()
	got, err := c.GetCheckpoint(t.Context(), trainingX)
	if err != nil || *got.SizeBytes != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	other := trainingX
	other.Name = "y"
	_, err = c.GetCheckpoint(t.Context(), other)
	wantError(t, err, ErrNotFound, "get tinker://s:train:0/weights/y", "no such checkpoint")
}

func TestArchiveURL(t *testing.T) {
	route := "GET " + urlOfX + "/archive"
	expires := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	redirect := func(status int, location string, header ...string) http.HandlerFunc {
		return answerRaw(status, "", "", append(header, "Location", location)...)
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		url    string
		expiry time.Time
		says   string
	}{
		{"302", redirect(302, "https://store/x.tar?sig=a%2Fb", "Expires", "Mon, 02 Nov 2026 00:00:00 GMT"), "https://store/x.tar?sig=a%2Fb", expires, ""},
		{"307", redirect(307, "http://store/x"), "http://store/x", time.Time{}, ""},
		{"302 to a path", redirect(302, "/blobs/x?sig=1", "Expires", "soon"), "/blobs/x?sig=1", time.Time{}, ""},
		{"200", answerJSON(200, map[string]any{"url": "https://store/x", "expires": expires}), "https://store/x", expires, ""},
		{"200, time of Python", answerRaw(200, "application/json", `{"url":"https://store/x","expires":"2026-11-02T00:00:00"}`), "https://store/x", expires, ""},
		{"200 without a time", answerJSON(200, map[string]any{"url": "https://store/x"}), "https://store/x", time.Time{}, ""},
		{"302 to nowhere", redirect(302, ""), "", time.Time{}, "no URL"},
		{"302 to a file", redirect(302, "file:///etc/passwd"), "", time.Time{}, "no URL"},
		{"200 without a URL", answerJSON(200, map[string]any{"expires": expires}), "", time.Time{}, "no URL"},
		{"200 that is not JSON", answerRaw(200, "text/html", "<html>"), "", time.Time{}, "cannot be read"},
		{"404", answerDetail(404, "not found"), "", time.Time{}, "not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.handle(route, test.answer)
			c := f.rest()
			got, err := c.ArchiveURL(t.Context(), trainingX)
			if test.says != "" {
				wantError(t, err, nil, test.says, "get archive URL of tinker://s:train:0/weights/x")
				return
			}
			want := test.url
			if strings.HasPrefix(want, "/") {
				want = f.URL + want
			}
			if err != nil || got.URL != want || !got.Expires.Equal(test.expiry) {
				t.Errorf("%+v, %v", got, err)
			}
			byID, err := c.ArchiveURLByID(t.Context(), "s:train:0", "weights/x")
			if err != nil || byID.URL != got.URL {
				t.Errorf("by id: %+v, %v", byID, err)
			}
			if seen := f.seen(route); len(seen) != 2 || seen[0].header.Get("Accept") != "application/json" || len(f.paths()) != 2 {
				t.Errorf("requests: %v", f.paths())
			}
		})
	}
}

func TestArchiveThatIsBeingBuilt(t *testing.T) {
	route := "GET " + urlOfX + "/archive"
	building := answerDetail(503, "creating archive")
	ready := answerJSON(200, map[string]any{"url": "https://store/x"})
	f := newFakeServer(t)
	f.sequence(route, building, answerRaw(503, "application/json", `{}`, "Retry-After", "3"), ready)
	if got, err := f.rest().ArchiveURL(t.Context(), trainingX); err != nil || got.URL != "https://store/x" {
		t.Errorf("%+v, %v", got, err)
	}
	if got := f.clock.slept(); !slices.Equal(got, []time.Duration{archiveWait, 3 * time.Second}) {
		t.Errorf("waits: %v", got)
	}

	f = newFakeServer(t)
	f.handle(route, building)
	_, err := f.rest().ArchiveURL(t.Context(), trainingX)
	if e := wantError(t, err, nil, "creating archive"); e.Status != 503 || e.Category != CategoryServer {
		t.Errorf("%+v", e)
	}
	if n := len(f.seen(route)); n != archiveTries || len(f.clock.slept()) != archiveTries-1 {
		t.Errorf("%d requests, waits: %v", n, f.clock.slept())
	}

	f = newFakeServer(t)
	f.handle(route, answerRaw(503, "application/json", `{"detail":"never"}`, "X-Should-Retry", "false"))
	_, err = f.rest().ArchiveURL(t.Context(), trainingX)
	wantError(t, err, nil, "never")
	if n := len(f.seen(route)); n != 1 {
		t.Errorf("%d requests", n)
	}

	f = newFakeServer(t)
	f.handle(route, building)
	ctx, cancel := context.WithCancel(t.Context())
	f.clock.onSleep = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}
	_, err = f.rest().ArchiveURL(ctx, trainingX)
	wantError(t, err, context.Canceled)
}

// checkpointList is a server's list that tests change while it is iterated
// over.
type checkpointList struct {
	mu       sync.Mutex
	names    []string
	maxLimit int
	noCursor bool
	requests int
	before   func(l *checkpointList, request int) // with l.mu held
}

func (l *checkpointList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if l.before != nil {
		l.before(l, l.requests)
	}
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	if l.maxLimit > 0 {
		limit = min(limit, l.maxLimit)
	}
	items := []any{}
	for i := offset; i < min(offset+limit, len(l.names)); i++ {
		items = append(items, map[string]any{"tinker_path": "tinker://r/weights/" + l.names[i], "time": "2026-01-02T03:04:05Z"})
	}
	answer := map[string]any{"checkpoints": items}
	if !l.noCursor {
		answer["cursor"] = Cursor{Offset: offset, Limit: limit, TotalCount: len(l.names)}
	}
	writeJSON(w, 200, answer)
}

func (l *checkpointList) remove(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = slices.DeleteFunc(l.names, func(s string) bool { return s == name })
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("c%03d", i)
	}
	return out
}

func TestIteratorsYieldEverythingOnce(t *testing.T) {
	for _, test := range []struct {
		name     string
		list     *checkpointList
		size     int
		body     func(l *checkpointList, name string)
		want     []string
		requests int
	}{
		{name: "nothing", list: &checkpointList{}, requests: 1},
		{name: "one page", list: &checkpointList{names: names(3)}, want: names(3), requests: 1},
		{name: "full pages", list: &checkpointList{names: names(200)}, want: names(200), requests: 2},
		{name: "a part of a page", list: &checkpointList{names: names(7)}, size: 3, want: names(7), requests: 3},
		{name: "server with smaller pages", list: &checkpointList{names: names(7), maxLimit: 2}, size: 5, want: names(7), requests: 4},
		{name: "no cursor", list: &checkpointList{names: names(7), noCursor: true}, size: 3, want: names(7), requests: 4},
		{name: "new ones at the top", list: &checkpointList{names: names(6), before: func(l *checkpointList, request int) {
			if request > 1 && request < 5 {
				l.names = append([]string{fmt.Sprintf("new%d", request)}, l.names...)
			}
		}}, size: 2, want: names(6)},
		{name: "earlier ones deleted", list: &checkpointList{names: names(9), before: func(l *checkpointList, request int) {
			if request == 2 {
				l.names = l.names[2:]
			}
		}}, size: 3, want: names(9)},
		{name: "all deleted by the loop", list: &checkpointList{names: names(25)}, size: 4, body: (*checkpointList).remove, want: names(25)},
		{name: "one in two deleted by the loop", list: &checkpointList{names: names(25)}, size: 4, body: func(l *checkpointList, name string) {
			if name[3]%2 == 0 {
				l.remove(name)
			}
		}, want: names(25)},
		{name: "the rest deleted", list: &checkpointList{names: names(9), before: func(l *checkpointList, request int) {
			if request == 2 {
				l.names = nil
			}
		}}, size: 3, want: names(3)},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.handle("GET /checkpoints", test.list.ServeHTTP)
			seq := f.rest().AllCheckpoints(t.Context(), PageOptions{PageSize: test.size})
			var got []string
			for k, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
				name := strings.TrimPrefix(k.TinkerPath, "tinker://r/weights/")
				got = append(got, name)
				if test.body != nil {
					test.body(test.list, name)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v", got)
			}
			if test.requests > 0 && test.list.requests != test.requests {
				t.Errorf("%d requests, want %d", test.list.requests, test.requests)
			}
		})
	}
}

func TestIteratorsStopWhenTold(t *testing.T) {
	f := newFakeServer(t)
	list := &checkpointList{names: names(300)}
	f.handle("GET /checkpoints", list.ServeHTTP)
	c := f.rest()
	n := 0
	for range c.AllCheckpoints(t.Context(), PageOptions{}) {
		if n++; n == 5 {
			break
		}
	}
	if list.requests != 1 {
		t.Errorf("%d requests", list.requests)
	}
	for _, err := range c.AllCheckpoints(t.Context(), PageOptions{PageSize: -1}) {
		wantError(t, err, ErrInvalid, "page size")
	}
	f.sequence("GET /checkpoints", list.ServeHTTP, answerDetail(403, "no longer"))
	n = 0
	for k, err := range c.AllCheckpoints(t.Context(), PageOptions{}) {
		if n++; n <= 100 {
			continue
		}
		wantError(t, err, ErrForbidden, "no longer")
		if k.TinkerPath != "" {
			t.Error("an item comes with the error")
		}
	}
	if n != 101 {
		t.Errorf("%d rounds", n)
	}
}

func TestIteratorsOfRunsAndSessions(t *testing.T) {
	f := newFakeServer(t)
	page := func(r *http.Request, total int) []string {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		return names(total)[min(offset, total):min(offset+limit, total)]
	}
	withCursor := true
	f.handle("GET /training_runs", func(w http.ResponseWriter, r *http.Request) {
		runs := []any{}
		for _, id := range page(r, 5) {
			runs = append(runs, map[string]any{"training_run_id": id, "last_request_time": "2026-01-02T03:04:05Z"})
		}
		answer := map[string]any{"training_runs": runs}
		if withCursor {
			answer["cursor"] = Cursor{TotalCount: 5}
		}
		writeJSON(w, 200, answer)
	})
	f.handle("GET /sessions", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 200, map[string]any{"sessions": append([]string{}, page(r, 5)...)})
	})
	c := f.rest()
	for _, withCursor = range []bool{true, false} {
		var got []string
		for run, err := range c.AllTrainingRuns(t.Context(), PageOptions{PageSize: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, run.TrainingRunID)
		}
		if !slices.Equal(got, names(5)) {
			t.Errorf("runs: %v", got)
		}
	}
	var got []string
	for id, err := range c.AllSessions(t.Context(), PageOptions{PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if !slices.Equal(got, names(5)) {
		t.Errorf("sessions: %v", got)
	}
	// A server that does not page at all.
	f.answer("GET /sessions", 200, map[string]any{"sessions": names(5)})
	n := 0
	for range c.AllSessions(t.Context(), PageOptions{PageSize: 2}) {
		n++
	}
	if n != 5 {
		t.Errorf("%d sessions", n)
	}
	for _, err := range c.AllTrainingRuns(t.Context(), PageOptions{PageSize: -3}) {
		wantError(t, err, ErrInvalid)
	}
	f.answer("GET /sessions", 404, map[string]string{"detail": "none"})
	for _, err := range c.AllSessions(t.Context(), PageOptions{}) {
		wantError(t, err, ErrNotFound)
	}
	f.answer("GET /training_runs", 404, map[string]string{"detail": "none"})
	for _, err := range c.AllTrainingRuns(t.Context(), PageOptions{}) {
		wantError(t, err, ErrNotFound)
	}
}

func TestTimes(t *testing.T) {
	want := time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC)
	for s, ok := range map[string]bool{
		`"2026-01-02T03:04:05.6Z"`:           true,
		`"2026-01-02T04:04:05.600+01:00"`:    true,
		`"2026-01-02T03:04:05.600000"`:       true,
		`"2026-01-02 03:04:05.6"`:            true,
		`"2026-01-02 03:04:05.600000+00:00"`: true,
		`"yesterday"`:                        false,
		`""`:                                 false,
		`17`:                                 false,
		`{}`:                                 false,
	} {
		var got jsonTime
		err := got.UnmarshalJSON([]byte(s))
		if ok != (err == nil) || ok && !got.Equal(want) {
			t.Errorf("%s is %v, %v", s, got, err)
		}
	}
	var got jsonTime
	if err := got.UnmarshalJSON([]byte("null")); err != nil || !got.IsZero() {
		t.Errorf("null is %v, %v", got, err)
	}
	if err := new(Checkpoint).UnmarshalJSON([]byte(`{"time":7}`)); err == nil {
		t.Error("a checkpoint of time 7")
	}
	if err := new(TrainingRun).UnmarshalJSON([]byte(`{"last_request_time":"x"}`)); err == nil {
		t.Error("a run of time x")
	}
}
