package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/tinkex/tinkex/internal/telemetry"
)

// corpus is what ends up in errors and messages. Each has s3cr3t in it where
// it must not be seen, and "kept" where it must.
var corpus = []string{
	"kept: key tml-s3cr3t was refused",
	`kept: X-Api-Key: tml-s3cr3t_and-more`,
	`kept: {"X-Api-Key":["tml-s3cr3t"]}`,
	"kept: Authorization: Bearer s3cr3t.and-more",
	`kept: map[Authorization:[Bearer s3cr3t] Accept:[*/*]]`,
	"kept: eyJs3cr3t0.eyJzdWIiOiJ4In0.s3cr3t-s3cr3t",
	"kept: GET /tinkex/v1/archives/r/weights/n/d?expires=1&signature=s3cr3t: reset",
	"kept: https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=s3cr3t%2F20260101&X-Amz-Signature=s3cr3t&x=1 kept",
	"kept: https://a.blob.core.windows.net/c/b?sv=2024&sig=s3cr3t%3D&se=2026",
	"kept: https://storage.googleapis.com/b/o?X-Goog-Signature=s3cr3t&X-Goog-Credential=s3cr3t",
	"kept: dial postgres://me:s3cr3t@host.example:5432/db kept",
	"kept: parse \"postgres://me:p@ss/s3cr3t@host/db\": invalid port",
	"kept: postgres://host/db?sslmode=require&password=s3cr3t",
	"kept: cannot connect: host=h user=me password=s3cr3t dbname=db kept",
	"kept: host=h password='two s3cr3t words' kept",
	"kept: s3://bucket?region=r&access_key=s3cr3t&endpoint=http://me:s3cr3t@127.0.0.1:9000 kept",
	"kept: AWS_SECRET_ACCESS_KEY=s3cr3t AWS_ACCESS_KEY_ID=s3cr3t kept",
	"kept: AZURE_STORAGE_KEY=s3cr3t",
	"kept: https://api.example/x?api_key=s3cr3t&token=s3cr3t&access_token=s3cr3t",
	`kept: {"password": "s3cr3t", "user": "kept"}`,
	"kept: http://proxy:s3cr3t@proxy.example:3128",
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, text := range corpus {
		got := telemetry.Redact(text)
		if strings.Contains(got, "s3cr3t") || strings.Count(got, "kept") != strings.Count(text, "kept") {
			t.Errorf("%s\nbecomes\n%s", text, got)
		}
		if again := telemetry.Redact(got); again != got {
			t.Errorf("%q, and once more %q", got, again)
		}
	}
	for _, text := range []string{
		"", "a plain sentence: nothing in it", `malformed API key: expected "tml-..." or a JWT`,
		"tml:user:0123456789abcdef", "path=/api/v1/training_runs/r:train:0/checkpoints/weights/n?limit=5&offset=10",
		"tinker://3c59a1a2:train:0/weights/step-10", "http://127.0.0.1:8484", "mail@example.com", "s3://b?region=eu&endpoint=http://h:1",
		"open /var/lib/tinkex/blobs: no space left on device", "key create", "token 12 of 30: out of range",
	} {
		if got := telemetry.Redact(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// stringer is a value that says itself what it is.
type stringer string

func (s stringer) String() string { return string(s) }

// valuer resolves itself when it is logged.
type valuer string

func (v valuer) LogValue() slog.Value { return slog.StringValue(string(v)) }

func TestLoggerHidesSecrets(t *testing.T) {
	t.Parallel()
	formats := map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	}
	for format, handler := range formats {
		for _, text := range corpus {
			var out bytes.Buffer
			l := telemetry.Logger(slog.New(handler(&out)))
			_, link, _ := strings.Cut(text, "kept: http")
			u, err := url.Parse("http" + strings.TrimSuffix(link, " kept"))
			if err != nil {
				t.Fatal(err)
			}
			l.Info(text)
			l.Info("m", "string", text, "error", errors.New(text), "wrapped", fmt.Errorf("x: %w", errors.New(text)))
			l.Info("m", "stringer", stringer(text), "valuer", valuer(text), "slice", []string{text}, "url", u,
				"header", http.Header{"X-Api-Key": {"tml-s3cr3t"}, "X": {text}}, "bytes", struct{ A string }{text})
			l.Info("m", slog.Group("group", slog.String("a", text), slog.Group("deeper", "b", errors.New(text))))
			l.With("a", text).WithGroup("g").Info("m", "b", text)
			slog.NewLogLogger(l.Handler(), slog.LevelError).Print(text)
			if got := out.String(); strings.Contains(got, "s3cr3t") || strings.Count(got, "kept") < 10 {
				t.Errorf("%s: %s\nis logged as\n%s", format, text, got)
			}
		}
	}
}

func TestLoggerAddsTrace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := telemetry.Logger(slog.New(slog.NewTextHandler(&out, nil)))
	if telemetry.Logger(l) != l {
		t.Error("a logger is wrapped twice")
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	l.InfoContext(trace.ContextWithSpanContext(context.Background(), sc), "m")
	if got := out.String(); !strings.Contains(got, "trace_id=01000000000000000000000000000000 span_id=0200000000000000") {
		t.Errorf("%s", got)
	}
	out.Reset()
	l.Info("m", "n", 3, "list", []int{1, 2})
	if got := out.String(); strings.Contains(got, "trace_id") || !strings.Contains(got, `n=3 list="[1 2]"`) {
		t.Errorf("%s", got)
	}
}
