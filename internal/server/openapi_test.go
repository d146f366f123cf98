package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/wire"
)

// routes is every call that the server answers: the protocol's without their
// prefix, and this project's.
// What the published package calls and is not here: auth/apikey/me (DELETE),
// audit, billing and create_custom_loss, and, only if a flag of client/config
// asks for it, retrieve_futures and join_sampling_session.
var routes = []string{
	"POST /tinkex/v1/blobs/missing",
	"PUT /tinkex/v1/blobs/{sha256}",
	"POST /tinkex/v1/imports",
	"POST /tinkex/v1/restores",
	"POST /tinkex/v1/copies",
	"GET /tinkex/v1/checkpoints",
	"GET /tinkex/v1/usage",
	"GET /tinkex/v1/retention",
	"PUT /tinkex/v1/retention",
	"DELETE /tinkex/v1/retention",
	"POST /tinkex/v1/retention/preview",
	"GET /tinkex/v1/training_runs/{run}/checkpoints/{kind}/{name}/manifest",
	"GET /auth/apikey/me",
	"POST /auth/token",
	"POST /asample",
	"POST /cancel_future",
	"GET /checkpoints",
	"POST /client/config",
	"POST /client/dynamic_config",
	"POST /copy_weights",
	"POST /create_model",
	"POST /create_sampling_session",
	"POST /create_session",
	"POST /forward_backward",
	"POST /get_info",
	"GET /get_server_capabilities",
	"GET /healthz",
	"POST /load_weights",
	"POST /optim_step",
	"POST /retrieve_future",
	"GET /samplers/{sampler}",
	"POST /save_weights",
	"POST /save_weights_external",
	"POST /save_weights_for_sampler",
	"POST /session_heartbeat",
	"GET /sessions",
	"POST /sessions/search",
	"GET /sessions/{session}",
	"POST /sessions/{session}/finish",
	"PUT /sessions/{session}/project",
	"GET /sessions/{session}/trace_export",
	"POST /telemetry",
	"GET /training_runs",
	"GET /training_runs/{run}",
	"GET /training_runs/{run}/checkpoints",
	"DELETE /training_runs/{run}/checkpoints/{kind}/{name}",
	"GET /training_runs/{run}/checkpoints/{kind}/{name}/archive",
	"GET /training_runs/{run}/checkpoints/{kind}/{name}/external_weights_urls",
	"POST /training_runs/{run}/checkpoints/{kind}/{name}/publish",
	"DELETE /training_runs/{run}/checkpoints/{kind}/{name}/publish",
	"PUT /training_runs/{run}/checkpoints/{kind}/{name}/ttl",
	"POST /unload_model",
	"POST /weights_info",
}

// rootRoutes are those outside of the prefixes.
var rootRoutes = []string{"/healthz", "/readyz"}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.send(http.MethodGet, "/openapi.json", nil).want(http.StatusOK)
	var spec map[string]any
	if err := json.Unmarshal(a.body, &spec); err != nil {
		t.Fatal(err)
	}
	if v, _ := spec["openapi"].(string); !strings.HasPrefix(v, "3.1.") {
		t.Errorf("openapi is %q", v)
	}
	for _, field := range []string{"title", "version"} {
		if s, _ := spec["info"].(map[string]any)[field].(string); s == "" {
			t.Errorf("info.%s is missing", field)
		}
	}

	var listed []string
	ids := map[string]string{}
	roots := 0
	for path, item := range spec["paths"].(map[string]any) {
		if slices.Contains(rootRoutes, path) {
			if op := item.(map[string]any)["get"].(map[string]any); op["security"] == nil || len(op["security"].([]any)) != 0 {
				t.Errorf("%s does not say that it needs no key", path)
			} else {
				checkOperation(t, "GET "+path, path, op)
				roots++
			}
			continue
		}
		rest, ok := strings.CutPrefix(path, wire.APIPrefix)
		if !ok && !strings.HasPrefix(path, wire.ExtensionPrefix+"/") {
			t.Errorf("%s is under neither prefix", path)
		}
		for method, v := range item.(map[string]any) {
			route := strings.ToUpper(method) + " " + rest
			listed = append(listed, route)
			op := v.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] != "" {
				t.Errorf("%s has the id %q, as has %q", route, id, ids[id])
			}
			ids[id] = route
			checkOperation(t, route, path, op)
		}
	}
	if roots != len(rootRoutes) {
		t.Errorf("%d of %v are listed", roots, rootRoutes)
	}
	slices.Sort(listed)
	want := slices.Sorted(slices.Values(routes))
	if !slices.Equal(listed, want) {
		t.Errorf("routes are\n%s\nwant\n%s", strings.Join(listed, "\n"), strings.Join(want, "\n"))
	}
	checkRefs(t, spec, spec, "#")
}

// checkOperation checks what OpenAPI 3.1 asks of an operation.
func checkOperation(t *testing.T, route, path string, op map[string]any) {
	t.Helper()
	responses, _ := op["responses"].(map[string]any)
	success := false
	for code, r := range responses {
		success = success || code[0] == '2' || code[0] == '3'
		if d, ok := r.(map[string]any)["description"].(string); !ok || d == "" {
			t.Errorf("%s: response %s is not described", route, code)
		}
	}
	if !success {
		t.Errorf("%s: no response is a success: %v", route, responses)
	}
	declared := map[string]bool{}
	params, _ := op["parameters"].([]any)
	for _, p := range params {
		p := p.(map[string]any)
		name, _ := p["name"].(string)
		in, _ := p["in"].(string)
		if name == "" || !slices.Contains([]string{"path", "query", "header", "cookie"}, in) || p["schema"] == nil {
			t.Errorf("%s: parameter %v", route, p)
		}
		if in == "path" {
			declared[name] = true
			if p["required"] != true {
				t.Errorf("%s: path parameter %s is not required", route, name)
			}
		}
	}
	for _, segment := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok && !declared[strings.TrimSuffix(name, "}")] {
			t.Errorf("%s: %s is not declared", route, segment)
		}
	}
	if body, ok := op["requestBody"].(map[string]any); ok {
		if content, _ := body["content"].(map[string]any); len(content) == 0 {
			t.Errorf("%s: a body without content", route)
		}
	}
}

// checkRefs checks that every reference leads somewhere.
func checkRefs(t *testing.T, spec, v any, where string) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			target := spec
			pointer, local := strings.CutPrefix(ref, "#/")
			for _, step := range strings.Split(pointer, "/") {
				m, _ := target.(map[string]any)
				target = m[step]
			}
			if !local || target == nil {
				t.Errorf("%s refers to %s, which is not there", where, ref)
			}
		}
		for k, x := range v {
			checkRefs(t, spec, x, where+"/"+k)
		}
	case []any:
		for i, x := range v {
			checkRefs(t, spec, x, fmt.Sprintf("%s/%d", where, i))
		}
	}
}

// Every route that is listed is answered by what it is listed as.
func TestRoutesAreAnswered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	fill := strings.NewReplacer("{sampler}", "s", "{session}", "s", "{run}", "r", "{kind}", "weights", "{name}", "n", "{sha256}", "d")
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		path = fill.Replace(path)
		if !strings.HasPrefix(path, wire.ExtensionPrefix) {
			path = wire.APIPrefix + path
		}
		a := f.send(method, path, strings.NewReader(`{}`),
			wire.HeaderAPIKey, alice, "Content-Type", wire.ContentTypeJSON)
		if strings.Contains(string(a.body), "no such endpoint") || a.status >= 500 {
			t.Errorf("%s: %d %s", route, a.status, a.body)
		}
		if path != wire.APIPrefix+"/healthz" {
			f.send(method, path, nil).want(http.StatusUnauthorized).detail()
		}
	}
}
