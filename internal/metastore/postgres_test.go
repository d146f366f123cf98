package metastore_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/metastore/metastoretest"
)

// postgresSchemas gives every test a schema of its own in the database that
// TINKEX_TEST_POSTGRES names.
func postgresSchemas(t testing.TB) *places {
	server := os.Getenv("TINKEX_TEST_POSTGRES")
	if server == "" {
		const what = "POSTGRESQL IS NOT TESTED: set TINKEX_TEST_POSTGRES to the URL of a database to test it in"
		if os.Getenv("TINKEX_REQUIRE_POSTGRES") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	return &places{func(t testing.TB) string { return newSchema(t, server) }, map[string]string{}}
}

func newSchema(t testing.TB, server string) (dsn string) {
	schema := "test_" + strings.ToLower(rand.Text())
	admin := func(query string) {
		db, err := sql.Open("pgx", server)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	admin(`CREATE SCHEMA ` + schema)
	t.Cleanup(func() { admin(`DROP SCHEMA ` + schema + ` CASCADE`) })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func openPostgres(t testing.TB, dsn string) metastore.Store {
	t.Helper()
	s, err := metastore.OpenPostgres(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPostgres(t *testing.T) {
	schemas := postgresSchemas(t)
	metastoretest.Run(t, func(t *testing.T) metastore.Store { return openPostgres(t, schemas.of(t)) })
}

func TestPostgresSmallBlocks(t *testing.T) {
	schemas := postgresSchemas(t)
	metastoretest.Run(t, func(t *testing.T) metastore.Store {
		dsn := schemas.of(t)
		return smallBlocks(t, openPostgres(t, dsn), func() metastore.Store { return openPostgres(t, dsn) })
	})
}

func TestPostgresNewer(t *testing.T) {
	dsn := postgresSchemas(t).of(t)
	s := openPostgres(t, dsn)
	if err := metastore.SetSchemaVersion(t.Context(), s, 9999); err != nil {
		t.Fatal(err)
	}
	s.Close()
	_, err := metastore.OpenPostgres(t.Context(), dsn)
	u, _ := url.Parse(dsn)
	for _, says := range []string{"version 9999", "newer than the 3 this program knows", strings.TrimPrefix(u.Path, "/") + " of " + u.Hostname()} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error is %v, want it to say %q", err, says)
		}
	}
}

func TestPostgresOpenTogether(t *testing.T) {
	schemas := postgresSchemas(t)
	for range 2 {
		dsn := schemas.make(t)
		errs := make(chan error)
		const n = 8
		for range n {
			go func() {
				s, err := metastore.OpenPostgres(t.Context(), dsn)
				if err == nil {
					err = s.Check(t.Context())
					s.Close()
				}
				errs <- err
			}()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPostgresOpenErrors(t *testing.T) {
	for _, test := range []struct{ dsn, says string }{
		{"postgres://who:s3cret@127.0.0.1:1/meta?connect_timeout=2", "meta of 127.0.0.1:1"},
		{"postgres://who:s3cret@127.0.0.1:notaport/meta", "PostgreSQL"},
	} {
		_, err := metastore.OpenPostgres(t.Context(), test.dsn)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("error is %v, want it to say %q", err, test.says)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("error tells the password: %v", err)
		}
	}
}
