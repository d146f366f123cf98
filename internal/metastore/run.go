package metastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const runColumns = `id, session_id, seq, owner, base_model, lora_rank, train_attn, train_mlp, train_unembed,
	seed, user_metadata, resumed_from, request_hash, created_at, last_request_at, state, unsaved, server_id`

func scanRun(row scanner) (Run, error) {
	var (
		r                      Run
		session                sql.NullString
		attn, mlp, unembed     int64
		metadata               *string
		created, used, unsaved int64
	)
	err := row.Scan(&r.ID, &session, &r.Seq, &r.Owner, &r.LoRA.BaseModel, &r.LoRA.Rank, &attn, &mlp, &unembed,
		&r.Seed, &metadata, &r.ResumedFrom, &r.RequestHash, &created, &used, &r.State, &unsaved, &r.Server)
	if err != nil {
		return Run{}, err
	}
	r.SessionID = session.String
	r.LoRA.TrainAttn, r.LoRA.TrainMLP, r.LoRA.TrainUnembed = attn != 0, mlp != 0, unembed != 0
	r.CreatedAt, r.LastRequestAt, r.Unsaved = moment(created), moment(used), unsaved != 0
	if err := fromJSON(metadata, &r.UserMetadata); err != nil {
		return Run{}, fmt.Errorf("run %s: user metadata: %w", r.ID, err)
	}
	return r, nil
}

func (s *store) CreateRun(ctx context.Context, r Run) error {
	return s.write(ctx, func(q queries) error { return createRun(ctx, q, r) })
}

func createRun(ctx context.Context, q queries, r Run) error {
	metadata, err := toJSON(r.UserMetadata)
	if err != nil {
		return fmt.Errorf("run %s: user metadata: %w", r.ID, err)
	}
	if r.State == RunLive {
		if err := lockServer(ctx, q, r.Server); err != nil {
			return err
		}
	}
	project, err := lockSession(ctx, q, r.SessionID)
	if err != nil {
		return err
	}
	values := runValues(project, r, metadata)
	n, err := q.exec(ctx, `INSERT INTO runs (project_id, `+runColumns+`) VALUES (`+repeat("?", len(values))+`) ON CONFLICT DO NOTHING`, values...)
	if err != nil {
		return err
	}
	if n == 0 {
		return exists("run", r.ID)
	}
	if err := count(ctx, q, "runs", r.Owner, "", 1); err != nil {
		return err
	}
	return countRuns(ctx, q, r.Owner, project, 1)
}

// runValues are those of project_id and runColumns.
func runValues(project string, r Run, metadata any) []any {
	return []any{
		project, r.ID, textOrNull(r.SessionID), r.Seq, r.Owner, r.LoRA.BaseModel, r.LoRA.Rank,
		flag(r.LoRA.TrainAttn), flag(r.LoRA.TrainMLP), flag(r.LoRA.TrainUnembed),
		r.Seed, metadata, r.ResumedFrom, r.RequestHash, micros(r.CreatedAt), micros(r.LastRequestAt),
		string(r.State), flag(r.Unsaved), r.Server,
	}
}

// lockSession returns the project of the session a new run or sampler is to
// belong to, and keeps SetSessionProject from changing it meanwhile. No
// session has no project.
func lockSession(ctx context.Context, q queries, id string) (project string, err error) {
	if id == "" {
		return "", nil
	}
	err = q.row(ctx, `UPDATE sessions SET project_id = project_id WHERE id = ? RETURNING project_id`, id).Scan(&project)
	if errors.Is(err, sql.ErrNoRows) {
		return "", notFound("session", id)
	}
	return project, err
}

// countRuns adds to the total of a project's runs.
func countRuns(ctx context.Context, q queries, owner, project string, n int64) error {
	if project == "" {
		return nil
	}
	return count(ctx, q, "runs", owner, project, n)
}

func (s *store) Run(ctx context.Context, id string) (Run, error) {
	r, err := one(s.query().row(ctx, `SELECT `+runColumns+` FROM runs WHERE id = ?`, id), scanRun, "run", id)
	return r, s.explain(err)
}

func (s *store) RunInfo(ctx context.Context, id string, now time.Time) (r Run, latest map[Kind]Checkpoint, err error) {
	err = s.read(ctx, func(q queries) error {
		r, err = one(q.row(ctx, `SELECT `+runColumns+` FROM runs WHERE id = ?`, id), scanRun, "run", id)
		if err != nil {
			return err
		}
		all, err := latestCheckpoints(ctx, q, []string{id}, now)
		latest = all[id]
		return err
	})
	if err != nil {
		return Run{}, nil, err
	}
	return r, latest, nil
}

func (s *store) Runs(ctx context.Context, owner, projectID string, p Page) (page []Run, n int, err error) {
	limit, offset := p.bounds()
	selected, args := `owner = ?`, []any{owner}
	if projectID != "" {
		selected, args = `owner = ? AND project_id = ?`, []any{owner, projectID}
	}
	err = s.read(ctx, func(q queries) error {
		if n, err = total(ctx, q, "runs", owner, projectID); err != nil || limit == 0 || offset >= n {
			return err
		}
		page, err = list(ctx, q, `
			SELECT `+runColumns+` FROM runs WHERE id IN (
				SELECT id FROM runs WHERE `+selected+` ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?)
			ORDER BY created_at DESC, id DESC`,
			append(args, limit, offset), scanRun)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, n, nil
}

func (s *store) SessionRuns(ctx context.Context, sessionID string) ([]Run, error) {
	runs, err := list(ctx, s.query(), `
		SELECT `+runColumns+` FROM runs WHERE session_id = ? ORDER BY created_at DESC, seq DESC, id DESC`,
		[]any{sessionID}, scanRun)
	return runs, s.explain(err)
}

func (s *store) TouchRun(ctx context.Context, id string, at time.Time, unsaved bool) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `
			UPDATE runs SET
				last_request_at = CASE WHEN last_request_at < ? THEN ? ELSE last_request_at END,
				unsaved = CASE WHEN ? = 1 THEN 1 ELSE unsaved END
			WHERE id = ?`,
			micros(at), micros(at), flag(unsaved), id)
		return changed(n, err, "run", id)
	})
}

func (s *store) RunStates(ctx context.Context) (map[RunState]int, error) {
	states := map[RunState]int{}
	err := s.query().each(ctx, `SELECT state, COUNT(*) FROM runs GROUP BY state`, nil, func(row scanner) error {
		var state RunState
		var n int
		err := row.Scan(&state, &n)
		states[state] = n
		return err
	})
	return states, s.explain(err)
}
