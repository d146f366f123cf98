package metastore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/outage"
)

// store is the one implementation of Store. The databases differ only in
// their dialect and in how they are opened.
type store struct {
	dialect dialect
	where   string  // the database as the operator knows it: a path, a host and name
	w, r    *sql.DB // for writing and for reading; the same one where that does not matter
	group   *group  // through which transactions are written; nil if each is by itself
	// blockSize is the number of checkpoints up to which a block may grow.
	blockSize int64
	answer    time.Duration // outage.AnswerTime, except in tests
	// turns are for the connections of r, as many as there are.
	turns turns
	// check looks after what only one of the databases has to worry about.
	check func() error
}

// A dialect is what the queries cannot have in common.
type dialect struct {
	name string
	// numbered parameters are spelled $1, $2, ... instead of ?.
	numbered bool
	// again reports whether a failed transaction may succeed if repeated.
	again func(error) bool
	// hasTable selects 1 if there is a table of the given name.
	hasTable string
	// now is the database's clock, in microseconds.
	now string
}

// rebind spells the parameters of a query, written as ?, for the dialect. No
// query has a question mark in it that is not a parameter.
func (d dialect) rebind(query string) string {
	if !d.numbered {
		return query
	}
	var b strings.Builder
	b.Grow(len(query) + 16)
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = after
	}
}

// executor is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// queries runs the portable spelling of queries, each within a time.
type queries struct {
	executor
	dialect  dialect
	answer   time.Duration
	deadline time.Time // of the transaction, if it is one
	turns    turns     // of the connections; nil in a transaction, which has one
}

// turns has those who wait for a connection served in the order in which they
// came. database/sql takes anyone of them, so that in a crowd some wait for
// many times as long as most.
type turns chan struct{}

func (t turns) take(ctx context.Context) error {
	if t == nil {
		return nil
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) give() {
	if t != nil {
		<-t
	}
}

// exec returns how many rows the statement changed.
func (q queries) exec(ctx context.Context, query string, args ...any) (int64, error) {
	ctx, cancel := within(ctx, q.answer, q.deadline)
	defer cancel()
	if err := q.turns.take(ctx); err != nil {
		return 0, cause(ctx, err)
	}
	defer q.turns.give()
	res, err := q.ExecContext(ctx, q.dialect.rebind(query), args...)
	if err != nil {
		return 0, cause(ctx, err)
	}
	return res.RowsAffected()
}

// row must be scanned.
func (q queries) row(ctx context.Context, query string, args ...any) scanner {
	ctx, cancel := within(ctx, q.answer, q.deadline)
	if err := q.turns.take(ctx); err != nil {
		return boundRow{nil, cause(ctx, err), ctx, cancel}
	}
	return boundRow{q.QueryRowContext(ctx, q.dialect.rebind(query), args...), nil, ctx, func() {
		q.turns.give()
		cancel()
	}}
}

type boundRow struct {
	row *sql.Row
	err error // why there is none
	ctx context.Context
	end func()
}

func (r boundRow) Scan(dest ...any) error {
	defer r.end()
	if r.err != nil {
		return r.err
	}
	return cause(r.ctx, r.row.Scan(dest...))
}

// each calls scan for every row. The rows are closed when it returns.
func (q queries) each(ctx context.Context, query string, args []any, scan func(scanner) error) error {
	ctx, cancel := within(ctx, q.answer, q.deadline)
	defer cancel()
	if err := q.turns.take(ctx); err != nil {
		return cause(ctx, err)
	}
	defer q.turns.give()
	rows, err := q.QueryContext(ctx, q.dialect.rebind(query), args...)
	if err != nil {
		return cause(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return cause(ctx, err)
		}
	}
	return cause(ctx, rows.Err())
}

type scanner interface{ Scan(dest ...any) error }

// list collects every row.
func list[T any](ctx context.Context, q queries, query string, args []any, scan func(scanner) (T, error)) ([]T, error) {
	var all []T
	err := q.each(ctx, query, args, func(s scanner) error {
		v, err := scan(s)
		all = append(all, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// one scans a row that may be missing, which is a wrapped ErrNotFound.
func one[T any](s scanner, scan func(scanner) (T, error), what string, id any) (T, error) {
	v, err := scan(s)
	if errors.Is(err, sql.ErrNoRows) {
		var none T
		return none, notFound(what, id)
	}
	return v, err
}

func notFound(what string, id any) error { return fmt.Errorf("%s %v: %w", what, id, ErrNotFound) }
func exists(what string, id any) error   { return fmt.Errorf("%s %v: %w", what, id, ErrExists) }

// read runs f in a transaction that sees one state of the database.
func (s *store) read(ctx context.Context, f func(queries) error) error {
	return s.transact(ctx, s.r, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}, f)
}

// write runs f in a transaction that is durable when write returns. It may
// run f more than once.
func (s *store) write(ctx context.Context, f func(queries) error) error {
	if s.group != nil {
		return s.explain(s.group.write(ctx, f))
	}
	return s.transact(ctx, s.w, nil, f)
}

// attempts bounds how often a transaction is run. Two transactions that
// deadlock need two; the others are for a crowd.
const attempts = 10

func (s *store) transact(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(queries) error) error {
	for n := 1; ; n++ {
		err := transactOnce(ctx, db, opts, s.dialect, s.answer, s.turns, f)
		if err == nil || n == attempts || !s.dialect.again(err) {
			return s.explain(err)
		}
		select {
		case <-time.After(rand.N(time.Duration(n) * 10 * time.Millisecond)):
		case <-ctx.Done():
			return s.explain(ctx.Err())
		}
	}
}

func transactOnce(ctx context.Context, db *sql.DB, opts *sql.TxOptions, d dialect, answer time.Duration, t turns, f func(queries) error) error {
	ctx, cancel := within(ctx, answer, time.Time{})
	defer cancel()
	if err := t.take(ctx); err != nil {
		return cause(ctx, err)
	}
	defer t.give()
	tx, err := begin(ctx, db, opts, answer)
	if err != nil {
		return err
	}
	q := queries{executor: tx, dialect: d, answer: answer}
	q.deadline, _ = ctx.Deadline()
	if err := f(q); err != nil {
		// The first error is the one to tell; the connection is given up if
		// rolling back fails too.
		_ = tx.Rollback()
		return cause(ctx, err)
	}
	return cause(ctx, tx.Commit())
}

// query is for a single SELECT, which needs no transaction.
func (s *store) query() queries {
	return queries{executor: s.r, dialect: s.dialect, answer: s.answer, turns: s.turns}
}

// explain adds to the database's own errors whose they are.
func (s *store) explain(err error) error {
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) || errors.Is(err, ErrNoServer) {
		return err
	}
	reason := unavailable(err)
	err = fmt.Errorf("metadata in %s: %w", s.where, err)
	if reason != "" {
		return &outage.Error{Store: "metadata database", Reason: reason, Err: err}
	}
	return err
}

func (s *store) Check(ctx context.Context) error {
	if err := s.check(); err != nil {
		return s.explain(err)
	}
	return s.write(ctx, func(q queries) error {
		_, err := q.exec(ctx, `
			INSERT INTO health (id, checked_at) VALUES (1, ?)
			ON CONFLICT (id) DO UPDATE SET checked_at = excluded.checked_at`,
			micros(time.Now()))
		return err
	})
}

func (s *store) Close() error {
	err := s.w.Close()
	if s.r != s.w {
		err = errors.Join(s.r.Close(), err)
	}
	return s.explain(err)
}

// micros is how a time is stored.
func micros(t time.Time) int64 { return t.UnixMicro() }

func moment(us int64) time.Time { return time.UnixMicro(us).UTC() }

func microsOrNull(t *time.Time) any {
	if t == nil {
		return nil
	}
	return micros(*t)
}

func momentOrNil(us *int64) *time.Time {
	if us == nil {
		return nil
	}
	t := moment(*us)
	return &t
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// toJSON stores nil maps and slices as NULL, so that they come back nil.
func toJSON[T map[string]any | map[string]string | []string](v T) (any, error) {
	if v == nil {
		return nil, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return string(b), nil
}

func fromJSON(s *string, v any) error {
	if s == nil {
		return nil
	}
	return json.Unmarshal([]byte(*s), v)
}

// bounds keeps a page within what a database accepts.
func (p Page) bounds() (limit, offset int) { return max(p.Limit, 0), max(p.Offset, 0) }

// total returns how many sessions or runs there are.
func total(ctx context.Context, q queries, of, owner, project string) (int, error) {
	var n int
	err := q.row(ctx, `SELECT n FROM totals WHERE list = ? AND owner = ? AND project = ?`, of, owner, project).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// count adds to a total.
func count(ctx context.Context, q queries, of, owner, project string, n int64) error {
	_, err := q.exec(ctx, `
		INSERT INTO totals (list, owner, project, n) VALUES (?, ?, ?, ?)
		ON CONFLICT (list, owner, project) DO UPDATE SET n = totals.n + excluded.n`,
		of, owner, project, n)
	return err
}
