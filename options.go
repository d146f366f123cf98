package tinkex

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// DefaultBaseURL is the hosted service (tinker 0.38.0, lib/base_url.py).
const DefaultBaseURL = "https://tinker.thinkingmachines.dev/services/tinker-prod"

// Defaults of Options.
const (
	DefaultTimeout    = 60 * time.Second
	DefaultMaxRetries = 10
)

// Options configures a client. The zero value takes everything from the
// environment. Formatting or logging Options never shows the key.
type Options struct {
	// APIKey is a key ("tml-...") or a JWT ("eyJ..."). Empty: TINKER_API_KEY.
	APIKey string `json:"-"`
	// BaseURL is the server, without "/api/v1". Empty: TINKER_BASE_URL, and if
	// that is not set either, DefaultBaseURL.
	BaseURL string
	// ProjectID is the project that sessions are created in. Empty:
	// TINKER_PROJECT_ID, or none.
	ProjectID string
	// Tags label sessions. Nil: TINKER_TAGS, separated by commas.
	Tags []string
	// DisplayName is what people see a session called. It need not be unique.
	DisplayName string
	// UserMetadata is kept with the session.
	UserMetadata map[string]string

	// Timeout bounds each attempt of a request, retries not included; bound
	// the whole with a context. Zero: DefaultTimeout; negative: none. Waiting
	// for a Future is not a request and has no bound of its own.
	Timeout time.Duration
	// MaxRetries is how often a request is repeated after a transient failure.
	// Zero: DefaultMaxRetries; negative: never.
	MaxRetries int

	// HTTPClient sends the requests. Its Timeout is not used, and its
	// CheckRedirect is asked only about redirects that keep the method. Nil:
	// one of the client's own, closed with it.
	HTTPClient *http.Client
	// TracerProvider receives a span for every HTTP request, as a part of the
	// span in the context that it was made in, and has the server told of it by
	// the traceparent header. Spans never hold a key, a query or what is
	// trained or sampled. Nil: nothing is traced, and nothing is spent on it; an
	// HTTPClient that traces by itself still may.
	TracerProvider trace.TracerProvider
	// Logger hears of pauses, retries and messages of the server. Nil:
	// slog.Default().
	Logger *slog.Logger
}

// String formats the options without the key.
func (o Options) String() string {
	key := "unset"
	if o.APIKey != "" {
		key = "set"
	}
	return fmt.Sprintf("tinkex.Options{APIKey: (%s), BaseURL: %s, ProjectID: %q, Tags: %q, DisplayName: %q, UserMetadata: %v, Timeout: %v, MaxRetries: %d}",
		key, redactURL(o.BaseURL), o.ProjectID, o.Tags, o.DisplayName, o.UserMetadata, o.Timeout, o.MaxRetries)
}

// GoString is String.
func (o Options) GoString() string { return o.String() }

// LogValue implements slog.LogValuer, without the key.
func (o Options) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Bool("api_key_set", o.APIKey != ""),
		slog.String("base_url", redactURL(o.BaseURL)),
		slog.String("project_id", o.ProjectID),
		slog.Any("tags", o.Tags),
		slog.String("display_name", o.DisplayName),
		slog.Any("user_metadata", o.UserMetadata),
		slog.Duration("timeout", o.Timeout),
		slog.Int("max_retries", o.MaxRetries),
	)
}

// redactURL hides what may be a password.
func redactURL(s string) string {
	if before, host, ok := strings.Cut(s, "@"); ok {
		scheme, _, _ := strings.Cut(before, "://")
		return fmt.Sprintf("%q", scheme+"://...@"+host)
	}
	return fmt.Sprintf("%q", s)
}

// withEnvironment fills what was left out.
func (o Options) withEnvironment() Options {
	fallback := func(v *string, names string) {
		if *v == "" {
			*v = os.Getenv(names)
		}
	}
	fallback(&o.APIKey, "TINKER_API_KEY")
	fallback(&o.BaseURL, "TINKER_BASE_URL")
	fallback(&o.ProjectID, "TINKER_PROJECT_ID")
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	if o.Tags == nil {
		for tag := range strings.SplitSeq(os.Getenv("TINKER_TAGS"), ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				o.Tags = append(o.Tags, tag)
			}
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// checkAPIKey says what is wrong with a key, never what the key is.
func checkAPIKey(key string) error {
	malformed := func(what string) error {
		return &Error{Op: "configure client", Category: CategoryUser, Err: ErrMalformedAPIKey,
			Message: "malformed API key: " + what + "; copy the whole key again, it starts with tml-"}
	}
	if key == "" {
		return &Error{Op: "configure client", Category: CategoryUser, Err: ErrMissingAPIKey,
			Message: "missing API key: set TINKER_API_KEY or Options.APIKey"}
	}
	for _, r := range key {
		switch {
		case r == ' ':
			return malformed("it contains a space")
		case r < ' ' || r == 0x7f:
			return malformed("it contains a line break or another control character")
		case r > 0x7f:
			return malformed("it contains a character that is not ASCII")
		}
	}
	for _, prefix := range []string{"tml-", "eyJ"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			if rest == "" {
				return malformed("there is nothing after " + prefix)
			}
			return nil
		}
	}
	return malformed("it starts neither with tml- nor, as a JWT, with eyJ")
}

// parseBaseURL accepts an absolute http or https URL.
func parseBaseURL(s string) (*url.URL, error) {
	malformed := func(what string) error {
		return &Error{Op: "configure client", Category: CategoryUser, Err: ErrMalformedBaseURL,
			Message: fmt.Sprintf("malformed base URL %s: %s; it should look like http://127.0.0.1:8484", redactURL(s), what)}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, malformed("it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, malformed("it does not start with http:// or https://")
	case u.Hostname() == "":
		return nil, malformed("it names no host")
	case u.User != nil:
		return nil, malformed("it contains a user name or password, which would end up in logs")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, malformed("it contains a query or fragment")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	return u, nil
}
