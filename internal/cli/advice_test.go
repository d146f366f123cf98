package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

func TestHints(t *testing.T) {
	dial := func(err error) error {
		return &tinkex.Error{Op: "list", Category: tinkex.CategoryUnknown, Err: &net.OpError{Op: "dial", Err: err}}
	}
	certificate := func(err error) error {
		return &tinkex.Error{Op: "list", Category: tinkex.CategoryUnknown, Err: &tls.CertificateVerificationError{Err: err}}
	}
	answer := func(status int, message string) error {
		return &tinkex.Error{Op: "list", Status: status, Category: tinkex.CategoryServer, Message: message}
	}
	cert := &x509.Certificate{}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"refused here":    {dial(errnoRefused[0]), "tinkex serve --addr 127.0.0.1:9"},
		"bucket refused":  {&net.OpError{Op: "dial", Err: errnoRefused[0]}, "its host and port"},
		"unreachable":     {dial(errnoUnreachable[0]), "VPN"},
		"no such host":    {dial(&net.DNSError{Err: "no such host", Name: "labb", IsNotFound: true}), "No host is called labb"},
		"no name server":  {dial(&net.DNSError{Err: "server misbehaving", Name: "lab", IsTemporary: true}), "The name server gave no answer"},
		"connect timeout": {dial(os.ErrDeadlineExceeded), "--timeout 5m"},
		"broken off":      {&tinkex.Error{Err: io.ErrUnexpectedEOF}, "broke off"},
		"reset":           {&tinkex.Error{Err: errnoReset[0]}, "broke off"},
		"no input":        {io.EOF, ""},
		"proxy":           {&tinkex.Error{Err: &net.OpError{Op: "proxyconnect", Err: errnoRefused[0]}}, "NO_PROXY"},
		"unknown CA":      {certificate(x509.UnknownAuthorityError{}), "SSL_CERT_FILE"},
		"other host":      {certificate(x509.HostnameError{Certificate: cert, Host: "h"}), "other names"},
		"expired":         {certificate(x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}), "Check the clock"},
		"no TLS":          {&tinkex.Error{Err: http.ErrSchemeMismatch}, "http://"},
		"no TLS either":   {&tinkex.Error{Err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}}, "http://"},
		"TLS":             {answer(400, "Client sent an HTTP request to an HTTPS server."), "https://"},
		"unauthorized":    {answer(401, "no"), "does not accept the key from TINKER_API_KEY"},
		"extension":       {answer(404, "does not offer imports: they are an extension of tinkex serve"), "A server of your own has it"},
		"forbidden":       {answer(403, "no"), "tinkex profile show"},
		"not found":       {answer(404, "no"), "tinkex checkpoint list"},
		"web page":        {answer(404, "not found (a web page, perhaps a proxy's, instead of the server's answer)"), "Check the base URL, http://127.0.0.1:9"},
		"busy":            {answer(429, "no"), "fewer --jobs"},
		"broken":          {answer(500, "no"), "the server's fault"},
		"disk full":       {fmt.Errorf("write: %w", errnoDiskFull[0]), "Make room"},
		"read-only":       {fmt.Errorf("write: %w", errnoReadOnly[0]), "read-only"},
		"permission":      {fmt.Errorf("write: %w", os.ErrPermission), "You may not"},
		"exists":          {tinkex.ErrExists, "--force"},
		"malformed key":   {tinkex.ErrMalformedAPIKey, "from TINKER_API_KEY"},
		"malformed URL":   {tinkex.ErrMalformedBaseURL, "from TINKER_BASE_URL"},
		"invalid path":    {fmt.Errorf("no: %w", tinkex.ErrInvalidPath), "tinker://RUN/weights/NAME"},
		"anything else":   {errors.New("what"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := &app{conn: connection{baseURL: sourced{"http://127.0.0.1:9", fromURLEnv}, key: sourced{"tml-x", fromKeyEnv}}}
			got := a.hint(fmt.Errorf("list: %w", tc.err))
			if !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") || strings.Contains(got, "tml-x") {
				t.Errorf("%q, want %q in it", got, tc.want)
			}
		})
	}
	elsewhere := &app{conn: connection{baseURL: sourced{"http://lab:9", fromURLEnv}}}
	if got := elsewhere.hint(dial(errnoRefused[0])); !strings.Contains(got, "host and port") || strings.Contains(got, "tinkex serve") {
		t.Errorf("refused elsewhere: %q", got)
	}
}

// What commands say when nothing answers as it should.
func TestErrorsFromTheWire(t *testing.T) {
	noProfiles(t)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(name, "")
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet()
	secure.StartTLS()
	defer secure.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<html><title>Welcome</title></html>")
	}))
	defer page.Close()
	t.Setenv(fromKeyEnv, tinkextest.Key)
	for name, tc := range map[string]struct {
		url  string
		code int
		want string
	}{
		"refused":   {"http://127.0.0.1:1", exitFailed, "Nothing listens there"},
		"http":      {strings.Replace(secure.URL, "https:", "http:", 1), exitFailed, "starts with https://"},
		"https":     {strings.Replace(plain.URL, "http:", "https:", 1), exitFailed, "starts with http://"},
		"unknown":   {secure.URL, exitFailed, "SSL_CERT_FILE"},
		"page":      {page.URL, exitNotFound, "not a Tinker server's answer"},
		"not a URL": {"127.0.0.1:8484", exitUsage, "The URL is from --base-url."},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, "run", "list", "--base-url", tc.url).want(t, tc.code, nil, []string{"tinkex: ", tc.want})
		})
	}
	t.Setenv(fromKeyEnv, "tml-a b")
	run(t, "run", "list", "--base-url", plain.URL).want(t, exitAuth, nil, []string{"a space", "The key is from TINKER_API_KEY."})
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// gone is a pipe that nobody reads any more.
type gone struct{}

func (gone) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: errnoPipe[0]}
}

func TestReadersThatGoAwayAreNoErrors(t *testing.T) {
	w := newWorld(t, "a")
	for _, args := range []string{"checkpoint list", "checkpoint list -f json", "checkpoint list --paths", "run list", "checkpoint info " + w.path("a"), "version", "doctor"} {
		var errOut bytes.Buffer
		code := Main(strings.Fields(args), Env{Stdin: strings.NewReader(""), Stdout: gone{}, Stderr: &errOut, Context: t.Context()})
		if code != exitPipe || strings.Contains(errOut.String(), "tinkex:") {
			t.Errorf("%s: exit code %d, %q", args, code, errOut.String())
		}
	}
	// A connection that breaks is an error.
	if exitCode(t.Context(), &tinkex.Error{Err: errnoPipe[0]}) != exitFailed {
		t.Error("a broken connection is taken for a reader that went away")
	}
}

// What draws measures the terminal, for which it needs the file.
func TestTheScreenIsTheTerminalItself(t *testing.T) {
	for _, out := range []io.Writer{os.Stdout, dataWriter{os.Stdout}} {
		if got := (&app{Env: Env{Stdout: out}}).screen(); got != os.Stdout {
			t.Errorf("%T draws on %T", out, got)
		}
	}
}

func TestPipesEndSilently(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the shell is Unix's")
	}
	noProfiles(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		fmt.Fprint(w, `{"checkpoints": [`)
		for i := range 500 {
			if i > 0 {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, `{"checkpoint_id": "weights/%[1]s-%[2]d", "checkpoint_type": "training", "tinker_path": "tinker://run/weights/%[1]s-%[2]d"}`, q.Get("offset"), i)
		}
		fmt.Fprint(w, `], "cursor": {"offset": 0, "limit": 500, "total_count": 100000}}`)
	}))
	defer srv.Close()
	t.Setenv(fromURLEnv, srv.URL)
	t.Setenv(fromKeyEnv, tinkextest.Key)
	for _, form := range []string{"", "-f json", "--paths"} {
		got := shell(t, "bash", "tinkex checkpoint list --limit 0 "+form+" 2>&1 | head -1; echo ${PIPESTATUS[0]}")
		lines := strings.Split(got, "\n")
		if len(lines) != 2 || lines[1] != "141" {
			t.Errorf("%s: %q", form, got)
		}
	}
}

// Nobody is asked where nobody answers.
func TestNoTerminalToAskOn(t *testing.T) {
	w := newWorld(t, "a", "b")
	for _, args := range []string{
		"checkpoint delete " + w.path("a"),
		"checkpoint delete --run " + w.run,
		"checkpoint prune --keep-last 1 --run latest",
	} {
		run(t, strings.Fields(args)...).want(t, exitUsage, nil, []string{"no terminal to ask on", "--yes"})
	}
	run(t, "checkpoint", "list", "--paths").want(t, exitDone, []string{w.path("a"), w.path("b")}, nil)
}

// The whole of an error is one thing, and what to do about it another.
func TestConnectionTimeout(t *testing.T) {
	noProfiles(t)
	released := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer silent.Close()
	defer close(released)
	a := &app{Env: Env{Context: t.Context(), Stderr: &bytes.Buffer{}}}
	client, err := tinkex.NewRestClient(tinkex.Options{APIKey: tinkextest.Key, BaseURL: silent.URL, Timeout: time.Millisecond, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.ListTrainingRuns(context.Background(), tinkex.ListRunsOptions{})
	if hint := a.hint(err); !strings.Contains(hint, "--timeout 5m") {
		t.Errorf("%v: %q", err, hint)
	}
}

func TestProxyError(t *testing.T) {
	proxy, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	client, err := tinkex.NewRestClient(tinkex.Options{
		APIKey: tinkextest.Key, BaseURL: "https://lab.invalid", MaxRetries: -1,
		HTTPClient: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.ListTrainingRuns(t.Context(), tinkex.ListRunsOptions{})
	if hint := (&app{}).hint(err); !strings.Contains(hint, "NO_PROXY") {
		t.Errorf("%v: %q", err, hint)
	}
}
