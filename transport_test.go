package tinkex

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

const capabilities = "GET /get_server_capabilities"

func answerRaw(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

var fine = answerJSON(200, map[string]any{"supported_models": []any{map[string]any{"model_name": "m"}}})

func TestWhatIsRetried(t *testing.T) {
	for _, test := range []struct {
		name  string
		first http.HandlerFunc // answers all attempts but the last
		tries int              // attempts until the answer is fine; 1: not retried
	}{
		{"connection lost", hangUp, 3},
		{"408", answerDetail(408, "slow"), 3},
		{"429", answerDetail(429, "busy"), 3},
		{"500", answerDetail(500, "oops"), 3},
		{"502 as a web page", answerRaw(502, "text/html", "<html>"), 3},
		{"503", answerDetail(503, "restarting"), 3},
		{"400 without a body", answerRaw(400, "", ""), 3},
		{"409 that asks for it", answerRaw(409, "application/json", `{"detail":"x"}`, wire.HeaderShouldRetry, "true"), 3},
		{"400 that asks for it", answerRaw(400, "application/json", `{"detail":"x"}`, wire.HeaderShouldRetry, "true"), 3},
		{"400", answerDetail(400, "wrong"), 1},
		{"401", answerDetail(401, "who"), 1},
		{"402", answerDetail(402, "pay"), 1},
		{"403", answerDetail(403, "no"), 1},
		{"404", answerDetail(404, "gone"), 1},
		{"409", answerDetail(409, "there already"), 1},
		{"410", answerDetail(410, "gone"), 1},
		{"422", answerDetail(422, "wrong"), 1},
		{"501", answerDetail(501, "never"), 1},
		{"503 that refuses it", answerRaw(503, "application/json", `{"detail":"x"}`, wire.HeaderShouldRetry, "false"), 1},
		{"redirect of nothing", answerRaw(304, "", ""), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.sequence(capabilities, test.first, test.first, fine)
			c := f.rest()
			c.t.config.run = &lazyRun[flags]{done: closedChannel()} // known, so that 401 and 403 ask for nothing
			_, err := c.ServerCapabilities(t.Context())
			if (err == nil) != (test.tries > 1) {
				t.Errorf("error: %v", err)
			}
			if n := len(f.seen(capabilities)); n != test.tries {
				t.Errorf("%d attempts, want %d", n, test.tries)
			}
			if n := len(f.clock.slept()); n != test.tries-1 {
				t.Errorf("%d waits, want %d", n, test.tries-1)
			}
		})
	}
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestRetriesAreBounded(t *testing.T) {
	for _, test := range []struct {
		name       string
		maxRetries int
		answer     http.HandlerFunc
		attempts   int
	}{
		{"by default", 0, answerDetail(500, "oops"), 11},
		{"by choice", 2, answerDetail(500, "oops"), 3},
		{"never", -1, answerDetail(500, "oops"), 1},
		{"empty 400", 0, answerRaw(400, "", ""), 4},
		{"connections", 2, hangUp, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.handle(capabilities, test.answer)
			_, err := f.rest(func(o *Options) { o.MaxRetries = test.maxRetries }).ServerCapabilities(t.Context())
			e := wantError(t, err, nil)
			if n := len(f.seen(capabilities)); n != test.attempts {
				t.Errorf("%d attempts, want %d", n, test.attempts)
			}
			if test.attempts > 1 && !strings.Contains(e.Message, "gave up after") {
				t.Errorf("message %q does not count the attempts", e.Message)
			}
		})
	}
}

func TestBackoffGrowsWithJitter(t *testing.T) {
	f := newFakeServer(t)
	f.handle(capabilities, answerDetail(500, "oops"))
	_, err := f.rest().ServerCapabilities(t.Context())
	wantError(t, err, nil, "oops")
	slept := f.clock.slept()
	want := 500 * time.Millisecond
	for i, d := range slept {
		if low, high := want*3/4, min(want*5/4, maxRetryDelay); d < low || d > high {
			t.Errorf("wait %d is %v, want %v to %v", i, d, low, high)
		}
		want = min(2*want, maxRetryDelay)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, test := range []struct {
		name, value string
		low, high   time.Duration
	}{
		{"Retry-After", "7", 7 * time.Second, 7700 * time.Millisecond},
		{"Retry-After", "1.5", 1500 * time.Millisecond, 1650 * time.Millisecond},
		{"Retry-After-Ms", "250", 250 * time.Millisecond, 275 * time.Millisecond},
		{"Retry-After", "Sun, 01 Nov 2026 12:00:20 GMT", 20 * time.Second, 22 * time.Second},
		{"Retry-After", "Sun, 01 Nov 2026 11:00:00 GMT", 375 * time.Millisecond, 625 * time.Millisecond},
		{"Retry-After", "86400", maxRetryAfter, maxRetryAfter * 11 / 10},
		{"Retry-After", "1e300", maxRetryAfter, maxRetryAfter * 11 / 10},
		{"Retry-After", "-3", 375 * time.Millisecond, 625 * time.Millisecond},
		{"Retry-After", "soon", 375 * time.Millisecond, 625 * time.Millisecond},
		{"Retry-After", "NaN", 375 * time.Millisecond, 625 * time.Millisecond},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			f := newFakeServer(t)
			f.sequence(capabilities, answerRaw(429, "application/json", `{"detail":"busy"}`, test.name, test.value), fine)
			if _, err := f.rest().ServerCapabilities(t.Context()); err != nil {
				t.Fatal(err)
			}
			slept := f.clock.slept()
			if len(slept) != 1 || slept[0] < test.low || slept[0] > test.high {
				t.Errorf("waited %v, want one wait of %v to %v", slept, test.low, test.high)
			}
		})
	}
}

// Of a server that says both, milliseconds are the finer answer.
func TestRetryAfterInMillisecondsComesFirst(t *testing.T) {
	h := http.Header{"Retry-After": {"1"}, "Retry-After-Ms": {"250"}}
	for range 50 {
		if d := parseRetryAfter(h, time.Now()); d != 250*time.Millisecond {
			t.Fatalf("it is %v", d)
		}
	}
}

func TestRetryAfterIsInTheError(t *testing.T) {
	f := newFakeServer(t)
	f.handle(capabilities, answerRaw(429, "application/json", `{"detail":"busy"}`, "Retry-After", "30"))
	_, err := f.rest(func(o *Options) { o.MaxRetries = -1 }).ServerCapabilities(t.Context())
	e := wantError(t, err, ErrRateLimited, "busy")
	if e.RetryAfter != 30*time.Second || e.Category != CategoryServer {
		t.Errorf("retry after %v, category %q", e.RetryAfter, e.Category)
	}
}

func TestContextsEndRequestsPromptly(t *testing.T) {
	t.Run("while waiting to retry", func(t *testing.T) {
		f := newFakeServer(t)
		f.handle(capabilities, answerDetail(503, "restarting"))
		ctx, cancel := context.WithCancel(t.Context())
		f.clock.onSleep = func(ctx context.Context, _ time.Duration) error {
			cancel()
			return ctx.Err()
		}
		_, err := f.rest().ServerCapabilities(ctx)
		wantError(t, err, context.Canceled, "restarting")
	})
	t.Run("while the server takes its time", func(t *testing.T) {
		f := newFakeServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		f.handle(capabilities, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		_, err := f.rest().ServerCapabilities(ctx)
		wantError(t, err, context.Canceled)
	})
	t.Run("before anything", func(t *testing.T) {
		f := newFakeServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.rest().ServerCapabilities(ctx)
		wantError(t, err, context.Canceled)
		if len(f.paths()) != 0 {
			t.Errorf("sent %v", f.paths())
		}
	})
	t.Run("by deadline", func(t *testing.T) {
		f := newFakeServer(t)
		f.handle(capabilities, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := f.rest().ServerCapabilities(ctx)
		wantError(t, err, context.DeadlineExceeded)
	})
}

func TestAttemptsHaveATimeout(t *testing.T) {
	f := newFakeServer(t)
	f.sequence(capabilities, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, fine)
	// Long enough for an answer that comes at once, however busy the machine.
	c := f.rest(func(o *Options) { o.Timeout = 300 * time.Millisecond })
	if _, err := c.ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.handle(capabilities, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c = f.rest(func(o *Options) { o.Timeout = 20 * time.Millisecond; o.MaxRetries = -1 })
	_, err := c.ServerCapabilities(t.Context())
	wantError(t, err, os.ErrDeadlineExceeded, "no answer within 20ms")
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("an attempt's timeout looks like the caller's deadline")
	}
}

func TestErrorsOfAnswers(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, test := range []struct {
		name        string
		status      int
		contentType string
		body        string
		want        error
		category    Category
		says        string
	}{
		{"detail", 404, "application/json", `{"detail":"run x not found"}`, ErrNotFound, CategoryUser, "run x not found (HTTP 404"},
		{"fastapi list", 422, "application/json", `{"detail":[{"loc":["body","lora_config","rank"],"msg":"must be positive","type":"v"},{"loc":["query","limit",0],"msg":"too large"}]}`, ErrInvalid, CategoryUser, "lora_config.rank: must be positive; query.limit.0: too large"},
		{"many faults", 422, "application/json", `{"detail":[{"msg":"a"},{"msg":"b"},{"msg":"c"},{"msg":"d"},{"msg":"e"},{"msg":"f"},{"msg":"g"}]}`, ErrInvalid, CategoryUser, "a; b; c; d; e; and 2 more"},
		{"problem document", 422, "application/problem+json", `{"title":"Unprocessable","detail":"validation failed","errors":[{"message":"expected number","location":"body.rank"}]}`, ErrInvalid, CategoryUser, "validation failed: rank: expected number"},
		{"object", 403, "application/json", `{"detail":{"message":"not yours"}}`, ErrForbidden, CategoryUser, "not yours"},
		{"unknown object", 400, "application/json", `{"detail":{"code":7}}`, ErrInvalid, CategoryUser, `{"code":7}`},
		{"error string", 400, "application/json", `{"error":"bad"}`, ErrInvalid, CategoryUser, "bad"},
		{"error object", 400, "application/json", `{"error":{"message":"bad"}}`, ErrInvalid, CategoryUser, "bad"},
		{"message", 400, "application/json", `{"message":"bad"}`, ErrInvalid, CategoryUser, "bad"},
		{"other JSON", 400, "application/json", `{"x":1}`, ErrInvalid, CategoryUser, `{"x":1}`},
		{"JSON array", 400, "application/json", `[1,2]`, ErrInvalid, CategoryUser, `[1,2]`},
		{"web page", 502, "text/html", "<html><head><title>502 Bad\nGateway</title></head><body>" + long, nil, CategoryServer, `bad gateway (a web page titled "502 Bad Gateway"`},
		{"web page without a title", 504, "", "<!doctype html>" + long, nil, CategoryServer, "gateway timeout (a web page, perhaps a proxy's"},
		{"text", 500, "text/plain", "upstream\n  failed", nil, CategoryServer, "upstream failed"},
		{"long text", 500, "text/plain", long, nil, CategoryServer, strings.Repeat("x", 200) + "..."},
		{"long detail", 413, "application/json", `{"detail":"` + long + `"}`, ErrInvalid, CategoryUser, "xxx..."},
		{"nothing", 405, "", "", nil, CategoryUser, "method not allowed"},
		{"nothing for an unknown status", 599, "", "", nil, CategoryServer, "unexpected answer"},
		{"null detail", 400, "application/json", `{"detail":null}`, ErrInvalid, CategoryUser, `{"detail":null}`},
		{"control characters", 400, "application/json", `{"detail":"a\u001b[31mb\nc\u0000\u202e"}`, ErrInvalid, CategoryUser, "a[31mb c"},
		{"401", 401, "application/json", `{"detail":"unknown key"}`, ErrUnauthorized, CategoryUser, "unknown key"},
		{"409", 409, "application/json", `{"detail":"already public"}`, ErrConflict, CategoryUser, "already public"},
		{"410", 410, "application/json", `{"detail":"gone"}`, ErrGone, CategoryUser, "gone"},
		{"408", 408, "application/json", `{"detail":"slow"}`, nil, CategoryServer, "slow"},
		{"429", 429, "application/json", `{"detail":"busy"}`, ErrRateLimited, CategoryServer, "busy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.handle(capabilities, answerRaw(test.status, test.contentType, test.body, wire.HeaderRequestID, "req-7"))
			_, err := f.rest(func(o *Options) { o.MaxRetries = -1 }).ServerCapabilities(t.Context())
			e := wantError(t, err, test.want, test.says, "read server capabilities: ")
			if e.Status != test.status || e.Category != test.category || e.RequestID != "req-7" {
				t.Errorf("status %d, category %q, request %q", e.Status, e.Category, e.RequestID)
			}
			if len(e.Message) > 2100 || strings.ContainsAny(e.Message, "\x1b\x00\n") {
				t.Errorf("message is not fit to print: %q", e.Message)
			}
		})
	}
}

func TestErrorBodiesAreBounded(t *testing.T) {
	f := newFakeServer(t)
	stopped := make(chan struct{})
	f.handle(capabilities, func(w http.ResponseWriter, _ *http.Request) {
		defer close(stopped)
		w.WriteHeader(400)
		chunk := bytes.Repeat([]byte("x"), 1<<16)
		for range 10_000 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		t.Error("the whole body was read")
	})
	_, err := f.rest().ServerCapabilities(t.Context())
	wantError(t, err, ErrInvalid, "xxx...")
	<-stopped
}

func TestUnreadableSuccess(t *testing.T) {
	f := newFakeServer(t)
	f.handle(capabilities, answerRaw(200, "text/html", "<html>captive portal</html>"))
	_, err := f.rest().ServerCapabilities(t.Context())
	if e := wantError(t, err, nil, "cannot be read", "captive portal"); e.Category != CategoryServer {
		t.Errorf("category %q", e.Category)
	}
}

func TestConnectionErrors(t *testing.T) {
	clearEnvironment(t)
	const address = "127.0.0.1:1" // nobody listens there, and no system gives it to whoever asks for just any
	c, err := newRestClient(Options{APIKey: testKey, BaseURL: "http://" + address, MaxRetries: 2}, newFakeClock().clock())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.ServerCapabilities(t.Context())
	if e := wantError(t, err, nil, "cannot connect to "+address, "after 3 attempts"); e.Category != CategoryUnknown || e.Status != 0 {
		t.Errorf("category %q, status %d", e.Category, e.Status)
	}

	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = discardLog()
	secure.StartTLS()
	defer secure.Close()
	for _, base := range []string{secure.URL, "https://" + newFakeServer(t).Listener.Addr().String()} {
		clk := newFakeClock()
		c, err := newRestClient(Options{APIKey: testKey, BaseURL: base}, clk.clock())
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.ServerCapabilities(t.Context())
		wantError(t, err, nil)
		if n := len(clk.slept()); n != 0 {
			t.Errorf("%s: retried %d times: %v", base, n, err)
		}
		c.Close()
	}
}

func TestHeaders(t *testing.T) {
	f := newFakeServer(t)
	f.sequence("POST /weights_info", hangUp, answerDetail(503, "x"), answerJSON(200, map[string]any{"base_model": "m"}))
	f.handle(capabilities, fine)
	c := f.rest()
	path := TinkerPath{RunID: "r", Type: Training, Name: "x"}
	for range 2 {
		if _, err := c.WeightsInfo(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	posts := f.seen("POST /weights_info")
	keys := map[string]int{}
	for _, r := range posts {
		if r.header.Get("X-API-Key") != testKey || r.header.Get("User-Agent") != "tinkex-go/"+Version || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("headers: %v", r.header)
		}
		keys[r.header.Get("X-Idempotency-Key")]++
	}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for key := range keys {
		if !uuid.MatchString(key) {
			t.Errorf("idempotency key %q", key)
		}
	}
	if len(posts) != 4 || len(keys) != 2 || keys[posts[0].header.Get("X-Idempotency-Key")] != 3 {
		t.Errorf("%d requests with idempotency keys %v; want the same one for the retries", len(posts), keys)
	}
	if key := f.seen(capabilities)[0].header.Get("X-Idempotency-Key"); key != "" {
		t.Errorf("a GET has the idempotency key %q", key)
	}
}

func TestRedirectsKeepTheKeyAtHome(t *testing.T) {
	var keys []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("X-API-Key"))
		fine(w, r)
	}))
	defer elsewhere.Close()
	f := newFakeServer(t)
	f.handle("GET /here", fine)

	for _, test := range []struct {
		name, target string
		client       *http.Client
		want         string
	}{
		{"another host", elsewhere.URL + "/api/v1/x", nil, ""},
		{"another host, given client", elsewhere.URL + "/api/v1/x", new(http.Client), ""},
	} {
		keys = nil
		f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, test.target, http.StatusFound) })
		c := f.rest(func(o *Options) { o.HTTPClient = test.client })
		if _, err := c.ServerCapabilities(t.Context()); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if len(keys) != 1 || keys[0] != test.want {
			t.Errorf("%s: it was sent the keys %q", test.name, keys)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // the given client's

	f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/api/v1/here", http.StatusTemporaryRedirect)
	})
	if _, err := f.rest().ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.seen("GET /here"); len(got) != 1 || got[0].header.Get("X-API-Key") != testKey {
		t.Errorf("the same host did not get the key: %v", got)
	}

	f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	_, err := f.rest().ServerCapabilities(t.Context())
	wantError(t, err, errRedirects)
	if n := len(f.clock.slept()); n != 0 {
		t.Errorf("a redirect loop was retried %d times", n)
	}

	// A redirect that would turn the request into another one is an error.
	f.handle("POST /weights_info", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	_, err = f.rest().WeightsInfo(t.Context(), TinkerPath{RunID: "r", Type: Training, Name: "x"})
	wantError(t, err, nil, "redirects to", elsewhere.URL, "check the base URL")
}

func TestGivenHTTPClientIsNotChanged(t *testing.T) {
	f := newFakeServer(t)
	f.handle(capabilities, fine)
	given := &http.Client{Timeout: time.Nanosecond}
	if _, err := f.rest(func(o *Options) { o.HTTPClient = given }).ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err) // its Timeout is not used
	}
	if given.CheckRedirect != nil || given.Timeout != time.Nanosecond {
		t.Error("the given client was changed")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestClosedClient(t *testing.T) {
	f := newFakeServer(t)
	f.handle(capabilities, fine)
	c := f.rest()
	started, release := make(chan struct{}), make(chan struct{})
	f.handle("GET /sessions", func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	failed := make(chan error)
	go func() {
		_, err := c.ListSessions(t.Context(), ListOptions{})
		failed <- err
	}()
	<-started
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, <-failed, ErrClosed, "list sessions")
	close(release)
	_, err := c.ServerCapabilities(t.Context())
	if e := wantError(t, err, ErrClosed); e.Category != CategoryUser {
		t.Errorf("category %q", e.Category)
	}
}

// Training waits while the account is paused; a REST request fails at once.
func TestBillingPause(t *testing.T) {
	f := newFakeTinker(t)
	unpaid := answerDetail(402, "your card was declined")
	f.sequence("POST /create_session", unpaid, unpaid, answerJSON(200, map[string]any{"session_id": "s1"}))
	service := f.service()
	if _, err := service.SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.clock.slept(); len(got) != 2 || got[0] != billingPause || got[1] != billingPause {
		t.Errorf("waited %v", got)
	}
	if n := strings.Count(f.logs.String(), "your card was declined"); n != 1 {
		t.Errorf("the log hears of it %d times", n)
	}

	f.answer("POST /create_model", 402, map[string]string{"detail": "unpaid"})
	_, err := service.CreateLoRATrainingClient(t.Context(), "m", LoRAOptions{})
	if e := wantError(t, err, nil, "unpaid"); e.Status != 402 || e.Category != CategoryUser {
		t.Errorf("status %d, category %q", e.Status, e.Category)
	}
	if n := len(f.seen("POST /create_model")); n != int(maxBillingPause/billingPause)+1 {
		t.Errorf("asked %d times", n)
	}

	f.answer(capabilities, 402, map[string]string{"detail": "unpaid"})
	_, err = service.ServerCapabilities(t.Context())
	wantError(t, err, nil, "unpaid")
	if n := len(f.seen(capabilities)); n != 1 {
		t.Errorf("a REST request was made %d times", n)
	}
}

func TestRetryLogIsQuietAtFirst(t *testing.T) {
	f := newFakeServer(t)
	var n atomic.Int64
	f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) <= 4 {
			answerDetail(503, "restarting")(w, r)
			return
		}
		fine(w, r)
	})
	if _, err := f.rest().ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := f.logs.String()
	if strings.Count(log, "level=DEBUG msg=retrying") != 2 || strings.Count(log, "level=INFO msg=retrying") != 2 {
		t.Errorf("log:\n%s", log)
	}
}
