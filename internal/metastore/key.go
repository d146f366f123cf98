package metastore

import (
	"context"
	"time"
)

const keyColumns = `id, hash, owner, name, created_at, revoked_at`

func scanKey(row scanner) (Key, error) {
	var (
		k       Key
		created int64
		revoked *int64
	)
	err := row.Scan(&k.ID, &k.Hash, &k.Owner, &k.Name, &created, &revoked)
	k.CreatedAt, k.RevokedAt = moment(created), momentOrNil(revoked)
	return k, err
}

func (s *store) CreateKey(ctx context.Context, k Key) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `
			INSERT INTO api_keys (`+keyColumns+`) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			k.ID, k.Hash, k.Owner, k.Name, micros(k.CreatedAt), microsOrNull(k.RevokedAt))
		if err == nil && n == 0 {
			return exists("key", k.ID)
		}
		return err
	})
}

func (s *store) KeyByHash(ctx context.Context, hash string) (Key, error) {
	// The hash stays out of the error: it is what an attacker would look for
	// in a log.
	k, err := one(s.query().row(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE hash = ?`, hash),
		scanKey, "key", "with that hash")
	return k, s.explain(err)
}

func (s *store) Keys(ctx context.Context) ([]Key, error) {
	keys, err := list(ctx, s.query(), `SELECT `+keyColumns+` FROM api_keys ORDER BY created_at DESC, id DESC`,
		nil, scanKey)
	return keys, s.explain(err)
}

func (s *store) RevokeKey(ctx context.Context, id string, at time.Time) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?`, micros(at), id)
		return changed(n, err, "key", id)
	})
}
