package tinkex

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// fakeJWT is good for a while from now on; name tells tokens apart.
func fakeJWT(name string, issued time.Time, life time.Duration) string {
	claims := fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d}`, name, issued.Unix(), issued.Add(life).Unix())
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + name
}

// exchanging makes a server that wants tokens and hands out "first", "second"
// and so on, each good for an hour of the fake clock.
func exchanging(t *testing.T) (f *fakeTinker, token func(i int) string) {
	f = newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"pjwt_auth_enabled": true})
	f.handle(capabilities, fine)
	tokens := make([]string, 10)
	start := f.clock.now
	for i := range tokens {
		// Issued by a server whose clock is a day behind.
		tokens[i] = fakeJWT(fmt.Sprintf("token%d", i), start.Add(-24*time.Hour), time.Hour)
	}
	var mu sync.Mutex
	n := 0
	f.handle("POST /auth/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-API-Key") != testKey {
			answerDetail(401, "not the key")(w, r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		writeJSON(w, 200, wire.AuthToken{JWT: tokens[n]})
		n++
	})
	return f, func(i int) string { return tokens[i] }
}

func lastKey(f *fakeTinker, route string) string {
	seen := f.seen(route)
	return seen[len(seen)-1].header.Get("X-API-Key")
}

func TestServiceExchangesTheKeyIfAsked(t *testing.T) {
	f, token := exchanging(t)
	if _, err := f.service().SessionID(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := lastKey(f, "POST /client/config"); got != testKey {
		t.Error("the config was not asked for with the key")
	}
	if got := lastKey(f, "POST /create_session"); got != token(0) {
		t.Errorf("the session was created with %q", got)
	}
	want := "POST /client/config POST /auth/token POST /create_session"
	if got := strings.Join(f.paths(), " "); got != want {
		t.Errorf("requests: %s", got)
	}
}

func TestServiceSendsTheKeyIfNotAskedToExchange(t *testing.T) {
	for name, config := range map[string]http.HandlerFunc{
		"flag is off":    answerJSON(200, map[string]any{"pjwt_auth_enabled": false}),
		"flag is absent": answerJSON(200, map[string]any{"new_flag": []int{1}}),
		"no such route":  answerDetail(404, "not found"),
		"not JSON":       answerRaw(200, "text/plain", "hello"),
		"other types":    answerJSON(200, map[string]any{"fwdbwd_max_chunk_len": "many"}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeTinker(t)
			f.handle("POST /client/config", config)
			if _, err := f.service().SessionID(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := lastKey(f, "POST /create_session"); got != testKey || len(f.seen("POST /auth/token")) != 0 {
				t.Errorf("the session was created with %q", got)
			}
		})
	}
}

func TestConfigIsReadOnce(t *testing.T) {
	f := newFakeTinker(t)
	f.sequence("POST /client/config", answerDetail(403, "not yet"), answerJSON(200, map[string]any{}))
	s := f.service()
	_, err := s.SessionID(t.Context())
	wantError(t, err, ErrForbidden, "not yet")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.SessionID(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a, b := len(f.seen("POST /client/config")), len(f.seen("POST /create_session")); a != 2 || b != 1 {
		t.Errorf("%d config requests, %d sessions", a, b)
	}
}

// A client that is only asked for REST makes one request per call; it learns
// from a refusal that the server wants tokens.
func TestRESTExchangesTheKeyOnlyWhenRefused(t *testing.T) {
	f, token := exchanging(t)
	c := f.rest()
	if _, err := c.ServerCapabilities(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(f.paths()); got != 1 {
		t.Errorf("requests: %v", f.paths())
	}
	f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-API-Key") == testKey {
			answerDetail(401, "a token, please")(w, r)
			return
		}
		fine(w, r)
	})
	for range 2 {
		if _, err := c.ServerCapabilities(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := lastKey(f, capabilities); got != token(0) {
		t.Errorf("asked with %q", got)
	}
	if n := len(f.seen(capabilities)); n != 4 {
		t.Errorf("asked %d times", n)
	}
}

func TestWrongKeyIsRefusedQuickly(t *testing.T) {
	f := newFakeServer(t)
	for _, route := range []string{capabilities, "POST /client/config"} {
		f.answer(route, 401, map[string]string{"detail": "unknown API key"})
	}
	_, err := f.rest().ServerCapabilities(t.Context())
	wantError(t, err, ErrUnauthorized, "unknown API key")
	if n := len(f.paths()); n != 2 || len(f.clock.slept()) != 0 {
		t.Errorf("requests: %v, waits: %v", f.paths(), f.clock.slept())
	}
}

func TestOneExchangeForAll(t *testing.T) {
	f, token := exchanging(t)
	s := f.service()
	if _, err := s.t.flags(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := func() {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.ServerCapabilities(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all()
	if n := len(f.seen("POST /auth/token")); n != 1 {
		t.Errorf("%d exchanges at first", n)
	}
	// The server stops accepting the token, for everyone at the same time.
	f.handle(capabilities, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-API-Key") == token(0) {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			answerDetail(401, "expired")(w, r)
			return
		}
		fine(w, r)
	})
	all()
	if n := len(f.seen("POST /auth/token")); n != 2 {
		t.Errorf("%d exchanges after the refusal", n)
	}
}

func TestRefusedForAnotherReasonIsFinal(t *testing.T) {
	f, _ := exchanging(t)
	s := f.service()
	if _, err := s.t.flags(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.answer(capabilities, 401, map[string]string{"detail": "not on my list"})
	_, err := s.ServerCapabilities(t.Context())
	wantError(t, err, ErrUnauthorized, "not on my list")
	if n := len(f.seen("POST /auth/token")); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}

func TestTokenIsRefreshedAtHalfItsLife(t *testing.T) {
	f, token := exchanging(t)
	s := f.service()
	if _, err := s.t.flags(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		t.Helper()
		if _, err := s.ServerCapabilities(t.Context()); err != nil {
			t.Fatal(err)
		}
		return lastKey(f, capabilities)
	}
	exchanges := func() int { return len(f.seen("POST /auth/token")) }

	ask()
	f.clock.advance(29 * time.Minute)
	if got := ask(); got != token(0) || exchanges() != 1 {
		t.Errorf("before half its life: %q after %d exchanges", got, exchanges())
	}
	// After half of it, the old token goes on being used while the next comes.
	f.clock.advance(2 * time.Minute)
	if got := ask(); got != token(0) {
		t.Errorf("the request waited for the refresh")
	}
	waitFor(t, func() bool { got, err := s.t.cred.get(t.Context()); return err == nil && got == token(1) })
	if got := ask(); got != token(1) || exchanges() != 2 {
		t.Errorf("after half its life: %q after %d exchanges", got, exchanges())
	}

	// A refresh that fails is tried again later, as long as the token is good.
	f.clock.advance(31 * time.Minute)
	f.answer("POST /auth/token", 403, map[string]string{"detail": "not now"})
	before := exchanges()
	if got := ask(); got != token(1) {
		t.Errorf("%q", got)
	}
	waitFor(t, func() bool { return strings.Contains(f.logs.String(), "could not refresh the token") })
	waitFor(t, func() bool { s.t.cred.mu.Lock(); defer s.t.cred.mu.Unlock(); return s.t.cred.fetch == nil })
	if ask(); exchanges() != before+1 {
		t.Errorf("%d exchanges within a minute", exchanges()-before)
	}
	// When it is over, requests fail with the reason.
	f.clock.advance(time.Hour)
	_, err := s.ServerCapabilities(t.Context())
	wantError(t, err, ErrForbidden, "not now")
}

// waitFor waits for what another goroutine is about to do.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatal("it does not happen")
}

func TestJWTLifetime(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	claims := func(s string) string { return "h." + base64.RawURLEncoding.EncodeToString([]byte(s)) + ".s" }
	for _, test := range []struct {
		jwt  string
		want time.Duration
	}{
		{claims(`{"iat":5,"exp":65}`), time.Minute},
		{claims(`{"exp":1000060}`), time.Minute},
		{claims(`{"iat":5}`), 0},
		{claims(`{"iat":65,"exp":5}`), 0},
		{claims(`{"iat":1,"exp":1e300}`), 365 * 24 * time.Hour},
		{claims(`{"exp":"soon"}`), 0},
		{claims(`[]`), 0},
		{"h." + base64.URLEncoding.EncodeToString([]byte(`{"iat":5,"exp":65} `)) + ".s", time.Minute},
		{"h.###.s", 0},
		{"opaque", 0},
		{"", 0},
	} {
		if got := jwtLifetime(test.jwt, now); got != test.want {
			t.Errorf("%s lasts %v, want %v", test.jwt, got, test.want)
		}
	}
}

func TestTokenWithoutAnEndIsUsedUntilRefused(t *testing.T) {
	f, _ := exchanging(t)
	f.answer("POST /auth/token", 200, wire.AuthToken{JWT: "opaque"})
	s := f.service()
	if _, err := s.t.flags(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.ServerCapabilities(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(1000 * time.Hour)
	}
	if n := len(f.seen("POST /auth/token")); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}

func TestExchangeWithoutAToken(t *testing.T) {
	f, _ := exchanging(t)
	f.answer("POST /auth/token", 200, map[string]any{})
	_, err := f.service().SessionID(t.Context())
	wantError(t, err, nil, "exchange the API key for a token", "holds no token")
}
