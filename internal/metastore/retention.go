package metastore

import (
	"context"
	"slices"
	"time"
)

const retentionColumns = `owner, version, policy, set_at, applied_at, removed, refused`

func scanRetention(row scanner) (Retention, error) {
	var (
		r       Retention
		policy  string
		set     int64
		applied *int64
	)
	err := row.Scan(&r.Owner, &r.Version, &policy, &set, &applied, &r.Removed, &r.Refused)
	r.Policy, r.SetAt, r.AppliedAt = []byte(policy), moment(set), momentOrNil(applied)
	return r, err
}

func (s *store) SetRetention(ctx context.Context, r Retention) error {
	return s.write(ctx, func(q queries) error {
		_, err := q.exec(ctx, `
			INSERT INTO retention (`+retentionColumns+`) VALUES (?, ?, ?, ?, NULL, 0, '')
			ON CONFLICT (owner) DO UPDATE SET version = excluded.version, policy = excluded.policy,
				set_at = excluded.set_at, applied_at = NULL, removed = 0, refused = ''`,
			r.Owner, r.Version, string(r.Policy), micros(r.SetAt))
		return err
	})
}

func (s *store) Retention(ctx context.Context, owner string) (Retention, error) {
	r, err := one(s.query().row(ctx, `SELECT `+retentionColumns+` FROM retention WHERE owner = ?`, owner),
		scanRetention, "retention policy of", owner)
	return r, s.explain(err)
}

func (s *store) DeleteRetention(ctx context.Context, owner string) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `DELETE FROM retention WHERE owner = ?`, owner)
		return changed(n, err, "retention policy of", owner)
	})
}

func (s *store) DueRetention(ctx context.Context, since time.Time, after string, limit int) ([]Retention, error) {
	all, err := list(ctx, s.query(), `
		SELECT `+retentionColumns+` FROM retention
		WHERE owner > ? AND (applied_at IS NULL OR applied_at <= ?) ORDER BY owner LIMIT ?`,
		[]any{after, micros(since), limit}, scanRetention)
	return all, s.explain(err)
}

func (s *store) RetentionApplied(ctx context.Context, r Retention) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE retention SET applied_at = ?, removed = ?, refused = ? WHERE owner = ? AND version = ?`,
			microsOrNull(r.AppliedAt), r.Removed, r.Refused, r.Owner, r.Version)
		return changed(n, err, "retention policy of", r.Owner)
	})
}

func (s *store) DeleteRetired(ctx context.Context, r Retention, ids []int64, public bool) (gone []int64, err error) {
	err = s.write(ctx, func(q queries) error {
		gone = nil
		// Whoever changes the policy waits for this transaction, or this one finds
		// it changed.
		n, err := q.exec(ctx, `UPDATE retention SET version = version WHERE owner = ? AND version = ?`, r.Owner, r.Version)
		if err := changed(n, err, "retention policy of", r.Owner); err != nil {
			return err
		}
		condition := `owner = ?`
		if !public {
			condition += ` AND public = 0`
		}
		for chunk := range slices.Chunk(ids, many) {
			args := []any{r.Owner}
			for _, id := range chunk {
				args = append(args, id)
			}
			more, err := s.removed(ctx, q, condition+` AND id IN (`+repeat("?", len(chunk))+`)`, args...)
			if err != nil {
				return err
			}
			gone = append(gone, more...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}
