package hfhub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DefaultEndpoint is the Hub.
const DefaultEndpoint = "https://huggingface.co"

// ErrNoToken: there is no token to be found.
var ErrNoToken = errors.New("no Hugging Face token")

// ErrMalformedEndpoint: the endpoint is not the address of a server.
var ErrMalformedEndpoint = errors.New("malformed Hugging Face endpoint")

// FindToken returns the token where the huggingface_hub package looks for it,
// whatever Options.Token is:
//
//   - If HF_OIDC_RESOURCE is set, a short-lived one that the Hub gives for the
//     ID token of a CI job: HF_OIDC_ID_TOKEN, or one that GitHub Actions makes.
//     That nothing comes of it is ErrOIDC; no other token is used instead.
//   - HF_TOKEN, then HUGGING_FACE_HUB_TOKEN.
//   - What is in the file that HF_TOKEN_PATH names, or that is called token in
//     HF_HOME, which is $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface if
//     it is not set. A token of the browser's login, of which stored_tokens
//     beside it knows when it ends, is renewed on its last day, and both files
//     are written. If that fails, Options.Notice hears why, and the token is
//     returned as it is.
//
// The secrets of Google Colab, where the package looks last, can be asked for in
// Python only; a program that runs there is given HF_TOKEN. Line breaks and
// spaces around a token are not part of it.
func FindToken(ctx context.Context, opts Options) (string, error) {
	c, err := newClient(ctx, opts)
	if err != nil {
		return "", err
	}
	f, err := c.find(ctx)
	return f.token, err
}

// found is a token, and until when it is taken without looking again.
type found struct {
	token string
	until time.Time // zero is for good
}

// remembered finds a token when it is first asked for and whenever it is time to
// look again, once for all who ask meanwhile.
func remembered(find func(ctx context.Context) (found, error)) func(ctx context.Context) (string, error) {
	turn := make(chan struct{}, 1)
	var last found
	return func(ctx context.Context) (string, error) {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		defer func() { <-turn }()
		if last.token != "" && (last.until.IsZero() || time.Now().Before(last.until)) {
			return last.token, nil
		}
		f, err := find(ctx)
		if err != nil {
			return "", err
		}
		last = f
		return f.token, nil
	}
}

// find looks for a token in all places.
func (c *Client) find(ctx context.Context) (found, error) {
	if resource := oidcResource(); resource != "" {
		return c.oidcToken(ctx, resource)
	}
	token, err := environmentToken()
	if token != "" || err != nil {
		return found{token: token}, err
	}
	return c.kept.find(ctx)
}

func environmentToken() (string, error) {
	// One that is set to nothing counts as not set, one of spaces only does not.
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if v := os.Getenv(name); v != "" {
			if token := cleanToken(v); token != "" {
				return checkToken(token, name)
			}
			break
		}
	}
	return "", nil
}

// fileToken is what is in the token file.
func fileToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the Hugging Face token: %w", err)
	}
	token := cleanToken(string(b))
	if token == "" {
		return "", fmt.Errorf("%w: HF_TOKEN is not set, and there is none in %s", ErrNoToken, path)
	}
	return checkToken(token, path)
}

func cleanToken(s string) string {
	return strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(s))
}

// checkToken refuses what cannot be sent in a header, without showing it.
func checkToken(token, from string) (string, error) {
	if !sendable(token) {
		return "", fmt.Errorf("%w: what is in %s is no token: it has a space or an unprintable character inside", ErrNoToken, from)
	}
	return token, nil
}

func sendable(token string) bool {
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

func tokenPath() (string, error) {
	if p, ok := os.LookupEnv("HF_TOKEN_PATH"); ok {
		return expand(p)
	}
	home, ok := os.LookupEnv("HF_HOME")
	if !ok {
		cache, ok := os.LookupEnv("XDG_CACHE_HOME")
		if !ok {
			cache = filepath.Join("~", ".cache")
		}
		home = filepath.Join(cache, "huggingface")
	}
	return expand(filepath.Join(home, "token"))
}

// expand resolves a leading ~ and variables. One that is not set stays as it is
// written.
func expand(p string) (string, error) {
	if rest, ok := strings.CutPrefix(p, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		p = home + rest
	}
	return os.Expand(p, func(name string) string {
		if v, ok := os.LookupEnv(name); ok {
			return v
		}
		return "$" + name
	}), nil
}

// endpoint is the one given, HF_ENDPOINT, or the Hub.
func endpoint(given string) (*url.URL, error) {
	s, from := given, "the endpoint"
	if s == "" {
		s, from = os.Getenv("HF_ENDPOINT"), "HF_ENDPOINT"
	}
	if s == "" {
		s = DefaultEndpoint
	}
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(s), "/"))
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("%w: %s has to be an address such as %s", ErrMalformedEndpoint, from, DefaultEndpoint)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: %s has to be an address such as %s, without a user, a query or a fragment", ErrMalformedEndpoint, from, DefaultEndpoint)
	}
	return u, nil
}
