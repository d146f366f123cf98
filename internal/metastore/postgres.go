package metastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/tinkex/tinkex/internal/outage"
)

// connections is how many connections a server has to PostgreSQL at most.
const connections = 16

// connectTime is how long a connection may take unless the URL says
// (connect_timeout): the system's own limit is minutes.
const connectTime = 10 * time.Second

// OpenPostgres opens the metadata in a PostgreSQL database, given as a URL or
// as keywords and values (https://www.postgresql.org/docs/current/libpq-connect.html).
// Any number of processes may use the same database.
func OpenPostgres(ctx context.Context, dsn string) (Store, error) {
	s, err := connectPostgres(dsn)
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx, goose.DialectPostgres); err != nil {
		_ = s.w.Close()
		return nil, fmt.Errorf("open metadata in %s: %w", s.where, err)
	}
	return s, nil
}

// PostgresSchema says how far the schema of a database is. It changes nothing.
func PostgresSchema(ctx context.Context, dsn string) (Schema, error) {
	s, err := connectPostgres(dsn)
	if err != nil {
		return Schema{}, err
	}
	defer s.w.Close()
	return s.schema(ctx)
}

func connectPostgres(dsn string) (*store, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("open metadata in PostgreSQL: %w", err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "tinkex"
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTime
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(readInOrder))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &store{
		dialect: dialect{
			name:     "postgres",
			numbered: true,
			again:    func(err error) bool { return conflict(err) || stale(err) },
			hasTable: `SELECT 1 WHERE to_regclass(?) IS NOT NULL`,
			now:      `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)`,
		},
		// Without the credentials.
		where:     fmt.Sprintf("%s of %s", config.Database, net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))),
		w:         db,
		r:         db,
		blockSize: blockSize,
		answer:    outage.AnswerTime,
		turns:     make(turns, connections),
		check:     func() error { return nil },
	}, nil
}

// readInOrder keeps the planner from reading whole lists for the sake of one
// page. All lists have an index in their order; without statistics, as after
// restoring a dump, it would take them to be short and sort them instead.
func readInOrder(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SET enable_bitmapscan = off`)
	return err
}

// conflict: the transaction was chosen to give way to another one.
func conflict(err error) bool {
	const serializationFailure, deadlockDetected = "40001", "40P01"
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == serializationFailure || pg.Code == deadlockDetected)
}

// stale: the connection was gone before anything was sent over it, as all are
// that a restarted server knows nothing of.
func stale(err error) bool {
	var connect *pgconn.ConnectError
	return pgconn.SafeToRetry(err) && !errors.As(err, &connect)
}

var _ Store = (*store)(nil)

var _ executor = (*sql.DB)(nil)
