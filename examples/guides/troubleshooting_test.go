package guides

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/cli"
	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
	"github.com/tinkex/tinkex/internal/mirror"
	"github.com/tinkex/tinkex/tinkextest"
)

// anything stands, in the headings of docs/guides/troubleshooting.md, for text
// that differs from one time to the next.
const anything = "…"

var heading = regexp.MustCompile("(?m)^### `(.+)`$")

// messages are those that docs/guides/troubleshooting.md explains.
func messages(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, m := range heading.FindAllStringSubmatch(read(t, "../../docs/guides/troubleshooting.md"), -1) {
		found = append(found, m[1])
	}
	if len(found) < 20 {
		t.Fatalf("troubleshooting.md has %d messages", len(found))
	}
	return found
}

// says reports whether a text contains a message.
func says(text, message string) bool {
	parts := strings.Split(message, anything)
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile("(?s)" + strings.Join(parts, ".+")).MatchString(text)
}

func TestSays(t *testing.T) {
	for message, want := range map[string]bool{"a … c": true, "a b c": true, "b": true, "… a": false, "a … d": false, "a.b": false} {
		if says("a b c", message) != want {
			t.Errorf("%q: %t", message, !want)
		}
	}
}

// broken is a world in which everything goes wrong.
type broken struct {
	t    *testing.T
	srv  *tinkextest.Server
	path tinkex.TinkerPath // of a checkpoint that is there
}

// tinkex runs a command without a terminal and returns what it says.
func (b *broken) tinkex(args ...string) string {
	b.t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	code := cli.Main(args, cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Context: ctx})
	if code == 0 {
		b.t.Errorf("tinkex %v succeeded", args)
	}
	return out.String()
}

// with is tinkex in another environment.
func (b *broken) with(key, value string, args ...string) string {
	b.t.Helper()
	was := os.Getenv(key)
	if err := os.Setenv(key, value); err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = os.Setenv(key, was) }()
	return b.tinkex(args...)
}

// client is one that gives up at once.
func (b *broken) client(url string) *tinkex.RestClient {
	b.t.Helper()
	c, err := tinkex.NewRestClient(tinkex.Options{BaseURL: url, APIKey: tinkextest.Key, MaxRetries: -1})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask asks a server something.
func (b *broken) ask(url string) string {
	b.t.Helper()
	_, err := b.client(url).WeightsInfo(b.t.Context(), b.path)
	return text(err)
}

// answered is what a client makes of an answer that is none of our server's.
func (b *broken) answered(answer http.HandlerFunc) string {
	b.t.Helper()
	srv := httptest.NewServer(answer)
	defer srv.Close()
	return b.ask(srv.URL)
}

// train is a training client.
func (b *broken) train() *tinkex.TrainingClient {
	b.t.Helper()
	tc, err := b.srv.ServiceClient(b.t).CreateLoRATrainingClient(b.t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		b.t.Fatal(err)
	}
	return tc
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTroubleshootingKnowsTheMessages(t *testing.T) {
	clock := tinkextest.NewClock(time.Time{})
	b := &broken{t: t, srv: tinkextest.NewServerWith(t, tinkextest.Options{Now: clock.Now})}
	b.path = b.srv.SeedCheckpoint(t, tinkextest.Checkpoint{Name: "step-0007"})
	t.Setenv("TINKER_BASE_URL", b.srv.URL)
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("HF_HOME", t.TempDir())
	for _, name := range []string{"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "GITHUB_ACTIONS"} {
		t.Setenv(name, "") // brings it back
		os.Unsetenv(name)
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // no profiles of whoever runs this
	t.Setenv("TINKEX_NO_KEYRING", "1")
	t.Setenv("TINKEX_PROFILE", "")
	t.Setenv("TINKEX_DB", "")
	t.Setenv("TINKEX_BLOBS", "")
	t.Chdir(t.TempDir())
	ctx, path := t.Context(), b.path.String()
	rest := b.srv.RestClient(t)

	known := map[string]bool{}
	for message, say := range map[string]func() string{
		"missing API key for …": func() string { return b.with("TINKER_API_KEY", "", "checkpoint", "list") },
		"missing API key: the key of profile … is for … and is not sent to …, which … names": func() string {
			login := []string{"login", "--profile", "lab", "--base-url", "http://lab", "--api-key-stdin", "--no-check"}
			if code := cli.Main(login, cli.Env{Stdin: strings.NewReader("tml-lab"), Stdout: io.Discard, Stderr: io.Discard, Context: ctx}); code != 0 {
				t.Errorf("login ended with %d", code)
			}
			defer cli.Main([]string{"logout", "--profile", "lab"}, cli.Env{Stdout: io.Discard, Stderr: io.Discard, Context: ctx})
			return b.with("TINKER_API_KEY", "", "checkpoint", "list")
		},
		"malformed API key: …":        func() string { return b.with("TINKER_API_KEY", "abc", "checkpoint", "list") },
		"malformed base URL \"…\": …": func() string { return b.with("TINKER_BASE_URL", "127.0.0.1:8484", "checkpoint", "list") },
		"unknown API key (HTTP 401": func() string {
			if code := cli.Main([]string{"key", "create", "--data-dir", "keys"}, cli.Env{Stdout: io.Discard, Stderr: io.Discard, Context: ctx}); code != 0 {
				t.Errorf("key create ended with %d", code)
			}
			return b.ask(tinkextest.NewServerWith(t, tinkextest.Options{DataDir: "keys"}).URL)
		},
		"cannot connect to …": func() string { return b.ask("http://127.0.0.1:1") },
		"…; gave up after … attempts": func() string {
			b.srv.FailNext(2, tinkextest.Fault{Path: "/weights_info"})
			opts := b.srv.Options()
			opts.MaxRetries = 1
			c, err := tinkex.NewRestClient(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.WeightsInfo(ctx, b.path)
			return text(err)
		},
		"(a web page titled \"…\", perhaps a proxy's, instead of the server's answer)": func() string {
			return b.answered(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprint(w, "<html><title>Welcome</title></html>")
			})
		},
		"the server redirects to \"…\"; check the base URL": func() string {
			return b.answered(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://example.com/", http.StatusMovedPermanently)
			})
		},
		"context deadline exceeded": func() string {
			ctx, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
			defer cancel()
			_, err := rest.WeightsInfo(ctx, b.path)
			return text(err)
		},
		"checkpoint … not found (HTTP 404": func() string { return b.tinkex("checkpoint", "info", path+"x") },
		"invalid tinker path \"…\": …":     func() string { return b.tinkex("checkpoint", "info", "step-0007") },
		"checkpoint … is not public": func() string {
			_ = rest.Unpublish(ctx, b.path) // if it is public by now
			return b.tinkex("checkpoint", "unpublish", path)
		},
		"checkpoint … is already public": func() string {
			_ = rest.Publish(ctx, b.path) // unless it is public by now
			return b.tinkex("checkpoint", "publish", path)
		},
		"checkpoint … already exists": func() string {
			tc := b.train()
			tc.SaveState(ctx, "taken", tinkex.SaveOptions{})
			_, err := tc.SaveState(ctx, "taken", tinkex.SaveOptions{}).Await(ctx)
			return text(err)
		},
		"LoadWeights is not permitted with seq_id …": func() string {
			tc := b.train()
			tc.SaveState(ctx, "first", tinkex.SaveOptions{})
			_, err := tc.LoadState(ctx, b.path).Await(ctx)
			return text(err)
		},
		"LoRA rank mismatch: expected rank …, it has rank …": func() string {
			_, err := checkpoint.ValidateCompatibility(ctx, rest, b.path, checkpoint.Requirements{Rank: 64})
			return text(err)
		},
		"unknown base model \"…\"": func() string {
			_, err := b.srv.ServiceClient(t).CreateLoRATrainingClient(ctx, "Qwen/Qwen3-8B", tinkex.LoRAOptions{})
			return text(err)
		},
		"client is closed": func() string {
			c := b.client(b.srv.URL)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			_, err := c.ServerCapabilities(ctx)
			return text(err)
		},
		"model \"…\" is no longer loaded; create a training client from its last checkpoint to go on": func() string {
			return source(t, "registry/park.go", `"model %q is no longer loaded; create a training client from its last checkpoint to go on"`)
		},
		"training client is broken: an earlier request was lost (…); go on from a checkpoint": func() string {
			return source(t, "../turns.go", `"%v: an earlier request was lost (%v); go on from a checkpoint"`, tinkex.ErrBroken)
		},
		"this URL has expired; ask for a new one": func() string {
			u, err := rest.ArchiveURL(ctx, b.path)
			if err != nil {
				t.Fatal(err)
			}
			clock.Advance(2 * time.Hour)
			resp, err := http.Get(u.URL) //nolint:gosec,noctx // the test's own server
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return string(body) + text(err)
		},
		"… already exists": func() string {
			if err := os.MkdirAll(filepath.Join("models", b.path.DirName()), 0o755); err != nil {
				t.Fatal(err)
			}
			return b.tinkex("checkpoint", "download", path, "-o", "models")
		},
		"NOT INTACT": func() string {
			d, err := checkpoint.Download(ctx, rest, b.path, checkpoint.DownloadOptions{Dir: "damaged"})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(d.Dir, "adapter_config.json"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return b.tinkex("checkpoint", "verify", d.Dir)
		},
		"the SHA-256 does not match":                             func() string { return checkpoint.ErrDigest.Error() },
		"There is no terminal to ask on; use --yes to go ahead.": func() string { return b.tinkex("checkpoint", "delete", path) },
		"these rules keep nothing of the … selected; use --all to delete them all": func() string {
			return b.tinkex("checkpoint", "prune", "--keep-every", "5", "--include-latest", "--include-public", "--name", "step-*", "-y")
		},
		"no Hugging Face token": func() string {
			return b.with("HF_TOKEN", "", "checkpoint", "push-hf", path)
		},
		"no Hugging Face token by OIDC, which HF_OIDC_RESOURCE asks for": func() string {
			return b.with("HF_OIDC_RESOURCE", "me/mine", "checkpoint", "push-hf", path)
		},
		"the Hugging Face token could not be renewed": func() string {
			t.Setenv("HF_ENDPOINT", hubtest.New(t).URL)
			dir := t.TempDir()
			for name, content := range map[string]string{"token": "hf_ended", "stored_tokens": "[x]\nhf_token = hf_ended\nrefresh_token = hf_x\nexpires_at = 1\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			return b.with("HF_TOKEN_PATH", filepath.Join(dir, "token"), "checkpoint", "push-hf", path)
		},
		"… holds another checkpoint: tinker://…": func() string {
			hub := hubtest.New(t)
			t.Setenv("HF_ENDPOINT", hub.URL)
			hub.AddRepo(hubtest.User+"/mine", true, map[string]string{"README.md": "tinker://other/weights/x"})
			return b.with("HF_TOKEN", hubtest.Token, "checkpoint", "push-hf", path, "--repo", "mine")
		},
		"the retention policy would delete all … checkpoints that it applies to": func() string {
			const key = "tml-with-one"
			b.srv.SeedCheckpoint(t, tinkextest.Checkpoint{Key: key, Name: "step-0007"})
			return b.with("TINKER_API_KEY", key, "retention", "set", "--keep-every", "5", "--include-latest", "-y")
		},
		"unknown command \"…\" for \"tinkex\"": func() string { return b.tinkex("chekpoint") },
		"--before: \"…\" is not a time":        func() string { return b.tinkex("checkpoint", "list", "--before", "yesterday") },
		"refusing to listen on … without keys": func() string { return b.tinkex("serve", "--addr", "0.0.0.0:0", "--data-dir", "open") },
		"data directory … is in use by another server": func() string {
			tinkextest.NewServerWith(t, tinkextest.Options{DataDir: "used"})
			return b.tinkex("serve", "--addr", "127.0.0.1:0", "--data-dir", "used")
		},
		"listen tcp …": func() string {
			return b.tinkex("serve", "--addr", strings.TrimPrefix(b.srv.URL, "http://"), "--data-dir", "second")
		},
		"there is no tinkex.db in …":           func() string { return b.tinkex("gc", "--data-dir", "nowhere") },
		"not the URL of a PostgreSQL database": func() string { return b.tinkex("migrate", "--db", "mysql://db") },
		"the target belongs to another account": func() string {
			if _, err := checkpoint.Mirror(t.Context(), b.client(b.srv.URL), "mirror", checkpoint.MirrorOptions{}); err != nil {
				t.Fatal(err)
			}
			return b.with("TINKER_BASE_URL", tinkextest.NewServer(t).URL, "checkpoint", "mirror", "--to", "mirror")
		},
		"another mirror to it is running": func() string {
			m, err := mirror.Create(t.Context(), "busy")
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			_, release, err := m.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			return b.tinkex("checkpoint", "mirror", "--to", "busy")
		},
		"no mirror there": func() string { return b.tinkex("checkpoint", "restore", "--from", "nowhere") },
		"there is no adapter_config.json": func() string {
			if err := os.Mkdir("empty", 0o755); err != nil {
				t.Fatal(err)
			}
			return b.tinkex("checkpoint", "import", "empty", "--name", "a")
		},
	} {
		known[message] = true
		t.Run(message, func(t *testing.T) {
			if got := say(); !says(got, message) {
				t.Errorf("the message is not %q but\n%s", message, got)
			}
		})
	}
	for _, m := range messages(t) {
		if !known[m] {
			t.Errorf("troubleshooting.md explains %q, which no test produces", m)
		}
		delete(known, m)
	}
	for m := range known {
		t.Errorf("troubleshooting.md does not explain %q", m)
	}
}

// source is a message that takes a crash to get: as the program has it, with
// its arguments.
func source(t *testing.T, file, format string, args ...any) string {
	t.Helper()
	if !strings.Contains(read(t, filepath.Join("../../internal", file)), format) {
		t.Errorf("%s has no %s", file, format)
		return ""
	}
	format = strings.Trim(format, `"`)
	for strings.Count(format, "%") > len(args) {
		args = append(args, errors.New("x"))
	}
	return fmt.Sprintf(format, args...)
}
