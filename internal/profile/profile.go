// Package profile keeps what tinkex login was told: servers, each under a name
// with the key for it. Keys are in the operating system's keyring or, where
// there is none, in a file that only the user may read.
//
// A key belongs to the server it was given for: it is kept under the server's
// URL as well as the profile's name, so that a profile that is edited to name
// another server has no key.
package profile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/durable"
)

// Place is where a profile's key is kept.
type Place string

// The places.
const (
	InKeyring Place = "keyring"
	InFile    Place = "file"
)

// Profile is a server under a name.
type Profile struct {
	Name    string
	BaseURL string
	KeyIn   Place
}

// Errors to test for.
var (
	// ErrUnknown: there is no profile of that name.
	ErrUnknown = errors.New("no such profile")
	// ErrNoKey: the profile has no key, or has it no more.
	ErrNoKey = errors.New("the profile has no key")
	// ErrExposed: others may read the file that keys are in.
	ErrExposed = errors.New("others may read the keys")
)

const (
	profilesName = "profiles.json"
	keysName     = "keys.json"
	lockName     = "lock"
	format       = 1

	// lockWait bounds waiting for another process that changes profiles.
	lockWait = 10 * time.Second
)

// profilesFile is profiles.json. It has no secrets.
type profilesFile struct {
	Format   int              `json:"format"`
	Current  string           `json:"current,omitempty"`
	Profiles map[string]entry `json:"profiles"`
}

type entry struct {
	BaseURL string `json:"base_url"`
	KeyIn   Place  `json:"key_in"`
}

// keysFile is keys.json: keys by account.
type keysFile struct {
	Format int               `json:"format"`
	Keys   map[string]string `json:"keys"`
}

// Store is where a user's profiles are.
type Store struct {
	dir  string
	ring Ring
}

// DefaultDir is the user's directory for this program's configuration:
// XDG_CONFIG_HOME/tinkex where that is set, the system's own place else.
func DefaultDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tinkex"), nil
	}
	if os.Getenv("XDG_CONFIG_HOME") != "" && runtime.GOOS != "windows" && runtime.GOOS != "darwin" {
		home, err := os.UserHomeDir() // a relative one is to be ignored
		return filepath.Join(home, ".config", "tinkex"), err
	}
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "tinkex"), err
}

// Open returns the profiles kept in a directory, which need not exist. A nil
// ring is no keyring.
func Open(dir string, ring Ring) *Store {
	if ring == nil {
		ring = NoRing{}
	}
	return &Store{dir, ring}
}

// KeysFile is where keys are that are in no keyring.
func (s *Store) KeysFile() string { return filepath.Join(s.dir, keysName) }

// account is what a key is kept under.
func account(p Profile) string { return p.Name + " " + p.BaseURL }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ValidateName says what is wrong with a profile's name.
func ValidateName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q cannot be a profile's name; use up to 64 letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

// List returns all profiles by name, and the one in use, "" if none is.
func (s *Store) List() (profiles []Profile, current string, err error) {
	f, err := s.load()
	if err != nil {
		return nil, "", err
	}
	for _, name := range slices.Sorted(maps.Keys(f.Profiles)) {
		e := f.Profiles[name]
		profiles = append(profiles, Profile{name, e.BaseURL, e.KeyIn})
	}
	if _, ok := f.Profiles[f.Current]; !ok {
		f.Current = ""
	}
	return profiles, f.Current, nil
}

// Get returns a profile, or ErrUnknown.
func (s *Store) Get(name string) (Profile, error) {
	f, err := s.load()
	if err != nil {
		return Profile{}, err
	}
	e, ok := f.Profiles[name]
	if !ok {
		return Profile{}, fmt.Errorf("profile %q: %w", name, ErrUnknown)
	}
	return Profile{name, e.BaseURL, e.KeyIn}, nil
}

// Key returns a profile's key, or ErrNoKey.
func (s *Store) Key(ctx context.Context, p Profile) (string, error) {
	if p.KeyIn == InKeyring {
		key, err := s.ring.Get(ctx, account(p))
		if err != nil {
			return "", fmt.Errorf("read the key of profile %s from the keyring: %w", p.Name, err)
		}
		return key, nil
	}
	keys, err := s.loadKeys()
	if err != nil {
		return "", err
	}
	key, ok := keys.Keys[account(p)]
	if !ok {
		return "", fmt.Errorf("profile %s: %w", p.Name, ErrNoKey)
	}
	return key, nil
}

// Save adds a profile or replaces the one of that name, and puts it in use. The
// key goes to the keyring unless there is none, in which case why says so, or
// noRing asks for the file.
func (s *Store) Save(ctx context.Context, p Profile, key string, noRing bool) (where Place, why error, err error) {
	if err := ValidateName(p.Name); err != nil {
		return "", nil, err
	}
	err = s.change(ctx, func(f *profilesFile) error {
		old, had := f.Profiles[p.Name]
		where = InFile
		if !noRing {
			if why = s.ring.Set(ctx, account(p), key); why == nil {
				where = InKeyring
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if where == InFile {
			if err := s.setFileKey(account(p), key); err != nil {
				return err
			}
		}
		if f.Profiles == nil {
			f.Profiles = map[string]entry{}
		}
		f.Profiles[p.Name] = entry{p.BaseURL, where}
		f.Current = p.Name
		if had && (old.BaseURL != p.BaseURL || old.KeyIn != where) {
			// The new key is kept; that the old one could not be removed does not
			// change that.
			_ = s.forget(ctx, Profile{p.Name, old.BaseURL, old.KeyIn})
		}
		return nil
	})
	return where, why, err
}

// Remove removes profiles with their keys.
func (s *Store) Remove(ctx context.Context, names ...string) error {
	return s.change(ctx, func(f *profilesFile) error {
		for _, name := range names {
			e, ok := f.Profiles[name]
			if !ok {
				return fmt.Errorf("profile %q: %w", name, ErrUnknown)
			}
			if err := s.forget(ctx, Profile{name, e.BaseURL, e.KeyIn}); err != nil {
				return err
			}
			delete(f.Profiles, name)
			if f.Current == name {
				f.Current = ""
			}
		}
		return nil
	})
}

// Use puts a profile in use; "" puts none in use.
func (s *Store) Use(ctx context.Context, name string) error {
	return s.change(ctx, func(f *profilesFile) error {
		if _, ok := f.Profiles[name]; !ok && name != "" {
			return fmt.Errorf("profile %q: %w", name, ErrUnknown)
		}
		f.Current = name
		return nil
	})
}

// forget removes a key, if it is there.
func (s *Store) forget(ctx context.Context, p Profile) error {
	if p.KeyIn == InKeyring {
		if err := s.ring.Delete(ctx, account(p)); err != nil && !errors.Is(err, ErrNoKey) {
			return fmt.Errorf("remove the key of profile %s from the keyring: %w", p.Name, err)
		}
		return nil
	}
	return s.setFileKey(account(p), "")
}

// change changes profiles.json, one process at a time.
func (s *Store) change(ctx context.Context, by func(*profilesFile) error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock := flock.New(filepath.Join(s.dir, lockName), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(wait, 20*time.Millisecond); err != nil && !durable.NoLocks(err) {
		return fmt.Errorf("another tinkex is changing profiles in %s: %w", s.dir, err)
	}
	defer func() { _ = lock.Close() }()
	f, err := s.load()
	if err != nil {
		return err
	}
	if err := by(&f); err != nil {
		return err
	}
	f.Format = format
	return writeJSON(filepath.Join(s.dir, profilesName), f)
}

func (s *Store) load() (f profilesFile, err error) {
	path := filepath.Join(s.dir, profilesName)
	if err := readJSON(path, &f); err != nil {
		return f, err
	}
	if f.Format > format {
		return f, newer(path)
	}
	return f, nil
}

func (s *Store) loadKeys() (f keysFile, err error) {
	info, err := os.Stat(s.KeysFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return f, err
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return f, fmt.Errorf("%w: %s has mode %04o; run chmod 600 on it, and if others could have read it, replace the keys in it",
			ErrExposed, s.KeysFile(), info.Mode().Perm())
	}
	if err := readJSON(s.KeysFile(), &f); err != nil {
		return f, err
	}
	if f.Format > format {
		return f, newer(s.KeysFile())
	}
	return f, nil
}

// setFileKey sets the key of an account in the file, or removes it if it is
// empty.
func (s *Store) setFileKey(account, key string) error {
	f, err := s.loadKeys()
	if err != nil {
		return err
	}
	if f.Keys == nil {
		f.Keys = map[string]string{}
	}
	if _, had := f.Keys[account]; !had && key == "" {
		return nil
	}
	f.Keys[account] = key
	if key == "" {
		delete(f.Keys, account)
	}
	f.Format = format
	return writeJSON(s.KeysFile(), f)
}

func newer(path string) error {
	return fmt.Errorf("%s was written by a newer tinkex; update this one, or move the file away and log in again", path)
}

// readJSON reads a file, and leaves v alone if there is none. Its errors do not
// quote the file.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if json.Unmarshal(b, v) != nil {
		return fmt.Errorf("%s is not what tinkex login wrote; correct it, or move it away and log in again", path)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// SameServer reports whether two base URLs are of one server, so that a key
// for one may be sent to the other.
func SameServer(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	if errX != nil || errY != nil {
		return false
	}
	return strings.EqualFold(x.Scheme, y.Scheme) && strings.EqualFold(hostPort(x), hostPort(y)) &&
		strings.TrimRight(x.Path, "/") == strings.TrimRight(y.Path, "/")
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
