package cli

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/pgtest"
)

// Each kind of database is empty, migrated, and then a newer program's.
func TestMigrate(t *testing.T) {
	const password = "pa55word"
	for name, database := range map[string]func(*testing.T) (flags []string, driver, dsn string){
		"sqlite": func(t *testing.T) ([]string, string, string) {
			dir := t.TempDir()
			return []string{"--data-dir", dir}, "sqlite", filepath.Join(dir, "tinkex.db")
		},
		"postgres": func(t *testing.T) ([]string, string, string) {
			u, err := url.Parse(pgtest.Schema(t))
			if err != nil {
				t.Fatal(err)
			}
			dsn := u.String()
			u.User = url.UserPassword(u.User.Username(), password)
			return []string{"--db", u.String()}, "pgx", dsn
		},
		"postgres from the environment": func(t *testing.T) ([]string, string, string) {
			dsn := pgtest.Schema(t)
			t.Setenv("TINKEX_DB", dsn)
			return nil, "pgx", dsn
		},
	} {
		t.Run(name, func(t *testing.T) {
			flags, driver, dsn := database(t)
			var at struct{ Version, Target int64 }
			migrate := func(wantCode int, args ...string) result {
				t.Helper()
				r := run(t, append(append([]string{"migrate", "-f", "json"}, args...), flags...)...)
				if r.code != wantCode {
					t.Fatalf("exit code %d, want %d; %s", r.code, wantCode, r.stderr)
				}
				if strings.Contains(r.stdout+r.stderr, password) {
					t.Errorf("the password is told:\n%s%s", r.stdout, r.stderr)
				}
				if r.stdout != "" {
					if err := json.Unmarshal([]byte(r.stdout), &at); err != nil {
						t.Fatal(err)
					}
				}
				return r
			}
			for _, step := range []struct {
				args   []string
				behind bool
			}{
				{[]string{"--status"}, true}, {[]string{"--status"}, true}, {nil, false}, {nil, false}, {[]string{"--status"}, false},
			} {
				if migrate(exitDone, step.args...); at.Target < 1 || (at.Version != at.Target) != step.behind {
					t.Fatalf("migrate %v: version %d of %d", step.args, at.Version, at.Target)
				}
			}
			if r := run(t, append([]string{"key", "create", "--name", "of " + name}, flags...)...); r.code != exitDone || !strings.HasPrefix(r.stdout, "tml-") {
				t.Errorf("key create: exit code %d, %s%s", r.code, r.stdout, r.stderr)
			}
			if r := run(t, append([]string{"key", "list"}, flags...)...); !strings.Contains(r.stdout, "of "+name) {
				t.Errorf("key list: %s%s", r.stdout, r.stderr)
			}

			db, err := sql.Open(driver, dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			newer := at.Target + 7
			if _, err := db.Exec(fmt.Sprintf(`INSERT INTO schema_versions (version_id, is_applied) VALUES (%d, TRUE)`, newer)); err != nil {
				t.Fatal(err)
			}
			says := fmt.Sprintf("the schema is at version %d, newer than the %d this program knows", newer, at.Target)
			for _, args := range [][]string{nil, {"--status"}} {
				if r := migrate(exitFailed, args...); !strings.Contains(r.stderr, says) {
					t.Errorf("migrate %v: %q, want it to say %q", args, r.stderr, says)
				}
			}
			if r := run(t, append([]string{"serve", "--addr", "127.0.0.1:0"}, flags...)...); r.code != exitFailed || !strings.Contains(r.stderr, says) {
				t.Errorf("serve: exit code %d, %q, want it to say %q", r.code, r.stderr, says)
			}
		})
	}
}

func TestStoreFlagErrors(t *testing.T) {
	t.Setenv("TINKEX_DB", "")
	dir := t.TempDir()
	for _, test := range []struct {
		env  string // TINKEX_DB
		args []string
		code int
		says string
	}{
		{"", []string{"serve", "--db", "mysql://me:s3cret@host/meta"}, exitUsage, "--db: not the URL of a PostgreSQL database"},
		{"host=h password=s3cret", []string{"key", "list"}, exitUsage, "TINKEX_DB: not the URL of a PostgreSQL database"},
		{"", []string{"migrate", "--db", "postgres://me:s3cret@127.0.0.1:1/meta?connect_timeout=2"}, exitFailed, "127.0.0.1:1"},
		{"", []string{"serve", "--addr", "127.0.0.1:0", "--data-dir", dir, "--blobs", "s3://me:s3cret@bucket?region=r"}, exitFailed, "no place for credentials"},
		{"", []string{"serve", "--addr", "127.0.0.1:0", "--data-dir", dir, "--blobs", "ftp://me:s3cret@host"}, exitFailed, "is no kind of store"},
		{"postgres://me:s3cret@host/meta", []string{"serve", "--help"}, exitDone, ""},
		{"", []string{"serve", "--data-dir", dir, "--advertise", "http://10.0.0.7:8484"}, exitUsage, "--advertise: other servers cannot share a data directory"},
		{"postgres://me:s3cret@host/meta", []string{"serve", "--advertise", "10.0.0.7:8484"}, exitUsage, `--advertise: "10.0.0.7:8484" is not an http or https URL`},
		{"postgres://me:s3cret@host/meta", []string{"serve", "--lease", "1s"}, exitUsage, "--lease: 1s is too short"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Setenv("TINKEX_DB", test.env)
			r := run(t, test.args...)
			if r.code != test.code || !strings.Contains(r.stderr, test.says) {
				t.Errorf("exit code %d, want %d; %q, want it to say %q", r.code, test.code, r.stderr, test.says)
			}
			if strings.Contains(r.stdout+r.stderr, "s3cret") {
				t.Errorf("the secret is told:\n%s%s", r.stdout, r.stderr)
			}
		})
	}
}

// A server keeps its blobs in a bucket, and who looks after it forgets to say.
func TestStoresThatDoNotBelongTogether(t *testing.T) {
	t.Setenv("TINKEX_DB", "")
	t.Setenv("TINKEX_BLOBS", "")
	dir := t.TempDir()
	if r := run(t, "migrate", "--data-dir", dir); r.code != exitDone {
		t.Fatal(r.stderr)
	}
	for _, cmd := range []string{"fsck", "gc"} {
		r := run(t, cmd, "--data-dir", dir)
		if r.code != exitUsage || !strings.Contains(r.stderr, "there is no blobs in "+dir) || !strings.Contains(r.stderr, "--blobs") {
			t.Errorf("%s: exit code %d, %q", cmd, r.code, r.stderr)
		}
	}
	bucket := run(t, "fsck", "--data-dir", dir, "--blobs", "mem://")
	if bucket.code != exitDone {
		t.Errorf("fsck with --blobs: exit code %d, %q", bucket.code, bucket.stderr)
	}
}
