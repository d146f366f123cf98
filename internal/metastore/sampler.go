package metastore

import (
	"context"
	"database/sql"
)

const samplerColumns = `id, session_id, seq, owner, base_model, model_path, request_hash, created_at`

func scanSampler(row scanner) (Sampler, error) {
	var (
		v       Sampler
		session sql.NullString
		created int64
	)
	err := row.Scan(&v.ID, &session, &v.Seq, &v.Owner, &v.BaseModel, &v.ModelPath, &v.RequestHash, &created)
	v.SessionID, v.CreatedAt = session.String, moment(created)
	return v, err
}

func (s *store) CreateSampler(ctx context.Context, v Sampler) error {
	return s.write(ctx, func(q queries) error {
		if _, err := lockSession(ctx, q, v.SessionID); err != nil {
			return err
		}
		n, err := q.exec(ctx, `
			INSERT INTO samplers (`+samplerColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`,
			v.ID, textOrNull(v.SessionID), v.Seq, v.Owner, v.BaseModel, v.ModelPath, v.RequestHash, micros(v.CreatedAt))
		if err == nil && n == 0 {
			return exists("sampler", v.ID)
		}
		return err
	})
}

func (s *store) Sampler(ctx context.Context, id string) (Sampler, error) {
	v, err := one(s.query().row(ctx, `SELECT `+samplerColumns+` FROM samplers WHERE id = ?`, id),
		scanSampler, "sampler", id)
	return v, s.explain(err)
}

func (s *store) SessionSamplers(ctx context.Context, sessionID string) ([]Sampler, error) {
	all, err := list(ctx, s.query(), `
		SELECT `+samplerColumns+` FROM samplers WHERE session_id = ? ORDER BY created_at DESC, seq DESC, id DESC`,
		[]any{sessionID}, scanSampler)
	return all, s.explain(err)
}
