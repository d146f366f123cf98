package hubtest

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// What the endpoint for tokens knows.
const (
	// OAuthClient is the only program that gets tokens renewed: the
	// huggingface_hub package.
	OAuthClient = "26be6b09-91c5-47da-9861-d2d2bb7a7e36"
	// ActionsToken is what a job shows for an ID token, at ActionsPath.
	ActionsToken = "ghs_hubtestTokenOfTheJob"
	// ActionsPath is where a GitHub Actions of the test's makes ID tokens.
	ActionsPath = "/actions/id-token"
)

// OAuth is what the endpoint for tokens does. It is set before the server is
// used.
type OAuth struct {
	// Rotate: a refresh token is good for one use, and brings the next.
	Rotate bool
	// ExpiresIn is how many seconds tokens are said to last. 0 is not said.
	ExpiresIn int
}

// grants are what tokens are given for.
type grants struct {
	users   map[string]string // of refresh tokens
	trusted map[string]string // resources, of ID tokens
	issued  int
	minted  int
}

// AddRefreshToken makes one that the user's tokens are renewed with.
func (s *Server) AddRefreshToken(token, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants.users[token] = user
}

// Trust has a resource trust the CI job with an ID token. ID tokens that
// ActionsPath makes are called by ActionsID.
func (s *Server) Trust(idToken, resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants.trusted[idToken] = resource
}

// ActionsID is the n-th ID token, from 1, that ActionsPath makes.
func ActionsID(n int) string { return fmt.Sprintf("eyJhbGciOiJub25lIn0.hubtest-%d.x", n) }

// Count is how many requests there were with a path.
func (s *Server) Count(path string) int {
	n := 0
	for _, r := range s.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

// mint makes an ID token, as GitHub does for its jobs.
func (s *Server) mint(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+ActionsToken {
		refuse(w, http.StatusUnauthorized, "", "not the job's token")
		return
	}
	if got := r.URL.Query().Get("audience"); got != s.URL {
		refuse(w, http.StatusBadRequest, "", "the audience is %q", got)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants.minted++
	answer(w, map[string]any{"value": ActionsID(s.grants.minted), "count": 1})
}

// giveToken is RFC 6749's token endpoint, for refresh tokens, and RFC 8693's,
// for ID tokens, whose parameters the Hub takes as JSON too.
func (s *Server) giveToken(w http.ResponseWriter, r *http.Request) {
	in, err := parameters(r)
	if err != nil {
		deny(w, "invalid_request", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]any{"token_type": "bearer"}
	switch in.Get("grant_type") {
	case "refresh_token":
		refresh := in.Get("refresh_token")
		user, ok := s.grants.users[refresh]
		switch {
		case in.Get("client_id") != OAuthClient:
			deny(w, "invalid_client", "unknown client")
			return
		case !ok:
			deny(w, "invalid_grant", "the refresh token "+refresh+" is expired or revoked") // as servers do that should not
			return
		}
		s.grants.issued++
		token := fmt.Sprintf("hf_oauth_renewed%d", s.grants.issued)
		s.users[token], out["access_token"] = user, token
		if s.OAuth.Rotate {
			delete(s.grants.users, refresh)
			next := fmt.Sprintf("hf_refresh_rotated%d", s.grants.issued)
			s.grants.users[next], out["refresh_token"] = user, next
		}
	case "urn:ietf:params:oauth:grant-type:token-exchange":
		resource, ok := s.grants.trusted[in.Get("subject_token")]
		if !ok || resource != in.Get("resource") || in.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:id_token" {
			refuse(w, http.StatusForbidden, "", "%s does not trust %s", in.Get("resource"), in.Get("subject_token"))
			return
		}
		s.grants.issued++
		token := fmt.Sprintf("hf_jwt_exchanged%d", s.grants.issued)
		user, _, _ := strings.Cut(resource, "/")
		s.users[token], out["access_token"] = user, token
	default:
		deny(w, "unsupported_grant_type", in.Get("grant_type"))
		return
	}
	if s.OAuth.ExpiresIn > 0 {
		out["expires_in"] = s.OAuth.ExpiresIn
	}
	answer(w, out)
}

func parameters(r *http.Request) (url.Values, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/x-www-form-urlencoded":
		return url.ParseQuery(string(b))
	case "application/json":
		var in map[string]string
		err := json.Unmarshal(b, &in)
		out := url.Values{}
		for name, value := range in {
			out.Set(name, value)
		}
		return out, err
	}
	return nil, fmt.Errorf("a body of type %q", kind)
}

func deny(w http.ResponseWriter, code, description string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}
