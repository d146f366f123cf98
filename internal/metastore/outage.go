package metastore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tinkex/tinkex/internal/outage"
)

// A database that does not answer is not waited for: every method that does
// what one request asks for gives up after answerTime. Those that read or
// change all there is take as long as they take.

type unhurriedKey struct{}

// unhurried exempts what is done with the context from answerTime.
func unhurried(ctx context.Context) context.Context {
	return context.WithValue(ctx, unhurriedKey{}, true)
}

// within bounds what is done with a context to limit, and to the deadline if
// there is one.
func within(ctx context.Context, limit time.Duration, deadline time.Time) (context.Context, context.CancelFunc) {
	if ctx.Value(unhurriedKey{}) != nil || limit <= 0 {
		return ctx, func() {}
	}
	at := time.Now().Add(limit)
	if !deadline.IsZero() && deadline.Before(at) {
		at = deadline
	}
	return context.WithDeadlineCause(ctx, at, &outage.Slow{After: limit})
}

// begin is BeginTx, bounded even where the transaction is not.
func begin(ctx context.Context, db *sql.DB, opts *sql.TxOptions, limit time.Duration) (*sql.Tx, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(&outage.Slow{After: limit}) })
	tx, err := db.BeginTx(ctx, opts) // which keeps the context until the transaction ends
	if !timer.Stop() && err == nil {
		_ = tx.Rollback()
		err = context.Cause(ctx)
	}
	if err != nil {
		err = cause(ctx, err)
		cancel(nil)
	}
	return tx, err
}

// cause replaces an error by the reason why its context ended, if it did.
func cause(ctx context.Context, err error) error {
	var slow *outage.Slow
	if err != nil && errors.As(context.Cause(ctx), &slow) {
		return fmt.Errorf("%w: %w", slow, err)
	}
	return err
}

// unavailable says why a database cannot work for now, and that nothing was
// wrong with what was asked of it; otherwise it returns "".
func unavailable(err error) string {
	var (
		slow    *outage.Slow
		lite    *sqlite.Error
		pg      *pgconn.PgError
		connect *pgconn.ConnectError
		network net.Error
	)
	switch {
	case errors.As(err, &slow):
		return fmt.Sprintf("did not answer within %v", slow.After)
	case errors.Is(err, context.Canceled):
		return "" // the caller's
	case errors.As(err, &connect): // which has a time of its own
		return "cannot be reached"
	case errors.Is(err, context.DeadlineExceeded):
		return ""
	case errors.As(err, &lite):
		return unavailableSQLite(lite.Code() & 0xff)
	case errors.As(err, &pg):
		return unavailablePostgres(pg.Code)
	case errors.As(err, &network), pgconn.SafeToRetry(err), // a connection that was found to be closed
		errors.Is(err, driver.ErrBadConn), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return "cannot be reached"
	}
	return ""
}

func unavailableSQLite(code int) string {
	switch code {
	case sqlite3.SQLITE_FULL:
		return "has no space left on its disk"
	case sqlite3.SQLITE_READONLY:
		return "is read-only"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR:
		return "cannot be read or written"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL:
		return "is busy"
	}
	return ""
}

// unavailablePostgres goes by https://www.postgresql.org/docs/current/errcodes-appendix.html.
func unavailablePostgres(code string) string {
	const (
		diskFull, readOnly                           = "53100", "25006"
		shutdown, crashShutdown, notYet, idleTimeout = "57P01", "57P02", "57P03", "57P05"
	)
	switch code {
	case diskFull:
		return "has no space left on its disk"
	case readOnly:
		return "is read-only"
	case shutdown, crashShutdown, notYet, idleTimeout:
		return "is restarting"
	}
	switch {
	case strings.HasPrefix(code, "53"): // insufficient resources
		return "is overloaded"
	case strings.HasPrefix(code, "08"): // connection exception
		return "cannot be reached"
	case strings.HasPrefix(code, "58"): // system error
		return "cannot be read or written"
	}
	return ""
}
