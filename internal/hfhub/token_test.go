package hfhub_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/hfhub"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
)

// noTokens leaves nothing in the environment that a token could come from.
func noTokens(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HF_ENDPOINT",
		"HF_OIDC_RESOURCE", "HF_OIDC_ID_TOKEN", "GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
		"HF_DEVICE_CODE_OAUTH_CLIENT_ID",
	} {
		t.Setenv(name, "") // brings it back
		os.Unsetenv(name)
	}
}

// What the tests store of a login: the token in use, and what it is renewed with.
const (
	oldToken   = "hf_oauth_old"
	oldRefresh = "hf_refresh_old"
)

// login is a directory of tokens as hf auth login leaves it.
type login struct {
	t       *testing.T
	s       *hubtest.Server
	dir     string
	mu      sync.Mutex
	notices []string
}

// loggedIn makes one whose token in use ends after so long. It has two others.
func loggedIn(t *testing.T, left time.Duration) *login {
	t.Helper()
	noTokens(t)
	l := &login{t: t, s: hubtest.New(t), dir: t.TempDir()}
	t.Setenv("HF_HOME", l.dir)
	l.write("token", oldToken)
	l.write("stored_tokens", fmt.Sprintf("[Über mich]\nhf_token = hf_a%%(b)s\n\n[device]\nhf_token = %s\nrefresh_token = %s\nexpires_at = %d\n\n# by hand\n[z]\nHF_TOKEN: hf_z\n", oldToken, oldRefresh, time.Now().Add(left).Unix()))
	l.s.AddRefreshToken(oldRefresh, hubtest.User)
	return l
}

func (l *login) write(name, content string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(content), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *login) read(name string) string {
	l.t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.t.Fatal(err)
	}
	return string(b)
}

// stored are the tokens in the file, as maps.
func (l *login) stored() map[string]map[string]string {
	l.t.Helper()
	s, err := hfhub.ParseStored([]byte(l.read("stored_tokens")))
	if err != nil {
		l.t.Fatal(err)
	}
	out := map[string]map[string]string{}
	for _, section := range s.Sections {
		out[section.Name] = map[string]string{}
		for _, f := range section.Fields {
			out[section.Name][f.Name] = f.Value
		}
	}
	return out
}

func (l *login) options() hfhub.Options {
	return hfhub.Options{Endpoint: l.s.URL, Wait: (&waits{}).wait, Notice: func(message string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notices = append(l.notices, message)
	}}
}

func (l *login) find() (string, error) {
	l.t.Helper()
	token, err := hfhub.FindToken(ctx, l.options())
	if text := fmt.Sprint(err, l.notices); strings.Contains(text, "hf_oauth") || strings.Contains(text, "hf_refresh") {
		l.t.Errorf("a secret is told: %s", text)
	}
	return token, err
}

func (l *login) want(token string) {
	l.t.Helper()
	if got, err := l.find(); got != token || err != nil {
		l.t.Errorf("%q, %v; want %q", got, err, token)
	}
}

// said is that so many notices were given, and that the last has all of this in
// it.
func (l *login) said(n int, parts ...string) {
	l.t.Helper()
	if len(l.notices) != n {
		l.t.Fatalf("%d notices, want %d: %q", len(l.notices), n, l.notices)
	}
	for _, p := range parts {
		if last := l.notices[n-1]; !strings.Contains(last, p) {
			l.t.Errorf("%q does not say %q", last, p)
		}
	}
}

func TestTokenOfALoginIsRenewed(t *testing.T) {
	for _, tc := range []struct {
		name        string
		left        time.Duration
		rotate      bool
		expiresIn   int
		wantRefresh string
	}{
		{"on its last day", 23 * time.Hour, false, 8 * 3600, oldRefresh},
		{"with a new refresh token", 23 * time.Hour, true, 30 * 86400, "hf_refresh_rotated1"},
		{"when it has ended", -time.Hour, true, 30 * 86400, "hf_refresh_rotated1"},
		{"for one that does not say when it ends", time.Minute, false, 0, oldRefresh},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := loggedIn(t, tc.left)
			l.s.OAuth = hubtest.OAuth{Rotate: tc.rotate, ExpiresIn: tc.expiresIn}
			before := time.Now().Unix()
			l.want("hf_oauth_renewed1")
			l.said(0)
			if got := l.read("token"); got != "hf_oauth_renewed1" {
				t.Errorf("the token in use is %q", got)
			}
			stored := l.stored()
			got := stored["device"]
			if got["hf_token"] != "hf_oauth_renewed1" || got["refresh_token"] != tc.wantRefresh {
				t.Errorf("%v", got)
			}
			expires, _ := strconv.ParseInt(got["expires_at"], 10, 64)
			if want := before + int64(tc.expiresIn); tc.expiresIn > 0 && (expires < want || expires > want+60) || tc.expiresIn == 0 && got["expires_at"] != "" {
				t.Errorf("it ends at %q, not %d", got["expires_at"], want)
			}
			if stored["Über mich"]["hf_token"] != "hf_a%(b)s" || stored["z"]["hf_token"] != "hf_z" || len(stored) != 3 || !strings.Contains(l.read("stored_tokens"), "\n\n# by hand\n[z]\nHF_TOKEN: hf_z\n") {
				t.Errorf("the others are not what they were:\n%s", l.read("stored_tokens"))
			}
			if runtime.GOOS != "windows" {
				for _, name := range []string{"token", "stored_tokens"} {
					if info, err := os.Stat(filepath.Join(l.dir, name)); err != nil || info.Mode() != 0o600 {
						t.Errorf("%s: %v, %v", name, info.Mode(), err)
					}
				}
			}
			// And it works, with nobody's help but the Hub's.
			c, err := hfhub.New(ctx, l.options())
			if err != nil {
				t.Fatal(err)
			}
			if user, err := c.WhoAmI(ctx); user != hubtest.User || err != nil {
				t.Errorf("%q, %v", user, err)
			}
			entries, _ := os.ReadDir(l.dir)
			if len(entries) != 3 { // with the lock
				t.Errorf("%d files are left", len(entries))
			}
		})
	}
}

func TestTokenThatNeedsNoRenewal(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(l *login)
		want    string
		notices int
	}{
		{"it is new", func(*login) {}, oldToken, 0},
		{"the environment has one", func(l *login) { l.t.Setenv("HF_TOKEN", "hf_env") }, "hf_env", 0},
		{"it is no OAuth token", func(l *login) { l.write("stored_tokens", "[x]\nhf_token = "+oldToken+"\n") }, oldToken, 0},
		{"nobody says when it ends", func(l *login) {
			l.write("stored_tokens", "[x]\nhf_token = "+oldToken+"\nrefresh_token = x\nexpires_at = soon\n")
		}, oldToken, 0},
		{"it cannot be renewed", func(l *login) { l.write("stored_tokens", "[x]\nhf_token = "+oldToken+"\nexpires_at = 1\n") }, oldToken, 0},
		{"it is not among them", func(l *login) { l.write("token", "hf_other\n") }, "hf_other", 0},
		{"there are none stored", func(l *login) { os.Remove(filepath.Join(l.dir, "stored_tokens")) }, oldToken, 0},
		{"the file is broken", func(l *login) {
			l.write("stored_tokens", "[x]\nhf_token = "+oldToken+"\nrefresh_token = x\nexpires_at = 1\nbroken\n")
		}, oldToken, 1},
		{"the file is of another encoding", func(l *login) {
			l.write("stored_tokens", "[\xdcber]\nhf_token = "+oldToken+"\nrefresh_token = x\nexpires_at = 1\n")
		}, oldToken, 1},
		{"there are two of a name", func(l *login) { l.write("stored_tokens", l.read("stored_tokens")+"[device]\n") }, oldToken, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := loggedIn(t, 25*time.Hour)
			tc.change(l)
			before := l.read("stored_tokens")
			l.want(tc.want)
			l.said(tc.notices)
			if got := l.read("stored_tokens"); got != before {
				t.Errorf("the stored tokens were changed to\n%s", got)
			}
			if n := len(l.s.Requests()); n > 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestTokenThatCannotBeRenewed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		left  time.Duration
		fault http.HandlerFunc
		asked int
		says  []string
	}{
		{"revoked", time.Hour, nil, 1, []string{"hf auth login", "invalid_grant"}},
		{"revoked and ended", -time.Hour, nil, 1, []string{"hf auth login", "invalid_grant"}},
		{"unavailable", time.Hour, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, 1, []string{"is used as it is", "HTTP 503"}},
		{"no JSON", time.Hour, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, 1, []string{"is used as it is", "not what was expected"}},
		{"no token", time.Hour, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"expires_in":3600}`)) }, 1, []string{"the answer has no token"}},
		{"no token for a header", time.Hour, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"access_token":"a\nb\u0000"}`)) }, 1, []string{"the answer has no token"}},
		{"sent elsewhere", time.Hour, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 1, []string{"is used as it is", "HTTP 307"}},
		{"broken off", time.Hour, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 1, []string{"is used as it is"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := loggedIn(t, tc.left)
			if tc.fault != nil {
				l.s.Fail("POST", "/oauth/token", 0, 99, tc.fault)
			} else {
				l.write("stored_tokens", strings.Replace(l.read("stored_tokens"), oldRefresh, "hf_refresh_revoked", 1))
			}
			before := l.read("stored_tokens")
			l.want(oldToken)
			l.said(1, tc.says...)
			if got := l.read("stored_tokens"); got != before || l.read("token") != oldToken {
				t.Errorf("the stored tokens were changed to\n%s", got)
			}
			if n := l.s.Count("/oauth/token"); n != tc.asked || l.s.Count("/elsewhere") > 0 {
				t.Errorf("the Hub was asked %d times", n)
			}
		})
	}
	t.Run("server down", func(t *testing.T) {
		l := loggedIn(t, time.Hour)
		down := httptest.NewServer(nil)
		l.s.URL = down.URL
		down.Close()
		l.want(oldToken)
		l.said(1, "is used as it is")
	})
	t.Run("not to be kept", func(t *testing.T) {
		l := loggedIn(t, time.Hour)
		l.s.Fail("POST", "/oauth/token", 0, 1, func(w http.ResponseWriter, _ *http.Request) {
			// A directory in its place is not to be replaced by a file, whoever the
			// test runs as.
			os.Remove(filepath.Join(l.dir, "stored_tokens"))
			_ = os.Mkdir(filepath.Join(l.dir, "stored_tokens"), 0o700)
			_ = os.WriteFile(filepath.Join(l.dir, "stored_tokens", "x"), nil, 0o600)
			_, _ = w.Write([]byte(`{"access_token":"hf_jwt_new","expires_in":99999}`))
		})
		l.want("hf_jwt_new")
		l.said(1, "could not be kept", "hf auth login")
	})
	t.Run("without an end to the waiting", func(t *testing.T) {
		l := loggedIn(t, time.Hour)
		lock := flock.New(filepath.Join(l.dir, "stored_tokens.lock"))
		if ok, err := lock.TryLock(); !ok || err != nil {
			t.Fatal(ok, err)
		}
		defer lock.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := hfhub.FindToken(ctx, l.options()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if len(l.s.Requests()) > 0 {
			t.Error("it was renewed without the lock")
		}
	})
}

// Refresh tokens may be good for one use: of many who need one at once, one uses
// it.
func TestOneOfManyRenewsTheToken(t *testing.T) {
	l := loggedIn(t, time.Hour)
	l.s.OAuth = hubtest.OAuth{Rotate: true, ExpiresIn: 30 * 86400}
	var all sync.WaitGroup
	got := make([]string, 20)
	for i := range got {
		all.Go(func() {
			token, err := hfhub.FindToken(ctx, l.options())
			if err != nil {
				t.Error(err)
			}
			got[i] = token
		})
	}
	all.Wait()
	slices.Sort(got)
	if n := l.s.Count("/oauth/token"); n != 1 || !slices.Equal(slices.Compact(got), []string{"hf_oauth_renewed1"}) {
		t.Errorf("asked %d times for %q", n, got)
	}
	l.said(0)
}

// A client has the same token until it is time, and the next one then.
func TestClientRenewsItsToken(t *testing.T) {
	var l *login
	var c *hfhub.Client
	// Longer if a busy machine has not come so far by then.
	for soon := 2 * time.Second; ; soon *= 3 {
		due := time.Now().Add(soon)
		l = loggedIn(t, 24*time.Hour+soon)
		l.s.AddUser(oldToken, "before")
		var err error
		if c, err = hfhub.New(ctx, l.options()); err != nil {
			t.Fatal(err)
		}
		user, err := c.WhoAmI(ctx)
		left := time.Until(due)
		if left < time.Second && soon < time.Minute {
			continue
		}
		if user != "before" || err != nil {
			t.Fatalf("%q, %v", user, err)
		}
		time.Sleep(left)
		break
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if user, err := c.WhoAmI(ctx); user != hubtest.User || err != nil {
				t.Errorf("%q, %v", user, err)
			}
		})
	}
	all.Wait()
	if n := l.s.Count("/oauth/token"); n != 1 {
		t.Errorf("%d times", n)
	}
}

// What is in use is not overwritten if it is another token by the time that the
// Hub has answered; the one that was renewed is kept under its name.
func TestTokenThatIsSwitchedMeanwhile(t *testing.T) {
	l := loggedIn(t, time.Hour)
	l.s.Fail("POST", "/oauth/token", 0, 1, func(w http.ResponseWriter, _ *http.Request) {
		l.write("token", "hf_switched")
		_, _ = w.Write([]byte(`{"access_token":"hf_jwt_new","expires_in":"99999"}`))
	})
	l.want("hf_jwt_new")
	if got := l.stored()["device"]["hf_token"]; got != "hf_jwt_new" || l.read("token") != "hf_switched" {
		t.Errorf("%q, %q", got, l.read("token"))
	}
}

// An answer that nobody waits for any more may be the only one there is.
func TestRenewalIsNotInterrupted(t *testing.T) {
	l := loggedIn(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	l.s.Fail("POST", "/oauth/token", 0, 1, func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		time.Sleep(50 * time.Millisecond)
		_, _ = w.Write([]byte(`{"access_token":"hf_jwt_new","refresh_token":"hf_refresh_new","expires_in":99999}`))
	})
	_, _ = hfhub.FindToken(ctx, l.options())
	if got := l.stored()["device"]; got["hf_token"] != "hf_jwt_new" || got["refresh_token"] != "hf_refresh_new" || l.read("token") != "hf_jwt_new" {
		t.Errorf("%q, %q", got, l.read("token"))
	}
}

func TestStoredTokensThatAreALinkStayOne(t *testing.T) {
	l := loggedIn(t, time.Hour)
	if err := os.Rename(filepath.Join(l.dir, "stored_tokens"), filepath.Join(l.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(l.dir, "stored_tokens")); err != nil {
		t.Skip(err)
	}
	l.want("hf_oauth_renewed1")
	if to, err := os.Readlink(filepath.Join(l.dir, "stored_tokens")); to != "elsewhere" || err != nil || !strings.Contains(l.read("elsewhere"), "renewed1") {
		t.Errorf("%q, %v", to, err)
	}
}

func TestTokenByOIDC(t *testing.T) {
	const id, resource = "eyJhbGciOiJub25lIn0.secret.x", hubtest.User + "/adapter"
	github := func(l *login, query string) {
		l.t.Setenv("GITHUB_ACTIONS", "true")
		l.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", l.s.URL+hubtest.ActionsPath+query)
		l.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", hubtest.ActionsToken)
	}
	for _, tc := range []struct {
		name   string
		set    func(l *login)
		want   string
		says   []string // of an error
		minted int
		asked  int
	}{
		{"an ID token", func(l *login) { l.t.Setenv("HF_OIDC_ID_TOKEN", id); l.s.Trust(id, resource) }, "hf_jwt_exchanged1", nil, 0, 1},
		{"before all others", func(l *login) {
			l.t.Setenv("HF_OIDC_ID_TOKEN", id)
			l.t.Setenv("HF_TOKEN", "hf_env")
			github(l, "")
			l.s.Trust(id, resource)
		}, "hf_jwt_exchanged1", nil, 0, 1},
		{"GitHub's", func(l *login) { github(l, "?api-version=2.0"); l.s.Trust(hubtest.ActionsID(1), resource) }, "hf_jwt_exchanged1", nil, 1, 1},
		{"GitHub's, whose address says which version", func(l *login) {
			github(l, "?api-version=2.0")
			l.s.Trust(hubtest.ActionsID(1), resource)
			l.s.Fail("GET", hubtest.ActionsPath, 0, 1, func(w http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); q.Get("api-version") != "2.0" || q.Get("audience") != l.s.URL {
					l.t.Errorf("asked with %q", r.URL.RawQuery)
				}
				fmt.Fprintf(w, `{"value":%q}`, hubtest.ActionsID(1))
			})
		}, "hf_jwt_exchanged1", nil, 1, 1},
		{"again after a fault", func(l *login) {
			github(l, "")
			l.s.Trust(hubtest.ActionsID(1), resource)
			l.s.Fail("POST", "/oauth/token", 0, 2, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		}, "hf_jwt_exchanged1", nil, 1, 3},
		{"not trusted", func(l *login) { l.t.Setenv("HF_OIDC_ID_TOKEN", id) }, "", []string{"does not trust", "HTTP 403"}, 0, 1},
		{"no token in the answer", func(l *login) {
			l.t.Setenv("HF_OIDC_ID_TOKEN", id)
			l.s.Fail("POST", "/oauth/token", 0, 1, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) })
		}, "", []string{"the answer has no token"}, 0, 1},
		{"always unavailable", func(l *login) {
			l.t.Setenv("HF_OIDC_ID_TOKEN", id)
			l.s.Fail("POST", "/oauth/token", 0, 99, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		}, "", []string{"HTTP 503"}, 0, 1 + hfhub.DefaultRetries},
		{"no CI job", func(l *login) { l.t.Setenv("HF_OIDC_ID_TOKEN", "") }, "", []string{"HF_OIDC_ID_TOKEN is not set"}, 0, 0},
		{"no permission", func(l *login) { l.t.Setenv("GITHUB_ACTIONS", "true") }, "", []string{"id-token: write"}, 0, 0},
		{"no address", func(l *login) { github(l, ""); l.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "secret") }, "", []string{"ACTIONS_ID_TOKEN_REQUEST_URL is no address"}, 0, 0},
		{"GitHub refuses", func(l *login) { github(l, ""); l.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret") }, "", []string{"not the job's token", "HTTP 401"}, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := loggedIn(t, 48*time.Hour) // which would do, if it were asked for
			t.Setenv("HF_OIDC_RESOURCE", resource)
			tc.set(l)
			got, err := l.find()
			if got != tc.want || (err != nil) != (tc.says != nil) || err != nil && !errors.Is(err, hfhub.ErrOIDC) {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
			text := fmt.Sprint(err)
			for _, part := range tc.says {
				if !strings.Contains(text, part) {
					t.Errorf("%q does not say %q", text, part)
				}
			}
			if strings.Contains(text, "secret") || strings.Contains(text, "eyJ") {
				t.Errorf("a secret is told: %s", text)
			}
			if m, n := l.s.Count(hubtest.ActionsPath), l.s.Count("/oauth/token"); m != tc.minted || n != tc.asked {
				t.Errorf("GitHub was asked %d times, the Hub %d", m, n)
			}
			l.said(0)
		})
	}
}

// A token by OIDC that is about to end is replaced, if an ID token can be made;
// that this fails is not hidden by what there was.
func TestClientReplacesItsOIDCToken(t *testing.T) {
	for _, tc := range []struct {
		github bool
		want   int
	}{{true, 3}, {false, 1}} {
		t.Run(fmt.Sprint(tc.github), func(t *testing.T) {
			l := loggedIn(t, 48*time.Hour)
			l.s.OAuth.ExpiresIn = 200 // less than the margin
			t.Setenv("HF_OIDC_RESOURCE", hubtest.User)
			if tc.github {
				t.Setenv("GITHUB_ACTIONS", "true")
				t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", l.s.URL+hubtest.ActionsPath)
				t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", hubtest.ActionsToken)
			} else {
				t.Setenv("HF_OIDC_ID_TOKEN", hubtest.ActionsID(1))
			}
			for n := range 3 {
				l.s.Trust(hubtest.ActionsID(n+1), hubtest.User)
			}
			c, err := hfhub.New(ctx, l.options())
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if user, err := c.WhoAmI(ctx); user != hubtest.User || err != nil {
					t.Errorf("%q, %v", user, err)
				}
			}
			if n := l.s.Count("/oauth/token"); n != tc.want {
				t.Errorf("%d exchanges, want %d", n, tc.want)
			}
			if _, err := c.WhoAmI(ctx); (err != nil) != tc.github || err != nil && !errors.Is(err, hfhub.ErrOIDC) {
				t.Errorf("%v", err)
			}
			if !tc.github {
				return
			}
			if n := l.s.Count("/oauth/token"); n != 4 {
				t.Errorf("a refusal was asked for %d times", n-3)
			}
			// The tries of the request that needs it do not multiply with its own.
			l.s.Fail("POST", "/oauth/token", 0, 99, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			if _, err := c.WhoAmI(ctx); !errors.Is(err, hfhub.ErrOIDC) || l.s.Count("/oauth/token") != 4+1+hfhub.DefaultRetries {
				t.Errorf("%v after %d", err, l.s.Count("/oauth/token"))
			}
		})
	}
}
