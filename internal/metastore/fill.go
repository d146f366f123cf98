package metastore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// fillBatch is how many checkpoints Fill commits at a time.
const fillBatch = 50_000

// Fill puts sessions, their runs and their checkpoints into a store that
// nobody else uses meanwhile and that has nothing of theirs: a million in
// minutes, for tests and measurements of large stores. It leaves what creating
// and committing each would have left; if it fails it leaves a part, whose
// counts are wrong.
func Fill(ctx context.Context, s Store, sessions []Session, runs []Run, checkpoints iter.Seq[Checkpoint]) (err error) {
	st, ok := s.(*store)
	if !ok {
		return errors.New("fill: the store is not one of this package's")
	}
	f := &filler{store: st, lists: make(map[checkpointList]struct{})}
	if st.dialect.name == "sqlite" {
		// Every index is written to all over: in memory, and to the disk once.
		if err := st.set(ctx, "cache_size = -400000", "temp_store = MEMORY", "synchronous = OFF"); err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, st.set(context.WithoutCancel(ctx),
				"cache_size = -16384", "temp_store = DEFAULT", "synchronous = FULL", "wal_checkpoint(TRUNCATE)"))
		}()
	}
	if err := f.sessions(ctx, sessions); err != nil {
		return err
	}
	if err := f.runs(ctx, sessions, runs); err != nil {
		return err
	}
	batch := make([]*prepared, 0, fillBatch)
	for c := range checkpoints {
		p, err := prepare(c)
		if err != nil {
			return err
		}
		if batch = append(batch, p); len(batch) == cap(batch) {
			if err := f.checkpoints(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := f.checkpoints(ctx, batch); err != nil {
		return err
	}
	return f.count(ctx)
}

// set changes settings of the connection that writes.
func (s *store) set(ctx context.Context, all ...string) error {
	for _, p := range all {
		if _, err := s.w.ExecContext(ctx, `PRAGMA `+p); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

type filler struct {
	*store
	lists map[checkpointList]struct{} // that have checkpoints
}

// rows inserts rows of as many columns as there are arguments for each.
func rows(ctx context.Context, q queries, into string, columns int, args []any) error {
	row := "(" + repeat("?", columns) + ")"
	for chunk := range slices.Chunk(args, max(columns, 1)*many) {
		if _, err := q.exec(ctx, `INSERT INTO `+into+` VALUES `+repeat(row, len(chunk)/columns), chunk...); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) sessions(ctx context.Context, sessions []Session) error {
	var args []any
	owned := make(map[string]int64)
	for _, s := range sessions {
		if s.Tags != nil || s.UserMetadata != nil || s.FinishedAt != nil {
			return fmt.Errorf("fill: session %s has more than can be filled in", s.ID)
		}
		args = append(args, s.ID, s.Owner, micros(s.CreatedAt), micros(s.LastHeartbeat), s.SDKVersion, s.ProjectID, s.DisplayName, "", "")
		owned[s.Owner]++
	}
	return f.write(ctx, func(q queries) error {
		for owner, n := range owned {
			if err := count(ctx, q, "sessions", owner, "", n); err != nil {
				return err
			}
		}
		return rows(ctx, q, `sessions (id, owner, created_at, last_heartbeat, sdk_version, project_id, display_name, finish_reason, finish_detail)`, 9, args)
	})
}

func (f *filler) runs(ctx context.Context, sessions []Session, runs []Run) error {
	projects := make(map[string]string, len(sessions))
	for _, s := range sessions {
		projects[s.ID] = s.ProjectID
	}
	type key struct{ owner, project string }
	var (
		args    []any
		columns int
	)
	owned := make(map[key]int64)
	for _, r := range runs {
		if r.UserMetadata != nil {
			return fmt.Errorf("fill: run %s has more than can be filled in", r.ID)
		}
		project := projects[r.SessionID]
		values := runValues(project, r, nil)
		columns = len(values)
		args = append(args, values...)
		owned[key{r.Owner, ""}]++
		if project != "" {
			owned[key{r.Owner, project}]++
		}
	}
	return f.write(ctx, func(q queries) error {
		for k, n := range owned {
			if err := count(ctx, q, "runs", k.owner, k.project, n); err != nil {
				return err
			}
		}
		return rows(ctx, q, `runs (project_id, `+runColumns+`)`, columns, args)
	})
}

func (f *filler) checkpoints(ctx context.Context, batch []*prepared) error {
	return f.write(ctx, func(q queries) error {
		var files []any
		for chunk := range slices.Chunk(batch, many) {
			ids, err := insertCheckpoints(ctx, q, chunk)
			if err != nil {
				return err
			}
			for i, p := range chunk {
				for position, file := range p.Files {
					files = append(files, ids[i], position, file.Name, file.Size, file.Digest[:])
				}
				if p.Listed {
					f.lists[ownerList(p.Owner)] = struct{}{}
					f.lists[runList(p.RunID)] = struct{}{}
				}
			}
		}
		return rows(ctx, q, `checkpoint_files (checkpoint_id, position, name, size, digest)`, 5, files)
	})
}

// insertCheckpoints returns the ids they were given: ascending, in their order.
func insertCheckpoints(ctx context.Context, q queries, chunk []*prepared) ([]int64, error) {
	var args []any
	for _, c := range chunk {
		args = append(args, c.RunID, string(c.Kind), c.Name, c.Owner, flag(c.Listed), flag(c.Public), c.SizeBytes,
			micros(c.CreatedAt), microsOrNull(c.ExpiresAt), c.metadata, c.LoRA.BaseModel, c.LoRA.Rank,
			flag(c.LoRA.TrainAttn), flag(c.LoRA.TrainMLP), flag(c.LoRA.TrainUnembed), flag(c.HasOptimizer))
	}
	ids, err := list(ctx, q, `
		INSERT INTO checkpoints (run_id, kind, name, owner, listed, public, size_bytes, created_at, expires_at,
			user_metadata, base_model, lora_rank, train_attn, train_mlp, train_unembed, has_optimizer)
		VALUES `+repeat("("+repeat("?", 16)+")", len(chunk))+` RETURNING id`, args,
		func(row scanner) (id int64, err error) { return id, row.Scan(&id) })
	slices.Sort(ids)
	return ids, err
}

// count makes the blocks of all lists.
func (f *filler) count(ctx context.Context) error {
	all := make([]checkpointList, 0, len(f.lists))
	for l := range f.lists {
		all = append(all, l)
	}
	for chunk := range slices.Chunk(all, many) {
		err := f.write(ctx, func(q queries) error {
			for _, l := range chunk {
				if err := l.recount(ctx, q, f.blockSize); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
