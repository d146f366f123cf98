package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/hfhub"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
)

// tokenVariables are what both sides take from the environment.
var tokenVariables = []string{
	"HF_ENDPOINT", "HF_HOME", "HF_TOKEN_PATH", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "XDG_CACHE_HOME", "HF_DEVICE_CODE_OAUTH_CLIENT_ID",
	"HF_OIDC_RESOURCE", "HF_OIDC_ID_TOKEN", "GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
}

// tokenWorld is a Hub and what a user has of tokens.
type tokenWorld struct {
	t   *testing.T
	s   *hubtest.Server
	dir string
	env map[string]string
}

// newTokenWorld has a login whose token ends after so long, between two others.
func newTokenWorld(t *testing.T, left time.Duration) *tokenWorld {
	t.Helper()
	w := &tokenWorld{t: t, s: hubtest.New(t), dir: t.TempDir()}
	w.env = map[string]string{"HF_ENDPOINT": w.s.URL, "HF_HOME": w.dir, "HF_HUB_DISABLE_TELEMETRY": "1"}
	w.s.AddRefreshToken("hf_refresh_old", hubtest.User)
	w.write("token", "hf_oauth_old")
	w.write("stored_tokens", fmt.Sprintf("[Ärger] mit %%(x)s]\nhf_token = hf_a\n\n[device]\nhf_token = hf_oauth_old\nrefresh_token = hf_refresh_old\nexpires_at = %d\n\n[z]\nhf_token = hf_z\n\n", time.Now().Add(left).Unix()))
	return w
}

func (w *tokenWorld) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tokenWorld) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// theirs is what the published package finds.
func (w *tokenWorld) theirs() doc {
	w.t.Helper()
	return script(w.t, "", "tml-none", "tokens", map[string]any{"env": w.env})
}

// ours is what we find.
func (w *tokenWorld) ours() (token string, notices []string, err error) {
	w.t.Helper()
	w.environ()
	token, err = hfhub.FindToken(w.t.Context(), hfhub.Options{Retries: -1, Notice: func(m string) { notices = append(notices, m) }})
	return token, notices, err
}

// environ makes the environment this process's.
func (w *tokenWorld) environ() {
	w.t.Helper()
	for _, name := range tokenVariables {
		w.t.Setenv(name, "") // brings it back
		os.Unsetenv(name)
	}
	for name, value := range w.env {
		w.t.Setenv(name, value)
	}
}

func (w *tokenWorld) stored() map[string]map[string]string {
	w.t.Helper()
	out, err := parsed(w.read("stored_tokens"))
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func parsed(text string) (map[string]map[string]string, error) {
	s, err := hfhub.ParseStored([]byte(text))
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for _, section := range s.Sections {
		out[section.Name] = map[string]string{}
		for _, f := range section.Fields {
			out[section.Name][f.Name] = f.Value
		}
	}
	return out, nil
}

// In every situation the published package and we find the same token, or none,
// and leave the same behind.
func TestTheTokenIsTheOneOfThePublishedClient(t *testing.T) {
	venv(t)
	const id = "eyJhbGciOiJub25lIn0.conformance.x"
	github := func(w *tokenWorld) {
		w.env["HF_OIDC_RESOURCE"] = hubtest.User + "/adapter"
		w.env["GITHUB_ACTIONS"], w.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "true", hubtest.ActionsToken
		w.env["ACTIONS_ID_TOKEN_REQUEST_URL"] = w.s.URL + hubtest.ActionsPath
	}
	for _, tc := range []struct {
		name  string
		left  time.Duration
		set   func(w *tokenWorld)
		asked int // of the endpoint for tokens
		want  string
	}{
		{"an OAuth token that is new", 25 * time.Hour, nil, 0, "hf_oauth_old"},
		{"its last day", 23 * time.Hour, nil, 1, "hf_oauth_renewed1"},
		{"rotated", time.Hour, func(w *tokenWorld) { w.s.OAuth.Rotate = true }, 1, "hf_oauth_renewed1"},
		{"ended", -time.Hour, func(w *tokenWorld) { w.s.OAuth = hubtest.OAuth{Rotate: true, ExpiresIn: 9} }, 1, "hf_oauth_renewed1"},
		{"revoked", time.Hour, func(w *tokenWorld) {
			w.write("stored_tokens", strings.Replace(w.read("stored_tokens"), "hf_refresh_old", "hf_revoked", 1))
		}, 1, "hf_oauth_old"},
		{"for another program", time.Hour, func(w *tokenWorld) { w.env["HF_DEVICE_CODE_OAUTH_CLIENT_ID"] = "another" }, 1, "hf_oauth_old"},
		{"server in trouble", time.Hour, func(w *tokenWorld) {
			w.s.Fail("POST", "/oauth/token", 0, 99, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) })
		}, 1, "hf_oauth_old"},
		{"broken file", time.Hour, func(w *tokenWorld) { w.write("stored_tokens", w.read("stored_tokens")+"broken") }, 0, "hf_oauth_old"},
		{"no UTF-8", time.Hour, func(w *tokenWorld) { w.write("stored_tokens", w.read("stored_tokens")+"[\xff]") }, 0, "hf_oauth_old"},
		{"an ordinary token", time.Hour, func(w *tokenWorld) { w.write("token", "hf_z\n") }, 0, "hf_z"},
		{"the environment's", time.Hour, func(w *tokenWorld) { w.env["HF_TOKEN"] = " hf_env\n" }, 0, "hf_env"},
		{"the older variable", time.Hour, func(w *tokenWorld) { w.env["HUGGING_FACE_HUB_TOKEN"] = "hf_env" }, 0, "hf_env"},
		{"logged out", time.Hour, func(w *tokenWorld) { os.Remove(filepath.Join(w.dir, "token")) }, 0, ""},
		{"elsewhere", time.Hour, func(w *tokenWorld) {
			for _, name := range []string{"token", "stored_tokens"} {
				if err := os.Rename(filepath.Join(w.dir, name), filepath.Join(w.dir, strings.ReplaceAll(name, "token", "tokens"))); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(filepath.Join(w.dir, "stored_tokenss"), filepath.Join(w.dir, "stored_tokens")); err != nil {
				t.Fatal(err)
			}
			w.env["HF_HOME"], w.env["HF_TOKEN_PATH"] = "/nowhere", filepath.Join(w.dir, "tokens")
		}, 1, "hf_oauth_renewed1"},
		{"an ID token", time.Hour, func(w *tokenWorld) {
			w.env["HF_OIDC_RESOURCE"], w.env["HF_OIDC_ID_TOKEN"], w.env["HF_TOKEN"] = "x/y", id, "hf_env"
			w.s.Trust(id, "x/y")
		}, 1, "hf_jwt_exchanged1"},
		{"GitHub's ID token", time.Hour, func(w *tokenWorld) { github(w); w.s.Trust(hubtest.ActionsID(1), hubtest.User+"/adapter") }, 1, "hf_jwt_exchanged1"},
		{"GitHub's, but not trusted", time.Hour, func(w *tokenWorld) { github(w) }, 1, ""},
		{"GitHub without permission", time.Hour, func(w *tokenWorld) { github(w); delete(w.env, "ACTIONS_ID_TOKEN_REQUEST_TOKEN") }, 0, ""},
		{"no CI job", time.Hour, func(w *tokenWorld) { w.env["HF_OIDC_RESOURCE"], w.env["HF_TOKEN"] = "x/y", "hf_env" }, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newTokenWorld(t, tc.left), newTokenWorld(t, tc.left)
			for _, w := range []*tokenWorld{a, b} {
				w.s.OAuth.ExpiresIn = 40 * 86400
				if tc.set != nil {
					tc.set(w)
				}
			}
			d := a.theirs()
			token, notices, err := b.ours()
			t.Logf("ours: %v %q", err, notices)
			if token != tc.want {
				t.Errorf("we found %q (%v), want %q", token, err, tc.want)
			}
			if tc.want == "" {
				_, raised := d.v.(map[string]any)["error"]
				if refused := errors.Is(err, hfhub.ErrOIDC); refused != raised || !refused && !errors.Is(err, hfhub.ErrNoToken) {
					t.Errorf("we: %v; they: %s", err, d.json())
				}
			} else {
				d.at("token").is(tc.want)
			}
			for _, w := range []*tokenWorld{a, b} {
				if n := w.s.Count("/oauth/token"); n != tc.asked {
					t.Errorf("asked %d times for a token, want %d", n, tc.asked)
				}
			}
			// The same is left behind, but for the second that it was written in.
			if strings.HasPrefix(tc.name, "broken") || strings.HasPrefix(tc.name, "no UTF-8") {
				if !strings.Contains(b.read("stored_tokens"), "hf_oauth_old") {
					t.Error("the broken file was written")
				}
				return
			}
			left, want := b.stored(), a.stored()
			for _, m := range []map[string]map[string]string{left, want} {
				delete(m["device"], "expires_at")
			}
			if !reflect.DeepEqual(left, want) {
				t.Errorf("we leave %q, they %q", left, want)
			}
			// And each reads what the other left, without asking for more.
			if tc.asked == 1 && strings.HasPrefix(tc.want, "hf_oauth_renewed") && tc.name != "ended" {
				b.theirs().at("token").is(token)
				if again, _, err := a.ours(); again != tc.want || err != nil {
					t.Errorf("after them we find %q, %v", again, err)
				}
				if a.s.Count("/oauth/token")+b.s.Count("/oauth/token") != 2 {
					t.Error("what the other had renewed was renewed again")
				}
				for _, w := range []*tokenWorld{a, b} {
					d := w.theirs()
					d.at("stored").is(w.stored())
					if at := d.at("stored", "device", "expires_at").str(); len(at) != 10 {
						t.Errorf("it ends at %q", at)
					}
				}
			}
		})
	}
}

// hold has a Python process take the lock until it is told to give it back.
func (w *tokenWorld) hold() (release func()) {
	w.t.Helper()
	cmd := w.python(map[string]any{"env": w.env, "hold": true})
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		w.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		w.t.Fatalf("%q, %v", line, err)
	}
	return sync.OnceFunc(func() {
		in.Close()
		_ = cmd.Wait()
	})
}

func (w *tokenWorld) python(args map[string]any) *exec.Cmd {
	w.t.Helper()
	arg, err := json.Marshal(args)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(venv(w.t), "bin", "python"), filepath.Join("python", "tokens.py"), string(arg))
	cmd.Env = environ("", "tml-none")
	return cmd
}

// all has many of theirs and of ours look for the token at once, and returns
// what each found.
func (w *tokenWorld) all() func() []string {
	w.t.Helper()
	w.environ()
	var mu sync.Mutex
	var found []string
	add := func(token string, err error) {
		if err != nil {
			w.t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		found = append(found, token)
	}
	var group sync.WaitGroup
	for range 3 {
		cmd := w.python(map[string]any{"env": w.env})
		group.Go(func() {
			var d struct{ Token string }
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &d)
			}
			add(d.Token, err)
		})
	}
	for range 8 {
		group.Go(func() {
			add(hfhub.FindToken(w.t.Context(), hfhub.Options{Notice: func(m string) { w.t.Error(m) }}))
		})
	}
	return func() []string {
		group.Wait()
		return found
	}
}

// Refresh tokens may be good for one use: of many Python processes and of ours,
// one uses it.
func TestOneOfAllClientsRenewsTheToken(t *testing.T) {
	venv(t)
	t.Run("while they have the lock", func(t *testing.T) {
		w := newTokenWorld(t, time.Hour)
		w.s.OAuth = hubtest.OAuth{Rotate: true, ExpiresIn: 40 * 86400}
		release := w.hold()
		defer release()
		found := w.all()
		time.Sleep(3 * time.Second)
		if n := len(w.s.Requests()); n > 0 {
			t.Errorf("%d requests while the lock was held", n)
		}
		release()
		for _, token := range found() {
			if token != "hf_oauth_renewed1" {
				t.Errorf("%q was found", token)
			}
		}
		if n := w.s.Count("/oauth/token"); n != 1 {
			t.Errorf("it was renewed %d times", n)
		}
	})
	t.Run("while we renew it", func(t *testing.T) {
		w := newTokenWorld(t, time.Hour)
		asked, answer := make(chan bool), make(chan bool)
		w.s.Fail("POST", "/oauth/token", 0, 1, func(rw http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-answer
			_, _ = rw.Write([]byte(`{"access_token": "hf_jwt_slow", "expires_in": 4000000}`))
		})
		first := make(chan string)
		w.environ()
		go func() {
			token, err := hfhub.FindToken(t.Context(), hfhub.Options{})
			first <- fmt.Sprint(token, err)
		}()
		select {
		case <-asked:
		case got := <-first:
			t.Fatalf("%s without asking", got)
		}
		found := w.all()
		time.Sleep(3 * time.Second)
		close(answer)
		if got := <-first; got != "hf_jwt_slow<nil>" {
			t.Error(got)
		}
		for _, token := range found() {
			if token != "hf_jwt_slow" {
				t.Errorf("%q was found", token)
			}
		}
		if n := w.s.Count("/oauth/token"); n != 1 {
			t.Errorf("it was renewed %d times", n)
		}
	})
}

// What Python writes we read, and of any text we make what its configparser
// makes of it.
func TestStoredTokensAreReadAsPythonReadsThem(t *testing.T) {
	venv(t)
	w := newTokenWorld(t, time.Hour)
	os.Remove(filepath.Join(w.dir, "stored_tokens"))
	d := script(t, "", "tml-none", "tokens", map[string]any{"env": w.env, "save": map[string]any{
		"a] = b: %(c)s": map[string]any{"token": "hf_1"},
		"中文 name":       map[string]any{"token": "hf_2", "refresh_token": "r=:;#", "expires_at": 1234567890},
		"#":             map[string]any{"token": "hf_3"},
	}})
	d.at("stored_path").is(filepath.Join(w.dir, "stored_tokens"))
	d.at("stored").is(w.stored())
	if len(w.stored()) != 3 {
		t.Errorf("%v", w.stored())
	}

	pieces := []string{
		"[a]", "[b]", "[DEFAULT]", "[", "]", "x", "y", "X", "hf_token", "=", ":", " = ", ": ", "\n", "\n", "\n", "\r\n", "\r", " ", "  ", "\t",
		"#", ";", "1", "é", "\u00a0", "\x1c", "\u2028", "\x0b", "\u0085", "\ufeff", "\x00", "x = 1\n", "\n[c]\n", "\n  more\n", "\n[b]\ny: 2\n",
	}
	r := rand.New(rand.NewPCG(1, 2))
	var texts []string
	for range 3000 {
		text := []string{"", "[a]\n", "[a]\nx = 1\n"}[r.IntN(3)]
		for range r.IntN(9) {
			text += pieces[r.IntN(len(pieces))]
		}
		texts = append(texts, text)
	}
	good := 0
	for chunk := range slices.Chunk(texts, 1000) { // of what a command line holds
		theirs := script(t, "", "tml-none", "tokens", map[string]any{"env": w.env, "parse": chunk}).at("parsed").list()
		for i, text := range chunk {
			ours, err := parsed(text)
			if (err != nil) != (theirs[i].v == nil) {
				t.Errorf("%q: %v, but Python reads %s", text, err, theirs[i].json())
			} else if err == nil {
				theirs[i].is(ours)
				good += min(len(ours), 1)
			}
		}
	}
	if good < 500 {
		t.Errorf("%d texts of %d say anything", good, len(texts))
	}
}
