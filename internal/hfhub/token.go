package hfhub

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// DefaultEndpoint is the Hub.
const DefaultEndpoint = "https://huggingface.co"

// ErrNoToken: there is no token to be found.
var ErrNoToken = errors.New("no Hugging Face token")

// ErrMalformedEndpoint: the endpoint is not the address of a server.
var ErrMalformedEndpoint = errors.New("malformed Hugging Face endpoint")

// FindToken returns the token where the huggingface_hub package looks for it:
// HF_TOKEN, HUGGING_FACE_HUB_TOKEN, then the file that HF_TOKEN_PATH names or
// that is called token in HF_HOME, which is $XDG_CACHE_HOME/huggingface or
// ~/.cache/huggingface if it is not set. Line breaks and spaces around it are
// not part of it.
func FindToken() (string, error) {
	// One that is set to nothing counts as not set, one of spaces only does not.
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if v := os.Getenv(name); v != "" {
			if token := cleanToken(v); token != "" {
				return checkToken(token, name)
			}
			break
		}
	}
	path, err := tokenPath()
	if err != nil {
		return "", err
	}
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
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c > '~' {
			return "", fmt.Errorf("%w: what is in %s is no token: it has a space or an unprintable character inside", ErrNoToken, from)
		}
	}
	return token, nil
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
