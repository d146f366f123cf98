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
		server.url, server.stop, server.err = Start("fsync=off", "full_page_writes=off", "max_connections=200", "autovacuum=off")
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

// Start makes a throwaway server, with settings such as "fsync=off". It is for
// programs that are no tests: those have Server and Schema.
func Start(settings ...string) (dsn string, stop func(), err error) {
	bin, err := programs()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "tinkex-pg-*")
	if err != nil {
		return "", nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			remove()
		}
	}()
	as, err := unprivileged(dir)
	if err != nil {
		return "", nil, err
	}
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = dir
		as(cmd)
		return cmd
	}
	init := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := init.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := testproc.FreePort()
	if err != nil {
		return "", nil, err
	}
	args := []string{"-D", data, "-p", fmt.Sprint(port), "-h", "127.0.0.1", "-k", ""}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	p, err := testproc.Start(command("postgres", args...))
	if err != nil {
		return "", nil, err
	}
	dsn = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	err = p.Ready(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
	if err != nil {
		_ = p.Stop()
		return "", nil, err
	}
	return dsn, func() {
		_ = p.Stop()
		remove()
	}, nil
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
