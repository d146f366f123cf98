package tinkex

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// secret is a string that no formatting verb shows: functions print as their
// addresses.
type secret func() string

func hide(s string) secret { return func() string { return s } }

// credential holds the API key and, where the server wants one, the JWT it
// was exchanged for.
//
// Facts of the exchange are those of tinker 0.38.0, lib/_jwt_auth.py.
type credential struct {
	key secret
	t   *transport

	mu       sync.Mutex
	exchange bool // the server wants a JWT instead of the key
	jwt      secret
	// By the local clock: when to fetch the next JWT, and when to stop using
	// this one. Zero if the JWT does not say.
	refreshAt time.Time
	staleAt   time.Time
	fetch     *lazy[string] // nil unless an exchange is running
}

const (
	// jwtMargin is how long before its end a JWT is no longer used.
	jwtMargin = time.Minute
	// jwtRetry is how soon a failed background exchange is tried again.
	jwtRetry = time.Minute
)

// redact removes the credential from text that came from elsewhere.
func (c *credential) redact(s string) string {
	s = strings.ReplaceAll(s, c.key(), "(API key)")
	c.mu.Lock()
	jwt := c.jwt()
	c.mu.Unlock()
	if jwt != "" {
		s = strings.ReplaceAll(s, jwt, "(token)")
	}
	return s
}

// useJWT switches from the key to JWTs.
func (c *credential) useJWT() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exchange = true
}

// get returns what to send as X-API-Key. From half of a JWT's life on, the
// next one is fetched in the background; callers wait only when there is none
// that is still good.
func (c *credential) get(ctx context.Context) (string, error) {
	c.mu.Lock()
	if !c.exchange {
		defer c.mu.Unlock()
		return c.key(), nil
	}
	now := c.t.clock.now()
	jwt := c.jwt()
	good := jwt != "" && (c.staleAt.IsZero() || now.Before(c.staleAt))
	if good && (c.refreshAt.IsZero() || now.Before(c.refreshAt)) {
		c.mu.Unlock()
		return jwt, nil
	}
	c.mu.Unlock()
	return c.refresh(ctx, jwt, !good)
}

// replace returns a credential other than the one just rejected.
func (c *credential) replace(ctx context.Context, rejected string) (string, error) {
	return c.refresh(ctx, rejected, true)
}

// refresh returns a JWT other than old. It exchanges the key for one, once for
// all who ask at the same time. Without wait it returns old and leaves the
// exchange to the background.
func (c *credential) refresh(ctx context.Context, old string, wait bool) (string, error) {
	const op = "exchange the API key for a token"
	c.mu.Lock()
	if jwt := c.jwt(); jwt != old {
		defer c.mu.Unlock()
		return jwt, nil
	}
	run := c.fetch
	if run == nil {
		run = new(lazy[string])
		c.fetch = run
	}
	c.mu.Unlock()
	work := func(ctx context.Context) (string, error) {
		jwt, err := c.request(ctx, op)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.fetch = nil
		now := c.t.clock.now()
		if err != nil {
			if c.jwt() != "" {
				c.refreshAt = now.Add(jwtRetry)
				c.t.log.Warn("could not refresh the token; trying again in a minute", "error", err)
			}
			return "", err
		}
		c.jwt, c.refreshAt, c.staleAt = hide(jwt), time.Time{}, time.Time{}
		if life := jwtLifetime(jwt, now); life > 0 {
			c.refreshAt = now.Add(life / 2)
			c.staleAt = now.Add(max(life-jwtMargin, life/2))
		}
		return jwt, nil
	}
	if !wait {
		run.begin(ctx, c.t.life, work)
		return old, nil
	}
	return run.get(ctx, c.t.life, op, work)
}

func (c *credential) request(ctx context.Context, op string) (string, error) {
	var out wire.AuthToken
	err := c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/auth/token", rawKey: true}, struct{}{}, &out)
	if err == nil && out.JWT == "" {
		err = &Error{Op: op, Category: CategoryServer, Message: "the server's answer holds no token"}
	}
	return out.JWT, err
}

// jwtLifetime is how long a JWT lasts from when it was issued, so that the
// server's clock need not agree with ours; 0 if it does not say.
func jwtLifetime(jwt string, now time.Time) time.Duration {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return 0
	}
	var claims struct {
		IssuedAt float64 `json:"iat"`
		Expires  float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 {
		return 0
	}
	if claims.IssuedAt <= 0 {
		claims.IssuedAt = float64(now.Unix())
	}
	const day = 24 * 60 * 60
	return time.Duration(min(max(claims.Expires-claims.IssuedAt, 0), 365*day) * float64(time.Second))
}

// invalidToken reports whether an answer says that the JWT is no longer good.
func invalidToken(r *reply) bool {
	return r.status == http.StatusUnauthorized &&
		strings.Contains(r.header.Get("WWW-Authenticate"), `error="invalid_token"`)
}

// has reports whether get would answer at once.
func (c *credential) has() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.exchange || c.jwt() != "" && (c.staleAt.IsZero() || c.t.clock.now().Before(c.staleAt))
}
