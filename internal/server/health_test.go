package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

func TestRequestID(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, test := range []struct {
		given string
		taken bool
	}{
		{"7f3c-42_a.b", true},
		{strings.Repeat("a", maxRequestID), true},
		{"", false},
		{strings.Repeat("a", maxRequestID+1), false},
		{"two words", false},
		{"x;y", false},
		{`"quoted"`, false},
		{"é", false},
		{"tml-key", false},
		{"eyJhbGciOiJIUzI1NiJ9.e30.x", false},
	} {
		for _, path := range []string{wire.APIPrefix + "/checkpoints", "/nothing"} {
			got := f.send(http.MethodGet, path, nil, wire.HeaderAPIKey, alice, wire.HeaderRequestID, test.given).header.Get(wire.HeaderRequestID)
			if (got == test.given) != test.taken || got == "" {
				t.Errorf("%s: the id %q of a request becomes %q", path, test.given, got)
			}
			if !strings.Contains(f.log.String(), "request_id="+got) {
				t.Errorf("%s: the log does not have %q", path, got)
			}
		}
	}
}

// One line a request, with the route, without the query and the owner's name.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, test := range []struct {
		path string
		key  string
		says string // "" is no line at this level
	}{
		{"/api/v1/training_runs/r%2Fx/checkpoints?limit=3&token=abc", alice,
			`level=INFO msg=request request_id=ID method=GET route=/api/v1/training_runs/{run}/checkpoints path=/api/v1/training_runs/r/x/checkpoints status=404 `},
		{"/api/v1/sessions?x=y", "", `level=INFO msg=request request_id=ID method=GET route=/api/v1/sessions path=/api/v1/sessions status=401 `},
		{"/tinkex/v1/archives/r/weights/n/d?expires=1&signature=abc", "",
			`level=INFO msg=request request_id=ID method=GET route=/tinkex/v1/archives/{run}/{kind}/{name}/{digest} path=/tinkex/v1/archives/r/weights/n/d status=403 `},
		{"/nothing", "", `level=INFO msg=request request_id=ID method=GET route="" path=/nothing status=404 `},
		{"/healthz", "", ""},
		{"/readyz", "", ""},
		{"/api/v1/healthz", "", ""},
	} {
		a := f.send(http.MethodGet, test.path, nil, wire.HeaderAPIKey, test.key)
		id := a.header.Get(wire.HeaderRequestID)
		var lines []string
		for line := range strings.Lines(f.log.String()) {
			if strings.Contains(line, "request_id="+id) {
				lines = append(lines, line)
			}
		}
		if test.says == "" {
			if len(lines) != 0 {
				t.Errorf("%s: %s", test.path, lines)
			}
			continue
		}
		if len(lines) != 1 || !strings.Contains(lines[0], strings.ReplaceAll(test.says, "=ID ", "="+id+" ")) {
			t.Errorf("%s: %q does not say %q", test.path, lines, test.says)
			continue
		}
		for _, part := range []string{" duration_ms=", " bytes="} {
			if !strings.Contains(lines[0], part) {
				t.Errorf("%s: no%sin %s", test.path, part, lines[0])
			}
		}
		if (test.key != "") != strings.Contains(lines[0], " owner="+registry.OwnerInLog(ownerURN+HashKey(alice)[:16])) {
			t.Errorf("%s: whose it was: %s", test.path, lines[0])
		}
	}
	for _, secret := range []string{"abc", alice, HashKey(alice)[:16], "limit"} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log has %q in it", secret)
		}
	}
}

func TestRoute(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for target, want := range map[string]string{
		"GET /api/v1/training_runs/r:train:0":    "/api/v1/training_runs/{run}",
		"POST /api/v1/forward_backward":          "/api/v1/forward_backward",
		"GET /tinkex/v1/files/r/weights/n/d/f":   "/tinkex/v1/files/{run}/{kind}/{name}/{digest}/{file}",
		"GET /readyz":                            "/readyz",
		"PATCH /api/v1/forward_backward":         "",
		"GET /wp-login.php":                      "",
		"GET /":                                  "",
		"GET /api/v1/training_runs/a/b/c/d/e/f/": "",
	} {
		method, path, _ := strings.Cut(target, " ")
		if got := f.Route(httptest.NewRequest(method, path, nil)); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ask := func(status int, words ...string) (r health.Report) {
		t.Helper()
		a := f.send(http.MethodGet, "/readyz", nil).want(status, words...)
		if err := json.Unmarshal(a.body, &r); err != nil || a.header.Get("Content-Type") != wire.ContentTypeJSON {
			t.Errorf("%v: %s", err, a.body)
		}
		if (a.header.Get("Retry-After") != "") != (status != http.StatusOK) {
			t.Errorf("Retry-After of %d is %q", status, a.header.Get("Retry-After"))
		}
		return r
	}
	if r := ask(http.StatusOK); r.Status != health.Ready || !r.Checks["stores"].Passes() || !r.Checks["not_draining"].Passes() {
		t.Errorf("%+v", r)
	}
	f.send(http.MethodGet, "/healthz", nil).want(http.StatusOK, `{"status":"ok"}`)
	f.Drain()
	if r := ask(http.StatusServiceUnavailable, "the server is stopping"); r.Status != health.NotReady || !r.Checks["stores"].Passes() {
		t.Errorf("%+v", r)
	}
	f.send(http.MethodGet, "/healthz", nil).want(http.StatusOK)
	f.send(http.MethodGet, wire.APIPrefix+"/healthz", nil).want(http.StatusOK)
}
