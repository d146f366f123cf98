package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/durable"
	"github.com/tinkex/tinkex/internal/wire"
)

// What doctor finds.
const (
	findOK      = "ok"
	findWarning = "warning"
	findFailed  = "failed"
)

// finding is what a check found, as doctor -f json says it.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// Limits that doctor goes by.
const (
	doctorTimeout = 10 * time.Second
	slowAnswer    = 2 * time.Second
	skewWarning   = 30 * time.Second
	certWarning   = 14 * 24 * time.Hour
	spaceWarning  = 1 << 30
	spaceFailure  = 64 << 20
)

func (a *app) doctorCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check key, server, clock, disk and version",
		Long: `Check what commands depend on, and say what to do about what is wrong: the key (that
there is one, where it is from, and that the server accepts it), the server (that it
answers, how fast, what it is, its certificate), this computer's clock against the
server's, space and permission to write where downloads go and where 'tinkex serve'
keeps its data, versions, proxies, and downloads that were left unfinished.

With -f json the answer is {"ok", "checks": [{"check", "status": "ok", "warning" or
"failed", "detail", "advice"}]}.

Exit status: 0 if nothing failed, warnings or not; 5 if the key did; 1 if anything
else did; 2 wrong usage; 130 interrupted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), dir) },
	}
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "the directory that downloads go to")
	return cmd
}

func (a *app) doctor(ctx context.Context, dir string) error {
	var all []finding
	var printErr error
	// Findings are shown as they are made: a server that does not answer takes
	// its time.
	found := func(list ...finding) {
		all = append(all, list...)
		for _, f := range list {
			if a.format != "json" && printErr == nil {
				printErr = a.printFinding(f)
			}
		}
	}
	found(versionFinding())
	found(proxyFindings()...)
	c, err := a.connect(ctx)
	a.conn = c
	if err != nil {
		found(finding{"profile", findFailed, err.Error(), "'tinkex profile list' shows the profiles there are."})
	} else {
		key := a.keyFinding(c)
		server, answer := a.serverFinding(ctx, c)
		if key.Status == findOK && answer != nil {
			key, server = a.acceptedFinding(ctx, c, key, server)
		}
		found(key, server)
		if answer != nil {
			found(a.serverVersionFinding(ctx, c), clockFinding(answer))
			if answer.tls != nil {
				found(certificateFinding(answer.tls, time.Now()))
			}
		}
	}
	found(diskFinding("downloads", dir), leftoverFinding(dir))
	if data := defaultDataDir(); exists(data) {
		found(diskFinding("data", data))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if printErr != nil {
		return printErr
	}
	return a.doctorVerdict(all)
}

var findingColours = map[string]text.Colors{
	findOK: {text.FgGreen}, findWarning: {text.FgYellow}, findFailed: {text.FgRed, text.Bold},
}

// printFinding prints a finding in columns, the last of which is as wide as the
// terminal permits.
func (a *app) printFinding(f finding) error {
	const indent = 21
	width := 0
	if a.StdoutTerminal {
		width = a.Width - indent
	}
	lines := wrap(a.printable(f.Detail), width)
	if f.Advice != "" {
		lines = append(lines, wrap(a.printable(f.Advice), width)...)
	}
	status := fmt.Sprintf("%-7s", f.Status)
	if a.colours() {
		status = findingColours[f.Status].Sprint(status)
	}
	head := fmt.Sprintf("%s  %-10s  ", status, f.Check)
	for _, l := range lines {
		if err := a.print("%s%s\n", head, l); err != nil {
			return err
		}
		head = strings.Repeat(" ", indent)
	}
	return nil
}

// wrap breaks a text into lines between its words. Less than half a line of
// usual width is not worth breaking for.
func wrap(s string, width int) []string {
	if width < 40 {
		return []string{s}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		switch {
		case line == "":
			line = word
		case text.StringWidth(line)+1+text.StringWidth(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// doctorVerdict ends doctor, with the exit code that the findings deserve.
func (a *app) doctorVerdict(all []finding) error {
	count := map[string]int{}
	var verdict error
	for _, f := range all {
		count[f.Status]++
		switch {
		case f.Status != findFailed:
		case f.Check == "key":
			verdict = errors.Join(errSilent, tinkex.ErrUnauthorized)
		case verdict == nil:
			verdict = errSilent
		}
	}
	if a.format == "json" {
		out := struct {
			OK     bool      `json:"ok"`
			Checks []finding `json:"checks"`
		}{verdict == nil, all}
		if err := a.printJSON(out); err != nil {
			return err
		}
		return verdict
	}
	switch {
	case count[findFailed] > 0:
		a.say("%d of %s failed.", count[findFailed], plural(len(all), "check"))
	case count[findWarning] > 0:
		a.say("Nothing failed; %s.", plural(count[findWarning], "warning"))
	default:
		a.say("All is well.")
	}
	return verdict
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func versionFinding() finding {
	detail := "tinkex " + tinkex.Version
	if r := revision(); r != "" {
		detail += " (" + r + ")"
	}
	return finding{"version", findOK, detail, ""}
}

// proxyFindings tells proxies, whose passwords it does not.
func proxyFindings() []finding {
	var list []finding
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"} {
		value, set := os.Getenv(name), name
		if value == "" {
			set = strings.ToLower(name)
			value = os.Getenv(set)
		}
		if value == "" {
			continue
		}
		f := finding{"proxy", findOK, set + " is " + value, ""}
		if name != "NO_PROXY" {
			u, err := url.Parse(value)
			if err == nil && u.Host == "" {
				u, err = url.Parse("http://" + value)
			}
			if err != nil || u.Host == "" {
				f.Status, f.Detail, f.Advice = findWarning, set+" is not a URL", "Write http://HOST:PORT, or unset it."
			} else {
				f.Detail = set + " is " + u.Redacted()
			}
		}
		list = append(list, f)
	}
	return list
}

// keyFinding is about the key by itself.
func (a *app) keyFinding(c connection) finding {
	f := finding{Check: "key", Status: findFailed}
	var err error
	if c.key.value == "" {
		err = c.noKey()
	} else {
		var client *tinkex.RestClient
		// The URL has a check of its own.
		if client, err = tinkex.NewRestClient(tinkex.Options{APIKey: c.key.value, BaseURL: "http://localhost", Logger: a.logger()}); err == nil {
			_ = client.Close()
		}
	}
	if err != nil {
		f.Detail, f.Advice = err.Error(), a.credentialHint(err)
		return f
	}
	from := c.key.from
	if c.keyIn != "" {
		from += ", in the " + string(c.keyIn)
	}
	return finding{"key", findOK, fmt.Sprintf("well-formed, from %s; no server has seen it", from), ""}
}

// acceptedFinding asks the server whether it accepts the key. Where there are no
// training runs to ask for is no Tinker server, whatever else it answers.
func (a *app) acceptedFinding(ctx context.Context, c connection, f, server finding) (key, of finding) {
	client, err := tinkex.NewRestClient(tinkex.Options{
		APIKey: c.key.value, BaseURL: c.baseURL.value, Timeout: a.doctorTimeout(), MaxRetries: -1, Logger: a.logger(),
	})
	if err == nil {
		defer client.Close()
		_, err = client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
	}
	from, _, _ := strings.Cut(strings.TrimPrefix(f.Detail, "well-formed, "), ";")
	switch {
	case err == nil:
		return finding{"key", findOK, "accepted, " + from, ""}, server
	case errors.Is(err, tinkex.ErrNotFound):
		server.Status, server.Advice = findFailed, a.baseURLHint()
		server.Detail += ", but not as a Tinker server does: " + err.Error()
		return f, server
	case errors.Is(err, tinkex.ErrUnauthorized), errors.Is(err, tinkex.ErrForbidden):
		return finding{"key", findFailed, "not accepted, " + from + ": " + err.Error(), a.unauthorizedHint()}, server
	}
	return finding{"key", findWarning, "well-formed, " + from + "; whether it is accepted cannot be told: " + err.Error(), a.hint(err)}, server
}

func (a *app) doctorTimeout() time.Duration {
	if a.timeout > 0 {
		return a.timeout
	}
	return doctorTimeout
}

// answered is what a server answered.
type answered struct {
	status int
	header http.Header
	body   string
	date   time.Time // by the server's clock; zero if it does not tell
	at     time.Time // by this one's, in the middle of the request
	within time.Duration
	tls    *tls.ConnectionState
}

// serverFinding asks the server for a sign of life, which takes no key. The
// answer is nil if there was none.
func (a *app) serverFinding(ctx context.Context, c connection) (finding, *answered) {
	name := fmt.Sprintf("%s (from %s)", c.baseURL.value, c.baseURL.from)
	// The key has a check of its own.
	client, err := tinkex.NewRestClient(tinkex.Options{APIKey: "tml-any", BaseURL: c.baseURL.value, Logger: a.logger()})
	if err != nil {
		return finding{"server", findFailed, err.Error(), a.hint(err)}, nil
	}
	_ = client.Close()
	answer, err := a.probe(ctx, c, wire.APIPrefix+"/healthz")
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return finding{
			"server", findFailed, fmt.Sprintf("%s does not answer within %v", name, a.doctorTimeout()),
			"Try again; --timeout 5m allows for more. Otherwise the server's log, or a firewall in between, may tell.",
		}, nil
	}
	if err != nil {
		return finding{"server", findFailed, name + " does not answer: " + err.Error(), a.hint(&tinkex.Error{Op: "ask the server", Err: err})}, nil
	}
	f := finding{"server", findOK, fmt.Sprintf("%s answered in %v", name, answer.within.Round(time.Millisecond)), ""}
	switch {
	case answer.status >= http.StatusInternalServerError:
		f.Status, f.Advice = findFailed, "That is the server's fault; its log has more."
		f.Detail += fmt.Sprintf(" that it is not well: HTTP %d %s", answer.status, answer.body)
	case answer.status >= 300 && answer.status < 400:
		f.Status, f.Advice = findFailed, "Use the URL that it redirects to as the base URL, without /api/v1."
		f.Detail += fmt.Sprintf(" that it is elsewhere: %s", answer.header.Get("Location"))
	case strings.Contains(answer.header.Get("Content-Type"), "html"), answer.status == http.StatusNotFound:
		f.Status, f.Advice = findWarning, "Check the base URL; perhaps something else answers there."
		f.Detail += fmt.Sprintf(", but not as a Tinker server does (HTTP %d)", answer.status)
	case answer.within > slowAnswer:
		f.Status, f.Advice = findWarning, "That is slow. Check the network, proxies and the server's load."
	}
	return f, answer
}

// probe makes a request without a key and without retries.
func (a *app) probe(ctx context.Context, c connection, path string) (*answered, error) {
	ctx, cancel := context.WithTimeout(ctx, a.doctorTimeout())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.baseURL.value, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "tinkex-go/"+tinkex.Version)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	within := time.Since(begin)
	answer := &answered{status: resp.StatusCode, header: resp.Header, at: begin.Add(within / 2), within: within, tls: resp.TLS}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		answer.date = at
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	answer.body = strings.TrimSpace(string(body))
	return answer, err
}

// serverVersionFinding asks for what servers of this project tell.
func (a *app) serverVersionFinding(ctx context.Context, c connection) finding {
	f := finding{"server is", findOK, "not tinkex serve, or one that does not tell its version", ""}
	answer, err := a.probe(ctx, c, "/openapi.json")
	if err != nil || answer.status != http.StatusOK {
		return f
	}
	var doc struct {
		Info struct{ Title, Version string }
	}
	if json.Unmarshal([]byte(answer.body), &doc) != nil || doc.Info.Title != "Tinkex" {
		return f
	}
	f.Detail = "tinkex serve " + doc.Info.Version
	if doc.Info.Version != tinkex.Version {
		f.Status, f.Advice = findWarning, "Client and server are of different versions; update the older one if something does not work."
		f.Detail += ", and this is " + tinkex.Version
	}
	return f
}

// clockFinding compares the clocks. The server's says whole seconds.
func clockFinding(answer *answered) finding {
	if answer.date.IsZero() {
		return finding{"clock", findWarning, "cannot be compared: the server does not tell the time", ""}
	}
	skew := answer.at.Sub(answer.date.Add(time.Second / 2))
	if skew.Abs() <= time.Second+answer.within/2 {
		return finding{"clock", findOK, "agrees with the server's", ""}
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	f := finding{"clock", findOK, fmt.Sprintf("%v %s the server's", skew.Abs().Round(time.Second), direction), ""}
	if skew.Abs() > skewWarning {
		f.Status = findWarning
		f.Advice = "Ages, --before, --after and keep rules go by this clock. Set it, or have it set: on Linux, timedatectl set-ntp true."
	}
	return f
}

func certificateFinding(state *tls.ConnectionState, now time.Time) finding {
	cert := state.PeerCertificates[0]
	f := finding{"tls", findOK, fmt.Sprintf("%s, certificate of %s until %s", tls.VersionName(state.Version), cert.Issuer, cert.NotAfter.UTC().Format(time.DateOnly)), ""}
	if cert.NotAfter.Sub(now) < certWarning {
		f.Status, f.Advice = findWarning, "The server's certificate expires soon; its operator has to renew it."
	}
	return f
}

// diskFinding is about space, and permission to write.
func diskFinding(name, dir string) finding {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	shown := dir
	if !exists(dir) {
		shown += " (to be made)"
		for !exists(dir) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir)
		}
	}
	f := finding{name, findFailed, shown, ""}
	probe, err := os.CreateTemp(dir, ".tinkex-doctor-*")
	if err != nil {
		f.Detail += " cannot be written to: " + reason(err)
		if f.Advice = diskHint(err); f.Advice == "" {
			f.Advice = "Choose another directory with -o."
		}
		return f
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		f.Detail += " does not let files be removed: " + reason(err)
		return f
	}
	free, _, err := durable.Space(dir)
	if err != nil {
		return finding{name, findOK, shown + " can be written to; how much is free there cannot be told", ""}
	}
	f.Detail += fmt.Sprintf(" can be written to, %s free", size(int64(min(free, 1<<62))))
	switch {
	case free < spaceFailure:
		f.Advice = "The disk is all but full. Make room, or choose another directory with -o."
	case free < spaceWarning:
		f.Status, f.Advice = findWarning, "That is little for checkpoints."
	default:
		f.Status = findOK
	}
	return f
}

// reason is an error without what its Op and Path say.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// leftoverFinding looks for downloads that were begun and not finished.
func leftoverFinding(dir string) finding {
	list, _ := os.ReadDir(dir) // whether there is one, diskFinding tells
	var parts []string
	for _, entry := range list {
		name := entry.Name()
		if !entry.IsDir() || !strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".partial") {
			continue
		}
		var bytes int64
		var newest time.Time
		_ = filepath.WalkDir(filepath.Join(dir, name), func(_ string, d fs.DirEntry, err error) error {
			// What cannot be looked at is going away: the download may be going on.
			if err == nil {
				if fi, err := d.Info(); err == nil {
					if fi.Mode().IsRegular() {
						bytes += fi.Size()
					}
					if fi.ModTime().After(newest) {
						newest = fi.ModTime()
					}
				}
			}
			return nil
		})
		parts = append(parts, fmt.Sprintf("%s (%s, %s)", name, size(bytes), ago(newest)))
	}
	if len(parts) == 0 {
		return finding{"leftovers", findOK, "no unfinished downloads", ""}
	}
	return finding{
		"leftovers", findWarning, plural(len(parts), "unfinished download") + ": " + strings.Join(parts, ", "),
		"The same command goes on with one. To give it up, remove its directory.",
	}
}
