package tinkex

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tinkex/tinkex/internal/wire"
)

// statusError turns an answer that is not a success into an Error. 4xx is the
// user's, except 408 and 429, which the same request may survive later; the
// rest is the server's.
func (t *transport) statusError(c *call, r *reply) *Error {
	e := &Error{
		Op:         c.op,
		Status:     r.status,
		Category:   CategoryServer,
		RequestID:  clean(r.header.Get(wire.HeaderRequestID), 128),
		RetryAfter: parseRetryAfter(r.header, t.clock.now()),
	}
	switch {
	case r.status == http.StatusRequestTimeout, r.status == http.StatusTooManyRequests:
	case r.status >= 400 && r.status < 500:
		e.Category = CategoryUser
	}
	if r.status < 400 {
		location := r.header.Get("Location")
		e.Category = CategoryUser
		e.Message = "the server redirects elsewhere; check the base URL"
		if location != "" {
			e.Message = fmt.Sprintf("the server redirects to %q; check the base URL", clean(location, 200))
		}
		return e
	}
	e.Message = t.cred.redact(errorMessage(r))
	return e
}

// errorMessage finds the sentence for people in an error's body.
func errorMessage(r *reply) string {
	body := strings.TrimSpace(string(r.body))
	fallback := strings.ToLower(http.StatusText(r.status))
	if fallback == "" {
		fallback = "unexpected answer"
	}
	if body == "" {
		return fallback
	}
	var doc struct {
		Detail  json.RawMessage `json:"detail"`
		Errors  json.RawMessage `json:"errors"`
		Error   json.RawMessage `json:"error"`
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal([]byte(body), &doc) == nil {
		var parts []string
		for _, raw := range []json.RawMessage{doc.Detail, doc.Errors} {
			if s := describeDetail(raw); s != "" {
				parts = append(parts, s)
			}
		}
		if len(parts) == 0 {
			for _, raw := range []json.RawMessage{doc.Error, doc.Message} {
				if s := describeDetail(raw); s != "" {
					parts = append(parts, s)
					break
				}
			}
		}
		if len(parts) == 0 {
			parts = append(parts, body)
		}
		return clean(strings.Join(parts, ": "), 2000)
	}
	if strings.Contains(r.header.Get("Content-Type"), "html") || strings.HasPrefix(body, "<") {
		if title := htmlTitle(body); title != "" {
			return fmt.Sprintf("%s (a web page titled %q, perhaps a proxy's, instead of the server's answer)", fallback, title)
		}
		return fallback + " (a web page, perhaps a proxy's, instead of the server's answer)"
	}
	return excerpt(body)
}

// describeDetail renders the forms that details take: a sentence, a list of
// FastAPI's {loc, msg} or of {location, message}, or an object with a message.
func describeDetail(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	type fault struct {
		Loc      []any  `json:"loc"`
		Location string `json:"location"`
		Msg      string `json:"msg"`
		Message  string `json:"message"`
		Error    string `json:"error"`
	}
	render := func(f fault) string {
		where := f.Location
		if len(f.Loc) > 0 {
			parts := make([]string, len(f.Loc))
			for i, p := range f.Loc {
				parts[i] = fmt.Sprint(p)
			}
			where = strings.Join(parts, ".")
		}
		where = strings.TrimPrefix(strings.TrimPrefix(where, "body"), ".")
		what := f.Msg
		if what == "" {
			what = f.Message
		}
		if what == "" {
			what = f.Error
		}
		if where == "" || what == "" {
			return where + what
		}
		return where + ": " + what
	}
	var list []fault
	if json.Unmarshal(raw, &list) == nil {
		var parts []string
		for i, f := range list {
			if i == 5 {
				parts = append(parts, fmt.Sprintf("and %d more", len(list)-i))
				break
			}
			if s := render(f); s != "" {
				parts = append(parts, s)
			}
		}
		if len(parts) > 0 {
			return strings.Join(parts, "; ")
		}
	}
	var one fault
	if json.Unmarshal(raw, &one) == nil {
		if s := render(one); s != "" {
			return s
		}
	}
	if s := strings.TrimSpace(string(raw)); s != "" && s != "null" && s != "[]" && s != "{}" {
		return s
	}
	return ""
}

func htmlTitle(body string) string {
	lower := strings.ToLower(body)
	_, rest, ok := strings.Cut(lower, "<title>")
	if !ok {
		return ""
	}
	title, _, ok := strings.Cut(rest, "</title>")
	if !ok || len(lower) != len(body) {
		return ""
	}
	start := len(body) - len(rest)
	return clean(strings.Join(strings.Fields(body[start:start+len(title)]), " "), 100)
}

// excerpt is the beginning of a text, on one line.
func excerpt(s string) string {
	return clean(strings.Join(strings.Fields(s), " "), 200)
}

// clean makes text from elsewhere safe to print: no control characters, and
// not too long.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf):
			return -1
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}
