package hfhub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// ErrOIDC: HF_OIDC_RESOURCE asks for a token in exchange for a CI job's
// identity, and there is none.
var ErrOIDC = errors.New("no Hugging Face token by OIDC, which HF_OIDC_RESOURCE asks for")

const (
	// tokenTimeout bounds a request for a token, so that nothing waits long for
	// what may not even be needed.
	tokenTimeout = 10 * time.Second
	// oidcMargin is how long before its end a token is replaced whose ID token
	// can be made anew.
	oidcMargin = 5 * time.Minute
	// oidcLifetime is that of a token of which the Hub does not say it.
	oidcLifetime = time.Hour

	maxTokenAnswer = 1 << 20
)

// oidcResource is what a token by OIDC is to be for: a repository, or a user.
func oidcResource() string { return os.Getenv("HF_OIDC_RESOURCE") }

// Keyless reports whether the token stands for a CI job and a repository that
// trusts it, and not for a user: there may be nobody whose token it is.
func (c *Client) Keyless() bool { return c.keyless }

// oidcToken exchanges a CI job's ID token for one of the Hub's.
func (c *Client) oidcToken(ctx context.Context, resource string) (found, error) {
	f, err := c.exchange(ctx, resource)
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			e.again = false // it was tried again as often as it may be
		}
		return found{}, fmt.Errorf("%w: %w", ErrOIDC, err)
	}
	return f, nil
}

func (c *Client) exchange(ctx context.Context, resource string) (found, error) {
	margin := time.Duration(0) // the same ID token gets no later one
	id := strings.TrimSpace(os.Getenv("HF_OIDC_ID_TOKEN"))
	if id == "" {
		margin = oidcMargin
		var err error
		if id, err = c.githubIDToken(ctx); err != nil {
			return found{}, err
		}
	}
	body, err := json.Marshal(map[string]string{
		"grant_type":         "urn:ietf:params:oauth:grant-type:token-exchange",
		"subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
		"subject_token":      id,
		"resource":           resource,
	})
	if err != nil {
		return found{}, err
	}
	op := "exchange the job's ID token for a token of " + resource
	var answer tokenAnswer
	start := time.Now()
	err = c.retry(ctx, op, func(ctx context.Context) error {
		start = time.Now()
		return c.askToken(ctx, op, c.tokenRequest("application/json"), body, []string{id}, &answer)
	})
	if err != nil {
		return found{}, err
	}
	token, err := answer.token(op)
	if err != nil {
		return found{}, err
	}
	lifetime, ok := answer.lifetime()
	if !ok {
		lifetime = oidcLifetime
	}
	return found{token, start.Add(max(lifetime-margin, 0))}, nil
}

// githubIDToken has GitHub Actions make an ID token for the Hub.
func (c *Client) githubIDToken(ctx context.Context) (string, error) {
	if os.Getenv("GITHUB_ACTIONS") != "true" {
		return "", errors.New("HF_OIDC_ID_TOKEN is not set, and this is no job of GitHub Actions, which would make an ID token")
	}
	address, bearer := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), strings.TrimSpace(os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	if address == "" || bearer == "" {
		return "", errors.New("GitHub Actions gives this job no ID token: the workflow has to set 'permissions: id-token: write'")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no address")
	}
	query := u.Query()
	query.Set("audience", c.endpoint.String())
	u.RawQuery = query.Encode()
	const op = "ask GitHub Actions for an ID token"
	var answer struct {
		Value string `json:"value"`
	}
	r := request{method: http.MethodGet, url: u.String(), accept: "application/json", bearer: bearer, direct: true}
	err = c.retry(ctx, op, func(ctx context.Context) error {
		return c.askToken(ctx, op, r, nil, []string{bearer}, &answer)
	})
	if err == nil && answer.Value == "" {
		err = &Error{Op: op, Message: "the answer has none"}
	}
	return answer.Value, err
}

// tokenAnswer is what the Hub gives: see RFC 6749, section 5.1.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    any    `json:"expires_in"` // seconds; a number, or one in a string
}

func (a tokenAnswer) token(op string) (string, error) {
	token := cleanToken(a.AccessToken)
	if token == "" || !sendable(token) {
		return "", &Error{Op: op, Message: "the answer has no token"}
	}
	return token, nil
}

// lifetime is how long the token is good for, if that is told.
func (a tokenAnswer) lifetime() (time.Duration, bool) {
	var seconds float64
	if _, err := fmt.Sscan(fmt.Sprint(a.ExpiresIn), &seconds); err != nil || seconds != seconds {
		return 0, false
	}
	return time.Duration(min(max(seconds, 0), 1<<32)) * time.Second, true
}

// tokenRequest is one to the endpoint where tokens are given out. It carries
// secrets in its body, and goes nowhere else.
func (c *Client) tokenRequest(contentType string) request {
	return request{
		method: http.MethodPost, url: c.url("/oauth/token"), contentType: contentType, accept: "application/json",
		anonymous: true, direct: true,
	}
}

// errInvalidGrant: what was shown for a token is not, or no longer, good for one.
var errInvalidGrant = errors.New("invalid_grant")

// askToken asks once. No error holds one of the secrets, or what else was
// answered but its reason.
func (c *Client) askToken(ctx context.Context, op string, r request, body []byte, secrets []string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	r.body, r.length = bytes.NewReader(body), int64(len(body))
	resp, err := c.send(ctx, op, r)
	if err != nil {
		return tokenError(err, secrets)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return transient(op, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &Error{Op: op, Status: resp.StatusCode, Message: "the answer is not what was expected"}
	}
	return nil
}

// tokenError takes the reason from a refusal: see RFC 6749, section 5.2.
func tokenError(err error, secrets []string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if e.decode(&said) == nil && said.Error != "" {
		e.Message = said.Error
		if said.Description != "" {
			e.Message += ": " + said.Description
		}
		if said.Error == errInvalidGrant.Error() {
			e.Err = errInvalidGrant
		}
	}
	e.body = nil
	for _, s := range secrets {
		e.Message = strings.ReplaceAll(e.Message, s, "…")
	}
	return err
}
