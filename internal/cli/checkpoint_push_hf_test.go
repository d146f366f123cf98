package cli

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
	"github.com/tinkex/tinkex/tinkextest"
)

// hub points the commands at a Hub of the test's.
func hub(t *testing.T) *hubtest.Server {
	t.Helper()
	s := hubtest.New(t)
	t.Setenv("HF_ENDPOINT", s.URL)
	t.Setenv("HF_TOKEN", hubtest.Token)
	t.Setenv("HF_HOME", t.TempDir())
	return s
}

func TestCheckpointExport(t *testing.T) {
	w := newWorld(t, "a")
	t.Chdir(t.TempDir())
	dir := filepath.Join(t.TempDir(), "adapter")
	r := run(t, "checkpoint", "export", w.path("a"), "-o", dir).want(t, exitDone, []string{dir}, []string{"Exported", "3 files", "every SHA-256 matched"})
	if r.stdout != dir+"\n" {
		t.Errorf("stdout is %q", r.stdout)
	}
	run(t, "checkpoint", "export", w.path("a"), "-o", dir).want(t, exitFailed, nil, []string{"already exists", "--force"})
	r = run(t, "-f", "json", "checkpoint", "export", w.path("a"), "-o", dir, "--force", "--no-model-card").want(t, exitDone, []string{}, nil)
	d := decode[exportedJSON](t, r)
	if d.TinkerPath != w.path("a") || d.Destination != dir || d.BaseModel != tinkextest.BaseModel || !d.Verified || len(d.Files) != 2 || d.SizeBytes == 0 {
		t.Errorf("%+v", d)
	}
	run(t, "checkpoint", "verify", dir).want(t, exitDone, []string{dir}, nil)
	// Without -o it has the checkpoint's name.
	run(t, "checkpoint", "export", w.path("a")).want(t, exitDone, []string{"_weights_a"}, nil)
	run(t, "checkpoint", "export", w.path("none")).want(t, exitNotFound, nil, []string{"checkpoint list"})
	run(t, "checkpoint", "export", w.path("a"), "--force", "-o", ".").want(t, exitFailed, nil, []string{"is not replaced"})
}

func TestCheckpointPushHF(t *testing.T) {
	w := newWorld(t, "a", "b", "sampler:a")
	s := hub(t)
	r := run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitDone, []string{s.URL + "/" + hubtest.User + "/mine/commit/"}, []string{"Pushed 3 files to the new private repository " + hubtest.User + "/mine, branch main"})
	if strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("stdout is %q", r.stdout)
	}
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitDone, []string{"/commit/"}, []string{"has all of it already"})
	run(t, "checkpoint", "push-hf", w.path("b"), "--repo", "mine").want(t, exitFailed, nil, []string{"holds another checkpoint: " + w.path("a"), "--force"})
	run(t, "checkpoint", "push-hf", w.path("b"), "--repo", "mine", "--create-pr", "--force").want(t, exitDone, []string{"/mine/discussions/1"}, nil)
	r = run(t, "-f", "json", "checkpoint", "push-hf", w.path("b"), "--repo", "mine", "--force", "--public").want(t, exitDone, []string{}, []string{"is there and private, and stays so"})
	d := decode[pushedHFJSON](t, r)
	if d.CheckpointPath != w.path("b") || d.RepoID != hubtest.User+"/mine" || d.Public || d.Created || d.Unchanged || d.Commit == "" || len(d.Files) != 3 {
		t.Errorf("%+v", d)
	}
	run(t, "checkpoint", "push-hf", w.path("none"), "--repo", "new").want(t, exitNotFound, nil, []string{"checkpoint list"})

	s.Fail("POST", "/preupload/", 0, 1, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadRequest) })
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "new").want(t, exitFailed, nil, []string{"HTTP 400", "what the Hub has is not sent again"})
	t.Setenv("HF_TOKEN", "hf_wrongTokenOfTheTest")
	r = run(t, "-v", "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitAuth, nil, []string{"HTTP 401", "check HF_TOKEN"})
	if strings.Contains(r.stderr, "hf_wrong") {
		t.Errorf("the token is told:\n%s", r.stderr)
	}
	t.Setenv("HF_TOKEN", "")
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitAuth, nil, []string{"HF_TOKEN is not set", "hf auth login"})
	// The token that hf auth login keeps.
	if err := os.WriteFile(filepath.Join(os.Getenv("HF_HOME"), "token"), []byte(hubtest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "other/x").want(t, exitNotFound, nil, []string{"HTTP 403", "write access"})
	run(t, "checkpoint", "push-hf", w.path("a")).want(t, exitDone, []string{"/tinker-tiny-"}, []string{"branch weights-a"})
	t.Setenv("HF_ENDPOINT", "huggingface.co")
	run(t, "checkpoint", "push-hf", w.path("a")).want(t, exitFailed, nil, []string{"HF_ENDPOINT has to be an address such as https://huggingface.co"})
}

func TestPushHFFindsItsToken(t *testing.T) {
	w := newWorld(t, "a")
	s := hub(t)
	t.Setenv("HF_TOKEN", "")
	t.Setenv("GITHUB_ACTIONS", "")
	dir := os.Getenv("HF_HOME")
	login := func(refresh string) {
		t.Helper()
		for name, content := range map[string]string{
			"token":         "hf_oauth_old",
			"stored_tokens": fmt.Sprintf("[device]\nhf_token = hf_oauth_old\nrefresh_token = %s\nexpires_at = %d\n", refresh, time.Now().Add(time.Hour).Unix()),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.AddRefreshToken("hf_refresh", hubtest.User)
	login("hf_refresh")
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitDone, []string{"/mine/commit/"}, []string{"Pushed 3 files"})
	if b, err := os.ReadFile(filepath.Join(dir, "token")); string(b) != "hf_oauth_renewed1" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	login("hf_revoked")
	s.AddUser("hf_oauth_old", hubtest.User) // for an hour more
	r := run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitDone, []string{"/mine/commit/"}, []string{"could not be renewed", "hf auth login", "has all of it already"})
	if strings.Contains(r.stderr, "hf_revoked") || strings.Contains(r.stderr, "hf_oauth") {
		t.Errorf("a secret is told:\n%s", r.stderr)
	}

	// A CI job that a repository trusts is nobody that could be asked for.
	t.Setenv("HF_OIDC_RESOURCE", hubtest.User+"/mine")
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitAuth, nil, []string{"HF_OIDC_ID_TOKEN is not set", "trusted-publishers"})
	t.Setenv("HF_OIDC_ID_TOKEN", "secret.id.token")
	r = run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitAuth, nil, []string{"HTTP 403", "trusted-publishers"})
	if strings.Contains(r.stderr, "secret") {
		t.Errorf("a secret is told:\n%s", r.stderr)
	}
	s.Trust("secret.id.token", hubtest.User+"/mine")
	before := s.Count("/api/whoami-v2")
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", hubtest.User+"/mine").want(t, exitDone, []string{"/mine/commit/"}, []string{"has all of it already"})
	if n := s.Count("/api/whoami-v2"); n != before {
		t.Errorf("the Hub was asked %d times who that is", n-before)
	}
	run(t, "checkpoint", "push-hf", w.path("a"), "--repo", "mine").want(t, exitDone, []string{"/" + hubtest.User + "/mine/commit/"}, nil)
}

func TestExportAndPushUsage(t *testing.T) {
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
	t.Setenv("HF_ENDPOINT", "http://127.0.0.1:1")
	const p = "tinker://run/weights/a"
	for args, want := range map[string]string{
		"export":                                     "Usage: tinkex checkpoint export PATH",
		"export x":                                   `"tinker://"`,
		"export " + p + " " + p:                      "expected 1 argument, got ",
		"export " + p + " --jobs 0":                  "at least 1",
		"export " + p + " --output=":                 "--output",
		"push-hf":                                    "Usage: tinkex checkpoint push-hf PATH",
		"push-hf x":                                  `"tinker://"`,
		"push-hf " + p + " --repo a/b/c":             "NAMESPACE/NAME",
		"push-hf " + p + " --repo=":                  "--repo: it is empty",
		"push-hf " + p + " --repo a--b":              "neither -- nor ..",
		"push-hf " + p + " --revision a..b":          "cannot be a branch",
		"push-hf " + p + " --revision=":              "--revision: it is empty",
		"push-hf " + p + " --commit-message=":        "--commit-message: it is empty",
		"push-hf " + p + " --public --private":       "exclude each other",
		"push-hf " + p + " --allow-pattern=":         "no pattern for files",
		"push-hf " + p + " --ignore-pattern=":        "no pattern for files",
		"push-hf " + p + " --create-pr --revision b": "pull request",
		"push-hf " + p + " --jobs 0":                 "at least 1",
		"push-hf " + p + " --bogus":                  "--bogus",
	} {
		run(t, append([]string{"checkpoint"}, strings.Fields(args)...)...).want(t, exitUsage, nil, []string{want})
	}
}
