package metastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tinkex/tinkex/internal/outage"
)

func TestUnavailable(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&outage.Slow{After: time.Second}, "did not answer within 1s"},
		{&pgconn.PgError{Code: "53100"}, "has no space left on its disk"},
		{&pgconn.PgError{Code: "53300"}, "is overloaded"},
		{&pgconn.PgError{Code: "25006"}, "is read-only"},
		{&pgconn.PgError{Code: "57P01"}, "is restarting"},
		{&pgconn.PgError{Code: "58030"}, "cannot be read or written"},
		{fmt.Errorf("query: %w", &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}), "cannot be reached"},
		{&pgconn.PgError{Code: "23505"}, ""}, // unique_violation
		{&pgconn.PgError{Code: "40001"}, ""}, // serialization_failure
		{context.Canceled, ""},
		{context.DeadlineExceeded, ""},
		{ErrNotFound, ""},
	} {
		if got := unavailable(test.err); got != test.want {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}

// A database that has no more room says so, and goes on when there is some.
func TestSQLiteFull(t *testing.T) {
	ctx := t.Context()
	opened, err := OpenSQLite(ctx, filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer s.Close()
	pages := func(n int) {
		t.Helper()
		if _, err := s.w.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, n)); err != nil {
			t.Fatal(err)
		}
	}
	pages(1) // which is taken for as many as there are
	write := func(id string) error {
		return s.PutResult(ctx, Result{RequestID: id, CreatedAt: time.Now(), Payload: []byte(strings.Repeat("x", 1<<16))})
	}
	down, ok := outage.Of(write("full"))
	if !ok || down.Reason != "has no space left on its disk" || !strings.Contains(down.Error(), "meta.db") || strings.Contains(down.Public(), "meta.db") {
		t.Errorf("error %v, for others %q", down, down.Public())
	}
	if _, err := s.Result(ctx, "full"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after a write that failed: %v", err)
	}
	pages(1 << 20)
	if err := write("again"); err != nil {
		t.Errorf("with room made: %v", err)
	}
}

// A database that stops answering is given up, in a transaction and outside,
// except by what takes long by its nature.
func TestSlowDatabase(t *testing.T) {
	opened, err := OpenSQLite(t.Context(), ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer s.Close()
	s.answer = 50 * time.Millisecond
	s.group.answer = s.answer
	// Whoever has the only connection keeps it for long.
	held, err := s.w.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context) error{
		"write":      func(ctx context.Context) error { return s.TouchSession(ctx, "s", time.Now()) },
		"read":       func(ctx context.Context) error { _, _, err := s.Sessions(ctx, "o", Page{}); return err },
		"query":      func(ctx context.Context) error { _, err := s.Run(ctx, "r"); return err },
		"list":       func(ctx context.Context) error { _, err := s.Keys(ctx); return err },
		"long write": func(ctx context.Context) error { _, err := s.DeleteResults(ctx, time.Now()); return err },
	} {
		err := do(t.Context())
		if down, ok := outage.Of(err); !ok || down.Reason != "did not answer within 50ms" {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := do(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with a deadline of the caller's: %v", name, err)
		} else if _, ok := outage.Of(err); ok {
			t.Errorf("%s: the caller's deadline is taken for an outage: %v", name, err)
		}
		cancel()
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	s.answer, s.group.answer = time.Minute, time.Minute // a busy machine is no outage
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
