// Package conformance drives this project's server with the published tinker
// Python package, its SDK and its CLI, and drives both with the Go SDK. The
// peers are real; nothing here is a stand-in.
package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/pyvenv"
	"github.com/tinkex/tinkex/internal/s3test"
	"github.com/tinkex/tinkex/internal/testproc"
)

// tinkexBinary is the command under test, built once.
var tinkexBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tinkex-conformance-")
	if err != nil {
		panic(err)
	}
	tinkexBinary = filepath.Join(dir, "tinkex")
	if runtime.GOOS == "windows" {
		tinkexBinary += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", tinkexBinary, "../cmd/tinkex").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build tinkex: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	pgtest.Stop()
	s3test.Stop()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is a running `tinkex serve`.
type server struct {
	t       *testing.T
	url     string
	dataDir string
	cmd     *exec.Cmd
	log     *testproc.Output
}

// serve starts a server on a data directory; it is killed when the test ends.
func serve(t *testing.T, dataDir string) *server {
	t.Helper()
	return serveAt(t, dataDir, "127.0.0.1:0")
}

// serveAt is serve on an address, for a server that takes another's place, and
// with more arguments.
func serveAt(t *testing.T, dataDir, addr string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dataDir: dataDir, log: &testproc.Output{}}
	s.cmd = exec.Command(tinkexBinary, append([]string{"serve", "--addr", addr, "--data-dir", dataDir}, args...)...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if t.Failed() {
			t.Logf("server log:\n%s", s.log)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not say where it is: %v\n%s", err, s.log)
	}
	s.url = strings.TrimSpace(line)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s
}

// stop ends the server as its operator would.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the interrupted server ended with %v", err)
	}
}

// kill ends the server as a power cut would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

var sayVersion sync.Once

// venv returns the environment, or skips the test without one; under CI its
// absence is a failure.
func venv(t *testing.T) string {
	t.Helper()
	dir, err := pyvenv.Dir()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the published tinker package is needed: %v", err)
		}
		t.Skipf("SKIPPED: no conformance without the published tinker package: %v", err)
	}
	sayVersion.Do(func() {
		version, err := pyvenv.Version(dir)
		fmt.Printf("conformance against %s (%v)\n", version, err)
	})
	return dir
}

// environ is a user's shell, pointed at a server.
func environ(url, key string) []string {
	return append(pyvenv.Environ(url, key), "PYTHONFAULTHANDLER=1")
}

// script runs one of the Python programs and reads the document it prints.
func script(t *testing.T, url, key, name string, args any) doc {
	t.Helper()
	dir := venv(t)
	arg, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), filepath.Join("python", name+".py"), string(arg))
	cmd.Env = environ(url, key)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil && diedAfterItsEnd(err, errOut.Bytes()) && json.Valid(out) {
		t.Logf("%s.py printed its document and then died: %v", name, err)
	} else if err != nil {
		t.Fatalf("%s.py: %v\n%s", name, err, errOut.String())
	}
	return decode(t, out)
}

// diedAfterItsEnd reports whether a Python program was aborted by a thread
// that outlived its interpreter. The published package (0.38.0) does that by
// itself: on a busy machine about one in twenty-five of its commands is aborted
// when it has printed everything, while Python shuts down ("<no Python frame>"
// is the fault handler's word for it). Only the exit code is lost.
func diedAfterItsEnd(err error, stderr []byte) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == -1 && bytes.Contains(stderr, []byte("<no Python frame>"))
}

func decode(t *testing.T, b []byte) doc {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("not one JSON document: %v\n%s", err, b)
	}
	return doc{t, v, "$"}
}

// doc is a part of a JSON document that knows where it is.
type doc struct {
	t    *testing.T
	v    any
	path string
}

// at walks down: a string is a field, an int an element.
func (d doc) at(steps ...any) doc {
	d.t.Helper()
	for _, s := range steps {
		next := doc{d.t, nil, fmt.Sprintf("%s.%v", d.path, s)}
		switch s := s.(type) {
		case string:
			m, ok := d.v.(map[string]any)
			if !ok {
				d.t.Fatalf("%s is %v, not an object with %q", d.path, d.v, s)
			}
			next.v, ok = m[s]
			if !ok {
				d.t.Fatalf("%s has no %q", d.path, s)
			}
		case int:
			a, ok := d.v.([]any)
			if !ok || s >= len(a) {
				d.t.Fatalf("%s is %v, without an element %d", d.path, d.v, s)
			}
			next.v = a[s]
		}
		d = next
	}
	return d
}

func (d doc) str() string {
	d.t.Helper()
	s, ok := d.v.(string)
	if !ok {
		d.t.Fatalf("%s is %v, not a string", d.path, d.v)
	}
	return s
}

func (d doc) num() float64 {
	d.t.Helper()
	n, ok := d.v.(float64)
	if !ok {
		d.t.Fatalf("%s is %v, not a number", d.path, d.v)
	}
	return n
}

func (d doc) list() []doc {
	d.t.Helper()
	a, ok := d.v.([]any)
	if !ok {
		d.t.Fatalf("%s is %v, not a list", d.path, d.v)
	}
	out := make([]doc, len(a))
	for i, v := range a {
		out[i] = doc{d.t, v, fmt.Sprintf("%s.%d", d.path, i)}
	}
	return out
}

func (d doc) keys() []string {
	var keys []string
	for k := range d.v.(map[string]any) {
		keys = append(keys, k)
	}
	return keys
}

func (d doc) json() string {
	b, _ := json.Marshal(d.v)
	return string(b)
}

// is checks a value against a Go value, compared as JSON.
func (d doc) is(want any) {
	d.t.Helper()
	b, err := json.Marshal(want)
	if err != nil {
		d.t.Fatal(err)
	}
	var norm any
	_ = json.Unmarshal(b, &norm)
	if got, wanted := d.json(), (doc{v: norm}).json(); got != wanted {
		d.t.Errorf("%s is %.500s, want %.500s", d.path, got, wanted)
	}
}

// same checks that two parts are equal to the last bit.
func (d doc) same(other doc) {
	d.t.Helper()
	if d.json() != other.json() {
		d.t.Errorf("%s is %.300s, but %s is %.300s", d.path, d.json(), other.path, other.json())
	}
}

func (d doc) differs(other doc) {
	d.t.Helper()
	if d.json() == other.json() {
		d.t.Errorf("%s and %s are both %.300s", d.path, other.path, d.json())
	}
}

// near checks a number within a relative tolerance.
func (d doc) near(want, tolerance float64) {
	d.t.Helper()
	if got := d.num(); got < want-tolerance || got > want+tolerance {
		d.t.Errorf("%s is %v, want %v within %v", d.path, got, want, tolerance)
	}
}
