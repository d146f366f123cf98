package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// Logger adds the trace to what is logged in a traced request's context, and
// takes out of every message and value what looks like a credential. What is
// logged should have none; this is for what other people's errors say.
func Logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	if _, ok := l.Handler().(*logHandler); ok {
		return l
	}
	return slog.New(&logHandler{l.Handler()})
}

type logHandler struct{ next slog.Handler }

func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, Redact(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(redactAttr(a))
		return true
	})
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		clean.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.next.Handle(ctx, clean)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = redactAttr(a)
	}
	return &logHandler{h.next.WithAttrs(clean)}
}

func (h *logHandler) WithGroup(name string) slog.Handler { return &logHandler{h.next.WithGroup(name)} }

func redactAttr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, Redact(v.String()))
	case slog.KindGroup:
		group := v.Group()
		clean := make([]slog.Attr, len(group))
		for i, m := range group {
			clean[i] = redactAttr(m)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(clean...)}
	case slog.KindAny:
		// As the text format would print it. What has nothing to hide keeps its
		// structure.
		text := fmt.Sprintf("%+v", v.Any())
		if clean := Redact(text); clean != text {
			return slog.String(a.Key, clean)
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}

// secret is what a credential looks like, with what it is replaced by.
type secret struct {
	// within is in every match: looking for it first is cheap.
	within string
	match  *regexp.Regexp
	by     string
}

// secrets are compiled when something is logged, which most commands do not.
var secrets = sync.OnceValue(func() []secret {
	return []secret{
		{"tml-", regexp.MustCompile(`tml-[A-Za-z0-9_+/=-]+`), "tml-..."},
		{"eyJ", regexp.MustCompile(`eyJ[A-Za-z0-9_=-]{4,}(\.[A-Za-z0-9_=-]*)*`), "eyJ..."},
		{"earer", regexp.MustCompile(`(?i)(bearer)[ +:=]+[^\s"',;]+`), "$1 ..."},
		// To the last @: a password may contain what it should not.
		{"@", regexp.MustCompile(`://[^\s"'<>]*@`), "://...@"},
		{"=", regexp.MustCompile(`(?i)((?:sig|signature|password|passwd|pwd|secret|token|credential|api[_-]?key|access[_-]?key|account[_-]?key|key[_-]?id|[_-]key)["']?\s*=\s*)(?:"[^"]*"|'[^']*'|[^\s&;,"']+)`), "${1}..."},
		{":", regexp.MustCompile(`(?i)((?:x-api-key|authorization|password|signature|token|secret|api_key)["']?\s*:\s*)(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^\s&;,"'\]}]+)`), "${1}..."},
	}
})

// Redact replaces what looks like a credential: keys and tokens of the
// protocol, passwords in URLs, signatures in their queries, and values that
// are named as secrets are.
func Redact(s string) string {
	for _, secret := range secrets() {
		if strings.Contains(s, secret.within) {
			s = secret.match.ReplaceAllString(s, secret.by)
		}
	}
	return s
}
