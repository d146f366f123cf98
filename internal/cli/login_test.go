package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/tinkextest"
)

// keyed is a server that accepts one key and notes every key it is sent.
type keyed struct {
	*httptest.Server
	accepts string
	seen    []string
}

func newKeyed(t *testing.T, accepts string) *keyed {
	k := &keyed{accepts: accepts}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(wire.HeaderAPIKey)
		k.seen = append(k.seen, key)
		switch {
		case key != k.accepts:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"detail": "unknown key"}`))
		case strings.HasSuffix(r.URL.Path, "/checkpoints"):
			_, _ = w.Write([]byte(`{"checkpoints": []}`))
		default:
			_, _ = w.Write([]byte(`{"training_runs": [], "cursor": {"offset": 0, "limit": 1, "total_count": 0}}`))
		}
	}))
	t.Cleanup(k.Close)
	return k
}

// noProfiles is a user who never logged in.
func noProfiles(t *testing.T) (dir string) {
	dir = t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	return filepath.Join(dir, "tinkex")
}

func login(t *testing.T, key string, args ...string) result {
	t.Helper()
	return tinkexWith(t, Env{Stdin: strings.NewReader(key + "\n")}, append([]string{"login", "--api-key-stdin"}, args...)...)
}

func TestLogin(t *testing.T) {
	dir := noProfiles(t)
	srv := newKeyed(t, "tml-good")
	// Nothing is stored of what the server refuses, or of what makes no sense.
	login(t, "tml-bad", "--base-url", srv.URL).want(t, exitAuth, nil, []string{"nothing was stored", "unknown key", "this login"})
	login(t, "", "--base-url", srv.URL).want(t, exitUsage, nil, []string{"standard input was empty"})
	login(t, "sk-other", "--base-url", srv.URL).want(t, exitAuth, nil, []string{"starts neither with tml-"})
	login(t, "tml-good", "--base-url", "http://127.0.0.1:1").want(t, exitFailed, nil, []string{"nothing was stored", "--no-check", "connection refused"})
	login(t, "tml-good", "--base-url", "ftp://x").want(t, exitUsage, nil, []string{"http:// or https://"})
	login(t, "tml-good", "--profile", "a/b").want(t, exitUsage, nil, []string{`"a/b"`, "letters, digits"})
	login(t, "tml-good", "--api-key", "tml-x").want(t, exitUsage, nil, []string{"contradict"})
	run(t, "login", "--base-url", srv.URL).want(t, exitUsage, nil, []string{"--api-key-stdin"})
	if files, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(files) != 0 {
		t.Fatalf("stored %v", files)
	}

	login(t, "tml-good", "--base-url", srv.URL+"/").want(t, exitDone, nil, []string{
		"Logged in to " + srv.URL + " as profile default; the server accepts the key", filepath.Join(dir, "keys.json"), "only you may read", "no keyring",
	})
	run(t, "checkpoint", "list").want(t, exitDone, nil, []string{"No checkpoints."})
	// Another server needs another name.
	lab := newKeyed(t, "tml-lab")
	login(t, "tml-lab", "--base-url", lab.URL).want(t, exitUsage, nil, []string{"profile default is for " + srv.URL, "--profile NAME"})
	r := login(t, "tml-lab", "--base-url", lab.URL, "--profile", "lab", "-f", "json").want(t, exitDone, []string{`"key_in": "file"`, `"checked": true`}, nil)
	if strings.Contains(r.stdout+r.stderr, "tml-lab") {
		t.Error("the key is shown")
	}
	list := run(t, "profile", "list").want(t, exitDone, []string{"default", "lab", srv.URL, lab.URL}, nil)
	if !strings.Contains(list.stdout, "*   lab") || strings.Contains(list.stdout, "tml-") {
		t.Errorf("list:\n%s", list.stdout)
	}
	run(t, "profile", "use", "labb").want(t, exitUsage, nil, []string{`did you mean "lab"?`})
	run(t, "profile", "use", "default").want(t, exitDone, nil, []string{"Using profile default, " + srv.URL})
	run(t, "run", "list", "--profile", "lab").want(t, exitDone, nil, []string{"No training runs."})
	run(t, "run", "list", "--profile", "nope").want(t, exitUsage, nil, []string{`--profile: there is no profile "nope"; there are default, lab`})
	if slices.Contains(srv.seen, "tml-lab") || slices.Contains(lab.seen, "tml-good") {
		t.Errorf("a key was sent to the other's server: %v, %v", srv.seen, lab.seen)
	}

	run(t, "logout", "--all", "--profile", "lab").want(t, exitUsage, nil, []string{"contradict"})
	run(t, "logout", "--profile", "nope").want(t, exitUsage, nil, []string{"nope"})
	run(t, "logout").want(t, exitDone, nil, []string{"Removed default and the key.", "No profile is in use now"})
	run(t, "logout").want(t, exitUsage, nil, []string{"no profile is in use", "lab"})
	run(t, "logout", "--all", "-f", "json").want(t, exitDone, []string{`"lab"`}, nil)
	run(t, "logout").want(t, exitDone, nil, []string{"There is no profile"})
	run(t, "profile", "list").want(t, exitDone, nil, []string{"No profiles"})
	if b, err := os.ReadFile(filepath.Join(dir, "keys.json")); err != nil || strings.Contains(string(b), "tml-") {
		t.Errorf("after logging out: %s, %v", b, err)
	}
}

func TestLoginAsksOnATerminal(t *testing.T) {
	noProfiles(t)
	srv := newKeyed(t, "tml-good")
	tty := func(answer string) Env { return Env{StdinTerminal: true, Stdin: strings.NewReader(answer)} }
	tinkexWith(t, tty("\n"), "login", "--base-url", srv.URL).want(t, exitFailed, nil, []string{"API key for " + srv.URL, "nothing was stored"})
	r := tinkexWith(t, tty("  tml-good \n"), "login", "--base-url", srv.URL, "--no-keyring").want(t, exitDone, nil, []string{"(not shown)", "Logged in"})
	if strings.Contains(r.stderr, "tml-good") {
		t.Error("the key is shown")
	}
	// Logging in anew is to the same server.
	tinkexWith(t, tty("tml-bad\n"), "login", "--no-check").want(t, exitDone, nil, []string{srv.URL, "the key was not checked"})
	run(t, "run", "list").want(t, exitAuth, nil, []string{"does not accept the key from profile default", "tinkex login --profile default"})
}

func TestPrecedence(t *testing.T) {
	noProfiles(t)
	const home, lab = "http://127.0.0.1:1", "http://127.0.0.1:2/lab"
	for name, url := range map[string]string{"home": home, "lab": lab} {
		login(t, "tml-"+name, "--base-url", url, "--profile", name, "--no-check").want(t, exitDone, nil, nil)
	}
	run(t, "profile", "use", "home").want(t, exitDone, nil, nil)
	type shown struct {
		Profile struct{ Value, From string }
		BaseURL struct{ Value, From string } `json:"base_url"`
		APIKey  struct {
			Set           bool
			From, Problem string
			StoredIn      string `json:"stored_in"`
		} `json:"api_key"`
	}
	for name, tc := range map[string]struct {
		args, urlEnv, keyEnv, nameEnv string
		profile, url, urlFrom         string
		keyFrom, problem              string
	}{
		"in use":                 {"", "", "", "", "home", home, "profile home", "profile home", ""},
		"named by environment":   {"", "", "", "lab", "lab", lab, "profile lab", "profile lab", ""},
		"named by flag":          {"--profile lab", "", "", "home", "lab", lab, "profile lab", "profile lab", ""},
		"argument":               {"lab", "", "", "home", "lab", lab, "profile lab", "profile lab", ""},
		"environment":            {"", "http://e", "tml-e", "", "home", "http://e", "TINKER_BASE_URL", "TINKER_API_KEY", ""},
		"flag over environment":  {"--base-url http://f --api-key tml-f", "http://e", "tml-e", "", "home", "http://f", "--base-url", "--api-key", ""},
		"profile flag over it":   {"--profile lab", "http://e", "tml-e", "", "lab", lab, "profile lab", "profile lab", ""},
		"environment's key":      {"", "", "tml-e", "", "home", home, "profile home", "TINKER_API_KEY", ""},
		"another server":         {"--base-url http://f", "", "", "", "home", "http://f", "--base-url", "nowhere", "the key of profile home is for " + home + " and is not sent to http://f, which --base-url names"},
		"another in environment": {"", "http://e", "", "", "home", "http://e", "TINKER_BASE_URL", "nowhere", "TINKER_BASE_URL"},
		"another path":           {"--base-url http://127.0.0.1:2/other --profile lab", "", "", "", "lab", "http://127.0.0.1:2/other", "--base-url", "nowhere", "is not sent to"},
		"flag beside both":       {"--base-url http://f --profile lab", "", "tml-e", "", "lab", "http://f", "--base-url", "TINKER_API_KEY", ""},
		"the same server":        {"--base-url http://127.0.0.1:1/", "", "", "", "home", "http://127.0.0.1:1/", "--base-url", "profile home", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(fromURLEnv, tc.urlEnv)
			t.Setenv(fromKeyEnv, tc.keyEnv)
			t.Setenv(fromNameEnv, tc.nameEnv)
			r := run(t, append([]string{"profile", "show", "-f", "json"}, strings.Fields(tc.args)...)...).want(t, exitDone, []string{"base_url"}, nil)
			if strings.Contains(r.stdout+r.stderr, "tml-") {
				t.Errorf("a key is shown:\n%s%s", r.stdout, r.stderr)
			}
			var got shown
			if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
				t.Fatal(err)
			}
			if got.Profile.Value != tc.profile || got.BaseURL.Value != tc.url || got.BaseURL.From != tc.urlFrom || got.APIKey.From != tc.keyFrom ||
				got.APIKey.Set == (tc.keyFrom == "nowhere") || !strings.Contains(got.APIKey.Problem, tc.problem) || (got.APIKey.Problem == "") != (tc.problem == "") {
				t.Errorf("%+v, want %+v", got, tc)
			}
			run(t, append([]string{"profile", "show"}, strings.Fields(tc.args)...)...).want(t, exitDone, []string{tc.url, tc.problem}, nil)
		})
	}
	// What is not sent is an authentication failure that says why.
	run(t, "run", "list", "--base-url", "http://127.0.0.1:3").want(t, exitAuth, nil, []string{"missing API key: the key of profile home", "tinkex login --profile NAME --base-url http://127.0.0.1:3"})
}

func TestMixedSourcesAreSaid(t *testing.T) {
	noProfiles(t)
	srv := newKeyed(t, "tml-good")
	login(t, "tml-good", "--base-url", srv.URL).want(t, exitDone, nil, nil)
	t.Setenv(fromKeyEnv, "tml-other")
	run(t, "run", "list").want(t, exitAuth, nil, []string{"Using the key of TINKER_API_KEY for " + srv.URL, "does not accept the key from TINKER_API_KEY"})
	run(t, "run", "list", "--profile", "default").want(t, exitDone, nil, nil)
}

func TestWithoutAnyKey(t *testing.T) {
	noProfiles(t)
	run(t, "run", "list").want(t, exitAuth, nil, []string{"missing API key for https://", "tinkex login"})
	run(t, "run", "list", "--profile", "x").want(t, exitUsage, nil, []string{"tinkex login --profile x"})
	run(t, "profile", "show").want(t, exitDone, []string{"Profile   none", "(from default)", "API key   none"}, nil)
	t.Setenv(fromKeyEnv, tinkextest.Key)
	run(t, "profile", "show").want(t, exitDone, []string{"set (from TINKER_API_KEY)"}, nil)
}

func TestNoPlaceForProfiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has another place")
	}
	srv := newKeyed(t, "tml-good")
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "")
	run(t, "run", "list", "--base-url", srv.URL, "--api-key", "tml-good").want(t, exitDone, nil, []string{"No training runs."})
	run(t, "run", "list", "--base-url", srv.URL).want(t, exitAuth, nil, []string{"missing API key"})
	run(t, "profile", "show").want(t, exitDone, []string{"none"}, nil)
	run(t, "run", "list", "--profile", "x").want(t, exitFailed, nil, []string{"there is no place for profiles", "set HOME"})
	run(t, "profile", "list").want(t, exitFailed, nil, []string{"set HOME"})
	login(t, "tml-good", "--base-url", srv.URL).want(t, exitFailed, nil, []string{"set HOME"})
}

func TestDamagedProfiles(t *testing.T) {
	dir := noProfiles(t)
	srv := newKeyed(t, "tml-good")
	login(t, "tml-good", "--base-url", srv.URL).want(t, exitDone, nil, nil)
	if runtime.GOOS != "windows" {
		keys := filepath.Join(dir, "keys.json")
		if err := os.Chmod(keys, 0o644); err != nil {
			t.Fatal(err)
		}
		r := run(t, "run", "list").want(t, exitAuth, nil, []string{"others may read the keys", "chmod 600"})
		if strings.Contains(r.stderr, "login") {
			t.Errorf("another login would be refused too: %s", r.stderr)
		}
		if err := os.Chmod(keys, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A key that only the keyring has cannot be had without one.
	profiles := filepath.Join(dir, "profiles.json")
	b, err := os.ReadFile(profiles)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(profiles, bytes.ReplaceAll(b, []byte(`"file"`), []byte(`"keyring"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "run", "list").want(t, exitAuth, nil, []string{"from the keyring", "--profile default --no-keyring"})
	// Nor be removed from it.
	run(t, "logout").want(t, exitFailed, nil, []string{"remove the key of profile default from the keyring", "run the same command again"})
	if err := os.WriteFile(profiles, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "run", "list").want(t, exitFailed, nil, []string{profiles, "log in again"})
	run(t, "run", "list", "--base-url", srv.URL, "--api-key", "tml-good").want(t, exitDone, nil, []string{"No training runs."})
}
