package metastore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
)

// SetBlockSize makes blocks divide earlier than anybody would want.
func SetBlockSize(s Store, n int64) { s.(*store).blockSize = n }

// SetSchemaVersion pretends that a later program has migrated the database.
func SetSchemaVersion(ctx context.Context, s Store, version int64) error {
	st := s.(*store)
	_, err := queries{executor: st.w, dialect: st.dialect}.exec(ctx,
		`INSERT INTO `+versionTable+` (version_id, is_applied) VALUES (?, TRUE)`, version)
	return err
}

// CheckBlocks compares the counts with what there is to count.
func CheckBlocks(ctx context.Context, s Store) error {
	st := s.(*store)
	return st.read(ctx, func(q queries) error {
		blocks, err := list(ctx, q, `
			SELECT list, created_at, id, weights, sampler_weights, external_weights FROM checkpoint_blocks`, nil,
			func(row scanner) (b block, err error) {
				return b, row.Scan(&b.list, &b.at, &b.id, &b.n[0], &b.n[1], &b.n[2])
			})
		if err != nil {
			return err
		}
		slices.SortFunc(blocks, func(a, b block) int { return cmp.Or(cmp.Compare(a.list, b.list), a.compare(b.place)) })
		counted := make([][3]int64, len(blocks))
		entries, err := entries(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range entries {
			for _, l := range []checkpointList{ownerList(e.owner), runList(e.run)} {
				i, found := slices.BinarySearchFunc(blocks, e.place, func(b block, p place) int {
					return cmp.Or(cmp.Compare(b.list, l.name), b.compare(p))
				})
				if !found {
					i--
				}
				if i < 0 || blocks[i].list != l.name {
					return fmt.Errorf("%+v is in no block of %s", e, l.name)
				}
				counted[i][kindIndex[e.kind]]++
			}
		}
		for i, b := range blocks {
			if b.n != counted[i] {
				return fmt.Errorf("block %s from %+v counts %v, want %v", b.list, b.place, b.n, counted[i])
			}
			if n := b.n[0] + b.n[1] + b.n[2]; n > st.blockSize || n == 0 && b.place != last {
				return fmt.Errorf("block %s from %+v has %d of %d", b.list, b.place, n, st.blockSize)
			}
		}
		return nil
	})
}

func entries(ctx context.Context, q queries) ([]entry, error) {
	return list(ctx, q, `
		SELECT owner, run_id, kind, created_at, id FROM checkpoints WHERE listed = 1 ORDER BY created_at, id`, nil,
		func(row scanner) (e entry, err error) {
			return e, row.Scan(&e.owner, &e.run, &e.kind, &e.at, &e.id)
		})
}

// Seed fills an empty store with n checkpoints of two files each, a second
// apart from the first at the given time, of owners who have that many runs.
// Half of owner-0 to owner-9's are owner-0's, so that one has a long list.
func Seed(ctx context.Context, s Store, n, runs int, first int64) error {
	st := s.(*store)
	const numbers = `WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < CAST(? AS BIGINT)) `
	return st.write(ctx, func(q queries) error {
		for _, insert := range []struct {
			query string
			args  []any
		}{
			{numbers + `INSERT INTO sessions (id, owner, created_at, last_heartbeat, sdk_version, project_id, display_name, finish_reason, finish_detail)
				SELECT 'session-' || i, 'owner-' || (CASE WHEN i % 2 = 0 THEN 0 ELSE i % 10 END), CAST(? AS BIGINT) + i, CAST(? AS BIGINT) + i, '', '', '', '', '' FROM numbers`,
				[]any{runs, first, first}},
			{`INSERT INTO totals (list, owner, project, n) SELECT 'sessions', owner, '', COUNT(*) FROM sessions GROUP BY owner`, nil},
			{`INSERT INTO runs (id, session_id, seq, owner, project_id, base_model, lora_rank, train_attn, train_mlp, train_unembed,
				resumed_from, request_hash, created_at, last_request_at, state, unsaved)
				SELECT id || ':train:0', id, 0, owner, '', 'tinkex/tiny', 8, 1, 1, 1, '', '', created_at, created_at, 'ended', 0 FROM sessions`, nil},
			{`INSERT INTO totals (list, owner, project, n) SELECT 'runs', owner, '', COUNT(*) FROM runs GROUP BY owner`, nil},
			{numbers + `INSERT INTO checkpoints (run_id, kind, name, owner, listed, public, size_bytes, created_at,
				base_model, lora_rank, train_attn, train_mlp, train_unembed, has_optimizer)
				SELECT 'session-' || (i % CAST(? AS BIGINT)) || ':train:0', CASE WHEN i % 3 = 0 THEN 'weights' ELSE 'sampler_weights' END, 'step-' || i,
				'owner-' || (CASE WHEN i % CAST(? AS BIGINT) % 2 = 0 THEN 0 ELSE i % CAST(? AS BIGINT) % 10 END), 1, 0, 2100, CAST(? AS BIGINT) + CAST(1000000 AS BIGINT) * i,
				'tinkex/tiny', 8, 1, 1, 1, 1 FROM numbers`,
				[]any{n, runs, runs, runs, first}},
			{`INSERT INTO checkpoint_files (checkpoint_id, position, name, size, digest)
				SELECT id, 0, 'adapter_config.json', 100, ? FROM checkpoints`, []any{make([]byte, 32)}},
			{`INSERT INTO checkpoint_files (checkpoint_id, position, name, size, digest)
				SELECT id, 1, 'adapter_model.safetensors', 2000, ? FROM checkpoints`, []any{make([]byte, 32)}},
		} {
			if _, err := q.exec(ctx, insert.query, insert.args...); err != nil {
				return err
			}
		}
		return st.rebuildBlocks(ctx, q)
	})
}

// rebuildBlocks makes blocks as they are after saving one checkpoint after
// the other: all but the newest are half full.
func (s *store) rebuildBlocks(ctx context.Context, q queries) error {
	entries, err := entries(ctx, q)
	if err != nil {
		return err
	}
	var (
		blocks = make(map[string][]block)
		sums   = make(map[string]int64)
		sizes  = make(map[string]int64)
	)
	for _, e := range entries {
		sizes[ownerList(e.owner).name]++
		sizes[runList(e.run).name]++
	}
	for _, e := range entries {
		for _, l := range []string{ownerList(e.owner).name, runList(e.run).name} {
			switch all, i := blocks[l], sums[l]; {
			case i == 0:
				blocks[l] = append(all, block{list: l, place: last})
			case i%(s.blockSize/2) == 0 && sizes[l]-i > s.blockSize/2:
				blocks[l] = append(all, block{list: l, place: e.place})
			}
			blocks[l][len(blocks[l])-1].n[kindIndex[e.kind]]++
			sums[l]++
		}
	}
	for _, all := range blocks {
		for _, b := range all {
			_, err := q.exec(ctx, `
				INSERT INTO checkpoint_blocks (list, created_at, id, weights, sampler_weights, external_weights)
				VALUES (?, ?, ?, ?, ?, ?)`, b.list, b.at, b.id, b.n[0], b.n[1], b.n[2])
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// The ways in which parts of a list are asked for.
const (
	ByOffset = iota
	AfterPlace
	BetweenPlaces
	SkippingFromPlace
)

// Explain tells how a part of a list would be found.
func Explain(ctx context.Context, s Store, f CheckpointFilter, by int) (plan string, err error) {
	st := s.(*store)
	query, args := f.page(first, 100, 2000)
	switch by {
	case AfterPlace:
		query, args = f.after(place{at: 1e15, id: 1}, 1000)
	case BetweenPlaces:
		query, args = f.between(place{at: 1e15, id: 1}, place{at: 1e14, id: 1})
	case SkippingFromPlace:
		query, args = f.skip(place{at: 1e15, id: 1}, 500)
	}
	explain := "EXPLAIN "
	scan := func(row scanner, step *string) error { return row.Scan(step) }
	if st.dialect.name == "sqlite" {
		explain = "EXPLAIN QUERY PLAN "
		scan = func(row scanner, step *string) error { var n int; return row.Scan(&n, &n, &n, step) }
	}
	return plan, st.query().each(ctx, explain+query, args, func(row scanner) error {
		var step string
		err := scan(row, &step)
		plan += step + "\n"
		return err
	})
}

// Setting is what a SQLite store's connections are set to.
func Setting(ctx context.Context, s Store, name string) (writer, reader string, err error) {
	st := s.(*store)
	if err := st.w.QueryRowContext(ctx, "PRAGMA "+name).Scan(&writer); err != nil {
		return "", "", err
	}
	return writer, reader, st.r.QueryRowContext(ctx, "PRAGMA "+name).Scan(&reader)
}

// CreateOther makes a database that is nothing of ours.
func CreateOther(t testing.TB, path string) {
	db, err := sql.Open("sqlite", fileURI(path, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE recipes (name TEXT)`); err != nil {
		t.Fatal(err)
	}
}

// Exec damages the database. On SQLite it does so as the sqlite3 command
// would, which does not look after references.
func Exec(ctx context.Context, s Store, statements ...string) error {
	st := s.(*store)
	if st.dialect.name == "sqlite" {
		statements = append(append([]string{`PRAGMA foreign_keys = 0`}, statements...), `PRAGMA foreign_keys = 1`)
	}
	q := queries{executor: st.w, dialect: st.dialect}
	for _, statement := range statements {
		if _, err := q.exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
