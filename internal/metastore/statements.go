package metastore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// openPrepared opens a SQLite database whose connections keep the statements
// they have prepared. Compiling a query takes longer than a look-up does.
func openPrepared(dsn string) (*sql.DB, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector{c}), nil
}

type connector struct{ driver.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &preparedConn{sqliteConn: conn.(sqliteConn), idle: make(map[string]statement)}, nil
}

// sqliteConn is what the driver's connections are, and statement what their
// statements are.
type (
	sqliteConn interface {
		driver.Conn
		driver.ConnBeginTx
		driver.ConnPrepareContext
		driver.ExecerContext
		driver.QueryerContext
		driver.Pinger
		driver.SessionResetter
		driver.Validator
	}
	statement interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
	}
)

const (
	// maxStatements bounds how many statements a connection keeps. It is more
	// than there are, but for lists of varying length.
	maxStatements = 200
	// longQuery is one with very many parameters, which is not kept.
	longQuery = 4096
)

// preparedConn is a connection. database/sql sees to it that it is used by one
// goroutine at a time.
type preparedConn struct {
	sqliteConn
	idle map[string]statement // by query, none of them in use
}

// take returns a statement for the caller alone, nil if it is not worth one.
func (c *preparedConn) take(ctx context.Context, query string) (statement, error) {
	if len(query) > longQuery {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if s, ok := c.idle[query]; ok {
		delete(c.idle, query)
		return s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.(statement), nil
}

// put gives a statement back that has done its work.
func (c *preparedConn) put(query string, s statement) error {
	var err error
	if _, ok := c.idle[query]; ok {
		return s.Close()
	}
	if len(c.idle) >= maxStatements {
		err = c.closeIdle()
	}
	c.idle[query] = s
	return err
}

func (c *preparedConn) closeIdle() error {
	var errs []error
	for _, s := range c.idle {
		errs = append(errs, s.Close())
	}
	clear(c.idle)
	return errors.Join(errs...)
}

func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.ExecContext(ctx, query, args)
	}
	res, err := s.ExecContext(ctx, args)
	if err != nil {
		_ = s.Close() // it may not be fit to be used again
		return nil, err
	}
	return res, c.put(query, s)
}

func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.QueryContext(ctx, query, args)
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return &preparedRows{rows, c, query, s}, nil
}

func (c *preparedConn) Close() error { return errors.Join(c.closeIdle(), c.sqliteConn.Close()) }

// preparedRows gives its statement back when it is closed.
type preparedRows struct {
	driver.Rows
	conn  *preparedConn
	query string
	s     statement
}

func (r *preparedRows) Close() error {
	if err := r.Rows.Close(); err != nil {
		_ = r.s.Close()
		return err
	}
	return r.conn.put(r.query, r.s)
}
