package profile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// memoryRing is a keyring in memory.
type memoryRing struct {
	mu   sync.Mutex
	keys map[string]string
}

func newRing() *memoryRing { return &memoryRing{keys: map[string]string{}} }

func (r *memoryRing) Set(_ context.Context, account, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[account] = key
	return nil
}

func (r *memoryRing) Get(_ context.Context, account string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.keys[account]; ok {
		return key, nil
	}
	return "", ErrNoKey
}

func (r *memoryRing) Delete(_ context.Context, account string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.keys[account]; !ok {
		return ErrNoKey
	}
	delete(r.keys, account)
	return nil
}

func TestProfiles(t *testing.T) {
	for name, tc := range map[string]struct {
		ring  *memoryRing
		where Place
	}{
		"keyring": {newRing(), InKeyring},
		"file":    {nil, InFile},
	} {
		t.Run(name, func(t *testing.T) {
			var ring Ring
			if tc.ring != nil {
				ring = tc.ring
			}
			ctx := t.Context()
			dir := filepath.Join(t.TempDir(), "not", "there", "yet")
			s := Open(dir, ring)
			if list, current, err := s.List(); err != nil || len(list) != 0 || current != "" {
				t.Fatalf("at first: %v, %q, %v", list, current, err)
			}
			for _, p := range []Profile{{Name: "lab", BaseURL: "http://lab"}, {Name: "home", BaseURL: "http://home"}} {
				where, why, err := s.Save(ctx, p, "tml-"+p.Name, false)
				if err != nil || where != tc.where || (why == nil) != (tc.where == InKeyring) {
					t.Fatalf("saved in %q, %v, %v", where, why, err)
				}
			}
			s = Open(dir, ring) // as another process
			list, current, err := s.List()
			if err != nil || current != "home" || !slices.Equal(list, []Profile{{"home", "http://home", tc.where}, {"lab", "http://lab", tc.where}}) {
				t.Fatalf("list %v, %q, %v", list, current, err)
			}
			lab, err := s.Get("lab")
			if err != nil {
				t.Fatal(err)
			}
			if key, err := s.Key(ctx, lab); err != nil || key != "tml-lab" {
				t.Errorf("key %q, %v", key, err)
			}
			// A profile that is made to name another server has no key.
			elsewhere := lab
			elsewhere.BaseURL = "http://elsewhere"
			if key, err := s.Key(ctx, elsewhere); !errors.Is(err, ErrNoKey) {
				t.Errorf("the key %q is for another server: %v", key, err)
			}
			if err := s.Use(ctx, "none"); !errors.Is(err, ErrUnknown) {
				t.Errorf("use of what is not there: %v", err)
			}
			if err := s.Use(ctx, "lab"); err != nil {
				t.Fatal(err)
			}
			// Logging in anew replaces the key, and forgets the old server's.
			if _, _, err := s.Save(ctx, elsewhere, "tml-new", false); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Key(ctx, lab); !errors.Is(err, ErrNoKey) {
				t.Errorf("the old server's key is still there: %v", err)
			}
			if err := s.Remove(ctx, "home", "lab"); err != nil {
				t.Fatal(err)
			}
			if list, current, err := s.List(); err != nil || len(list) != 0 || current != "" {
				t.Errorf("at last: %v, %q, %v", list, current, err)
			}
			if tc.ring != nil && len(tc.ring.keys) != 0 {
				t.Errorf("left in the keyring: %v", tc.ring.keys)
			}
			for _, f := range []string{profilesName, keysName} {
				b, err := os.ReadFile(filepath.Join(dir, f))
				if err != nil && (tc.where == InFile || f == profilesName) {
					t.Error(err)
				}
				if strings.Contains(string(b), "tml-") {
					t.Errorf("%s has a key: %s", f, b)
				}
			}
		})
	}
}

func TestNoKeyring(t *testing.T) {
	s := Open(t.TempDir(), newRing())
	where, why, err := s.Save(t.Context(), Profile{Name: "a", BaseURL: "http://a"}, "tml-a", true)
	if where != InFile || why != nil || err != nil {
		t.Errorf("saved in %q, %v, %v", where, why, err)
	}
	// From the file to the keyring.
	if where, _, err := s.Save(t.Context(), Profile{Name: "a", BaseURL: "http://a"}, "tml-b", false); where != InKeyring || err != nil {
		t.Errorf("saved in %q, %v", where, err)
	}
	if b, err := os.ReadFile(s.KeysFile()); err != nil || strings.Contains(string(b), "tml-") {
		t.Errorf("the file still has the key, or %v", err)
	}
}

func TestExposedKeysAreNotRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes are Unix's")
	}
	s := Open(t.TempDir(), nil)
	p := Profile{Name: "a", BaseURL: "http://a"}
	if _, _, err := s.Save(t.Context(), p, "tml-a", false); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{profilesName, keysName} {
		if info, err := os.Stat(filepath.Join(s.dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f, info.Mode(), err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(s.KeysFile(), mode); err != nil {
			t.Fatal(err)
		}
		p.KeyIn = InFile
		if key, err := s.Key(t.Context(), p); !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), "chmod 600") || key != "" {
			t.Errorf("mode %o: key %q, %v", mode, key, err)
		}
		if _, _, err := s.Save(t.Context(), Profile{Name: "b", BaseURL: "http://b"}, "tml-b", false); !errors.Is(err, ErrExposed) {
			t.Errorf("mode %o: saved, %v", mode, err)
		}
	}
}

func TestDamagedFilesAreNamedAndLeftAlone(t *testing.T) {
	for _, content := range []string{"{", `"tml-secret"`, `{"format": 2}`} {
		s := Open(t.TempDir(), nil)
		path := filepath.Join(s.dir, profilesName)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for what, do := range map[string]func() error{
			"list":   func() error { _, _, err := s.List(); return err },
			"save":   func() error { _, _, err := s.Save(t.Context(), Profile{Name: "a"}, "k", true); return err },
			"remove": func() error { return s.Remove(t.Context(), "a") },
		} {
			if err := do(); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s of %q: %v", what, content, err)
			}
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%q became %q, %v", content, b, err)
		}
	}
}

func TestManyLogInAtOnce(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a", "b", "c", "d", "e"}
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			if _, _, err := Open(dir, nil).Save(t.Context(), Profile{Name: name, BaseURL: "http://" + name}, "tml-"+name, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, _, err := Open(dir, nil).List()
	if err != nil || len(list) != len(names) {
		t.Errorf("%d profiles, %v", len(list), err)
	}
	for _, p := range list {
		if key, err := Open(dir, nil).Key(t.Context(), p); err != nil || key != "tml-"+p.Name {
			t.Errorf("%s: key %q, %v", p.Name, key, err)
		}
	}
}

func TestValidateName(t *testing.T) {
	for name, ok := range map[string]bool{
		"lab": true, "my-lab.2_x": true, "": false, "-x": false, ".x": false, "a b": false, "a/b": false, "ä": false, strings.Repeat("x", 65): false,
	} {
		if err := ValidateName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSameServer(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"http://h", "http://h/", true},
		{"http://h", "http://H:80", true},
		{"https://h:443/x/", "https://h/x", true},
		{"http://h", "https://h", false},
		{"https://h/prod", "https://h/staging", false},
		{"http://h:1", "http://h:2", false},
		{"http://127.0.0.1", "http://localhost", false},
		{"http://[::1]:80", "http://[::1]", true},
		{"http://h", "%", false},
	} {
		if got := SameServer(tc.a, tc.b); got != tc.want {
			t.Errorf("%s and %s: %t", tc.a, tc.b, got)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if got, err := DefaultDir(); err != nil || got != filepath.Join(dir, "tinkex") {
		t.Errorf("%s, %v", got, err)
	}
	t.Setenv("XDG_CONFIG_HOME", "relative")
	if got, err := DefaultDir(); err != nil || !filepath.IsAbs(got) {
		t.Errorf("%s, %v", got, err)
	}
}

// hung is a keyring whose question nobody answers.
type hung struct{ NoRing }

func (hung) Set(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }

func TestAnInterruptedLoginStoresNothing(t *testing.T) {
	s := Open(t.TempDir(), hung{})
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, _, err := s.Save(ctx, Profile{Name: "a", BaseURL: "http://a"}, "tml-a", false); !errors.Is(err, context.Canceled) {
		t.Errorf("saved: %v", err)
	}
	if list, _, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("stored %v, %v", list, err)
	}
	if _, err := os.Stat(s.KeysFile()); err == nil {
		t.Error("the key is in the file")
	}
}
