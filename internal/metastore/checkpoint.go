package metastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
)

// id names a checkpoint in errors.
func (c *Checkpoint) id() string { return checkpointID(c.RunID, c.Kind, c.Name) }

func checkpointID(runID string, kind Kind, name string) string {
	return fmt.Sprintf("%s/%s of run %s", kind, name, runID)
}

func (s *store) CommitCheckpoint(ctx context.Context, c Checkpoint, overwrite bool, res *Result) (Checkpoint, error) {
	p, err := prepare(c)
	if err != nil {
		return Checkpoint{}, err
	}
	err = s.write(ctx, func(q queries) error {
		if err := s.putCheckpoint(ctx, q, p, c.Kind == KindTraining, overwrite); err != nil {
			return err
		}
		if res != nil {
			return putResult(ctx, q, *res)
		}
		return nil
	})
	if err != nil {
		return Checkpoint{}, err
	}
	return p.Checkpoint, nil
}

// prepared is a checkpoint as it will be read, ready to be stored.
type prepared struct {
	Checkpoint
	metadata any
}

func prepare(c Checkpoint) (*prepared, error) {
	metadata, err := toJSON(c.UserMetadata)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: user metadata: %w", c.id(), err)
	}
	switch c.Kind {
	case KindTraining, KindSampler, KindExternal:
	default:
		return nil, fmt.Errorf("checkpoint %s: %w", c.id(), noSuchKind(c.Kind))
	}
	if err := c.separable(); err != nil {
		return nil, err
	}
	c.CreatedAt = moment(micros(c.CreatedAt))
	if c.ExpiresAt != nil {
		at := moment(micros(*c.ExpiresAt))
		c.ExpiresAt = &at
	}
	c.SizeBytes = 0
	for _, f := range c.Files {
		c.SizeBytes += f.Size
	}
	return &prepared{c, metadata}, nil
}

// putCheckpoint stores c and sets its id. With saves, it saves its run's steps.
func (s *store) putCheckpoint(ctx context.Context, q queries, c *prepared, saves, overwrite bool) error {
	if err := s.takeName(ctx, q, &c.Checkpoint, saves, overwrite); err != nil {
		return err
	}
	err := q.row(ctx, `
		INSERT INTO checkpoints (run_id, kind, name, owner, listed, public, size_bytes, created_at, expires_at,
			user_metadata, base_model, lora_rank, train_attn, train_mlp, train_unembed, has_optimizer)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		c.RunID, string(c.Kind), c.Name, c.Owner, flag(c.Listed), flag(c.Public), c.SizeBytes,
		micros(c.CreatedAt), microsOrNull(c.ExpiresAt), c.metadata, c.LoRA.BaseModel, c.LoRA.Rank,
		flag(c.LoRA.TrainAttn), flag(c.LoRA.TrainMLP), flag(c.LoRA.TrainUnembed), flag(c.HasOptimizer)).Scan(&c.ID)
	if err != nil {
		return err
	}
	if err := putFiles(ctx, q, c.ID, c.Files); err != nil {
		return err
	}
	if c.Listed {
		return s.recount(ctx, q, 1, []entry{entryOf(c.Checkpoint)})
	}
	return nil
}

// takeName makes sure that c's name is free, removing what may be removed. It
// locks the run, so that the name stays free until the transaction ends, and
// clears the run's unsaved flag if c saves its steps.
func (s *store) takeName(ctx context.Context, q queries, c *Checkpoint, saves, overwrite bool) error {
	var owner string
	err := q.row(ctx, `UPDATE runs SET unsaved = CASE WHEN ? = 1 THEN 0 ELSE unsaved END WHERE id = ? RETURNING owner`,
		flag(saves), c.RunID).Scan(&owner)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return notFound("run", c.RunID)
	case err != nil:
		return err
	case owner != c.Owner:
		// The lists count a run's checkpoints as its owner's.
		return fmt.Errorf("checkpoint %s: owner is %q, but the run's is %q", c.id(), c.Owner, owner)
	}
	// The one that has the name is locked as well: its expiry must not change
	// between being looked at and being acted upon.
	var (
		id      int64
		expires *int64
	)
	err = q.row(ctx, `
		UPDATE checkpoints SET public = public WHERE run_id = ? AND kind = ? AND name = ? RETURNING id, expires_at`,
		c.RunID, string(c.Kind), c.Name).Scan(&id, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case !overwrite && (expires == nil || *expires > micros(c.CreatedAt)):
		return exists("checkpoint", c.id())
	}
	_, err = s.remove(ctx, q, `id = ?`, id)
	return err
}

// many bounds the number of rows one statement is given parameters for.
const many = 500

func putFiles(ctx context.Context, q queries, id int64, files []File) error {
	position := 0
	for chunk := range slices.Chunk(files, many) {
		args := make([]any, 0, 5*len(chunk))
		for _, f := range chunk {
			args = append(args, id, position, f.Name, f.Size, f.Digest[:])
			position++
		}
		_, err := q.exec(ctx, `INSERT INTO checkpoint_files (checkpoint_id, position, name, size, digest) VALUES `+
			repeat("(?, ?, ?, ?, ?)", len(chunk)), args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// repeat writes the same thing n times, separated by commas.
func repeat(s string, n int) string { return strings.Repeat(s+", ", n-1) + s }

func (s *store) Checkpoint(ctx context.Context, runID string, kind Kind, name string) (c Checkpoint, err error) {
	err = s.read(ctx, func(q queries) error {
		if c, err = checkpointInfo(ctx, q, runID, kind, name); err != nil {
			return err
		}
		c.Files, err = list(ctx, q, `
			SELECT name, size, digest FROM checkpoint_files WHERE checkpoint_id = ? ORDER BY position`,
			[]any{c.ID}, func(row scanner) (f File, err error) {
				var digest []byte
				if err := row.Scan(&f.Name, &f.Size, &digest); err != nil {
					return f, err
				}
				f.Digest, err = toDigest(digest)
				return f, err
			})
		return err
	})
	if err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

func (s *store) CheckpointInfo(ctx context.Context, runID string, kind Kind, name string) (Checkpoint, error) {
	c, err := checkpointInfo(ctx, s.query(), runID, kind, name)
	return c, s.explain(err)
}

func checkpointInfo(ctx context.Context, q queries, runID string, kind Kind, name string) (Checkpoint, error) {
	row := q.row(ctx, `SELECT `+checkpointRow+` FROM checkpoints WHERE run_id = ? AND kind = ? AND name = ?`,
		runID, string(kind), name)
	c, err := scanCheckpoint(row)
	if errors.Is(err, sql.ErrNoRows) {
		err = notFound("checkpoint", checkpointID(runID, kind, name))
	}
	return c, err
}

func toDigest(b []byte) (d blobstore.Digest, err error) {
	if copy(d[:], b) != len(d) || len(b) != len(d) {
		return d, fmt.Errorf("a digest of %d bytes", len(b))
	}
	return d, nil
}

func (s *store) LatestCheckpoints(ctx context.Context, runIDs []string, now time.Time) (latest map[string]map[Kind]Checkpoint, err error) {
	err = s.read(ctx, func(q queries) error {
		latest, err = latestCheckpoints(ctx, q, runIDs, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return latest, nil
}

func latestCheckpoints(ctx context.Context, q queries, runIDs []string, now time.Time) (map[string]map[Kind]Checkpoint, error) {
	// One look into an index for each run and kind, however many there are.
	const newest = `
		SELECT (
			SELECT id FROM checkpoints
			WHERE run_id = runs.id AND kind = ? AND listed > 0 AND ` + unexpired + `
			ORDER BY created_at DESC, id DESC LIMIT 1
		) FROM runs WHERE id IN `
	latest := make(map[string]map[Kind]Checkpoint, len(runIDs))
	for chunk := range slices.Chunk(runIDs, many) {
		runs := `(` + repeat("?", len(chunk)) + `)`
		var args []any
		for _, kind := range []Kind{KindTraining, KindSampler} {
			args = append(args, string(kind), micros(now))
			for _, id := range chunk {
				args = append(args, id)
			}
		}
		err := q.each(ctx, `SELECT `+checkpointRow+` FROM checkpoints WHERE id IN (`+
			newest+runs+` UNION ALL `+newest+runs+`)`, args, func(row scanner) error {
			c, err := scanCheckpoint(row)
			if err != nil {
				return err
			}
			if latest[c.RunID] == nil {
				latest[c.RunID] = make(map[Kind]Checkpoint, 2)
			}
			latest[c.RunID][c.Kind] = c
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return latest, nil
}

func (s *store) SetPublic(ctx context.Context, id int64, public bool) (different bool, err error) {
	err = s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE checkpoints SET public = ? WHERE id = ? AND public <> ?`,
			flag(public), id, flag(public))
		if err != nil || n > 0 {
			different = n > 0
			return err
		}
		different = false
		err = q.row(ctx, `SELECT COUNT(*) FROM checkpoints WHERE id = ?`, id).Scan(&n)
		return changed(n, err, "checkpoint", id)
	})
	if err != nil {
		return false, err
	}
	return different, nil
}

func (s *store) SetExpiry(ctx context.Context, id int64, at *time.Time) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE checkpoints SET expires_at = ? WHERE id = ?`, microsOrNull(at), id)
		return changed(n, err, "checkpoint", id)
	})
}

func (s *store) DeleteCheckpoint(ctx context.Context, id int64) error {
	return s.write(ctx, func(q queries) error {
		n, err := s.remove(ctx, q, `id = ?`, id)
		return changed(int64(n), err, "checkpoint", id)
	})
}

func (s *store) DeleteExpired(ctx context.Context, now, idle time.Time, limit int) (n int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	err = s.write(ctx, func(q queries) error {
		// The condition is repeated for those whose expiry is put off while
		// they wait to be deleted.
		expired, err := s.remove(ctx, q, `expires_at <= ? AND id IN (
			SELECT id FROM checkpoints WHERE expires_at <= ? ORDER BY expires_at, id LIMIT ?)`,
			micros(now), micros(now), limit)
		if err != nil {
			return err
		}
		abandoned, err := s.remove(ctx, q, `id IN (
			SELECT checkpoints.id FROM checkpoints
			JOIN runs ON runs.id = checkpoints.run_id
			JOIN sessions ON sessions.id = runs.session_id
			WHERE listed = 0 AND expires_at IS NULL AND (finished_at < ? OR last_heartbeat < ?)
			ORDER BY checkpoints.id LIMIT ?)`,
			micros(idle), micros(idle), limit)
		if err != nil {
			return err
		}
		aside, err := dropQuarantined(ctx, q, now, idle)
		n = expired + abandoned + aside
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// remove deletes checkpoints with their manifests, and returns how many.
func (s *store) remove(ctx context.Context, q queries, condition string, args ...any) (n int, err error) {
	ids, err := s.removed(ctx, q, condition, args...)
	return len(ids), err
}

// removed deletes checkpoints with their manifests, and returns their ids.
func (s *store) removed(ctx context.Context, q queries, condition string, args ...any) (ids []int64, err error) {
	var unlist []entry
	err = q.each(ctx, `DELETE FROM checkpoints WHERE `+condition+` RETURNING owner, run_id, kind, created_at, id, listed`,
		args, func(row scanner) error {
			var (
				e      entry
				listed int64
			)
			if err := row.Scan(&e.owner, &e.run, &e.kind, &e.at, &e.id, &listed); err != nil {
				return err
			}
			ids = append(ids, e.id)
			if listed != 0 {
				unlist = append(unlist, e)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return ids, s.recount(ctx, q, -1, unlist)
}

func (s *store) NextExpiry(ctx context.Context) (at time.Time, ok bool, err error) {
	var us *int64
	err = s.query().row(ctx, `SELECT MIN(expires_at) FROM checkpoints WHERE expires_at IS NOT NULL`).Scan(&us)
	if err != nil || us == nil {
		return time.Time{}, false, s.explain(err)
	}
	return moment(*us), true, nil
}

func (s *store) Referenced(ctx context.Context) (map[blobstore.Digest]struct{}, error) {
	ctx = unhurried(ctx)
	all := make(map[blobstore.Digest]struct{})
	err := s.query().each(ctx, `
		SELECT digest FROM checkpoint_files UNION ALL SELECT digest FROM quarantined_files UNION ALL SELECT digest FROM uploads`, nil, func(row scanner) error {
		var b sql.RawBytes
		if err := row.Scan(&b); err != nil {
			return err
		}
		d, err := toDigest(b)
		all[d] = struct{}{}
		return err
	})
	if err != nil {
		return nil, s.explain(err)
	}
	return all, nil
}
