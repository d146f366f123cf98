// Package pgtest gives tests a PostgreSQL server of their own.
//
// It is the database that TINKEX_TEST_POSTGRES names, or else a throwaway
// server made of the PostgreSQL programs installed here, one per test binary:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tinkex/tinkex/internal/testproc"
)

var server struct {
	once sync.Once
	url  string
	err  error
	stop func()
}

// Run runs a package's tests and stops the server that they used, if any.
func Run(m *testing.M) int {
	defer Stop()
	return m.Run()
}

// Stop is for packages that have more to do about their tests than Run does.
func Stop() {
	if server.stop != nil {
		server.stop()
	}
}

// Server is the URL of a database on the server, to make others in.
func Server(t testing.TB) string {
	t.Helper()
	server.once.Do(func() {
		if server.url = os.Getenv("TINKEX_TEST_POSTGRES"); server.url != "" {
			return
		}
		// Without any regard for what survives it.
		server.url, server.stop, server.err = Start(forTests...)
	})
	if server.err != nil {
		testproc.Missing(t, "POSTGRESQL", server.err)
	}
	return server.url
}

// Schema is the URL of an empty database, more precisely of a schema of its
// own in one. It is dropped when the test ends.
func Schema(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(Server(t))
	if err != nil {
		t.Fatal(err)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	admin(t, `CREATE SCHEMA `+schema)
	t.Cleanup(func() { admin(t, `DROP SCHEMA `+schema+` CASCADE`) })
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func admin(t testing.TB, query string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, server.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, query); err != nil {
		t.Fatal(err)
	}
}

// Instance is a server of a test's own, which it may stop and start again.
type Instance struct {
	URL string // of a database on it

	dir, bin string
	args     []string
	as       func(*exec.Cmd)
	p        *testproc.Process
}

// Own starts a server for one test alone. It ends with the test.
func Own(t testing.TB) *Instance {
	t.Helper()
	s, err := newInstance(forTests...)
	if err != nil {
		testproc.Missing(t, "POSTGRESQL", err)
	}
	t.Cleanup(s.remove)
	return s
}

// forTests are the settings of a server that nobody will miss.
var forTests = []string{"fsync=off", "full_page_writes=off", "max_connections=200", "autovacuum=off"}

// Start makes a throwaway server, with settings such as "fsync=off". It is for
// programs that are no tests: those have Server and Schema.
func Start(settings ...string) (dsn string, stop func(), err error) {
	s, err := newInstance(settings...)
	if err != nil {
		return "", nil, err
	}
	return s.URL, s.remove, nil
}

func newInstance(settings ...string) (s *Instance, err error) {
	s = &Instance{}
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "tinkex-pg-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	if s.as, err = unprivileged(s.dir); err != nil {
		return nil, err
	}
	data := filepath.Join(s.dir, "data")
	init := s.command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := testproc.FreePort()
	if err != nil {
		return nil, err
	}
	s.args = []string{"-D", data, "-p", fmt.Sprint(port), "-h", "127.0.0.1", "-k", ""}
	for _, setting := range settings {
		s.args = append(s.args, "-c", setting)
	}
	s.URL = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	return s, s.Start()
}

func (s *Instance) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	s.as(cmd)
	return cmd
}

// Start starts the server, again if it was stopped, and waits for it.
func (s *Instance) Start() (err error) {
	if s.p, err = testproc.Start(s.command("postgres", s.args...)); err != nil {
		return err
	}
	return s.p.Ready(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, s.URL)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
}

// Stop ends the server at once, as a crash would.
func (s *Instance) Stop() error { return s.p.Stop() }

// Pid is the id of the process whose children serve the connections.
func (s *Instance) Pid() int { return s.p.Pid() }

func (s *Instance) remove() {
	if s.p != nil {
		_ = s.p.Stop()
	}
	_ = os.RemoveAll(s.dir)
}

// programs finds the directory of the newest server installed. Debian keeps
// them off the PATH.
func programs() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("there is no initdb; install PostgreSQL (on Debian: apt-get install postgresql), " +
			"or set TINKEX_TEST_POSTGRES to the URL of a database to test in")
	}
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) }) // 9.6 before 15
	return filepath.Dir(found[len(found)-1]), nil
}
