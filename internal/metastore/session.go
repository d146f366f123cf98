package metastore

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const sessionColumns = `id, owner, created_at, last_heartbeat, tags, user_metadata, sdk_version,
	project_id, display_name, finished_at, finish_reason, finish_detail`

func scanSession(row scanner) (Session, error) {
	var (
		s               Session
		created, beat   int64
		finished        *int64
		tags, userMetas *string
	)
	err := row.Scan(&s.ID, &s.Owner, &created, &beat, &tags, &userMetas, &s.SDKVersion,
		&s.ProjectID, &s.DisplayName, &finished, &s.FinishReason, &s.FinishDetail)
	if err != nil {
		return Session{}, err
	}
	s.CreatedAt, s.LastHeartbeat, s.FinishedAt = moment(created), moment(beat), momentOrNil(finished)
	if err := fromJSON(tags, &s.Tags); err != nil {
		return Session{}, fmt.Errorf("session %s: tags: %w", s.ID, err)
	}
	if err := fromJSON(userMetas, &s.UserMetadata); err != nil {
		return Session{}, fmt.Errorf("session %s: user metadata: %w", s.ID, err)
	}
	return s, nil
}

func (s *store) CreateSession(ctx context.Context, v Session) error {
	return s.write(ctx, func(q queries) error { return createSession(ctx, q, v) })
}

func createSession(ctx context.Context, q queries, v Session) error {
	tags, err := toJSON(v.Tags)
	if err != nil {
		return fmt.Errorf("session %s: tags: %w", v.ID, err)
	}
	metadata, err := toJSON(v.UserMetadata)
	if err != nil {
		return fmt.Errorf("session %s: user metadata: %w", v.ID, err)
	}
	n, err := q.exec(ctx, `
		INSERT INTO sessions (`+sessionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`,
		v.ID, v.Owner, micros(v.CreatedAt), micros(v.LastHeartbeat), tags, metadata, v.SDKVersion,
		v.ProjectID, v.DisplayName, microsOrNull(v.FinishedAt), v.FinishReason, v.FinishDetail)
	if err != nil {
		return err
	}
	if n == 0 {
		return exists("session", v.ID)
	}
	return count(ctx, q, "sessions", v.Owner, "", 1)
}

func (s *store) Session(ctx context.Context, id string) (Session, error) {
	v, err := one(s.query().row(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE id = ?`, id),
		scanSession, "session", id)
	return v, s.explain(err)
}

func (s *store) Sessions(ctx context.Context, owner string, p Page) (page []Session, n int, err error) {
	limit, offset := p.bounds()
	err = s.read(ctx, func(q queries) error {
		if n, err = total(ctx, q, "sessions", owner, ""); err != nil || limit == 0 || offset >= n {
			return err
		}
		// The inner query skips in the index alone.
		page, err = list(ctx, q, `
			SELECT `+sessionColumns+` FROM sessions WHERE id IN (
				SELECT id FROM sessions WHERE owner = ? ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?)
			ORDER BY created_at DESC, id DESC`,
			[]any{owner, limit, offset}, scanSession)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, n, nil
}

func (s *store) SessionsAfter(ctx context.Context, owner string, after *SessionPlace, limit int) ([]Session, error) {
	selected, args := `owner = ?`, []any{owner}
	if after != nil {
		selected, args = `owner = ? AND (created_at, id) < (?, ?)`, []any{owner, micros(after.CreatedAt), after.ID}
	}
	page, err := list(ctx, s.query(), `
		SELECT `+sessionColumns+` FROM sessions WHERE `+selected+` ORDER BY created_at DESC, id DESC LIMIT ?`,
		append(args, max(limit, 0)), scanSession)
	return page, s.explain(err)
}

func (s *store) SessionUsage(ctx context.Context, sessionIDs []string, now time.Time) (map[string]Usage, error) {
	usage := map[string]Usage{}
	for chunk := range slices.Chunk(sessionIDs, many) {
		args := make([]any, 0, len(chunk)+1)
		for _, id := range chunk {
			args = append(args, id)
		}
		err := s.query().each(ctx, `
			SELECT session_id, COUNT(*), CAST(SUM(size_bytes) AS BIGINT)
			FROM runs JOIN checkpoints ON checkpoints.run_id = runs.id
			WHERE session_id IN (`+repeat("?", len(chunk))+`) AND listed = 1 AND (expires_at IS NULL OR expires_at > ?)
			GROUP BY session_id`,
			append(args, micros(now)), func(row scanner) error {
				var id string
				var u Usage
				err := row.Scan(&id, &u.Checkpoints, &u.Bytes)
				usage[id] = u
				return err
			})
		if err != nil {
			return nil, s.explain(err)
		}
	}
	return usage, nil
}

func (s *store) TouchSession(ctx context.Context, id string, at time.Time) error {
	return s.write(ctx, func(q queries) error {
		// Heartbeats may overtake each other; the clock does not run back.
		n, err := q.exec(ctx, `
			UPDATE sessions SET last_heartbeat = CASE WHEN last_heartbeat < ? THEN ? ELSE last_heartbeat END
			WHERE id = ?`,
			micros(at), micros(at), id)
		return changed(n, err, "session", id)
	})
}

func (s *store) FinishSession(ctx context.Context, id string, at time.Time, reason, detail string) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `
			UPDATE sessions SET
				finish_reason = CASE WHEN finished_at IS NULL THEN ? ELSE finish_reason END,
				finish_detail = CASE WHEN finished_at IS NULL THEN ? ELSE finish_detail END,
				finished_at   = CASE WHEN finished_at IS NULL THEN ? ELSE finished_at END
			WHERE id = ?`,
			reason, detail, micros(at), id)
		return changed(n, err, "session", id)
	})
}

func (s *store) SetSessionProject(ctx context.Context, id, projectID string) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE sessions SET project_id = ? WHERE id = ?`, projectID, id)
		if err := changed(n, err, "session", id); err != nil {
			return err
		}
		// The runs follow, and with them the totals of both projects.
		type group struct {
			owner, project string
			n              int64
		}
		moved, err := list(ctx, q, `
			SELECT owner, project_id, COUNT(*) FROM runs WHERE session_id = ? AND project_id <> ?
			GROUP BY owner, project_id ORDER BY owner, project_id`,
			[]any{id, projectID}, func(row scanner) (g group, err error) {
				return g, row.Scan(&g.owner, &g.project, &g.n)
			})
		if err != nil {
			return err
		}
		for _, g := range moved {
			if err := countRuns(ctx, q, g.owner, g.project, -g.n); err != nil {
				return err
			}
			if err := countRuns(ctx, q, g.owner, projectID, g.n); err != nil {
				return err
			}
		}
		_, err = q.exec(ctx, `UPDATE runs SET project_id = ? WHERE session_id = ? AND project_id <> ?`,
			projectID, id, projectID)
		return err
	})
}

// changed turns an UPDATE or DELETE of no row into ErrNotFound.
func changed(n int64, err error, what string, id any) error {
	if err == nil && n == 0 {
		return notFound(what, id)
	}
	return err
}
