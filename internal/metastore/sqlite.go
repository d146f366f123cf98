package metastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // also the driver
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tinkex/tinkex/internal/outage"
)

// readers is how many connections read a SQLite database at the same time.
const readers = 4

// OpenSQLite opens the metadata in a file, which it creates if it is not
// there, in a directory that must be. Any number of processes may have the
// file open. ":memory:" is a store of its own that lasts until it is closed.
func OpenSQLite(ctx context.Context, path string) (Store, error) {
	s := newSQLite(path)
	if err := s.openSQLite(ctx, path); err != nil {
		if s.w != nil {
			_ = s.Close()
		}
		return nil, fmt.Errorf("open metadata in %s: %w", path, err)
	}
	return s, nil
}

// SQLiteSchema says how far the schema of a file is. It changes nothing: a
// file that is not there is at version 0.
func SQLiteSchema(ctx context.Context, path string) (Schema, error) {
	s := newSQLite(path)
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(abs)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.schema(ctx)
	case err != nil:
		return Schema{}, s.explain(err)
	}
	if s.r, err = openPrepared(fileURI(abs, pragmas(reader))); err != nil {
		return Schema{}, s.explain(err)
	}
	defer s.r.Close()
	return s.schema(ctx)
}

func newSQLite(path string) *store {
	return &store{
		dialect: dialect{
			name:     "sqlite",
			again:    func(error) bool { return false }, // readers have no conflicts, writers their group
			hasTable: `SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?`,
			now:      `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`,
		},
		where:     path,
		blockSize: blockSize,
		answer:    outage.AnswerTime,
		check:     func() error { return nil },
	}
}

func (s *store) openSQLite(ctx context.Context, path string) (err error) {
	if path == ":memory:" {
		// Every connection would have a database of its own.
		if s.w, err = openPrepared("file::memory:?" + pragmas(writer)); err != nil {
			return err
		}
		s.r = s.w
		s.w.SetMaxOpenConns(1)
		s.group = &group{db: s.w, dialect: s.dialect, answer: s.answer}
		return s.migrate(ctx, goose.DialectSQLite3)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	file, err := createPrivate(path)
	if err != nil {
		return err
	}
	s.check = func() error { return stillThere(path, file) }
	if s.w, err = openPrepared(fileURI(path, pragmas(writer))); err != nil {
		return err
	}
	s.w.SetMaxOpenConns(1)
	s.group = &group{db: s.w, dialect: s.dialect, answer: s.answer}
	if s.r, err = openPrepared(fileURI(path, pragmas(reader))); err != nil {
		return err
	}
	s.r.SetMaxOpenConns(readers)
	s.r.SetMaxIdleConns(readers)
	s.turns = make(turns, readers)
	if err := s.onlyOurs(ctx); err != nil {
		return err
	}
	return s.migrate(ctx, goose.DialectSQLite3)
}

const (
	// A writer takes its lock when it begins, so that it never has to start
	// over. FULL: a commit is on the disk, not only with the operating
	// system, when it returns; with fullfsync where an fsync alone does not
	// do that (macOS).
	writer = "_txlock=immediate busy_timeout(30000) journal_mode(WAL) synchronous(FULL) fullfsync(1)" +
		" foreign_keys(1) journal_size_limit(67108864) cache_size(-16384)"
	reader = "_txlock=deferred busy_timeout(30000) query_only(1) cache_size(-16384)"
)

// pragmas writes a connection's settings as the driver's parameters.
func pragmas(settings string) string {
	v := url.Values{}
	for s := range strings.FieldsSeq(settings) {
		if name, value, ok := strings.Cut(s, "="); ok {
			v.Set(name, value)
		} else {
			v.Add("_pragma", s)
		}
	}
	return v.Encode()
}

func fileURI(path, query string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // C:/...
		path = "/" + path
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}

// createPrivate makes sure the file exists, for its owner's eyes only: it
// holds the server's secrets. SQLite gives the files beside it the same mode.
func createPrivate(path string) (fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	return info, errors.Join(err, f.Close())
}

// stillThere notices that the file was removed or replaced under a running
// server. SQLite would go on writing into a file that nobody can open again.
func stillThere(path string, opened fs.FileInfo) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, now) {
		return errors.New("the file was replaced while in use: restart the server")
	}
	return nil
}

// onlyOurs refuses a database that belongs to another program.
func (s *store) onlyOurs(ctx context.Context) error {
	var tables, ours int
	// Asked of a reader: a writer would change the file by opening it.
	err := s.r.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(name = ?), 0) FROM sqlite_schema WHERE type = 'table'`,
		versionTable).Scan(&tables, &ours)
	if err == nil && tables > 0 && ours == 0 {
		return errors.New("the file is a database of another program")
	}
	return err
}

// busy: another process is making the database what this one was about to make
// it. SQLite waits for its locks, but not for the one that changes the journal.
func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}
