package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/wire"
)

func TestErrorsNameTheField(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	for body, tc := range map[string]struct {
		path   string
		status int
		says   string
	}{
		`{`:                             {"/create_session", 400, ""},
		`"a string"`:                    {"/create_session", 422, "expected object"},
		`{"tags":"one"}`:                {"/create_session", 422, "tags: expected array"},
		`{"tags":[1]}`:                  {"/create_session", 422, "tags[0]: expected string"},
		`{"path":"x"}`:                  {"/save_weights", 422, "model_id"},
		`{"model_id":[]}`:               {"/get_info", 422, "model_id: expected string"},
		`{"model_id":"m","seq_id":1.5}`: {"/optim_step", 422, "seq_id: expected integer"},
		`{"model_id":"m","adam_params":{"beta1":"high"}}`:                                      {"/optim_step", 422, "adam_params.beta1: expected number"},
		`{"base_model":"tinkex/tiny","prompt":{"chunks":[{}]},"sampling_params":{}}`:           {"/asample", 422, "prompt.chunks[0]: expected required property type"},
		`{"base_model":"tinkex/tiny","prompt":{"chunks":[]},"sampling_params":{"stop":[1.5]}}`: {"/asample", 422, "stop: expected a string"},
		`{"limit":0}`:                                             {"/sessions/search", 422, "limit"},
		`{"limit":201}`:                                           {"/sessions/search", 422, "limit"},
		`{"statuses":[{"type":"asleep"}]}`:                        {"/sessions/search", 422, "statuses[0].type"},
		`{"statuses":[]}`:                                         {"/sessions/search", 422, "statuses"},
		`{"owner":{"type":"user"}}`:                               {"/sessions/search", 400, "owner.owner_urns"},
		`{"cursor":{"last_created_at":"yesterday"}}`:              {"/sessions/search", 422, "cursor"},
		`{"source_path":"tinker://a/weights/b"}`:                  {"/copy_weights", 400, "destination_project_id"},
		`{"source_path":"x","destination_project_id":"p"}`:        {"/copy_weights", 400, "source_path"},
		`{"source_path":"tinker://a/weights/b","session_id":"s"}`: {"/copy_weights", 400, "model_seq_id"},
		`{"source_path":"tinker://a/weights/b","session_id":"s","model_seq_id":0,"destination_project_id":"p"}`: {"/copy_weights", 400, "either"},
		`{"source_path":"tinker://a/weights/b","destination_project_id":"p","ttl_seconds":0}`:                   {"/copy_weights", 400, "ttl_seconds"},
		`{"source_path":"tinker://a/weights/b","session_id":"s","model_seq_id":-1}`:                             {"/copy_weights", 422, "model_seq_id"},
		`{"reason":{"type":"bored"}}`: {"/sessions/" + f.session + "/finish", 422, "reason.type"},
	} {
		a := f.post(tc.path, body)
		a.what = body
		a.want(tc.status)
		if d := a.detail(); !strings.Contains(d, tc.says) {
			t.Errorf("%s: %q does not say %q", body, d, tc.says)
		}
	}
	// Two faults are both told.
	if d := f.post("/create_model", `{"session_id":1,"model_seq_id":"x","base_model":"tinkex/tiny"}`).want(http.StatusUnprocessableEntity).detail(); !strings.Contains(d, "session_id: ") || !strings.Contains(d, "model_seq_id: ") {
		t.Errorf("the detail is %q", d)
	}
	f.send(http.MethodGet, "/nowhere", nil).want(http.StatusNotFound, "no such endpoint: GET /nowhere").detail()
	f.send(http.MethodDelete, wire.APIPrefix+"/create_session", nil, wire.HeaderAPIKey, alice).want(http.StatusNotFound).detail()
}

// A conflict is final; the official SDK retries 409 for minutes, so it alone
// gets another status.
func TestFinalConflicts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	f.save("a", 1, "")
	publish := "/training_runs/" + f.model + "/checkpoints/weights/a/publish"
	f.post(publish, "").want(http.StatusNoContent)
	for name, tc := range map[string]struct {
		header []string
		status int
	}{
		"anybody":          {nil, http.StatusConflict},
		"the official SDK": {[]string{wire.HeaderOfficialSDK, "0.38.0"}, http.StatusBadRequest},
	} {
		a := f.post(publish, "", tc.header...)
		a.what = name
		a.want(tc.status, "already public").detail()
		if got := a.header.Get(wire.HeaderShouldRetry); got != "false" {
			t.Errorf("%s: %s is %q", name, wire.HeaderShouldRetry, got)
		}
	}
	// One that shows only later is a failed future, and a user's.
	f.save("a", 2, "").want(http.StatusOK, `"category":"user"`, `"status_code":409`, "already exists")
}

// What went wrong inside is for the log, not for the client.
func TestInternalErrorsAreNotTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.train()
	if err := f.meta.Close(); err != nil {
		t.Fatal(err)
	}
	a := f.get("/checkpoints").want(http.StatusInternalServerError)
	id := a.header.Get(wire.HeaderRequestID)
	if d := a.detail(); !strings.Contains(d, id) || strings.Contains(d, "sql") || strings.Contains(d, "database") {
		t.Errorf("the client is told %q", d)
	}
	if log := f.log.String(); !strings.Contains(log, "request_id="+id) || !strings.Contains(log, "closed") {
		t.Errorf("the log does not explain request %s:\n%s", id, log)
	}
	f.get("/healthz").want(http.StatusServiceUnavailable).detail()
}

// A store that is down is named, and where it is, is not.
func TestOutageIsNotInternal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cause := errors.New("dial tcp 10.1.2.3:5432: connection refused")
	_, detail := f.describe(t.Context(), fmt.Errorf("x: %w", &outage.Error{Store: "metadata database", Reason: "cannot be reached", Err: cause}))
	if want := "the server's metadata database cannot be reached; try again"; detail != want {
		t.Errorf("the client is told %q, want %q", detail, want)
	}
	if log := f.log.String(); !strings.Contains(log, "10.1.2.3") {
		t.Errorf("the log does not say where:\n%s", log)
	}
}

func TestStatusOf(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tc := range []struct {
		err    error
		status int
	}{
		{engine.Invalid("data", "empty"), http.StatusBadRequest},
		{fmt.Errorf("load: %w", engine.ErrNoOptimizer), http.StatusBadRequest},
		{fmt.Errorf("x: %w", metastore.ErrNotFound), http.StatusNotFound},
		{fmt.Errorf("x: %w", metastore.ErrExists), http.StatusConflict},
		{context.Canceled, http.StatusServiceUnavailable},
		{errors.New("disk on fire"), http.StatusInternalServerError},
		{fmt.Errorf("x: %w", &outage.Error{Store: "blob store", Reason: "answers 503", Err: errors.New("s3.internal")}), http.StatusServiceUnavailable},
		{failure(http.StatusTeapot, "teapot"), http.StatusTeapot},
	} {
		var e *apiError
		if err := f.fail(t.Context(), tc.err); !errors.As(err, &e) || e.status != tc.status {
			t.Errorf("%v became %v, want %d", tc.err, err, tc.status)
		}
		if again := e.status == http.StatusServiceUnavailable; again != (e.header.Get("Retry-After") != "") {
			t.Errorf("%v: Retry-After is %q", tc.err, e.header.Get("Retry-After"))
		}
	}
	if err := f.fail(t.Context(), nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}
