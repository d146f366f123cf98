package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// command runs a program as a user of the server with a key would.
func command(t *testing.T, url, key, program string, args ...string) (stdout string, code int) {
	t.Helper()
	for try := 1; ; try++ {
		out, errOut, state, err := runOnce(t, url, key, program, args...)
		if err == nil {
			return out, 0
		}
		t.Logf("%s %v: %v\n%s", filepath.Base(program), args, err, errOut)
		switch {
		case !diedAfterItsEnd(err, []byte(errOut)):
			return out, state.ExitCode()
		case changesSomething(args):
			// Done once it cannot be done again; the reads after it show
			// whether it was done.
			return out, 0
		case try == 3:
			return out, state.ExitCode()
		}
	}
}

func changesSomething(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return slices.Contains([]string{"publish", "unpublish", "set-ttl", "delete", "download", "export-trace"}, a)
	})
}

func runOnce(t *testing.T, url, key, program string, args ...string) (stdout, stderr string, state *os.ProcessState, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environ(url, key)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState, err
}

// must runs a program that has to succeed.
func must(t *testing.T, url, key, program string, args ...string) string {
	t.Helper()
	out, code := command(t, url, key, program, args...)
	if code != 0 {
		t.Fatalf("%s %v: exit code %d", filepath.Base(program), args, code)
	}
	return out
}

// train makes a run with the Go SDK, with a checkpoint of each kind.
func train(t *testing.T, url, key string) (svc *tinkex.ServiceClient, tc *tinkex.TrainingClient, path, sampler tinkex.TinkerPath) {
	t.Helper()
	svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	seed := int64(1)
	tc, err = svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 8, Seed: &seed, SkipUnembed: true})
	if err != nil {
		t.Fatal(err)
	}
	goStep(t, tc)
	saved, err := tc.SaveState(t.Context(), "0001", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forSampler, err := tc.SaveWeightsForSampler(t.Context(), "final", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return svc, tc, saved.Path, forSampler.Path
}

const mirrorText = "tinker trains, tinkex keeps. tinker trains, tinkex keeps. "

func mirrorData() []tinkex.Datum {
	b := []byte(mirrorText)
	weights := make([]float32, len(b)-1)
	for i := range weights {
		weights[i] = 1
	}
	return []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(b[:len(b)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints(b[1:]), "weights": tinkex.Floats(weights)},
	}}
}

// goStep trains one step from Go, as step of scenario.py does from Python, and
// returns the loss before it.
func goStep(t *testing.T, tc *tinkex.TrainingClient) float64 {
	t.Helper()
	loss, err := tryStep(t.Context(), tc)
	if err != nil {
		t.Fatal(err)
	}
	return loss
}

func tryStep(ctx context.Context, tc *tinkex.TrainingClient) (float64, error) {
	fb := tc.ForwardBackward(ctx, mirrorData(), tinkex.CrossEntropy, nil)
	opt := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 5e-3})
	out, err := fb.Await(ctx)
	if err != nil {
		return 0, err
	}
	_, err = opt.Await(ctx)
	return out.Metrics["loss:sum"], err
}

func goSteps(t *testing.T, tc *tinkex.TrainingClient, n int) []float64 {
	t.Helper()
	var losses []float64
	for range n {
		losses = append(losses, goStep(t, tc))
	}
	return losses
}

func TestOfficialCLI(t *testing.T) {
	t.Parallel()
	const key = "tml-official-cli"
	tinker := filepath.Join(venv(t), "bin", "tinker")
	url := serve(t, t.TempDir()).url
	_, _, path, sampler := train(t, url, key)
	p := path.String()
	read := func(args ...string) doc {
		t.Helper()
		return decode(t, []byte(must(t, url, key, tinker, append([]string{"-f", "json"}, args...)...)))
	}

	list := read("checkpoint", "list")
	if n := len(list.at("checkpoints").list()); n != 2 {
		t.Errorf("%d checkpoints are listed", n)
	}
	list.at("checkpoints", 0, "tinker_path").is(sampler.String())
	info := read("checkpoint", "info", p)
	info.at("checkpoint_id").is("weights/0001")
	info.at("lora_rank").is(8)
	info.at("size_bytes").same(list.at("checkpoints", 1, "size_bytes"))
	must(t, url, key, tinker, "checkpoint", "publish", p)
	read("checkpoint", "info", p).at("public").is(true)
	must(t, url, key, tinker, "checkpoint", "unpublish", p)
	read("checkpoint", "info", p).at("public").is(false)
	must(t, url, key, tinker, "checkpoint", "set-ttl", p, "--ttl", "7200")
	read("checkpoint", "info", p).at("expires_at").str()
	must(t, url, key, tinker, "checkpoint", "set-ttl", p, "--remove")
	read("checkpoint", "info", p).at("expires_at").is(nil)

	// What it downloads is what the archive holds, byte for byte.
	dir := t.TempDir()
	read("checkpoint", "download", p, "-o", dir).at("destination").is(filepath.Join(dir, path.DirName()))
	want := archiveDigests(t, url, key, path)
	for _, name := range []string{"adapter_model.safetensors", "adapter_config.json", "checkpoint_complete"} {
		b, err := os.ReadFile(filepath.Join(dir, path.DirName(), name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want[name] {
			t.Errorf("%s differs from the archive's", name)
		}
	}
	out, err := exec.Command(filepath.Join(venv(t), "bin", "python"), "-c",
		"import sys, safetensors.numpy as s; d = s.load_file(sys.argv[1]); print(len(d), all(k.startswith('base_model.model.') for k in d))",
		filepath.Join(dir, path.DirName(), "adapter_model.safetensors")).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "56 True" {
		t.Errorf("safetensors reads %s, %v", out, err)
	}

	run := read("run", "info", path.RunID)
	run.at("training_run_id").is(path.RunID)
	run.at("last_checkpoint", "tinker_path").is(p)
	found := false
	for _, r := range read("run", "list", "--limit", "0").at("runs").list() {
		found = found || r.at("training_run_id").str() == path.RunID
	}
	if !found {
		t.Error("the run is not listed")
	}
	session, _, _ := strings.Cut(path.RunID, ":")
	trace := filepath.Join(dir, "trace.pftrace")
	read("session", "export-trace", session, "-o", trace).at("destination").is(trace)
	if b, err := os.ReadFile(trace); err != nil || !bytes.Contains(b, []byte("ForwardBackward")) {
		t.Errorf("the trace has %d bytes, %v", len(b), err)
	}
	read("model", "list").at("models", 0, "model_name").is("tinkex/tiny")
	read("auth", "whoami").at("user_urn").str()
	if out := must(t, url, key, tinker, "auth", "status"); !strings.Contains(out, "Tinker accessible: yes") {
		t.Errorf("status says %s", out)
	}
	read("checkpoint", "delete", "-y", p).at("deleted_count").is(1)
	if _, code := command(t, url, key, tinker, "checkpoint", "info", p); code == 0 {
		t.Error("the deleted checkpoint is still there")
	}
}

// archiveDigests fetches a checkpoint's tar and hashes its members.
func archiveDigests(t *testing.T, url, key string, path tinkex.TinkerPath) map[string]string {
	t.Helper()
	rest, err := tinkex.NewRestClient(tinkex.Options{BaseURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	a, err := rest.ArchiveURL(t.Context(), path)
	if err != nil || !a.Expires.After(time.Now()) {
		t.Fatalf("%+v, %v", a, err)
	}
	resp, err := http.Get(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sums := map[string]string{}
	r := tar.NewReader(resp.Body)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return sums
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		sums[h.Name] = hex.EncodeToString(sum.Sum(nil))
	}
}

func TestOurCLI(t *testing.T) {
	t.Parallel()
	const key = "tml-our-cli"
	data := t.TempDir()
	url := serve(t, data).url
	_, _, path, _ := train(t, url, key)
	p := path.String()
	read := func(args ...string) doc {
		t.Helper()
		return decode(t, []byte(must(t, url, key, tinkexBinary, append([]string{"-f", "json"}, args...)...)))
	}
	read("checkpoint", "list", "--limit", "0").at("total_count").is(2)
	read("checkpoint", "info", p).at("lora_rank").is(8)
	dir := t.TempDir()
	for _, f := range read("checkpoint", "download", p, "-o", dir).at("downloaded", 0, "files").list() {
		if want := archiveDigests(t, url, key, path)[f.at("name").str()]; f.at("sha256").str() != want {
			t.Errorf("%s has digest %s, want %s", f.at("name").str(), f.at("sha256").str(), want)
		}
	}
	read("checkpoint", "publish", p).at("public").is(true)
	read("checkpoint", "unpublish", p).at("public").is(false)
	read("checkpoint", "set-ttl", p, "--ttl", "60").at("ttl_seconds").is(60)
	read("run", "info", p).at("training_run_id").is(path.RunID)
	read("run", "list").at("total_count").is(1)
	session := read("session", "list").at("sessions", 0).str()
	read("session", "info", session).at("training_run_ids").is([]string{path.RunID})
	for name, tc := range map[string]struct {
		code int
		key  string
		args []string
	}{
		"usage":     {2, key, []string{"checkpoint", "info"}},
		"partly":    {3, key, []string{"checkpoint", "delete", "-y", p, "tinker://none/weights/x"}},
		"not found": {4, key, []string{"checkpoint", "info", p}},
		"bad key":   {5, "nonsense", []string{"run", "list"}},
		"done":      {0, key, []string{"version"}},
	} {
		if name == "not found" {
			continue // after partly, below
		}
		if _, code := command(t, url, tc.key, tinkexBinary, tc.args...); code != tc.code {
			t.Errorf("%s: exit code %d, want %d", name, code, tc.code)
		}
	}
	if _, code := command(t, url, key, tinkexBinary, "checkpoint", "info", p); code != 4 {
		t.Errorf("info of what was deleted: exit code %d, want 4", code)
	}

	// With a key created beside the running server, others are refused.
	made := read("key", "create", "--data-dir", data)
	code := 0
	for made := time.Now(); code == 0 && time.Since(made) < time.Minute; { // the server looks every two seconds
		_, code = command(t, url, key, tinkexBinary, "run", "list")
	}
	if code != 5 {
		t.Errorf("an unknown key: exit code %d, want 5", code)
	}
	must(t, url, made.at("key").str(), tinkexBinary, "run", "list")
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := serve(t, data)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		code int
		says string
		args []string
	}{
		"port in use":             {1, "address already in use", []string{"--addr", strings.TrimPrefix(s.url, "http://"), "--data-dir", t.TempDir()}},
		"directory in use":        {1, "in use by another server", []string{"--addr", "127.0.0.1:0", "--data-dir", data}},
		"directory is a file":     {1, file, []string{"--addr", "127.0.0.1:0", "--data-dir", file}},
		"open without keys":       {2, "refusing to listen", []string{"--addr", "0.0.0.0:0", "--data-dir", t.TempDir()}},
		"model that is not there": {1, "no-such-dir", []string{"--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--model", "a/b=no-such-dir"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, tinkexBinary, append([]string{"serve"}, tc.args...)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tc.code || !strings.Contains(string(out), tc.says) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestPythonAndGoResumeEachOther(t *testing.T) {
	t.Parallel()
	const key = "tml-mirror"
	venv(t)
	url := serve(t, t.TempDir()).url
	svc, tc, _, _ := train(t, url, key)

	// From Python to Go.
	d := script(t, url, key, "mirror", map[string]any{"save": true, "steps": 3})
	path, err := tinkex.ParseTinkerPath(d.at("path").str())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.ValidateCompatibility(t.Context(), svc.RestClient(), path, checkpoint.Requirements{Rank: 6, BaseModel: "tinkex/tiny"}); err != nil {
		t.Error(err)
	}
	resumed, err := svc.CreateTrainingClientFromStateWithOptimizer(t.Context(), path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.at("losses").is(goSteps(t, resumed, 3))

	// From Go to Python.
	saved, err := tc.SaveState(t.Context(), "for-python", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := goSteps(t, tc, 3)
	script(t, url, key, "mirror", map[string]any{"load": saved.Path.String(), "steps": 3}).at("losses").is(want)
}

func TestArchiveIsATar(t *testing.T) {
	t.Parallel()
	const key = "tml-archive"
	url := serve(t, t.TempDir()).url
	svc, _, path, _ := train(t, url, key)
	a, err := svc.RestClient().ArchiveURL(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(method, url string, header ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	// As older clients ask for it: a redirect, with the credential.
	resp, _ := fetch(http.MethodGet, url+"/api/v1/training_runs/"+path.RunID+"/checkpoints/"+path.CheckpointID()+"/archive", "X-API-Key", key)
	if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") == "" || resp.Header.Get("Expires") == "" {
		t.Errorf("archive: %s %v", resp.Status, resp.Header)
	}
	resp, whole := fetch(http.MethodGet, a.URL)
	etag := resp.Header.Get("ETag")
	if resp.StatusCode != http.StatusOK || int64(len(whole)) != resp.ContentLength || etag == "" {
		t.Fatalf("%s of %d bytes", resp.Status, len(whole))
	}
	if resp, _ := fetch(http.MethodHead, a.URL); resp.ContentLength != int64(len(whole)) {
		t.Errorf("HEAD says %d bytes", resp.ContentLength)
	}
	resp, part := fetch(http.MethodGet, a.URL, "Range", "bytes=700-1699", "If-Range", etag)
	if resp.StatusCode != http.StatusPartialContent || !bytes.Equal(part, whole[700:1700]) {
		t.Errorf("a range: %s, %d bytes", resp.Status, len(part))
	}
	if resp, b := fetch(http.MethodGet, a.URL, "Range", "bytes=700-1699", "If-Range", `"other"`); resp.StatusCode != http.StatusOK || len(b) != len(whole) {
		t.Errorf("a range of another version: %s", resp.Status)
	}
	for name, u := range map[string]string{
		"another signature": strings.Replace(a.URL, "signature=", "signature=x", 1),
		"another expiry":    strings.Replace(a.URL, "expires=", "expires=9", 1),
		"another name":      strings.Replace(a.URL, "/0001/", "/0002/", 1),
		"no signature":      a.URL[:strings.Index(a.URL, "?")],
	} {
		if resp, b := fetch(http.MethodGet, u); resp.StatusCode != http.StatusForbidden || !strings.Contains(string(b), "not signed") {
			t.Errorf("%s: %s %s", name, resp.Status, b)
		}
	}
	// Other programs read it.
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	const members = "adapter_config.json\nadapter_model.safetensors\noptimizer_state.safetensors\ncheckpoint_complete\n"
	if out, err := exec.Command("tar", "-tf", file).Output(); err != nil || string(out) != members {
		t.Errorf("tar lists %q, %v", out, err)
	}
	out, err := exec.Command(filepath.Join(venv(t), "bin", "python"), "-c", "import sys, tarfile; print(*tarfile.open(sys.argv[1]).getnames(), sep='\\n')", file).Output()
	if err != nil || string(out) != members {
		t.Errorf("tarfile lists %q, %v", out, err)
	}
}
