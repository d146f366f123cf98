package conformance

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/hfhub/hubtest"
	"github.com/tinkex/tinkex/internal/pyvenv"
)

// hubEnviron is what points huggingface_hub at a Hub of ours, by the LFS
// protocol: Xet is the storage of the real one only.
func hubEnviron(t *testing.T, s *hubtest.Server) map[string]string {
	t.Helper()
	return map[string]string{
		"HF_ENDPOINT": s.URL, "HF_TOKEN": hubtest.Token, "HF_HOME": t.TempDir(), "HF_HUB_DISABLE_XET": "1",
		"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0",
	}
}

// shell is a user's shell, pointed at a server and at a Hub.
func shell(url, key string, hub map[string]string) []string {
	env := slices.DeleteFunc(environ(url, key), func(kv string) bool { return strings.HasPrefix(kv, "HF_") })
	for name, value := range hub {
		env = append(env, name+"="+value)
	}
	return env
}

// pushWith runs a command that pushes, and fails the test unless it succeeds.
func pushWith(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = env
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil && (len(out) == 0 || !diedAfterItsEnd(err, []byte(errOut.String()))) {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, errOut.String())
	}
	return string(out)
}

func randomFile(t *testing.T, dir, name string, n int) {
	t.Helper()
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The Hub that our tests push to is one for the published client: it makes
// repositories, uploads, commits, branches, pull requests and downloads there.
func TestTheHubOfTheTestsServesThePublishedClient(t *testing.T) {
	t.Parallel()
	venv(t)
	for name, partBytes := range map[string]int64{"whole": 0, "in parts": 70_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hubtest.New(t)
			s.PartBytes = partBytes
			dir := t.TempDir()
			randomFile(t, dir, "adapter_model.safetensors", 200_001)
			randomFile(t, dir, "tokens.bin", 10)
			randomFile(t, dir, "left_out", 10)
			for name, content := range map[string]string{"adapter_config.json": "{}\n", "empty": "", "README.md": "---\nlibrary_name: peft\n---\nA card.\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			repo := hubtest.User + "/from-python"
			d := script(t, "", "tml-none", "hub", map[string]any{
				"env": hubEnviron(t, s), "repo": repo, "upload": dir, "ignore": []string{"left_*"}, "cache": t.TempDir(),
			})
			t.Logf("huggingface_hub %s", d.at("version").str())
			d.at("user").is(hubtest.User)
			d.at("endpoint").is(s.URL)
			d.at("again").same(d.at("commit"))
			d.at("sha").same(d.at("commit"))
			d.at("private").is(true)
			d.at("pull").is(s.URL + "/" + repo + "/discussions/1")
			d.at("proposed").is("proposed")
			d.at("errors").is(map[string]string{
				"no repository": "RepositoryNotFoundError", "no revision": "RevisionNotFoundError", "no file": "RemoteEntryNotFoundError",
			})
			want := []string{".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "empty", "tokens.bin"}
			d.at("files").is(want)
			d.at("siblings").is(want)
			for _, name := range want[1:] {
				sent, err1 := os.ReadFile(filepath.Join(dir, name))
				back, err2 := os.ReadFile(filepath.Join(d.at("dir").str(), name))
				if err1 != nil || err2 != nil || string(sent) != string(back) {
					t.Errorf("%s came back with %d bytes of %d (%v, %v)", name, len(back), len(sent), err1, err2)
				}
			}
			parts := 0
			for _, r := range s.Requests() {
				if strings.HasPrefix(r.Path, "/part/") {
					parts++
				}
			}
			if want := map[int64]int{0: 0, 70_000: 3}[partBytes]; parts != want {
				t.Errorf("%d parts were sent, want %d", parts, want)
			}
		})
	}
}

// What we push is what the published client downloads, and what the official
// CLI pushes of the same checkpoint.
func TestPushedAdapterIsTheOfficialOne(t *testing.T) {
	t.Parallel()
	const key = "tml-push"
	venv(t)
	// Later releases push no sampler checkpoints, and ask the server to export
	// training ones first.
	python, err := pyvenv.Pinned("0.30.4")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: no tinker 0.30.4 to compare with: %v", err)
	}
	url := serve(t, t.TempDir()).url
	adapter := t.TempDir()
	script(t, url, key, "foreign", map[string]any{"dir": adapter, "seed": 5, "dtype": "float32"})
	path := strings.Fields(must(t, url, key, tinkexBinary, "checkpoint", "import", adapter, "--name", "pushed"))[1]

	s := hubtest.New(t)
	s.PartBytes = 10_000
	hub := hubEnviron(t, s)
	env := shell(url, key, hub)
	ours, theirs := hubtest.User+"/ours", hubtest.User+"/theirs"
	out := pushWith(t, env, tinkexBinary, "-f", "json", "checkpoint", "push-hf", path, "--repo", ours)
	pushWith(t, env, pyvenv.Command(python, "tinker"), "-f", "json", "checkpoint", "push-hf", path, "--repo", theirs)
	var said struct {
		Commit string
		RepoID string `json:"repo_id"`
		Files  []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || said.RepoID != ours || said.Commit == "" {
		t.Fatalf("%v: %s", err, out)
	}
	a, b := s.Files(ours, "main"), s.Files(theirs, "main")
	if got, want := slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)); !slices.Equal(got, want) {
		t.Errorf("we pushed %q, the official CLI %q", got, want)
	}
	for name := range a {
		if name != "README.md" && a[name] != b[name] {
			t.Errorf("%s is not the one that the official CLI pushed:\n%.300s\n%.300s", name, a[name], b[name])
		}
	}
	d := script(t, url, key, "hub", map[string]any{"env": hub, "repo": ours, "cache": t.TempDir()})
	d.at("sha").is(said.Commit)
	d.at("files").is(append([]string{".gitattributes"}, slices.Sorted(maps.Keys(a))...))
	for name, want := range a {
		if got, err := os.ReadFile(filepath.Join(d.at("dir").str(), name)); err != nil || string(got) != want {
			t.Errorf("%s was downloaded with %d bytes of %d (%v)", name, len(got), len(want), err)
		}
	}
	d.at("card").is(map[string]any{
		"base_model": "tinkex/tiny", "library_name": "peft", "tinker_path": path,
		"tags": []string{"tinker", "peft", "lora", "base_model:adapter:tinkex/tiny"},
	})
	official := script(t, url, key, "hub", map[string]any{"env": hub, "repo": theirs, "cache": t.TempDir()})
	d.at("card").same(official.at("card"))

	// Each knows the other's card, and leaves another checkpoint's alone.
	pushWith(t, env, tinkexBinary, "checkpoint", "push-hf", path, "--repo", theirs)
	other := strings.Replace(path, "sampler_weights", "weights", 1)
	for _, args := range [][]string{
		{tinkexBinary, "checkpoint", "push-hf", other, "--repo", ours},
		{pyvenv.Command(python, "tinker"), "checkpoint", "push-hf", other, "--repo", ours},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), path) {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	// What comes from the Hub can be imported again.
	must(t, url, key, tinkexBinary, "checkpoint", "import", d.at("dir").str(), "--name", "back")
}
