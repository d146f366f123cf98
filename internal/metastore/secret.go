package metastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

func (s *store) Secret(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error) {
	const find = `SELECT value FROM secrets WHERE name = ?`
	var value []byte
	err := s.query().row(ctx, find, name).Scan(&value)
	if !errors.Is(err, sql.ErrNoRows) {
		return value, s.explain(err)
	}
	// What create makes counts only if nobody was faster.
	mine, err := create()
	if err != nil {
		return nil, fmt.Errorf("create secret %s: %w", name, err)
	}
	if mine == nil {
		mine = []byte{} // not NULL
	}
	err = s.write(ctx, func(q queries) error {
		if _, err := q.exec(ctx, `INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, mine); err != nil {
			return err
		}
		return q.row(ctx, find, name).Scan(&value)
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}
