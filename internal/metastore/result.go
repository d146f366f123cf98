package metastore

import (
	"context"
	"time"
)

const resultColumns = `request_id, session_id, request_hash, created_at, payload`

func scanResult(row scanner) (Result, error) {
	var (
		r       Result
		created int64
	)
	err := row.Scan(&r.RequestID, &r.SessionID, &r.RequestHash, &created, &r.Payload)
	r.CreatedAt = moment(created)
	return r, err
}

func (s *store) PutResult(ctx context.Context, r Result) error {
	return s.write(ctx, func(q queries) error { return putResult(ctx, q, r) })
}

func putResult(ctx context.Context, q queries, r Result) error {
	payload := r.Payload
	if payload == nil {
		payload = []byte{} // not NULL
	}
	n, err := q.exec(ctx, `
		INSERT INTO results (`+resultColumns+`) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.RequestID, r.SessionID, r.RequestHash, micros(r.CreatedAt), payload)
	if err == nil && n == 0 {
		return exists("result of request", r.RequestID)
	}
	return err
}

func (s *store) Result(ctx context.Context, requestID string) (Result, error) {
	r, err := one(s.query().row(ctx, `SELECT `+resultColumns+` FROM results WHERE request_id = ?`, requestID),
		scanResult, "result of request", requestID)
	return r, s.explain(err)
}

func (s *store) DeleteResults(ctx context.Context, before time.Time) (int, error) {
	ctx = unhurried(ctx)
	var n int64
	err := s.write(ctx, func(q queries) (err error) {
		n, err = q.exec(ctx, `DELETE FROM results WHERE created_at < ?`, micros(before))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}
