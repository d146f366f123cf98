package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

const (
	keyPrefix  = "tml-"
	jwtPrefix  = "eyJ"
	jwtIssuer  = "passport-tinkex" // clients look for the prefix "passport-"
	jwtTTL     = time.Hour
	ownerURN   = "tml:user:"
	orgID      = "tinkex"
	maxKeySize = 512
	// keyCache is how long a key's standing may be stale after it is created
	// or revoked by another process.
	keyCache = 2 * time.Second
)

// authenticator turns credentials into owners. As long as no key was created,
// any well-formed key is accepted and each is its own owner; the listener sees
// to it that this happens on the loopback interface only.
type authenticator struct {
	meta   metastore.Store
	now    func() time.Time
	secret []byte

	mu    sync.Mutex
	cache map[string]standing // by key hash
}

type standing struct {
	owner string
	err   error
	until time.Time
}

// authError is a refused credential.
type authError struct {
	reason       string
	invalidToken bool
}

func (e *authError) Error() string { return e.reason }

func newAuthenticator(ctx context.Context, meta metastore.Store, now func() time.Time) (*authenticator, error) {
	secret, err := secretOf(ctx, meta, "jwt")
	return &authenticator{meta: meta, now: now, secret: secret, cache: map[string]standing{}}, err
}

func secretOf(ctx context.Context, meta metastore.Store, name string) ([]byte, error) {
	return meta.Secret(ctx, name, func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	})
}

// HashKey is how a key is stored and recognised.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// authenticate returns the owner that a request's credential stands for.
func (a *authenticator) authenticate(ctx context.Context, h http.Header) (string, error) {
	cred := h.Get(wire.HeaderAPIKey)
	if cred == "" {
		cred, _ = strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	}
	switch {
	case cred == "":
		return "", &authError{reason: "no credential: send an API key in the X-API-Key header"}
	case strings.HasPrefix(cred, jwtPrefix):
		return a.verify(cred)
	case !strings.HasPrefix(cred, keyPrefix) || len(cred) == len(keyPrefix) || len(cred) > maxKeySize:
		return "", &authError{reason: `malformed API key: expected "tml-..." or a JWT`}
	}
	hash := HashKey(cred)
	now := a.now()
	a.mu.Lock()
	st, ok := a.cache[hash]
	a.mu.Unlock()
	if ok && now.Before(st.until) {
		return st.owner, st.err
	}
	owner, err := a.lookup(ctx, hash)
	var denied *authError
	if err == nil || errors.As(err, &denied) {
		a.mu.Lock()
		if len(a.cache) > 10_000 {
			clear(a.cache)
		}
		a.cache[hash] = standing{owner, err, now.Add(keyCache)}
		a.mu.Unlock()
	}
	return owner, err
}

// Owner returns the owner that an API key stands for, or why it is refused.
func (s *Server) Owner(ctx context.Context, key string) (string, error) {
	h := http.Header{}
	h.Set(wire.HeaderAPIKey, key)
	return s.auth.authenticate(ctx, h)
}

func (a *authenticator) lookup(ctx context.Context, hash string) (string, error) {
	k, err := a.meta.KeyByHash(ctx, hash)
	switch {
	case err == nil && k.RevokedAt != nil:
		return "", &authError{reason: "this API key was revoked"}
	case err == nil:
		return k.Owner, nil
	case !errors.Is(err, metastore.ErrNotFound):
		return "", err
	}
	keys, err := a.meta.Keys(ctx)
	if err != nil {
		return "", err
	}
	if len(keys) > 0 {
		return "", &authError{reason: "unknown API key"}
	}
	return ownerURN + hash[:16], nil
}

// claims are those that clients read from a JWT.
type claims struct {
	jwt.RegisteredClaims
	OrgID string `json:"org_id"`
	Email string `json:"email"`
}

func (a *authenticator) issue(owner string) (string, error) {
	now := a.now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: jwtIssuer, Subject: owner,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(jwtTTL)),
		},
		OrgID: orgID,
	}).SignedString(a.secret)
}

func (a *authenticator) verify(token string) (string, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return a.secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(jwtIssuer),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(a.now))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return "", &authError{reason: "the JWT has expired", invalidToken: true}
	case err != nil || c.Subject == "":
		return "", &authError{reason: "the JWT is not one of this server's", invalidToken: true}
	}
	return c.Subject, nil
}

type keyInfo struct {
	KeyID   int64      `json:"key_id"`
	Name    string     `json:"name"`
	Note    string     `json:"note"`
	Details keyDetails `json:"details"`
}

type keyDetails struct {
	Org  keyOrg  `json:"org_details"`
	User keyUser `json:"user_details"`
}

type keyOrg struct {
	Name string `json:"name"`
}

type keyUser struct {
	Email string `json:"email"`
}

func (s *Server) authOps(api huma.API) {
	register(api, http.MethodPost, "/auth/token", "exchange-token", "Exchange a key for a short-lived JWT",
		func(ctx context.Context, _ *struct{}) (*reply[wire.AuthToken], error) {
			token, err := s.auth.issue(ownerOf(ctx))
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(wire.AuthToken{JWT: token}), nil
		})
	register(api, http.MethodGet, "/auth/apikey/me", "describe-key", "Describe the key in use",
		func(ctx context.Context, _ *struct{}) (*reply[keyInfo], error) {
			owner := ownerOf(ctx)
			return replyWith(keyInfo{Name: owner, Details: keyDetails{Org: keyOrg{orgID}, User: keyUser{owner}}}), nil
		})
}
