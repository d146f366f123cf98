package metastore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
)

// Manifest is a checkpoint with its files, as an audit looks at it.
type Manifest struct {
	Checkpoint
	// RunMissing: there is no run of its RunID.
	RunMissing bool
	// Gaps: files are missing before or between those there are.
	Gaps bool
}

// Quarantined is a checkpoint that was put aside.
type Quarantined struct {
	Manifest
	At     time.Time
	Reason string
}

// Upload is a blob that an owner has sent or claimed.
type Upload struct {
	Owner string
	Blob
	At time.Time
}

// Counter is a number that is kept so that nobody has to count.
type Counter struct {
	Of      string // what it counts, in words
	Stored  int64
	Counted int64 // equal to Stored if the sum is right and its parts are not

	list           string // in checkpoint_blocks or totals
	owner, project string // in totals
	blocks         bool
}

// Audit is what it takes to compare the metadata with itself and with the
// blobs beside a server at work, and to put aside what is damaged. What a
// method returns is of one moment.
type Audit interface {
	// Manifests returns up to limit checkpoints whose ids are higher than
	// after, in the order of ids: listed or not, expired or not.
	Manifests(ctx context.Context, after int64, limit int) ([]Manifest, error)
	// Manifest returns the checkpoint of an id.
	Manifest(ctx context.Context, id int64) (Manifest, error)
	// References returns, without their files, up to limit checkpoints whose
	// ids are higher than after and whose files include the blob.
	References(ctx context.Context, d blobstore.Digest, after int64, limit int) ([]Checkpoint, error)
	// OrphanFiles counts the files of manifests that belong to no checkpoint.
	// With remove it removes them.
	OrphanFiles(ctx context.Context, remove bool) (int, error)
	// CorrectSizes gives a checkpoint's files the sizes that their blobs have,
	// and the checkpoint the sum.
	CorrectSizes(ctx context.Context, id int64, sizes map[blobstore.Digest]int64) error

	// Uploads returns everybody's uploads.
	Uploads(ctx context.Context) ([]Upload, error)
	// ForgetUploads drops all uploads of a blob, so that whoever needs it
	// sends it again.
	ForgetUploads(ctx context.Context, d blobstore.Digest) (int, error)

	// Quarantine takes a checkpoint out of sight: for every other method it is
	// deleted and its name is free, but its row and files are kept and count
	// as referenced.
	Quarantine(ctx context.Context, id int64, at time.Time, reason string) error
	// Quarantined returns all that is in quarantine, in the order of ids.
	Quarantined(ctx context.Context) ([]Quarantined, error)
	// Release makes a checkpoint in quarantine, named by the id it had, what
	// it was before, under a new id. A name taken meanwhile is ErrExists, a
	// missing run ErrNotFound; it stays in quarantine then.
	Release(ctx context.Context, id int64) (Checkpoint, error)
	// DropQuarantined deletes a checkpoint in quarantine for good.
	DropQuarantined(ctx context.Context, id int64) error

	// Counters returns those that are not what there is to count.
	Counters(ctx context.Context) ([]Counter, error)
	// Recount counts anew what a counter counts.
	Recount(ctx context.Context, c Counter) error
}

func (s *store) Manifests(ctx context.Context, after int64, limit int) (page []Manifest, err error) {
	err = s.read(ctx, func(q queries) error {
		page, err = manifests(ctx, q, `checkpoints.id > ?`, after, max(limit, 0))
		return err
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func (s *store) Manifest(ctx context.Context, id int64) (m Manifest, err error) {
	err = s.read(ctx, func(q queries) error {
		page, err := manifests(ctx, q, `checkpoints.id = ?`, id, 1)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return notFound("checkpoint", id)
		}
		m = page[0]
		return nil
	})
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// manifests returns the first checkpoints that a condition on their ids selects.
func manifests(ctx context.Context, q queries, condition string, id int64, limit int) ([]Manifest, error) {
	page, err := list(ctx, q, `
		SELECT `+checkpointRow+`, CASE WHEN EXISTS (SELECT 1 FROM runs WHERE runs.id = run_id) THEN 0 ELSE 1 END
		FROM checkpoints WHERE `+condition+` ORDER BY checkpoints.id LIMIT ?`,
		[]any{id, limit}, func(row scanner) (m Manifest, err error) {
			var missing int64
			m.Checkpoint, err = scanCheckpoint(withColumns{row, []any{&missing}})
			m.RunMissing = missing != 0
			return m, err
		})
	if err != nil || len(page) == 0 {
		return nil, err
	}
	at := make(map[int64]*Manifest, len(page))
	for i := range page {
		at[page[i].ID] = &page[i]
	}
	return page, eachFile(ctx, q, "checkpoint_files", page[0].ID, page[len(page)-1].ID, at)
}

// eachFile adds files to the manifests that they belong to.
func eachFile(ctx context.Context, q queries, table string, from, to int64, at map[int64]*Manifest) error {
	return q.each(ctx, `
		SELECT checkpoint_id, position, name, size, digest FROM `+table+`
		WHERE checkpoint_id >= ? AND checkpoint_id <= ? ORDER BY checkpoint_id, position`,
		[]any{from, to}, func(row scanner) error {
			var (
				id, position int64
				f            File
				digest       []byte
			)
			if err := row.Scan(&id, &position, &f.Name, &f.Size, &digest); err != nil {
				return err
			}
			m := at[id]
			if m == nil {
				return nil // belongs to nobody
			}
			var err error
			if f.Digest, err = toDigest(digest); err != nil {
				return fmt.Errorf("checkpoint %s: file %s: %w", m.id(), f.Name, err)
			}
			if position != int64(len(m.Files)) {
				m.Gaps = true
			}
			m.Files = append(m.Files, f)
			return nil
		})
}

// withColumns scans a row that has more columns than the scan function knows.
type withColumns struct {
	scanner
	more []any
}

func (w withColumns) Scan(dest ...any) error { return w.scanner.Scan(append(dest, w.more...)...) }

func (s *store) References(ctx context.Context, d blobstore.Digest, after int64, limit int) ([]Checkpoint, error) {
	all, err := list(ctx, s.query(), `
		SELECT `+checkpointRow+` FROM checkpoints WHERE checkpoints.id IN (
			SELECT DISTINCT checkpoint_id FROM checkpoint_files WHERE digest = ? AND checkpoint_id > ?
			ORDER BY checkpoint_id LIMIT ?)
		ORDER BY checkpoints.id`,
		[]any{d[:], after, max(limit, 0)}, scanCheckpoint)
	return all, s.explain(err)
}

func (s *store) OrphanFiles(ctx context.Context, remove bool) (int, error) {
	ctx = unhurried(ctx)
	const orphaned = ` FROM checkpoint_files WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.id = checkpoint_id)`
	var n int64
	if !remove {
		err := s.query().row(ctx, `SELECT COUNT(*)`+orphaned).Scan(&n)
		return int(n), s.explain(err)
	}
	err := s.write(ctx, func(q queries) (err error) {
		n, err = q.exec(ctx, `DELETE`+orphaned)
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

func (s *store) CorrectSizes(ctx context.Context, id int64, sizes map[blobstore.Digest]int64) error {
	return s.write(ctx, func(q queries) error {
		if err := lockCheckpoint(ctx, q, id); err != nil {
			return err
		}
		for d, size := range sizes {
			_, err := q.exec(ctx, `UPDATE checkpoint_files SET size = ? WHERE checkpoint_id = ? AND digest = ?`, size, id, d[:])
			if err != nil {
				return err
			}
		}
		_, err := q.exec(ctx, `
			UPDATE checkpoints SET size_bytes =
				(SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM checkpoint_files WHERE checkpoint_id = ?)
			WHERE id = ?`, id, id)
		return err
	})
}

// lockCheckpoint keeps others from changing or removing a checkpoint.
func lockCheckpoint(ctx context.Context, q queries, id int64) error {
	n, err := q.exec(ctx, `UPDATE checkpoints SET public = public WHERE id = ?`, id)
	return changed(n, err, "checkpoint", id)
}

func (s *store) Uploads(ctx context.Context) ([]Upload, error) {
	ctx = unhurried(ctx)
	all, err := list(ctx, s.query(), `SELECT owner, digest, size, created_at FROM uploads`, nil, func(row scanner) (u Upload, err error) {
		var (
			digest []byte
			at     int64
		)
		if err := row.Scan(&u.Owner, &digest, &u.Size, &at); err != nil {
			return u, err
		}
		u.At = moment(at)
		u.Digest, err = toDigest(digest)
		return u, err
	})
	return all, s.explain(err)
}

func (s *store) ForgetUploads(ctx context.Context, d blobstore.Digest) (int, error) {
	var n int64
	err := s.write(ctx, func(q queries) (err error) {
		n, err = q.exec(ctx, `DELETE FROM uploads WHERE digest = ?`, d[:])
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

const (
	// plainColumns are all of a checkpoint's.
	plainColumns = `id, run_id, kind, name, owner, listed, public, size_bytes, created_at, expires_at,
		user_metadata, base_model, lora_rank, train_attn, train_mlp, train_unembed, has_optimizer`
	fileColumns = `checkpoint_id, position, name, size, digest`
)

func (s *store) Quarantine(ctx context.Context, id int64, at time.Time, reason string) error {
	return s.write(ctx, func(q queries) error {
		if err := lockCheckpoint(ctx, q, id); err != nil {
			return err
		}
		_, err := q.exec(ctx, `
			INSERT INTO quarantined_checkpoints (`+plainColumns+`, quarantined_at, reason)
			SELECT `+plainColumns+`, CAST(? AS BIGINT), CAST(? AS TEXT) FROM checkpoints WHERE id = ?`,
			micros(at), reason, id)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, `
			INSERT INTO quarantined_files (`+fileColumns+`)
			SELECT `+fileColumns+` FROM checkpoint_files WHERE checkpoint_id = ?`, id)
		if err != nil {
			return err
		}
		_, err = s.remove(ctx, q, `id = ?`, id)
		return err
	})
}

func (s *store) Quarantined(ctx context.Context) (all []Quarantined, err error) {
	ctx = unhurried(ctx)
	err = s.read(ctx, func(q queries) error {
		all, err = quarantined(ctx, q, ``)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func quarantined(ctx context.Context, q queries, where string, args ...any) ([]Quarantined, error) {
	all, err := list(ctx, q, `
		SELECT `+checkpointRow+`, CASE WHEN EXISTS (SELECT 1 FROM runs WHERE runs.id = run_id) THEN 0 ELSE 1 END, quarantined_at, reason
		FROM quarantined_checkpoints `+where+` ORDER BY id`, args, func(row scanner) (z Quarantined, err error) {
		var missing, at int64
		z.Checkpoint, err = scanCheckpoint(withColumns{row, []any{&missing, &at, &z.Reason}})
		z.RunMissing, z.At = missing != 0, moment(at)
		return z, err
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	at := make(map[int64]*Manifest, len(all))
	for i := range all {
		at[all[i].ID] = &all[i].Manifest
	}
	return all, eachFile(ctx, q, "quarantined_files", all[0].ID, all[len(all)-1].ID, at)
}

func (s *store) Release(ctx context.Context, id int64) (c Checkpoint, err error) {
	err = s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE quarantined_checkpoints SET public = public WHERE id = ?`, id)
		if err := changed(n, err, "checkpoint in quarantine", id); err != nil {
			return err
		}
		all, err := quarantined(ctx, q, `WHERE id = ?`, id)
		if err != nil {
			return err
		}
		p, err := prepare(all[0].Checkpoint)
		if err != nil {
			return err
		}
		if err := s.putCheckpoint(ctx, q, p, false, false); err != nil {
			return err
		}
		c = p.Checkpoint
		_, err = q.exec(ctx, `DELETE FROM quarantined_checkpoints WHERE id = ?`, id)
		return err
	})
	if err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

func (s *store) DropQuarantined(ctx context.Context, id int64) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `DELETE FROM quarantined_checkpoints WHERE id = ?`, id)
		return changed(n, err, "checkpoint in quarantine", id)
	})
}

// block is a row of checkpoint_blocks.
type block struct {
	list string
	place
	n [3]int64 // by kindIndex
}

var kindIndex = map[Kind]int{KindTraining: 0, KindSampler: 1, KindExternal: 2}

func (s *store) Counters(ctx context.Context) (wrong []Counter, err error) {
	ctx = unhurried(ctx)
	err = s.read(ctx, func(q queries) error {
		wrong = nil
		for _, l := range []checkpointList{ownerList(""), runList("")} {
			of, err := wrongBlocks(ctx, q, l)
			if err != nil {
				return err
			}
			wrong = append(wrong, of...)
		}
		of, err := wrongTotals(ctx, q)
		wrong = append(wrong, of...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return wrong, nil
}

// wrongBlocks compares the blocks of all lists of a sort, of which l is the
// one of nobody, with the checkpoints.
func wrongBlocks(ctx context.Context, q queries, l checkpointList) ([]Counter, error) {
	end := strings.TrimSuffix(l.name, "/") + "0" // what comes after a slash
	blocks, err := list(ctx, q, `
		SELECT list, created_at, id, weights, sampler_weights, external_weights FROM checkpoint_blocks
		WHERE list >= ? AND list < ? ORDER BY list, created_at, id`, []any{l.name, end},
		func(row scanner) (b block, err error) {
			return b, row.Scan(&b.list, &b.at, &b.id, &b.n[0], &b.n[1], &b.n[2])
		})
	if err != nil {
		return nil, err
	}
	counted := make([][3]int64, len(blocks))
	astray := make(map[string]int64) // how many entries of a list no block counts
	i := 0
	err = q.each(ctx, `
		SELECT `+l.column+`, created_at, id, kind FROM checkpoints WHERE listed > 0 ORDER BY `+l.column+`, created_at, id`,
		nil, func(row scanner) error {
			var (
				of   string
				at   place
				kind Kind
			)
			if err := row.Scan(&of, &at.at, &at.id, &kind); err != nil {
				return err
			}
			of = l.name + of
			for i < len(blocks) && (blocks[i].list < of || blocks[i].list == of && i+1 < len(blocks) &&
				blocks[i+1].list == of && blocks[i+1].compare(at) <= 0) {
				i++
			}
			k, known := kindIndex[kind]
			if known && i < len(blocks) && blocks[i].list == of && blocks[i].compare(at) <= 0 {
				counted[i][k]++
			} else {
				astray[of]++
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	sums := make(map[string]*Counter)
	bad := make(map[string]bool)
	of := func(list string) *Counter {
		if sums[list] == nil {
			name := strings.TrimPrefix(list, l.name)
			sums[list] = &Counter{Of: "checkpoints of " + strings.TrimSuffix(l.name, "/") + " " + name, list: list, blocks: true}
		}
		return sums[list]
	}
	for i, b := range blocks {
		c := of(b.list)
		for k := range b.n {
			c.Stored += b.n[k]
			c.Counted += counted[i][k]
		}
		bad[b.list] = bad[b.list] || b.n != counted[i]
	}
	for list, n := range astray {
		of(list).Counted += n
		bad[list] = true
	}
	var wrong []Counter
	for list := range bad {
		if bad[list] {
			wrong = append(wrong, *sums[list])
		}
	}
	slices.SortFunc(wrong, func(a, b Counter) int { return cmp.Compare(a.list, b.list) })
	return wrong, nil
}

func wrongTotals(ctx context.Context, q queries) ([]Counter, error) {
	type key struct{ list, owner, project string }
	all := make(map[key]*Counter)
	each := func(query string, field func(*Counter) *int64) error {
		return q.each(ctx, query, nil, func(row scanner) error {
			var (
				k key
				n int64
			)
			if err := row.Scan(&k.list, &k.owner, &k.project, &n); err != nil {
				return err
			}
			if all[k] == nil {
				of := k.list + " of owner " + k.owner
				if k.project != "" {
					of += " in project " + k.project
				}
				all[k] = &Counter{Of: of, list: k.list, owner: k.owner, project: k.project}
			}
			*field(all[k]) = n
			return nil
		})
	}
	err := each(`SELECT list, owner, project, n FROM totals`, func(c *Counter) *int64 { return &c.Stored })
	if err == nil {
		err = each(`
			SELECT 'sessions', owner, '', COUNT(*) FROM sessions GROUP BY owner
			UNION ALL SELECT 'runs', owner, '', COUNT(*) FROM runs GROUP BY owner
			UNION ALL SELECT 'runs', owner, project_id, COUNT(*) FROM runs WHERE project_id <> '' GROUP BY owner, project_id`,
			func(c *Counter) *int64 { return &c.Counted })
	}
	if err != nil {
		return nil, err
	}
	var wrong []Counter
	for _, c := range all {
		if c.Stored != c.Counted {
			wrong = append(wrong, *c)
		}
	}
	slices.SortFunc(wrong, func(a, b Counter) int { return cmp.Compare(a.Of, b.Of) })
	return wrong, nil
}

func (s *store) Recount(ctx context.Context, c Counter) error {
	ctx = unhurried(ctx)
	return s.write(ctx, func(q queries) error {
		if !c.blocks {
			return recountTotal(ctx, q, c)
		}
		if owner, ok := strings.CutPrefix(c.list, ownerList("").name); ok {
			return ownerList(owner).recount(ctx, q, s.blockSize)
		}
		return runList(strings.TrimPrefix(c.list, runList("").name)).recount(ctx, q, s.blockSize)
	})
}

// recountTotal waits for those who are changing the total, and has the others
// wait: what they have not committed is theirs to add.
func recountTotal(ctx context.Context, q queries, c Counter) error {
	if err := count(ctx, q, c.list, c.owner, c.project, 0); err != nil {
		return err
	}
	counting, args := `SELECT COUNT(*) FROM sessions WHERE owner = ?`, []any{c.owner}
	if c.list == "runs" {
		counting = `SELECT COUNT(*) FROM runs WHERE owner = ?`
		if c.project != "" {
			counting, args = counting+` AND project_id = ?`, append(args, c.project)
		}
	}
	_, err := q.exec(ctx, `UPDATE totals SET n = (`+counting+`) WHERE list = ? AND owner = ? AND project = ?`,
		append(args, c.list, c.owner, c.project)...)
	return err
}

// recount makes a list's blocks anew.
func (l checkpointList) recount(ctx context.Context, q queries, size int64) error {
	if err := l.lock(ctx, q); err != nil {
		return err
	}
	return l.rebuild(ctx, q, size)
}

// rebuild makes the blocks of a list that is locked anew, half full at most.
func (l checkpointList) rebuild(ctx context.Context, q queries, size int64) error {
	_, err := q.exec(ctx, `DELETE FROM checkpoint_blocks WHERE list = ? AND NOT (created_at = ? AND id = ?)`, l.name, last.at, last.id)
	if err != nil {
		return err
	}
	blocks := []block{{list: l.name, place: last}}
	var in int64 // in the newest block
	err = q.each(ctx, `SELECT created_at, id, kind FROM checkpoints WHERE listed > 0 AND `+l.column+` = ? ORDER BY created_at, id`,
		[]any{l.value}, func(row scanner) error {
			var (
				at   place
				kind Kind
			)
			if err := row.Scan(&at.at, &at.id, &kind); err != nil {
				return err
			}
			k, known := kindIndex[kind]
			if !known {
				return noSuchKind(kind)
			}
			if in >= max(size/2, 1) {
				blocks, in = append(blocks, block{list: l.name, place: at}), 0
			}
			blocks[len(blocks)-1].n[k]++
			in++
			return nil
		})
	if err != nil {
		return err
	}
	for _, b := range blocks {
		_, err := q.exec(ctx, `
			INSERT INTO checkpoint_blocks (list, created_at, id, weights, sampler_weights, external_weights)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (list, created_at, id) DO UPDATE SET weights = excluded.weights,
				sampler_weights = excluded.sampler_weights, external_weights = excluded.external_weights`,
			b.list, b.at, b.id, b.n[0], b.n[1], b.n[2])
		if err != nil {
			return err
		}
	}
	return nil
}

// dropQuarantined removes what DeleteExpired would have removed had it not
// been put aside.
func dropQuarantined(ctx context.Context, q queries, now, idle time.Time) (int, error) {
	n, err := q.exec(ctx, `
		DELETE FROM quarantined_checkpoints WHERE expires_at <= ? OR listed = 0 AND expires_at IS NULL AND run_id IN (
			SELECT runs.id FROM runs JOIN sessions ON sessions.id = runs.session_id
			WHERE runs.id IN (SELECT run_id FROM quarantined_checkpoints WHERE listed = 0)
				AND (finished_at < ? OR last_heartbeat < ?))`,
		micros(now), micros(idle), micros(idle))
	return int(n), err
}
