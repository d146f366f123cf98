package tinkex

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func clearEnvironment(t *testing.T) {
	for _, name := range []string{"TINKER_API_KEY", "TINKER_BASE_URL", "TINKER_PROJECT_ID", "TINKER_TAGS"} {
		t.Setenv(name, "")
	}
}

func TestAPIKeyIsChecked(t *testing.T) {
	clearEnvironment(t)
	for _, test := range []struct {
		name, key string
		want      error
		says      string
	}{
		{"key", "tml-abc", nil, ""},
		{"jwt", "eyJhbGciOi.e30.x", nil, ""},
		{"missing", "", ErrMissingAPIKey, "set TINKER_API_KEY"},
		{"other prefix", "sk-verysecret", ErrMalformedAPIKey, "starts neither with tml-"},
		{"only the prefix", "tml-", ErrMalformedAPIKey, "nothing after tml-"},
		{"trailing newline", "tml-verysecret\n", ErrMalformedAPIKey, "line break"},
		{"leading space", " tml-verysecret", ErrMalformedAPIKey, "space"},
		{"control character", "tml-very\x00secret", ErrMalformedAPIKey, "control character"},
		{"delete character", "tml-very\x7fsecret", ErrMalformedAPIKey, "control character"},
		{"not ASCII", "tml-verysecret\u00e9", ErrMalformedAPIKey, "ASCII"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for what, make := range map[string]func() error{
				"service": func() error { _, err := NewServiceClient(Options{APIKey: test.key}); return err },
				"rest":    func() error { _, err := NewRestClient(Options{APIKey: test.key}); return err },
			} {
				err := make()
				if test.want == nil {
					if err != nil {
						t.Errorf("%s: %v", what, err)
					}
					continue
				}
				e := wantError(t, err, test.want, test.says)
				if e.Category != CategoryUser || e.Status != 0 {
					t.Errorf("%s: category %q, status %d", what, e.Category, e.Status)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: the error shows the key: %v", what, err)
				}
			}
		})
	}
}

func TestBaseURLIsChecked(t *testing.T) {
	clearEnvironment(t)
	for _, test := range []struct{ url, says string }{
		{"http://127.0.0.1:8484", ""},
		{"https://host/a/b/", ""},
		{"http://[::1]:80/", ""},
		{"localhost:8484", "does not start with http"},
		{"127.0.0.1:8484", "not a URL"},
		{"ftp://host", "does not start with http"},
		{"http://", "names no host"},
		{"http://:80", "names no host"},
		{"http://user:hunter2@host", "user name or password"},
		{"http://us er:hunter2@host", "not a URL"},
		{"http://host/?a=b", "query"},
		{"http://host/#x", "fragment"},
		{"http://host:port", "not a URL"},
		{"\x00", "not a URL"},
	} {
		_, err := NewServiceClient(Options{APIKey: testKey, BaseURL: test.url})
		if test.says == "" {
			if err != nil {
				t.Errorf("%q: %v", test.url, err)
			}
			continue
		}
		e := wantError(t, err, ErrMalformedBaseURL, test.says)
		if e.Category != CategoryUser || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: category %q: %v", test.url, e.Category, err)
		}
	}
}

func TestOptionsFallBackToTheEnvironment(t *testing.T) {
	clearEnvironment(t)
	o := Options{}.withEnvironment()
	if o.BaseURL != DefaultBaseURL || o.APIKey != "" || o.Tags != nil || o.Logger == nil {
		t.Errorf("without an environment: %v", o)
	}

	t.Setenv("TINKER_API_KEY", "tml-env")
	t.Setenv("TINKER_BASE_URL", "http://env")
	t.Setenv("TINKER_PROJECT_ID", "project")
	t.Setenv("TINKER_TAGS", "a, b,,c")
	o = Options{}.withEnvironment()
	if o.APIKey != "tml-env" || o.BaseURL != "http://env" || o.ProjectID != "project" || !slices.Equal(o.Tags, []string{"a", "b", "c"}) {
		t.Errorf("from the environment: %v", o)
	}
	o = Options{APIKey: "tml-own", BaseURL: "http://own", ProjectID: "own", Tags: []string{}}.withEnvironment()
	if o.APIKey != "tml-own" || o.BaseURL != "http://own" || o.ProjectID != "own" || len(o.Tags) != 0 {
		t.Errorf("own values: %v", o)
	}
}

func TestBaseURLPathIsKept(t *testing.T) {
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.Path
		writeJSON(w, 200, map[string]any{})
	}))
	defer server.Close()
	c, err := NewRestClient(Options{APIKey: testKey, BaseURL: server.URL + "/services/x/"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "/services/x/api/v1/get_server_capabilities"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

// The key, and the token it is exchanged for, appear in nothing that is
// printed, logged or returned.
func TestCredentialsAreNeverShown(t *testing.T) {
	f := newFakeTinker(t)
	token := "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTksImlhdCI6MX0.tokensecret"
	f.answer("POST /client/config", 200, map[string]any{"pjwt_auth_enabled": true})
	f.answer("POST /auth/token", 200, map[string]any{"jwt": token})
	f.answer("GET /training_runs/x", 400, map[string]string{"detail": "bad: key " + testKey + " and token " + token})
	f.handle("GET /sessions", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, "not a list: "+token+testKey) })

	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	service := f.service(func(o *Options) { o.Logger = logger })
	training, err := service.CreateLoRATrainingClient(t.Context(), "m", LoRAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sampling, err := service.CreateSamplingClient(t.Context(), SamplerOptions{BaseModel: "m"})
	if err != nil {
		t.Fatal(err)
	}
	rest := service.RestClient()
	future := training.OptimStep(t.Context(), AdamParams{})
	await(t, future)
	_, runErr := rest.GetTrainingRun(t.Context(), "x")
	_, listErr := rest.ListSessions(t.Context(), ListOptions{})
	wantError(t, runErr, ErrInvalid, "bad: key")
	wantError(t, listErr, nil, "cannot be read")

	options := f.options()
	things := []any{
		options, &options, service, *rest, rest, training, sampling, service.t, service.t.cred, future,
		runErr, listErr, map[string]Options{"o": options}, []*ServiceClient{service},
		struct{ Client *RestClient }{rest}, struct{ client *RestClient }{rest},
	}
	for _, thing := range things {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			text := fmt.Sprintf(format, thing)
			if strings.Contains(text, testKey) || strings.Contains(text, token) {
				t.Errorf("%s of %T shows a credential: %s", format, thing, text)
			}
		}
		logger.Info("thing", "thing", thing)
		slog.New(slog.NewTextHandler(&log, nil)).Info("thing", "thing", thing)
	}
	for err := runErr; err != nil; err = errors.Unwrap(err) {
		if text := fmt.Sprintf("%+v", err); strings.Contains(text, testKey) || strings.Contains(text, token) {
			t.Errorf("the error shows a credential: %s", text)
		}
	}
	if text := log.String(); strings.Contains(text, testKey) || strings.Contains(text, token) {
		t.Errorf("the log shows a credential")
	}
	if strings.Contains(f.logs.String(), testKey) {
		t.Error("the log shows the key")
	}
	if !strings.Contains(options.String(), "APIKey: (set)") {
		t.Errorf("options say %s", options)
	}
}
