package server

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// as asks for the capabilities, which everybody with a credential may.
func (f *fixture) as(credential string) answer {
	f.t.Helper()
	return f.send(http.MethodGet, wire.APIPrefix+"/get_server_capabilities", nil, wire.HeaderAPIKey, credential)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, tc := range map[string]struct {
		header []string
		status int
		says   string
	}{
		"none":                {nil, 401, "X-API-Key"},
		"empty":               {[]string{wire.HeaderAPIKey, ""}, 401, "no credential"},
		"key":                 {[]string{wire.HeaderAPIKey, alice}, 200, ""},
		"key as a bearer":     {[]string{"Authorization", "Bearer " + alice}, 200, ""},
		"another scheme":      {[]string{"Authorization", "Basic " + alice}, 401, "malformed"},
		"without its prefix":  {[]string{wire.HeaderAPIKey, "alice"}, 401, "tml-"},
		"nothing but prefix":  {[]string{wire.HeaderAPIKey, "tml-"}, 401, "malformed"},
		"as long as may be":   {[]string{wire.HeaderAPIKey, keyPrefix + strings.Repeat("x", maxKeySize-len(keyPrefix))}, 200, ""},
		"too long":            {[]string{wire.HeaderAPIKey, keyPrefix + strings.Repeat("x", maxKeySize-len(keyPrefix)+1)}, 401, "malformed"},
		"no JWT":              {[]string{wire.HeaderAPIKey, "eyJ"}, 401, "not one of this server's"},
		"nonsense with dots":  {[]string{wire.HeaderAPIKey, "eyJa.b.c"}, 401, "not one of this server's"},
		"the key header wins": {[]string{wire.HeaderAPIKey, "alice", "Authorization", "Bearer " + alice}, 401, "malformed"},
	} {
		a := f.send(http.MethodGet, wire.APIPrefix+"/get_server_capabilities", nil, tc.header...)
		a.what = name
		a.want(tc.status, tc.says)
		if tc.status != http.StatusOK {
			a.detail()
			if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("%s: the challenge is %q", name, got)
			}
		}
		if strings.Contains(string(a.body), "alice") {
			t.Errorf("%s: the answer repeats the credential: %s", name, a.body)
		}
	}
	// Whether the server lives is nobody's secret; what it is, neither.
	f.send(http.MethodGet, wire.APIPrefix+"/healthz", nil).want(http.StatusOK, "ok")
	f.send(http.MethodGet, "/openapi.json", nil).want(http.StatusOK)
}

func TestJWT(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	session := f.post("/create_session", `{"tags":[]}`).want(http.StatusOK).str("session_id")
	token := f.post("/auth/token", `{}`).want(http.StatusOK).str("jwt")

	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Sub, Iss string
		Exp, Iat int64
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	if c.Exp-c.Iat != int64(jwtTTL/time.Second) || !strings.HasPrefix(c.Iss, "passport-") || !strings.HasPrefix(c.Sub, ownerURN) {
		t.Errorf("claims are %s", payload)
	}

	// The token stands for the key's owner, and a token can be had for a token.
	mine := func(credential string) answer {
		return f.send(http.MethodGet, wire.APIPrefix+"/sessions/"+session, nil, wire.HeaderAPIKey, credential)
	}
	mine(token).want(http.StatusOK)
	mine(bob).want(http.StatusNotFound)
	again := f.send(http.MethodPost, wire.APIPrefix+"/auth/token", nil, wire.HeaderAPIKey, token).want(http.StatusOK).str("jwt")
	mine(again).want(http.StatusOK)

	sign := func(key any, method jwt.SigningMethod, change func(*claims)) string {
		c := claims{RegisteredClaims: jwt.RegisteredClaims{
			Issuer: jwtIssuer, Subject: ownerURN + "somebody", ExpiresAt: jwt.NewNumericDate(f.clock.now().Add(time.Hour)),
		}}
		if change != nil {
			change(&c)
		}
		s, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	f.as(sign(f.auth.secret, jwt.SigningMethodHS256, nil)).want(http.StatusOK)
	flipped := func(i int) string {
		p := append([]string{}, parts...)
		b := []byte(p[i])
		at := len(b) / 2
		if b[at] == 'A' {
			b[at] = 'B'
		} else {
			b[at] = 'A'
		}
		p[i] = string(b)
		return strings.Join(p, ".")
	}
	for name, forged := range map[string]string{
		"another secret":     sign([]byte("0123456789abcdef0123456789abcdef"), jwt.SigningMethodHS256, nil),
		"no signature":       sign(jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, nil),
		"another algorithm":  sign(f.auth.secret, jwt.SigningMethodHS512, nil),
		"another issuer":     sign(f.auth.secret, jwt.SigningMethodHS256, func(c *claims) { c.Issuer = "passport-other" }),
		"nobody":             sign(f.auth.secret, jwt.SigningMethodHS256, func(c *claims) { c.Subject = "" }),
		"never to expire":    sign(f.auth.secret, jwt.SigningMethodHS256, func(c *claims) { c.ExpiresAt = nil }),
		"tampered claims":    flipped(1),
		"tampered signature": flipped(2),
		"cut off":            token[:len(token)-2],
	} {
		a := f.as(forged)
		a.what = name
		a.want(http.StatusUnauthorized, "not one of this server's")
		if got := a.header.Get("WWW-Authenticate"); !strings.Contains(got, "invalid_token") {
			t.Errorf("%s: the challenge %q does not make the official client renew its token", name, got)
		}
	}

	f.clock.advance(jwtTTL - time.Second)
	f.as(token).want(http.StatusOK)
	f.clock.advance(time.Second)
	a := f.as(token).want(http.StatusUnauthorized, "expired")
	if got := a.header.Get("WWW-Authenticate"); !strings.Contains(got, "invalid_token") {
		t.Errorf("the challenge for an expired token is %q", got)
	}
}

func TestCreatedKeysCloseTheDoor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.as(alice).want(http.StatusOK)
	create := func(id, key, owner string) {
		t.Helper()
		err := f.meta.CreateKey(t.Context(), metastore.Key{ID: id, Hash: HashKey(key), Owner: owner, Name: id, CreatedAt: f.clock.now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("k1", "tml-one", "team")
	create("k2", "tml-two", "team")

	f.as("tml-one").want(http.StatusOK)
	f.as(bob).want(http.StatusUnauthorized, "unknown API key")
	// alice was let in before: for no longer than the cache remembers.
	f.clock.advance(keyCache)
	f.as(alice).want(http.StatusUnauthorized, "unknown API key")

	// Two keys of one owner see the same.
	session := f.send(http.MethodPost, wire.APIPrefix+"/create_session", strings.NewReader(`{}`),
		wire.HeaderAPIKey, "tml-one", "Content-Type", wire.ContentTypeJSON).want(http.StatusOK).str("session_id")
	f.send(http.MethodGet, wire.APIPrefix+"/sessions/"+session, nil, wire.HeaderAPIKey, "tml-two").want(http.StatusOK)
	f.send(http.MethodGet, wire.APIPrefix+"/auth/apikey/me", nil, wire.HeaderAPIKey, "tml-two").want(http.StatusOK, `"team"`)

	if err := f.meta.RevokeKey(t.Context(), "k1", f.clock.now()); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(keyCache)
	f.as("tml-one").want(http.StatusUnauthorized, "revoked")
	f.as("tml-two").want(http.StatusOK)
	// With every key revoked the door stays closed.
	if err := f.meta.RevokeKey(t.Context(), "k2", f.clock.now()); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(keyCache)
	f.as("tml-two").want(http.StatusUnauthorized, "revoked")
	f.as(alice).want(http.StatusUnauthorized, "unknown API key")
}
