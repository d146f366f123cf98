package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

// world is a server with checkpoints on it, and a way to run commands.
type world struct {
	t   *testing.T
	srv *tinkextest.Server
	svc *tinkex.ServiceClient
	run string
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	srv := tinkextest.NewServer(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	svc, err := tinkex.NewServiceClient(srv.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{
		Rank: 4, SkipMLP: true, UserMetadata: map[string]string{"purpose": "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, srv: srv, svc: svc, run: tc.RunID()}
	for _, name := range names {
		save := tc.SaveState
		if n, ok := strings.CutPrefix(name, "sampler:"); ok {
			name, save = n, tc.SaveWeightsForSampler
		}
		if _, err := save(t.Context(), name, tinkex.SaveOptions{UserMetadata: map[string]string{"note": name}}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) path(name string) string { return "tinker://" + w.run + "/weights/" + name }

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

// tinkexWith runs a command line in an environment.
func tinkexWith(t *testing.T, env Env, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	env.Stdout, env.Stderr = &out, &errOut
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	if env.Context == nil {
		env.Context = t.Context()
	}
	code := Main(args, env)
	return result{code, out.String(), errOut.String()}
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	return tinkexWith(t, Env{}, args...)
}

// want checks the exit code and that both streams say what they must.
func (r result) want(t *testing.T, code int, stdout, stderr []string) result {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	for _, w := range stdout {
		if !strings.Contains(r.stdout, w) {
			t.Errorf("stdout lacks %q:\n%s", w, r.stdout)
		}
	}
	for _, w := range stderr {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("stderr lacks %q:\n%s", w, r.stderr)
		}
	}
	if stdout == nil && r.stdout != "" {
		t.Errorf("stdout should be empty:\n%s", r.stdout)
	}
	return r
}

func decode[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("stdout is not one JSON document: %v\n%s", err, r.stdout)
	}
	return v
}

func TestWrongUsage(t *testing.T) {
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
	p := "tinker://run/weights/a"
	for name, tc := range map[string]struct {
		args   string
		code   int
		stderr string
	}{
		"unknown command":      {"chekpoint list", exitUsage, `did you mean "checkpoint"?`},
		"unknown subcommand":   {"checkpoint lst", exitUsage, `did you mean "list"?`},
		"help about nothing":   {"help chekpoint", exitUsage, `did you mean "checkpoint"?`},
		"help about no sub":    {"help checkpoint lst", exitUsage, `did you mean "list"?`},
		"unknown flag":         {"checkpoint list --bogus", exitUsage, "--bogus"},
		"format":               {"version -f xml", exitUsage, "use table or json"},
		"negative timeout":     {"version --timeout -1s", exitUsage, "negative"},
		"negative limit":       {"checkpoint list --limit -1", exitUsage, "--limit 0 is all"},
		"negative run offset":  {"run list --offset -1", exitUsage, "negative"},
		"limit not a number":   {"checkpoint list --limit x", exitUsage, "tinkex: --limit: \"x\" is not a whole number\n"},
		"timeout without unit": {"version --timeout 5", exitUsage, `--timeout: "5" is not a duration; write 30s or 5m`},
		"not true or false":    {"checkpoint list --public=maybe", exitUsage, `--public: "maybe" is not true or false`},
		"list with argument":   {"checkpoint list foo", exitUsage, "tinkex: unexpected argument \"foo\"\n"},
		"download nothing":     {"checkpoint download", exitUsage, "expected at least 1 argument, got 0"},
		"type":                 {"checkpoint list --type x", exitUsage, "use weights or sampler_weights"},
		"time":                 {"checkpoint list --before yesterday", exitUsage, "2026-01-31"},
		"info without path":    {"checkpoint info", exitUsage, "tinkex: expected 1 argument, got 0\nUsage: tinkex checkpoint info PATH"},
		"not a path":           {"checkpoint info foo", exitUsage, `"tinker://"`},
		"unknown kind":         {"checkpoint info tinker://run/other/a", exitUsage, `unknown kind "other"`},
		"unsafe name":          {"checkpoint info tinker://run/weights/..", exitUsage, "unsafe"},
		"ttl and remove":       {"checkpoint set-ttl " + p + " --ttl 5 --remove", exitUsage, "either"},
		"ttl nor remove":       {"checkpoint set-ttl " + p, exitUsage, "either"},
		"ttl zero":             {"checkpoint set-ttl " + p + " --ttl 0", exitUsage, "at least 1"},
		"ttl fraction":         {"checkpoint set-ttl " + p + " --ttl 1.5s", exitUsage, "whole seconds"},
		"ttl huge":             {"checkpoint set-ttl " + p + " --ttl 99999999999999", exitUsage, "--ttl"},
		"delete nothing":       {"checkpoint delete", exitUsage, "or --run for all"},
		"delete both":          {"checkpoint delete " + p + " --run-id r", exitUsage, "not both"},
		"delete filter":        {"checkpoint delete " + p + " --type weights", exitUsage, "give --run, or"},
		"jobs":                 {"checkpoint download " + p + " --jobs 0", exitUsage, "at least 1"},
		"import no name":       {"checkpoint import dir", exitUsage, "--name NAME is required"},
		"import bad name":      {"checkpoint import dir --name a/b", exitUsage, "--name: "},
		"import type":          {"checkpoint import dir --name a --type external", exitUsage, "weights or sampler_weights"},
		"import ttl":           {"checkpoint import dir --name a --ttl 0", exitUsage, "--ttl"},
		"import jobs":          {"checkpoint import dir --name a --jobs 0", exitUsage, "at least 1"},
		"import two":           {"checkpoint import a b --name a", exitUsage, "import (DIR"},
		"one bad of two":       {"checkpoint download " + p + " bad", exitUsage, `"bad"`},
		"serve address":        {"serve --addr nonsense", exitUsage, "HOST:PORT"},
		"serve public URL":     {"serve --public-url ftp://x", exitUsage, "http or https"},
		"serve log format":     {"serve --log-format xml", exitUsage, "text or json"},
		"serve log level":      {"serve --log-level loud", exitUsage, "debug, info, warn or error"},
		"serve metrics":        {"serve --metrics-addr 9090", exitUsage, "HOST:PORT or off"},
		"serve profiles":       {"serve --metrics-addr off --pprof", exitUsage, "--metrics-addr 127.0.0.1:PORT"},
		"serve profiles out":   {"serve --public-url http://x --pprof", exitUsage, "not for strangers"},
		"serve model":          {"serve --model x", exitUsage, "NAME=DIR"},
		"revoke nothing":       {"key revoke", exitUsage, "revoke ID..."},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, strings.Fields(tc.args)...).want(t, tc.code, nil, []string{"tinkex: ", tc.stderr})
		})
	}
}

func TestKeys(t *testing.T) {
	srv := tinkextest.NewServer(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	t.Setenv("TINKER_API_KEY", "")
	run(t, "run", "list").want(t, exitAuth, nil, []string{"missing API key", "TINKER_API_KEY"})
	const secret = "sk-secret-1234"
	r := run(t, "run", "list", "--api-key", secret).want(t, exitAuth, nil, []string{"malformed API key"})
	if strings.Contains(r.stderr, secret) {
		t.Errorf("the key is shown: %s", r.stderr)
	}
	r = run(t, "-v", "run", "list", "--api-key", "tml-secret-1234").want(t, exitDone, nil, []string{"No training runs."})
	if strings.Contains(r.stderr, "tml-secret-1234") {
		t.Errorf("the key is logged: %s", r.stderr)
	}
}

func TestServerOutOfReach(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the retries")
	}
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	run(t, "run", "list", "--base-url", "http://127.0.0.1:1").want(t, exitFailed, nil, []string{"cannot connect to 127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tinkexWith(t, Env{Context: ctx}, "run", "list", "--base-url", "http://127.0.0.1:1").want(t, exitInterrupted, nil, []string{"interrupted"})
}

func TestCheckpointList(t *testing.T) {
	w := newWorld(t, "a", "b", "sampler:s", "c")
	table := run(t, "checkpoint", "list").want(t, exitDone, []string{"Path", w.path("a"), "/sampler_weights/s"}, nil)
	if lines := strings.Split(strings.TrimSpace(table.stdout), "\n"); len(lines) != 5 || !strings.Contains(lines[1], "/weights/c") {
		t.Errorf("not newest first:\n%s", table.stdout)
	}
	for name, tc := range map[string]struct {
		args  string
		want  string
		total int
	}{
		"all":          {"", "c s b a", 4},
		"limit":        {"--limit 2", "c s", 4},
		"limit offset": {"--limit 2 --offset 1", "s b", 4},
		"no limit":     {"--limit 0", "c s b a", 4},
		"offset":       {"--limit 0 --offset 3", "a", 4},
		"type":         {"--type weights", "c b a", 4},
		"type limit":   {"--type weights --limit 1 --offset 1", "b", 4},
		"type long":    {"--type sampler", "s", 4},
		"run":          {"--run-id " + w.run, "c s b a", 4},
		"after":        {"--after 2020-01-01", "c s b a", 4},
		"before":       {"--before 2020-01-01T00:00:00Z", "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, append([]string{"-f", "json", "checkpoint", "list"}, strings.Fields(tc.args)...)...)
			r.want(t, exitDone, []string{"checkpoints"}, nil)
			got := decode[checkpointListJSON](t, r)
			names := []string{}
			for _, c := range got.Checkpoints {
				p, err := c.Path()
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, p.Name)
			}
			if s := strings.Join(names, " "); s != tc.want || got.TotalCount != tc.total {
				t.Errorf("listed %q of %d, want %q of %d", s, got.TotalCount, tc.want, tc.total)
			}
		})
	}
	run(t, "checkpoint", "list", "--limit", "1").want(t, exitDone, []string{"weights/c"}, []string{"1 of 4"})
	run(t, "checkpoint", "list", "--run-id", "nope").want(t, exitNotFound, nil, []string{"nope", "not found"})
	run(t, "checkpoint", "list", "--api-key", "tml-else").want(t, exitDone, nil, []string{"No checkpoints."})
	if got := run(t, "-f", "json", "checkpoint", "list", "--api-key", "tml-else").stdout; !strings.Contains(got, `"checkpoints": []`) {
		t.Errorf("an empty list is %s", got)
	}
}

// infoJSON reads checkpoint info -f json as a script would.
type infoJSON struct {
	Owned         bool              `json:"owned"`
	Public        bool              `json:"public"`
	LoRARank      int               `json:"lora_rank"`
	TrainMLP      *bool             `json:"train_mlp"`
	TrainingRunID string            `json:"training_run_id"`
	SizeBytes     int64             `json:"size_bytes"`
	UserMetadata  map[string]string `json:"user_metadata"`
	ExpiresAt     string            `json:"expires_at"`
}

func TestCheckpointInfo(t *testing.T) {
	w := newWorld(t, "a")
	run(t, "checkpoint", "info", w.path("a")).want(t, exitDone,
		[]string{w.path("a"), "rank 4, on attention, unembedding", tinkextest.BaseModel, "never", "note"}, nil)
	run(t, "checkpoint", "info", w.path("a"), "--api-key", "tml-else").want(t, exitNotFound, nil, []string{"not found", "belongs to another key"})
	run(t, "checkpoint", "publish", w.path("a")).want(t, exitDone, nil, []string{"Published"})
	info := decode[infoJSON](t, run(t, "-f", "json", "checkpoint", "info", w.path("a"), "--api-key", "tml-else"))
	if info.Owned || !info.Public || info.LoRARank != 4 || info.TrainMLP == nil || *info.TrainMLP || info.TrainingRunID != w.run {
		t.Errorf("others see %+v", info)
	}
	own := decode[infoJSON](t, run(t, "-f", "json", "checkpoint", "info", w.path("a")))
	if !own.Owned || own.SizeBytes == 0 || own.UserMetadata["note"] != "a" {
		t.Errorf("the owner sees %+v", own)
	}
}

func TestPublishAndExpire(t *testing.T) {
	w := newWorld(t, "a")
	p := w.path("a")
	run(t, "checkpoint", "unpublish", p).want(t, exitFailed, nil, []string{"is not public", "there is nothing to do"})
	run(t, "-f", "json", "checkpoint", "publish", p).want(t, exitDone, []string{`"public": true`}, nil)
	run(t, "checkpoint", "publish", p).want(t, exitFailed, nil, []string{"is already public", "there is nothing to do"})
	run(t, "checkpoint", "unpublish", p).want(t, exitDone, nil, []string{"Unpublished"})
	run(t, "checkpoint", "set-ttl", p, "--ttl", "3600").want(t, exitDone, nil, []string{"expires in 1h, at 20"})
	run(t, "checkpoint", "set-ttl", p, "--ttl", "1w2d90s").want(t, exitDone, nil, []string{"expires in 9d1m30s, at 20"})
	if c := decode[infoJSON](t, run(t, "-f", "json", "checkpoint", "info", p)); c.ExpiresAt == "" {
		t.Error("no expiry was set")
	}
	run(t, "checkpoint", "set-ttl", p, "--remove", "-f", "json").want(t, exitDone, []string{`"ttl_seconds": null`}, nil)
	run(t, "checkpoint", "info", p).want(t, exitDone, []string{"never"}, nil)
	run(t, "checkpoint", "set-ttl", w.path("none"), "--ttl", "1h").want(t, exitNotFound, nil, []string{"not found"})
}

func TestCheckpointDelete(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "sampler:s")
	left := func() int {
		return decode[checkpointListJSON](t, run(t, "-f", "json", "checkpoint", "list")).TotalCount
	}
	run(t, "checkpoint", "delete", w.path("a")).want(t, exitUsage, nil, []string{"--yes"})
	tty := func(answer string) Env { return Env{StdinTerminal: true, Stdin: strings.NewReader(answer)} }
	for _, answer := range []string{"", "n\n", "\n", "sure\n"} {
		tinkexWith(t, tty(answer), "checkpoint", "delete", w.path("a")).want(t, exitFailed, nil, []string{"Delete 1 checkpoint of ", "nothing was done"})
	}
	if left() != 4 {
		t.Fatal("something was deleted without consent")
	}
	tinkexWith(t, tty("yes\n"), "checkpoint", "delete", w.path("a")).want(t, exitDone, nil, []string{"Deleted 1 of 1 checkpoint"})
	run(t, "checkpoint", "delete", "-y", w.path("a")).want(t, exitNotFound, nil, []string{"not found"})
	r := run(t, "-f", "json", "checkpoint", "delete", "-y", w.path("b"), w.path("none")).want(t, exitPartly, []string{"none"}, nil)
	if got := decode[deletedJSON](t, r); !slices.Equal(got.Deleted, []string{w.path("b")}) || got.Failed[0].TinkerPath != w.path("none") {
		t.Errorf("answer %+v", got)
	}
	run(t, "checkpoint", "delete", "-y", "--run-id", w.run, "--before", "2020-01-01").want(t, exitDone, nil, []string{"No checkpoints match"})
	run(t, "checkpoint", "delete", "-y", "--run-id", w.run, "--type", "weights").want(t, exitDone, nil, []string{"Deleted 1 of 1"})
	tinkexWith(t, tty("y\n"), "checkpoint", "delete", "--run-id", w.run).want(t, exitDone, nil, []string{"Delete 1 checkpoint of ", "Deleted 1 of 1"})
	if left() != 0 {
		t.Errorf("%d are left", left())
	}
}

func TestCheckpointDownload(t *testing.T) {
	w := newWorld(t, "a", "b")
	dir := t.TempDir()
	r := run(t, "-f", "json", "checkpoint", "download", w.path("a"), w.path("b"), "-o", dir).want(t, exitDone, []string{"sha256"}, nil)
	got := decode[downloadedJSON](t, r)
	if len(got.Downloaded) != 2 || len(got.Failed) != 0 || r.stderr != "" {
		t.Fatalf("answer %+v, stderr %q", got, r.stderr)
	}
	for _, d := range got.Downloaded {
		var sum int64
		for _, f := range d.Files {
			info, err := os.Stat(filepath.Join(d.Destination, f.Name))
			if err != nil || info.Size() != f.Size {
				t.Errorf("%s: %v, %v", f.Name, info, err)
			}
			sum += f.Size
		}
		if sum != d.SizeBytes || len(d.Files) != 4 {
			t.Errorf("%d files of %d bytes, said to be %d", len(d.Files), sum, d.SizeBytes)
		}
	}
	run(t, "checkpoint", "download", w.path("a"), "-o", dir).want(t, exitFailed, nil, []string{"already exists", "--force"})
	run(t, "checkpoint", "download", w.path("a"), "-o", dir, "--force").want(t, exitDone, []string{dir}, []string{"4 files"})
	run(t, "checkpoint", "download", w.path("none"), "-o", dir).want(t, exitNotFound, nil, []string{"not found"})
	run(t, "checkpoint", "download", w.path("none"), w.path("b"), "-o", dir, "--force").want(t, exitPartly, []string{dir}, []string{"none"})
}

func TestRunsAndSessions(t *testing.T) {
	w := newWorld(t, "a", "sampler:s")
	session, _, _ := strings.Cut(w.run, ":")
	run(t, "run", "list").want(t, exitDone, []string{w.run, "rank 4", "ok"}, nil)
	list := decode[struct {
		TrainingRuns []tinkex.TrainingRun `json:"training_runs"`
		TotalCount   int                  `json:"total_count"`
	}](t, run(t, "-f", "json", "run", "list", "--limit", "0"))
	if list.TotalCount != 1 || list.TrainingRuns[0].LastSamplerCheckpoint.CheckpointID != "sampler_weights/s" {
		t.Errorf("runs %+v", list)
	}
	for _, id := range []string{w.run, w.path("a")} {
		run(t, "run", "info", id).want(t, exitDone, []string{w.run, w.path("a"), "purpose", "test"}, nil)
	}
	run(t, "run", "info", "nope").want(t, exitNotFound, nil, []string{"nope"})
	run(t, "session", "list").want(t, exitDone, []string{session + "\n"}, nil)
	run(t, "session", "info", session).want(t, exitDone, []string{session, w.run, "Samplers"}, nil)
	got := decode[struct {
		SessionID      string   `json:"session_id"`
		TrainingRunIDs []string `json:"training_run_ids"`
	}](t, run(t, "-f", "json", "session", "info", session))
	if got.SessionID != session || !slices.Equal(got.TrainingRunIDs, []string{w.run}) {
		t.Errorf("session %+v", got)
	}
	run(t, "session", "info", "nope").want(t, exitNotFound, nil, []string{"nope"})
	run(t, "-f", "json", "session", "list", "--limit", "0", "--offset", "1").want(t, exitDone, []string{`"sessions": []`}, nil)
	run(t, "session", "list", "--offset", "7").want(t, exitDone, nil, []string{"No sessions after the first 7."})
	run(t, "run", "list", "--offset", "7").want(t, exitDone, nil, []string{"No training runs after the first 7."})
}

func TestDemoTellsTheWholeStory(t *testing.T) {
	dir := t.TempDir()
	r := run(t, "demo", "--dir", dir).want(t, exitDone, []string{
		"A server of your own", "step 20   loss", "/weights/step-10", "/weights/step-20", "/sampler_weights/final",
		"expected rank 16, it has rank 8", "adapter_model.safetensors", "to them it does not exist",
		"bit for bit", "outlive the program that made them.", "Three deleted, 0 left.", "tinkex serve",
	}, nil)
	kept, err := filepath.Glob(filepath.Join(dir, "*_weights_step-20", "adapter_model.safetensors"))
	if err != nil || len(kept) != 1 {
		t.Errorf("kept %v, %v", kept, err)
	}
	for line := range strings.Lines(r.stdout) {
		if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
			t.Errorf("trailing space in %q", line)
		}
	}
}

func TestKeyCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	run(t, "key", "list", "--data-dir", dir).want(t, exitUsage, nil, []string{"there is no tinkex.db in " + dir})
	if _, err := os.Stat(dir); err == nil {
		t.Error("looking for keys makes a data directory")
	}
	r := run(t, "key", "create", "--data-dir", dir, "--name", "ci").want(t, exitDone, []string{"tml-"}, []string{"this once only"})
	secret := strings.TrimSpace(r.stdout)
	list := run(t, "key", "list", "--data-dir", dir).want(t, exitDone, []string{"key-", "ci", "active"}, nil)
	if strings.Contains(list.stdout, secret) {
		t.Error("the list shows the key")
	}
	run(t, "key", "create", "--data-dir", dir, "--owner", "te\x1fam").want(t, exitUsage, nil, []string{"--owner", "control character"})
	made := decode[map[string]string](t, run(t, "-f", "json", "key", "create", "--data-dir", dir, "--owner", "team"))
	if made["owner"] != "team" || !strings.HasPrefix(made["key"], "tml-") {
		t.Errorf("created %v", made)
	}
	run(t, "key", "revoke", made["id"], "--data-dir", dir).want(t, exitDone, nil, []string{"Revoked"})
	run(t, "key", "list", "--data-dir", dir).want(t, exitDone, []string{"revoked now"}, nil)
	none := run(t, "key", "revoke", "key-none", "--data-dir", dir).want(t, exitNotFound, nil, []string{"no such key; 'tinkex key list' shows them"})
	if strings.Contains(none.stderr, "tinkex checkpoint list") {
		t.Errorf("what is said of checkpoints is said of a key:\n%s", none.stderr)
	}

	// One that was misspelt does not leave the others in force.
	first := decode[map[string]string](t, run(t, "-f", "json", "key", "create", "--data-dir", dir))
	last := decode[map[string]string](t, run(t, "-f", "json", "key", "create", "--data-dir", dir))
	run(t, "key", "revoke", first["id"], "key-none", last["id"], "--data-dir", dir).want(t, exitPartly, nil,
		[]string{"Revoked " + first["id"], "revoke key key-none: no such key", "Revoked " + last["id"]})
	list = run(t, "key", "list", "--data-dir", dir)
	if n := strings.Count(list.stdout, "revoked now"); n != 3 {
		t.Errorf("%d keys are revoked, not 3:\n%s", n, list.stdout)
	}
}

// No arguments are none, and not those of the process.
func TestNilArguments(t *testing.T) {
	defer func(args []string) { os.Args = args }(os.Args)
	os.Args = []string{"other", "no-such-command"}
	run(t).want(t, exitDone, []string{"tinkex demo"}, nil)
}

func TestHelpAndVersion(t *testing.T) {
	run(t).want(t, exitDone, []string{"tinkex demo", "checkpoint", "serve"}, nil)
	run(t, "checkpoint").want(t, exitDone, []string{"download", "Exit status: 0 done"}, nil)
	r := run(t, "version").want(t, exitDone, []string{"tinkex " + tinkex.Version}, nil)
	if flag := run(t, "--version").want(t, exitDone, []string{"tinkex"}, nil); flag != r {
		t.Errorf("--version says %q, version %q", flag.stdout, r.stdout)
	}
	run(t, "help", "checkpoint", "list").want(t, exitDone, []string{"tinkex checkpoint list [flags]"}, nil)
	v := decode[map[string]string](t, run(t, "version", "-f", "json"))
	if v["version"] != tinkex.Version || v["platform"] == "" {
		t.Errorf("version %v", v)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		run(t, "completion", shell).want(t, exitDone, []string{"tinkex"}, nil)
	}
}

func TestCheckpointImport(t *testing.T) {
	w := newWorld(t, "a")
	dir := t.TempDir()
	adapter := decode[downloadedJSON](t, run(t, "-f", "json", "checkpoint", "download", w.path("a"), "-o", dir)).Downloaded[0].Destination
	if err := os.WriteFile(filepath.Join(adapter, "notes.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, "checkpoint", "import", adapter, "--name", "b", "--api-key", "tml-else").want(t, exitDone,
		[]string{"/weights/b\n", "/sampler_weights/b\n"}, []string{"Imported", "3 files", "notes.txt"})
	if lines := strings.Fields(r.stdout); len(lines) != 2 {
		t.Errorf("stdout is not two paths: %s", r.stdout)
	} else {
		run(t, "checkpoint", "info", lines[0], "--api-key", "tml-else").want(t, exitDone, []string{"rank 4, on attention, unembedding"}, nil)
		run(t, "checkpoint", "info", lines[0]).want(t, exitNotFound, nil, nil)
	}
	got := decode[importedJSON](t, run(t, "-f", "json", "checkpoint", "import", adapter, "--name", "c", "--type", "weights", "--ttl", "1h", "--api-key", "tml-else"))
	if len(got.Checkpoints) != 1 || got.Checkpoints[0].ExpiresAt == nil || got.SentBytes != 0 || len(got.Files) != 3 || !slices.Equal(got.Ignored, []string{"notes.txt"}) {
		t.Errorf("answer %+v", got)
	}
	again := []string{"checkpoint", "import", adapter, "--name", "c", "--run-id", got.TrainingRunID, "--api-key", "tml-else"}
	run(t, again...).want(t, exitFailed, nil, []string{"already exists"})
	run(t, append(again, "--overwrite")...).want(t, exitDone, []string{got.TrainingRunID + "/weights/c"}, nil)
	run(t, "checkpoint", "import", adapter, "--name", "c", "--run-id", w.run, "--api-key", "tml-else").want(t, exitNotFound, nil, []string{"run_id"})
	run(t, "checkpoint", "import", dir, "--name", "c").want(t, exitFailed, nil, []string{"there is no adapter_config.json"})
	run(t, "checkpoint", "import", filepath.Join(dir, "none"), "--name", "c").want(t, exitFailed, nil, []string{"none"})
	// Progress is for terminals.
	tinkexWith(t, Env{StderrTerminal: true}, "checkpoint", "import", adapter, "--name", "d", "--api-key", "tml-third").want(t, exitDone,
		[]string{"/weights/d"}, []string{"reading", "sending"})
}

func TestCheckpointVerify(t *testing.T) {
	w := newWorld(t, "a", "b")
	dir := t.TempDir()
	got := decode[downloadedJSON](t, run(t, "-f", "json", "checkpoint", "download", w.path("a"), w.path("b"), w.path("a"), "-o", dir).want(t, exitDone, []string{"sha256"}, nil))
	if len(got.Downloaded) != 2 {
		t.Fatalf("a path given twice is downloaded twice: %+v", got)
	}
	for _, d := range got.Downloaded {
		if !d.Verified || d.FetchedBytes != d.SizeBytes {
			t.Errorf("downloaded %+v", d)
		}
	}
	a, b := got.Downloaded[0].Destination, got.Downloaded[1].Destination
	run(t, "checkpoint", "verify", a, b).want(t, exitDone, []string{a + "  intact", "4 files", "the server's digests"}, nil)
	if err := os.Truncate(filepath.Join(b, "adapter_model.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	run(t, "checkpoint", "verify", a, b).want(t, exitPartly, []string{a + "  intact", b + "  NOT INTACT", "changed  adapter_model.safetensors", "damaged  adapter_model.safetensors"},
		[]string{"tinkex checkpoint download " + w.path("b") + " -o " + quote(dir) + " --force"})
	// On a terminal what was read is shown, and the verdicts below it.
	tty := tinkexWith(t, Env{StderrTerminal: true}, "checkpoint", "verify", a, b).want(t, exitPartly, []string{a + "  intact", b + "  NOT INTACT"}, []string{"reading"})
	if strings.Index(tty.stderr, "reading") > strings.Index(tty.stderr, "Download it again") {
		t.Errorf("the bar is not above what was found:\n%s", tty.stderr)
	}
	lines := run(t, "checkpoint", "verify", a, b, "--progress", "lines").want(t, exitPartly, []string{a + "  intact"}, []string{"reading: done, "})
	if strings.Contains(lines.stderr, "done, 0 B") {
		t.Errorf("what was read is not told:\n%s", lines.stderr)
	}
	run(t, "checkpoint", "verify", b).want(t, exitFailed, []string{"NOT INTACT"}, nil)
	out := run(t, "-f", "json", "checkpoint", "verify", b, dir).want(t, exitFailed, []string{`"intact": false`, `"digests": "server"`, `"changed"`, "it is not a checkpoint"}, nil)
	if out.stderr != "" {
		t.Errorf("stderr %q", out.stderr)
	}
	run(t, "checkpoint", "verify").want(t, exitUsage, nil, []string{"Usage"})
}

func TestInterruptedDownloadSaysHowToGoOn(t *testing.T) {
	w := newWorld(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, verb := range []string{"download", "export"} {
		var out, errOut bytes.Buffer
		args := []string{"checkpoint", verb, w.path("a"), "-o", t.TempDir()}
		code := Main(args, Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Context: ctx})
		want := "The same command goes on from here:\n  tinkex " + strings.Join(args[:3], " ")
		if code != exitInterrupted || !strings.Contains(errOut.String(), want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, %q", verb, code, out.String(), errOut.String())
		}
	}
}

func TestTheDemoIsASCIIWhereItHasToBe(t *testing.T) {
	for not, want := range map[bool]string{false: "█", true: "#"} {
		s := &story{app: &app{Env: Env{StdoutTerminal: true, NotUTF8: not}}}
		if got := s.sign("█", "#"); got != want {
			t.Errorf("not UTF-8 %t: %q", not, got)
		}
	}
	if got := printable([]int32{'A', 300, 7}, "."); got != "A.." {
		t.Errorf("printed %q", got)
	}
}
