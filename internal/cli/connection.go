package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/profile"
)

// Where values come from, as 'profile show' says it.
const (
	fromDefault  = "default"
	fromNowhere  = "nowhere"
	fromKeyFlag  = "--api-key"
	fromKeyEnv   = "TINKER_API_KEY"
	fromURLFlag  = "--base-url"
	fromURLEnv   = "TINKER_BASE_URL"
	fromNameFlag = "--profile"
	fromNameEnv  = "TINKEX_PROFILE"
	fromUse      = "tinkex profile use"
)

// sourced is a value and where it comes from.
type sourced struct{ value, from string }

// connection is which server commands talk to, as whom.
type connection struct {
	profile sourced // its name; empty if none is used
	baseURL sourced
	key     sourced
	// keyErr is why there is no key; keyElsewhere, that it is another server's.
	keyErr       error
	keyElsewhere bool
	// keyIn is where the profile keeps the key, if that is where it is from.
	keyIn profile.Place
}

// ofProfile is where a profile's values come from.
func ofProfile(name string) string { return "profile " + name }

// errNoPlace: the user has no place for configuration, and so no profiles.
var errNoPlace = errors.New("there is no place for profiles")

// profiles are the user's.
func (a *app) profiles() (*profile.Store, error) {
	dir, err := profile.DefaultDir()
	if err != nil {
		return nil, fmt.Errorf("%w: %w; set HOME or XDG_CONFIG_HOME", errNoPlace, err)
	}
	if os.Getenv("TINKEX_NO_KEYRING") != "" {
		return profile.Open(dir, profile.NoRing{}), nil
	}
	return profile.Open(dir, profile.SystemRing{}), nil
}

// connect decides on server and key: a flag goes before the environment, that
// before the profile in use, and that before the default. --profile is a flag,
// so what it names goes before the environment.
//
// A profile's key is for the profile's server. If another is asked for, the
// connection has no key from there, and says why.
func (a *app) connect(ctx context.Context) (connection, error) {
	var c connection
	urlEnv, keyEnv := os.Getenv(fromURLEnv), os.Getenv(fromKeyEnv)
	store, err := a.profiles()
	var p profile.Profile
	if err == nil {
		p, err = a.chosenProfile(store, &c)
	}
	// A daemon has no home, and somebody's profiles may be damaged: that is of no
	// concern to who asks nothing of them.
	asked := a.profile != "" || os.Getenv(fromNameEnv) != ""
	complete := (a.baseURL != "" || urlEnv != "") && (a.apiKey != "" || keyEnv != "")
	if err != nil && (asked || !complete && !errors.Is(err, errNoPlace)) {
		return c, err
	}
	explicit := c.profile.from == fromNameFlag
	switch {
	case a.baseURL != "":
		c.baseURL = sourced{a.baseURL, fromURLFlag}
	case urlEnv != "" && !explicit:
		c.baseURL = sourced{urlEnv, fromURLEnv}
	case p.Name != "":
		c.baseURL = sourced{p.BaseURL, ofProfile(p.Name)}
	default:
		c.baseURL = sourced{tinkex.DefaultBaseURL, fromDefault}
	}
	same := p.Name != "" && profile.SameServer(c.baseURL.value, p.BaseURL)
	c.key.from = fromNowhere
	switch {
	case a.apiKey != "":
		c.key = sourced{a.apiKey, fromKeyFlag}
	case keyEnv != "" && (!explicit || !same):
		c.key = sourced{keyEnv, fromKeyEnv}
	case same:
		key, err := store.Key(ctx, p)
		if err != nil {
			c.keyErr = err
			break
		}
		c.key, c.keyIn = sourced{key, ofProfile(p.Name)}, p.KeyIn
	case p.Name != "":
		c.keyElsewhere = true
		c.keyErr = fmt.Errorf("the key of profile %s is for %s and is not sent to %s, which %s names",
			p.Name, p.BaseURL, c.baseURL.value, c.baseURL.from)
	}
	return c, nil
}

// chosenProfile is the profile that is named or in use; its name is empty if
// none is.
func (a *app) chosenProfile(store *profile.Store, c *connection) (profile.Profile, error) {
	switch env := os.Getenv(fromNameEnv); {
	case a.profile != "":
		c.profile = sourced{a.profile, fromNameFlag}
	case env != "":
		c.profile = sourced{env, fromNameEnv}
	default:
		_, current, err := store.List()
		if err != nil || current == "" {
			return profile.Profile{}, err
		}
		c.profile = sourced{current, fromUse}
	}
	p, err := store.Get(c.profile.value)
	if errors.Is(err, profile.ErrUnknown) {
		return p, a.unknownProfile(store, c.profile)
	}
	return p, err
}

// unknownProfile is the error of a profile that does not exist.
func (a *app) unknownProfile(store *profile.Store, name sourced) error {
	list, _, err := store.List()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return usagef("%s: there is no profile %q, nor any other; 'tinkex login --profile %s' makes it", name.from, name.value, name.value)
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	if best := nearest(name.value, names); best != "" {
		return usagef("%s: there is no profile %q; did you mean %q?", name.from, name.value, best)
	}
	return usagef("%s: there is no profile %q; there are %s", name.from, name.value, strings.Join(names, ", "))
}

// options configures the SDK from flags, environment and profile.
func (a *app) options(ctx context.Context) (tinkex.Options, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return tinkex.Options{}, err
	}
	a.conn = c
	if c.key.value == "" {
		return tinkex.Options{}, c.noKey()
	}
	a.logger().Debug("connecting", "server", c.baseURL.value, "server_from", c.baseURL.from, "key_from", c.key.from)
	if c.key.from == fromKeyEnv && c.baseURL.from == ofProfile(c.profile.value) {
		a.say("Using the key of %s for %s, the server of profile %s. --profile %s uses the profile's own.",
			fromKeyEnv, c.baseURL.value, c.profile.value, c.profile.value)
	}
	return tinkex.Options{
		APIKey: c.key.value, BaseURL: c.baseURL.value, Timeout: a.timeout, MaxRetries: retries,
		Logger: a.logger(), TracerProvider: a.tracing,
	}, nil
}

// noKey is the error of a connection without a key.
func (c connection) noKey() error { return &noKeyError{c.baseURL.value, c.keyErr, c.keyElsewhere} }

// noKeyError is a tinkex.ErrMissingAPIKey that knows profiles.
type noKeyError struct {
	server string
	why    error // nil if there is nothing to say but that
	// elsewhere: there is a key, for another server.
	elsewhere bool
}

func (e *noKeyError) Error() string {
	if e.why != nil {
		return "missing API key: " + e.why.Error()
	}
	return "missing API key for " + e.server
}

func (e *noKeyError) Is(target error) bool { return target == tinkex.ErrMissingAPIKey }

func (e *noKeyError) Unwrap() error { return e.why }

// rest is a client without a session, which is all that managing needs.
func (a *app) rest() (*tinkex.RestClient, error) {
	opts, err := a.options(a.Context)
	if err != nil {
		return nil, err
	}
	return tinkex.NewRestClient(opts)
}
