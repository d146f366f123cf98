package cli

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/tinkextest"
)

type doctorJSON struct {
	OK     bool      `json:"ok"`
	Checks []finding `json:"checks"`
}

// examine runs doctor and returns its findings by check.
func examine(t *testing.T, code int, args ...string) map[string]finding {
	t.Helper()
	r := run(t, append([]string{"doctor", "-f", "json", "-o", t.TempDir()}, args...)...).want(t, code, []string{`"checks"`}, nil)
	got := decode[doctorJSON](t, r)
	if got.OK != (code == exitDone) {
		t.Errorf("ok is %t with exit code %d", got.OK, code)
	}
	if r.stderr != "" {
		t.Errorf("stderr %q", r.stderr)
	}
	by := map[string]finding{}
	for _, f := range got.Checks {
		if f.Status != findOK && f.Status != findWarning && f.Status != findFailed || f.Status == findFailed && f.Advice == "" {
			t.Errorf("finding %+v", f)
		}
		by[f.Check] = f
	}
	return by
}

func wantFinding(t *testing.T, f finding, status string, parts ...string) {
	t.Helper()
	if f.Status != status {
		t.Errorf("%+v, want it %s", f, status)
	}
	for _, p := range parts {
		if !strings.Contains(f.Detail+"\n"+f.Advice, p) {
			t.Errorf("%+v lacks %q", f, p)
		}
	}
}

func TestDoctor(t *testing.T) {
	noProfiles(t)
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	srv := tinkextest.NewServer(t)
	t.Setenv(fromURLEnv, srv.URL)
	t.Setenv(fromKeyEnv, tinkextest.Key)
	got := examine(t, exitDone)
	wantFinding(t, got["key"], findOK, "accepted, from TINKER_API_KEY")
	wantFinding(t, got["server"], got["server"].Status, srv.URL, "from TINKER_BASE_URL", "answered in") // slowly, perhaps
	if got["server"].Status == findFailed {
		t.Errorf("%+v", got["server"])
	}
	wantFinding(t, got["server is"], findOK, "tinkex serve ")
	wantFinding(t, got["clock"], findOK)
	wantFinding(t, got["leftovers"], findOK)
	if got["downloads"].Status == findFailed {
		t.Errorf("%+v", got["downloads"])
	}

	r := run(t, "doctor", "-o", t.TempDir()).want(t, exitDone, []string{"ok       key         accepted"}, nil)
	if strings.Contains(r.stdout+r.stderr, tinkextest.Key) {
		t.Error("the key is shown")
	}
	t.Setenv(fromKeyEnv, "sk-what")
	wantFinding(t, examine(t, exitAuth)["key"], findFailed, "tml-", "from TINKER_API_KEY")
	t.Setenv(fromKeyEnv, "")
	wantFinding(t, examine(t, exitAuth)["key"], findFailed, "missing API key", "tinkex login")
	wantFinding(t, examine(t, exitFailed, "--profile", "none")["profile"], findFailed, "none")
}

func TestDoctorWithoutAServer(t *testing.T) {
	noProfiles(t)
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv(fromKeyEnv, tinkextest.Key)
	got := examine(t, exitFailed, "--base-url", "http://127.0.0.1:1")
	wantFinding(t, got["key"], findOK, "well-formed, from TINKER_API_KEY")
	wantFinding(t, got["server"], findFailed, "http://127.0.0.1:1 (from --base-url)", "tinkex serve --addr 127.0.0.1:1")
	wantFinding(t, got["leftovers"], findOK)
	if _, ok := got["clock"]; ok {
		t.Error("a clock was compared with none")
	}
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	late := examine(t, exitFailed, "--base-url", silent.URL, "--timeout", "50ms")["server"]
	wantFinding(t, late, findFailed, "does not answer within 50ms", "--timeout 5m")
	if strings.Contains(late.Advice, "tinkex doctor") {
		t.Errorf("doctor sends to itself: %+v", late)
	}
	for url, want := range map[string]string{"127.0.0.1:8484": "it is not a URL", "localhost:8484": "http:// or https://"} {
		wantFinding(t, examine(t, exitFailed, "--base-url", url)["server"], findFailed, want, "The URL is from --base-url.")
	}
}

// A server that answers, but not under the base URL.
func TestWrongPathOfTheBaseURL(t *testing.T) {
	noProfiles(t)
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	srv := tinkextest.NewServer(t)
	t.Setenv(fromKeyEnv, tinkextest.Key)
	for _, path := range []string{"/api/v1", "/api/v1/", "/elsewhere"} {
		got := examine(t, exitFailed, "--base-url", srv.URL+path)
		wantFinding(t, got["server"], findFailed, "not as a Tinker server does", srv.URL+path+" (from --base-url): it is a server's address, without /api/v1.")
		wantFinding(t, got["key"], findOK, "no server has seen it")
	}
	run(t, "run", "list", "--base-url", srv.URL+"/api/v1").want(t, exitNotFound, nil, []string{"without /api/v1."})
}

func TestClockFinding(t *testing.T) {
	date := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) // of some instant of this second
	for _, tc := range []struct {
		after, within  time.Duration
		status, detail string
	}{
		{500 * time.Millisecond, 0, findOK, "agrees with the server's"},
		{-500 * time.Millisecond, 0, findOK, "agrees with the server's"},
		{1500 * time.Millisecond, 0, findOK, "agrees with the server's"},
		{1501 * time.Millisecond, 0, findOK, "1s ahead of the server's"},
		{3500 * time.Millisecond, 4 * time.Second, findOK, "agrees with the server's"},
		{-4 * time.Second, 4 * time.Second, findOK, "5s behind the server's"},
		{30500 * time.Millisecond, 0, findOK, "30s ahead of the server's"},
		{time.Hour, 0, findWarning, "1h0m0s ahead of the server's"},
		{time.Second - time.Hour, 0, findWarning, "1h0m0s behind the server's"},
	} {
		f := clockFinding(&answered{at: date.Add(tc.after), date: date, within: tc.within})
		if f.Status != tc.status || f.Detail != tc.detail || (f.Advice != "") != (tc.status == findWarning) {
			t.Errorf("%v after, within %v: %+v, want it %s: %s", tc.after, tc.within, f, tc.status, tc.detail)
		}
	}
}

func TestDoctorOfOtherServers(t *testing.T) {
	noProfiles(t)
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv(fromKeyEnv, tinkextest.Key)
	// To the second it is known to nobody how long an answer was on its way.
	const offBy = 90*time.Minute + 30*time.Second
	for name, tc := range map[string]struct {
		tls    bool
		answer http.HandlerFunc
		code   int
		check  string
		status string
		parts  []string
	}{
		"refused key": {false, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(wire.HeaderAPIKey) != "" {
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, exitAuth, "key", findFailed, []string{"not accepted, from TINKER_API_KEY"}},
		"fast clock": {false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(-offBy).UTC().Format(http.TimeFormat))
		}, exitDone, "clock", findWarning, []string{"1h30m", "s ahead of", "Set it"}},
		"slow clock": {false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(offBy).UTC().Format(http.TimeFormat))
		}, exitDone, "clock", findWarning, []string{"1h30m", "s behind"}},
		"no clock": {false, func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil }, exitDone, "clock", findWarning, []string{"does not tell the time"}},
		"unwell":   {false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, exitFailed, "server", findFailed, []string{"HTTP 503"}},
		"moved": {false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere/api/v1/healthz")
			w.WriteHeader(301)
		}, exitFailed, "server", findFailed, []string{"https://elsewhere"}},
		"web page":    {false, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") }, exitDone, "server", findWarning, []string{"Check the base URL"}},
		"unknown":     {false, func(http.ResponseWriter, *http.Request) {}, exitDone, "server is", findOK, []string{"does not tell its version"}},
		"certificate": {true, func(http.ResponseWriter, *http.Request) {}, exitFailed, "server", findFailed, []string{"certificate", "SSL_CERT_FILE"}},
		"older": {false, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"info": {"title": "Tinkex", "version": "0.0.1"}, "training_runs": []}`))
		}, exitDone, "server is", findWarning, []string{"tinkex serve 0.0.1", "different versions"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tc.answer(w, r)
				if strings.HasSuffix(r.URL.Path, "/training_runs") && name != "older" && name != "refused key" {
					_, _ = w.Write([]byte(`{"training_runs": []}`))
				}
			}))
			srv.Config.ErrorLog = quiet()
			if tc.tls {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			wantFinding(t, examine(t, tc.code, "--base-url", srv.URL)[tc.check], tc.status, tc.parts...)
		})
	}
	t.Run("TLS asked for, and not spoken", func(t *testing.T) {
		srv := httptest.NewServer(http.NotFoundHandler())
		defer srv.Close()
		got := examine(t, exitFailed, "--base-url", strings.Replace(srv.URL, "http:", "https:", 1))
		wantFinding(t, got["server"], findFailed, "does not speak TLS")
	})
}

func TestDoctorFindsWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	part := filepath.Join(dir, ".run_weights_a.partial", "files")
	if err := os.MkdirAll(part, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(part, "x"), make([]byte, 2048), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".file.partial"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, leftoverFinding(dir), findWarning, "1 unfinished download: .run_weights_a.partial (2.0 KiB", "goes on")
	if f := diskFinding("downloads", filepath.Join(dir, "none", "yet")); !strings.Contains(f.Detail, filepath.Join("none", "yet")+" (to be made) can be written to") {
		t.Errorf("%+v", f)
	}
	wantFinding(t, diskFinding("downloads", filepath.Join(dir, ".file.partial")), findFailed, "cannot be written to", "-o")
	if f := diskFinding("downloads", dir); !strings.Contains(f.Detail, "can be written to") {
		t.Errorf("%+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("the check left something behind: %v, %v", left, err)
	}
}

func TestProxyPasswordsAreNotTold(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	if list := proxyFindings(); len(list) != 0 {
		t.Errorf("found %v", list)
	}
	t.Setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
	t.Setenv("http_proxy", "me:secret@%%")
	t.Setenv("NO_PROXY", "localhost")
	list := proxyFindings()
	if len(list) != 3 || !strings.Contains(list[0].Detail, "me:xxxxx@proxy:3128") || list[1].Status != findWarning || list[2].Detail != "NO_PROXY is localhost" {
		t.Errorf("found %+v", list)
	}
	if slices.ContainsFunc(list, func(f finding) bool { return strings.Contains(f.Detail+f.Advice, "secret") }) {
		t.Errorf("a password is told: %+v", list)
	}
}

func TestCertificateFinding(t *testing.T) {
	now := time.Now()
	for in, want := range map[time.Duration]string{90 * 24 * time.Hour: findOK, 3 * 24 * time.Hour: findWarning} {
		state := &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{{NotAfter: now.Add(in)}}}
		if f := certificateFinding(state, now); f.Status != want || !strings.Contains(f.Detail, "TLS 1.3") {
			t.Errorf("%v: %+v", in, f)
		}
	}
}

func TestWrap(t *testing.T) {
	s := "one two three four five six seven eight nine ten eleven twelve"
	for _, tc := range []struct {
		width int
		want  []string
	}{
		{0, []string{s}},
		{39, []string{s}},
		{40, []string{"one two three four five six seven eight", "nine ten eleven twelve"}},
		{100, []string{s}},
	} {
		if got := wrap(s, tc.width); !slices.Equal(got, tc.want) {
			t.Errorf("%d: %q", tc.width, got)
		}
	}
}
