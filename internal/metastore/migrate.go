package metastore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// versionTable holds which migrations were applied.
const versionTable = "schema_versions"

// migrate brings the schema up to date. It is quick when there is nothing to
// do, and any number of processes may do it at the same time.
func (s *store) migrate(ctx context.Context, with goose.Dialect) error {
	dir, err := fs.Sub(migrations, path.Join("migrations", s.dialect.name))
	if err != nil {
		return err
	}
	target, err := newest(dir)
	if err != nil {
		return err
	}
	var failed error
	for n := 1; ; n++ {
		version, err := s.version(ctx)
		switch {
		case err != nil && (n > attempts || !busy(err)):
			return err
		case err == nil && version > target:
			return newer(version, target)
		case err == nil && version == target:
			return nil
		case n > attempts:
			return failed
		}
		if failed = err; failed == nil {
			failed = s.apply(ctx, with, dir)
		}
		if failed == nil {
			continue
		}
		// A migration is one transaction. Another process may have been
		// faster with it, which shows when the version is read again.
		select {
		case <-time.After(time.Duration(n) * 20 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), failed)
		}
	}
}

// newer explains why a database cannot be used.
func newer(version, target int64) error {
	return fmt.Errorf("the schema is at version %d, newer than the %d this program knows: use a newer tinkex, "+
		"or restore a copy made before the upgrade", version, target)
}

func (s *store) apply(ctx context.Context, with goose.Dialect, dir fs.FS) error {
	p, err := goose.NewProvider(with, s.w, dir,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// version is that of the database's schema, 0 if it has none yet.
func (s *store) version(ctx context.Context) (v int64, err error) {
	return schemaVersion(ctx, queries{executor: s.w, dialect: s.dialect, answer: s.answer})
}

func schemaVersion(ctx context.Context, q queries) (v int64, err error) {
	var has int
	err = q.row(ctx, q.dialect.hasTable, versionTable).Scan(&has)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err == nil {
		err = q.row(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM `+versionTable).Scan(&v)
	}
	return v, err
}

// newest is the version the embedded migrations lead to.
func newest(dir fs.FS) (v int64, err error) {
	files, err := fs.ReadDir(dir, ".")
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		number, _, _ := strings.Cut(f.Name(), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("migration %s: %w", f.Name(), err)
		}
		v = max(v, n)
	}
	return v, nil
}

// Schema says how far a database's schema is.
type Schema struct {
	Where   string // the database, without secrets
	Version int64  // 0 if it has none yet
	Target  int64  // what this program brings it to
}

// Check is the error that opening the database would meet.
func (s Schema) Check() error {
	if s.Version > s.Target {
		return fmt.Errorf("metadata in %s: %w", s.Where, newer(s.Version, s.Target))
	}
	return nil
}

// schema reads how far the schema is and changes nothing.
func (s *store) schema(ctx context.Context) (Schema, error) {
	dir, err := fs.Sub(migrations, path.Join("migrations", s.dialect.name))
	if err != nil {
		return Schema{}, err
	}
	at := Schema{Where: s.where}
	if at.Target, err = newest(dir); err != nil || s.r == nil {
		return at, err
	}
	at.Version, err = schemaVersion(ctx, s.query())
	return at, s.explain(err)
}
