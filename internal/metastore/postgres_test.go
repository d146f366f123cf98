package metastore_test

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/metastore/metastoretest"
	"github.com/tinkex/tinkex/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// postgresSchemas gives every test a schema of its own.
func postgresSchemas(t testing.TB) *places {
	pgtest.Server(t)
	return &places{func(t testing.TB) string { return pgtest.Schema(t) }, map[string]string{}}
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
	for _, says := range []string{"version 9999, newer than the ", strings.TrimPrefix(u.Path, "/") + " of " + u.Hostname()} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error is %v, want it to say %q", err, says)
		}
	}
}

func TestPostgresSchema(t *testing.T) {
	dsn := postgresSchemas(t).of(t)
	testSchema(t, func() (metastore.Schema, error) { return metastore.PostgresSchema(t.Context(), dsn) },
		func() metastore.Store { return openPostgres(t, dsn) })
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
