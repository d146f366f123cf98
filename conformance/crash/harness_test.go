// Package crash kills a real server, again and again and at random instants,
// while clients save, import, copy, overwrite, publish, expire and delete, and
// takes its stores away from under it. Afterwards it compares what the server
// has with what its clients know that it must have.
//
//	make crash                        200 kills of each pair of stores
//	TINKEX_CRASHES=N go test -run TestKills ./conformance/crash
//	TINKEX_CRASH_SEED=N ...           the instants and operations of an earlier run
package crash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/s3test"
	"github.com/tinkex/tinkex/internal/testproc"
)

// tinkexBinary is the command under test, built once.
var tinkexBinary string

// collectEnv has this test's program collect garbage instead of testing.
const collectEnv = "TINKEX_CRASH_COLLECT"

func TestMain(m *testing.M) {
	if os.Getenv(collectEnv) != "" {
		if err := collectHere(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "tinkex-crash-")
	if err != nil {
		panic(err)
	}
	tinkexBinary = filepath.Join(dir, "tinkex")
	if runtime.GOOS == "windows" {
		tinkexBinary += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", tinkexBinary, "../../cmd/tinkex").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build tinkex: %v\n%s", err, out)
		os.Exit(1)
	}
	code := func() int {
		defer pgtest.Stop()
		return s3test.Run(m)
	}()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// pair is a pair of stores under test.
type pair struct {
	name string
	// fresh makes empty stores.
	fresh func(t *testing.T) *place
}

var pairs = []pair{
	{"SQLiteAndFolder", func(t *testing.T) *place {
		dir := t.TempDir()
		return &place{stores: node.Stores{DataDir: dir}, objects: filepath.Join(dir, "blobs"), staging: filepath.Join(dir, "staging"), load: time.Second}
	}},
	{"PostgresAndS3", func(t *testing.T) *place {
		u, err := url.Parse(pgtest.Schema(t))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		app := q.Get("search_path")
		q.Set("application_name", app)
		u.RawQuery = q.Encode()
		bucket := s3test.Bucket(t)
		b, err := url.Parse(bucket)
		if err != nil {
			t.Fatal(err)
		}
		return &place{
			stores:  node.Stores{DataDir: filepath.Join(t.TempDir(), "unused"), DB: u.String(), Blobs: bucket},
			objects: s3test.Dir(b.Host), app: app, load: 2500 * time.Millisecond, lease: "10s",
		}
	}},
}

// place is a pair of stores that processes come and go in.
type place struct {
	stores  node.Stores
	objects string // the directory below which the blobs are files
	staging string // where a folder stages blobs
	app     string // what PostgreSQL knows the connections as
	// load is how long clients work before a kill, at most: on average long
	// enough for several of the slowest operations.
	load time.Duration
	// lease is how soon a server is known to be dead, if not by default.
	lease string
}

// args are the flags that point a command at the stores.
func (p *place) args() []string {
	args := []string{"--data-dir", p.stores.DataDir}
	if p.stores.DB != "" {
		args = append(args, "--db", p.stores.DB)
	}
	if p.stores.Blobs != "" {
		args = append(args, "--blobs", p.stores.Blobs)
	}
	return args
}

// command is a tinkex command at work on the stores.
func (p *place) command(name string, args ...string) *exec.Cmd {
	return exec.Command(tinkexBinary, append(append([]string{name}, args...), p.args()...)...)
}

// server is a running `tinkex serve`.
type server struct {
	url  string
	cmd  *exec.Cmd
	log  *testproc.Output
	done chan struct{} // closed when it has ended
	dead sync.Once
}

// launch starts a server without waiting for it.
func (p *place) launch(t *testing.T, args ...string) (*server, io.Reader) {
	t.Helper()
	s := &server{log: &testproc.Output{Keep: 256 << 10}, done: make(chan struct{})}
	s.cmd = p.command("serve", append([]string{"--addr", "127.0.0.1:0"}, args...)...)
	if p.lease != "" {
		s.cmd.Args = append(s.cmd.Args, "--lease", p.lease)
	}
	s.cmd.Stderr = s.log
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout = w
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.kill()
		r.Close()
		if t.Failed() {
			t.Logf("server log:\n%s", s.log)
		}
	})
	return s, r
}

// serve starts a server and waits until it accepts connections.
func (p *place) serve(t *testing.T, args ...string) *server {
	t.Helper()
	s, out := p.launch(t, args...)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not say where it is: %v\n%s", err, s.log)
	}
	s.url = strings.TrimSpace(line)
	return s
}

// kill ends the server as a power cut would.
func (s *server) kill() {
	s.dead.Do(func() { _ = s.cmd.Process.Kill() })
	<-s.done
}

// killWithin runs a command and kills it after a while, unless it is faster.
func killWithin(cmd *exec.Cmd, after time.Duration) (killed bool, out string, err error) {
	var buf testproc.Output
	cmd.Stdout, cmd.Stderr = &buf, &buf
	if err := cmd.Start(); err != nil {
		return false, "", err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-time.After(after):
		_ = cmd.Process.Kill()
		err = <-done
	case err = <-done:
	}
	killed = !cmd.ProcessState.Exited()
	if killed {
		err = nil
	}
	return killed, buf.String(), err
}

// settle waits until the database has no connection of a dead server any more:
// what one had asked for may still be carried out.
func (p *place) settle(t *testing.T) {
	t.Helper()
	if p.app == "" {
		return
	}
	ctx := context.Background()
	c, err := pgx.Connect(ctx, pgtest.Server(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		var n int
		if err := c.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, p.app).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("a dead server still has %d connections", n)
		}
	}
}

// forget has the stores let go of what only waits to be forgotten: uploads, as
// if a day had passed, and what has expired.
func (p *place) forget(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	meta, err := p.stores.OpenMeta(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	now := time.Now().UTC()
	if _, err := meta.DeleteUploads(ctx, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := meta.DeleteExpired(ctx, now, now.Add(-time.Hour), 10_000); err != nil {
		t.Fatal(err)
	}
}

// collector removes all unreferenced blobs, however young. `tinkex gc` agrees
// to that only where it can make sure that no server is running, so for other
// stores it is this program.
func (p *place) collector() *exec.Cmd {
	if p.stores.Local() {
		return p.command("gc", "--grace", "0s")
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), collectEnv+"="+p.stores.DB+" "+p.stores.Blobs)
	return cmd
}

func collectHere() (err error) {
	var s node.Stores
	s.DB, s.Blobs, _ = strings.Cut(os.Getenv(collectEnv), " ")
	ctx := context.Background()
	meta, err := s.OpenMeta(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, meta.Close()) }()
	blobs, err := s.OpenBlobs(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()
	// Buckets tell times to the second.
	future := func() time.Time { return time.Now().Add(5 * time.Second) }
	_, err = registry.Collector{Meta: meta, Blobs: blobs, Now: future}.Collect(ctx, false)
	return err
}

// onDisk lists the blobs as whoever looks at the disk sees them, not through
// the store that wrote them.
func (p *place) onDisk(t *testing.T) (blobs map[string]int64, superseded int) {
	t.Helper()
	blobs = map[string]int64{}
	err := filepath.WalkDir(p.objects, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "check" || d.Name() == ".sgwtmp"):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		digest := d.Name()
		if p.app != "" {
			digest = filepath.Base(filepath.Dir(path))
		}
		if !isDigest(digest) {
			t.Errorf("%s lies among the blobs", path)
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if size, again := blobs[digest]; again {
			superseded++
			if size != info.Size() {
				t.Errorf("%s: an object has %d bytes, another %d", digest, size, info.Size())
			}
		}
		blobs[digest] = info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blobs, superseded
}

func isDigest(s string) bool {
	_, err := blobstore.ParseDigest(s)
	return err == nil
}

// staged lists what a folder has staged and nobody will commit.
func (p *place) staged(t *testing.T) (files []string) {
	t.Helper()
	if p.staging == "" {
		return nil
	}
	err := filepath.WalkDir(p.staging, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// fsck fails the test unless everything is in order.
func (p *place) fsck(t *testing.T) {
	t.Helper()
	out, err := p.command("fsck").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("clean: ")) {
		t.Errorf("tinkex fsck: %v\n%s", err, out)
	}
}
