// Package pyvenv makes the Python environment that holds the published tinker
// package, for what is tested and measured against it.
package pyvenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Dir returns a virtual environment with the newest tinker, numpy and
// safetensors, made at most once a day and kept in the user's cache directory.
// TINKEX_CONFORMANCE_VENV names one to be used as it is instead.
var Dir = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("TINKEX_CONFORMANCE_VENV"); dir != "" {
		return dir, nil
	}
	return environment(time.Now().UTC().Format(time.DateOnly), "tinker", "numpy", "safetensors")
})

// Pinned returns an environment with one version of tinker, made once.
func Pinned(version string) (string, error) {
	return environment("tinker-"+version, "tinker=="+version)
}

// environment makes an environment with packages under a name, unless it is
// there.
func environment(name string, packages ...string) (string, error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("python3 is needed: %w", err)
	}
	version, err := exec.Command(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "tinkex-conformance")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	// Another process may be making it.
	lock := flock.New(filepath.Join(root, "lock"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := lock.TryLockContext(ctx, time.Second); err != nil {
		return "", err
	}
	defer func() { _ = lock.Unlock() }()
	dir := filepath.Join(root, strings.TrimSpace(string(version))+"-"+name)
	done := filepath.Join(dir, "complete")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	for _, args := range [][]string{
		{python, "-m", "venv", "--clear", dir},
		append([]string{Command(dir, "pip"), "install", "--quiet", "--disable-pip-version-check", "--upgrade"}, packages...),
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir, os.WriteFile(done, nil, 0o600)
}

// Command is the path of an environment's command, such as "python" or
// "tinker".
func Command(dir, name string) string { return filepath.Join(dir, "bin", name) }

// Version is what the environment's tinker command calls itself.
func Version(dir string) (string, error) {
	out, err := exec.Command(Command(dir, "tinker"), "version").Output()
	return strings.TrimSpace(string(out)), err
}

// Environ is a user's shell, pointed at a server.
func Environ(url, key string) []string {
	env := []string{"TINKER_BASE_URL=" + url, "TINKER_API_KEY=" + key, "PYTHONDONTWRITEBYTECODE=1", "COLUMNS=200", "NO_COLOR=1"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TINKER_") && !strings.HasPrefix(kv, "PYTHON") {
			env = append(env, kv)
		}
	}
	return env
}
