package metastore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Lists of checkpoints can be long, and pages of them are asked for by
// offset, with the total. To find a page without stepping over all that comes
// before it, and the total without counting, every owner's and every run's
// list is divided into blocks: stretches of the order of the list, for each of
// which the database holds how many checkpoints of each kind it has. The
// counts change in the transactions that add and remove checkpoints, so they
// are exact for every reader. A page is then found by adding up the counts of
// the blocks before it and stepping through a part of one block, which takes
// the same time wherever it is.
//
// Checkpoints that have expired but are not swept yet are still counted. The
// sweeper sees to it that they are few; readers look them up and take them off.

// blockSize balances the two costs of finding a page: reading a row for every
// block, and stepping over half a block in an index, which is cheaper per step.
const blockSize = 4096

// A place is a position in the order of all lists. Lists start at the highest.
type place struct{ at, id int64 }

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.at, o.at), cmp.Compare(p.id, o.id))
}

var (
	first = place{math.MaxInt64, math.MaxInt64} // before every checkpoint
	last  = place{math.MinInt64, 0}             // after every checkpoint, and where every list's last block begins
)

// An entry is a listed checkpoint as far as lists go.
type entry struct {
	place
	owner, run string
	kind       Kind
}

func entryOf(c Checkpoint) entry {
	return entry{place{micros(c.CreatedAt), c.ID}, c.Owner, c.RunID, c.Kind}
}

// A checkpointList is an owner's or a run's list.
type checkpointList struct {
	name string // in checkpoint_blocks
	// column and value select its checkpoints.
	column, value string
}

func ownerList(owner string) checkpointList { return checkpointList{"owner/" + owner, "owner", owner} }
func runList(run string) checkpointList     { return checkpointList{"run/" + run, "run_id", run} }

// countColumn is where blocks count checkpoints of a kind, or of all kinds.
func countColumn(kind Kind) (string, error) {
	switch kind {
	case "":
		return "weights + sampler_weights + external_weights", nil
	case KindTraining, KindSampler, KindExternal:
		return string(kind), nil
	}
	return "", noSuchKind(kind)
}

func noSuchKind(kind Kind) error { return fmt.Errorf("no such kind of checkpoint: %q", kind) }

// recount adds (by 1) or takes away (by -1) entries whose checkpoints have
// just been inserted or deleted.
func (s *store) recount(ctx context.Context, q queries, by int64, entries []entry) error {
	lists := make(map[checkpointList][]entry)
	for _, e := range entries {
		lists[ownerList(e.owner)] = append(lists[ownerList(e.owner)], e)
		lists[runList(e.run)] = append(lists[runList(e.run)], e)
	}
	// Everybody locks lists in the same order.
	names := make([]checkpointList, 0, len(lists))
	for l := range lists {
		names = append(names, l)
	}
	slices.SortFunc(names, func(a, b checkpointList) int { return cmp.Compare(a.name, b.name) })
	for _, l := range names {
		if err := l.lock(ctx, q); err != nil {
			return err
		}
		for _, e := range lists[l] {
			anew, err := l.count(ctx, q, by, e, s.blockSize)
			if err != nil {
				return err
			}
			if anew {
				break
			}
		}
	}
	return nil
}

// lock makes other writers of the list wait for the end of the transaction:
// the block a checkpoint belongs to must not be divided while it is counted.
// The row that it locks is the last block, which it creates with the list.
func (l checkpointList) lock(ctx context.Context, q queries) error {
	_, err := q.exec(ctx, `
		INSERT INTO checkpoint_blocks (list, created_at, id, weights, sampler_weights, external_weights)
		VALUES (?, ?, ?, 0, 0, 0)
		ON CONFLICT (list, created_at, id) DO UPDATE SET weights = checkpoint_blocks.weights`,
		l.name, last.at, last.id)
	return err
}

// count reports whether it counted the whole list anew, which comprises what
// else is to be counted in it.
func (l checkpointList) count(ctx context.Context, q queries, by int64, e entry, size int64) (anew bool, err error) {
	column, err := countColumn(e.kind)
	if err != nil {
		return false, err
	}
	var (
		start place
		n     int64
	)
	err = q.row(ctx, `
		UPDATE checkpoint_blocks SET `+column+` = `+column+` + ?
		WHERE list = ? AND (created_at, id) = (
			SELECT created_at, id FROM checkpoint_blocks
			WHERE list = ? AND (created_at, id) <= (?, ?) ORDER BY created_at DESC, id DESC LIMIT 1)
		RETURNING created_at, id, weights + sampler_weights + external_weights`,
		by, l.name, l.name, e.at, e.id).Scan(&start.at, &start.id, &n)
	switch {
	case err != nil:
		return false, err
	case n > size:
		err := l.divide(ctx, q, start, n)
		if errors.Is(err, sql.ErrNoRows) {
			// It counts what is not there. Nobody's save shall fail for it.
			return true, l.rebuild(ctx, q, size)
		}
		return false, err
	case n == 0 && start != last:
		// The block before takes over its stretch, in which there is nothing.
		_, err = q.exec(ctx, `DELETE FROM checkpoint_blocks WHERE list = ? AND created_at = ? AND id = ?`,
			l.name, start.at, start.id)
	}
	return false, err
}

// divide makes two blocks of the one that starts at start and counts n.
func (l checkpointList) divide(ctx context.Context, q queries, start place, n int64) error {
	end := first
	err := q.row(ctx, `
		SELECT created_at, id FROM checkpoint_blocks
		WHERE list = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT 1`,
		l.name, start.at, start.id).Scan(&end.at, &end.id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	selected := `listed > 0 AND ` + l.column + ` = ? AND (created_at, id) >= (?, ?) AND (created_at, id) < (?, ?)`
	var middle place
	err = q.row(ctx, `SELECT created_at, id FROM checkpoints WHERE `+selected+` ORDER BY created_at, id LIMIT 1 OFFSET ?`,
		l.value, start.at, start.id, end.at, end.id, n/2).Scan(&middle.at, &middle.id)
	if err != nil {
		return err
	}
	_, err = q.exec(ctx, `
		INSERT INTO checkpoint_blocks (list, created_at, id, weights, sampler_weights, external_weights)
		VALUES (?, ?, ?, 0, 0, 0)`,
		l.name, middle.at, middle.id)
	if err != nil {
		return err
	}
	moved := make(map[Kind]int64)
	err = q.each(ctx, `SELECT kind, COUNT(*) FROM checkpoints WHERE `+selected+` GROUP BY kind`,
		[]any{l.value, middle.at, middle.id, end.at, end.id}, func(row scanner) error {
			var (
				kind Kind
				n    int64
			)
			err := row.Scan(&kind, &n)
			moved[kind] = n
			return err
		})
	if err != nil {
		return err
	}
	for place, sign := range map[place]int64{start: -1, middle: 1} {
		_, err := q.exec(ctx, `
			UPDATE checkpoint_blocks SET weights = weights + ?, sampler_weights = sampler_weights + ?,
				external_weights = external_weights + ?
			WHERE list = ? AND created_at = ? AND id = ?`,
			sign*moved[KindTraining], sign*moved[KindSampler], sign*moved[KindExternal], l.name, place.at, place.id)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *store) Checkpoints(ctx context.Context, f CheckpointFilter, p Page) (page []Checkpoint, n int, err error) {
	limit, offset := p.bounds()
	err = s.read(ctx, func(q queries) error {
		page, n = nil, 0 // should this be a second attempt
		of := f
		if f.RunID != "" {
			// A run's checkpoints are all its owner's, or none of them are.
			owner, err := runOwner(ctx, q, f.RunID)
			if errors.Is(err, sql.ErrNoRows) || err == nil && f.Owner != "" && f.Owner != owner {
				return nil
			}
			if err != nil {
				return err
			}
			of.Owner = owner
		}
		from, skip, total, err := locate(ctx, q, of, offset)
		if err != nil {
			return err
		}
		if n = total; limit == 0 || offset >= n {
			return nil
		}
		query, args := of.page(from, limit, skip)
		page = make([]Checkpoint, 0, min(limit, n-offset))
		err = q.each(ctx, query, args, func(row scanner) error {
			c, err := scanCheckpoint(row)
			page = append(page, c)
			return err
		})
		slices.SortFunc(page, func(a, b Checkpoint) int { return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID)) })
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, n, nil
}

// page is the query for what comes after skip others from a place on, in no
// order: for so few rows a database takes longer to sort them than we do. The
// inner query skips in the index alone.
func (f CheckpointFilter) page(from place, limit, skip int) (query string, args []any) {
	selected, args := f.selected()
	return `
		SELECT ` + checkpointRow + ` FROM checkpoints JOIN (
			SELECT id AS page_id FROM checkpoints WHERE ` + selected + ` AND (created_at, id) < (?, ?)
			ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?
		) page ON page_id = checkpoints.id`, append(args, from.at, from.id, limit, skip)
}

// worthHalving is how many checkpoints are read at once from both ends of what
// is asked for: reading them takes longer than finding the middle by an index.
const worthHalving = 500

func (s *store) CheckpointsAfter(ctx context.Context, f CheckpointFilter, after *CheckpointPlace, limit int, into []ListedCheckpoint) (all []ListedCheckpoint, next *CheckpointPlace, err error) {
	if _, err := countColumn(f.Kind); err != nil {
		return nil, nil, err
	}
	if limit <= 0 {
		return nil, after, nil
	}
	from := first
	if after != nil {
		from = place{micros(after.CreatedAt), after.ID}
	}
	// The first part is what is between two places, and the second, by which the
	// end of the list is known, so many checkpoints from a place on. Whatever
	// changes between looking for the middle and reading, they meet there.
	half, middle := 0, from
	if limit >= worthHalving && f.Kind == "" { // SQLite would look for both ends in another index
		middle, err = s.skip(ctx, f, from, limit/2)
		switch {
		case errors.Is(err, sql.ErrNoRows): // there are fewer
		case err != nil:
			return nil, nil, s.explain(err)
		default:
			half = limit / 2
		}
	}
	if half == 0 {
		middle = from
	}
	room := into[:cap(into)]
	if n := max(half, min(limit, 1000)); len(room) < n {
		room = make([]ListedCheckpoint, n)
	}
	head, tail := room[:0:half], room[half:half]
	var reading errgroup.Group
	if half > 0 {
		reading.Go(func() (err error) {
			query, args := f.between(from, middle)
			head, err = s.listed(ctx, head, query, args)
			return err
		})
	}
	query, args := f.after(middle, limit-half)
	tail, err = s.listed(ctx, tail, query, args)
	if err := errors.Join(err, reading.Wait()); err != nil {
		return nil, nil, s.explain(err)
	}
	all, next = stitch(room, head, tail, half, limit)
	return all, next, nil
}

// stitch puts the two parts of a stretch together, which are in room unless they
// became longer than was planned. The list goes on if the second part is as long
// as it was to be: of the first one, some may have gone meanwhile.
func stitch(room, head, tail []ListedCheckpoint, half, limit int) (all []ListedCheckpoint, next *CheckpointPlace) {
	if len(tail) == limit-half {
		end := tail[len(tail)-1]
		next = &CheckpointPlace{CreatedAt: end.CreatedAt, ID: end.ID}
	}
	if len(head) == half && half+len(tail) <= len(room) {
		return room[:half+len(tail)], next
	}
	return append(head, tail...), next
}

// listed appends what a query finds.
func (s *store) listed(ctx context.Context, all []ListedCheckpoint, query string, args []any) ([]ListedCheckpoint, error) {
	err := s.query().each(ctx, query, args, func(row scanner) error {
		c, err := scanListed(row)
		all = append(all, c)
		return err
	})
	return all, err
}

// skip finds the place of the checkpoint that comes n after a place.
func (s *store) skip(ctx context.Context, f CheckpointFilter, from place, n int) (p place, err error) {
	query, args := f.skip(from, n)
	return p, s.query().row(ctx, query, args...).Scan(&p.at, &p.id)
}

// after is the query for what comes after a place.
func (f CheckpointFilter) after(from place, limit int) (query string, args []any) {
	selected, args := f.from(from)
	return `SELECT ` + listedRow + ` FROM checkpoints WHERE ` + selected + newestFirst + ` LIMIT ?`, append(args, limit)
}

// between is the query for what comes after a place, up to and with another one.
func (f CheckpointFilter) between(from, to place) (query string, args []any) {
	selected, args := f.from(from)
	return `SELECT ` + listedRow + ` FROM checkpoints WHERE ` + selected + ` AND (created_at, id) >= (?, ?)` + newestFirst,
		append(args, to.at, to.id)
}

func (f CheckpointFilter) skip(from place, n int) (query string, args []any) {
	selected, args := f.from(from)
	return `SELECT created_at, id FROM checkpoints WHERE ` + selected + newestFirst + ` LIMIT 1 OFFSET ?`, append(args, n-1)
}

const newestFirst = ` ORDER BY created_at DESC, id DESC`

func (f CheckpointFilter) from(p place) (condition string, args []any) {
	condition, args = f.selected()
	if f.RunID != "" && f.Owner != "" {
		condition, args = condition+` AND owner = ?`, append(args, f.Owner)
	}
	return condition + ` AND (created_at, id) < (?, ?)`, append(args, p.at, p.id)
}

func runOwner(ctx context.Context, q queries, id string) (owner string, err error) {
	return owner, q.row(ctx, `SELECT owner FROM runs WHERE id = ?`, id).Scan(&owner)
}

func (s *store) AllRunCheckpoints(ctx context.Context, runID string, now time.Time) ([]Checkpoint, error) {
	selected, args := CheckpointFilter{RunID: runID, Now: now}.selected()
	all, err := list(ctx, s.query(), `SELECT `+checkpointRow+` FROM checkpoints WHERE `+selected+
		` ORDER BY created_at DESC, id DESC`, args, scanCheckpoint)
	return all, s.explain(err)
}

// selected is the condition for a checkpoint to be in the list. The way it
// says listed chooses the index: see the migrations.
func (f CheckpointFilter) selected() (condition string, args []any) {
	condition, args = f.restricted()
	listed := `listed > 0`
	if f.Owner == "" && f.RunID == "" {
		listed = `listed = 1`
	}
	return listed + condition + ` AND ` + unexpired, append(args, micros(f.Now))
}

// unexpired takes the time it is.
const unexpired = `(expires_at IS NULL OR expires_at > ?)`

func (f CheckpointFilter) restricted() (condition string, args []any) {
	switch {
	case f.RunID != "":
		condition, args = condition+` AND run_id = ?`, append(args, f.RunID)
	case f.Owner != "":
		condition, args = condition+` AND owner = ?`, append(args, f.Owner)
	}
	if f.Kind != "" {
		condition, args = condition+` AND kind = ?`, append(args, string(f.Kind))
	}
	return condition, args
}

// locate finds the checkpoint at an offset: it is the one after skip others,
// counted from but not including the place from. It also returns the total.
func locate(ctx context.Context, q queries, f CheckpointFilter, offset int) (from place, skip, total int, err error) {
	column, err := countColumn(f.Kind)
	if err != nil {
		return place{}, 0, 0, err
	}
	expired, err := unswept(ctx, q, f)
	if err != nil {
		return place{}, 0, 0, err
	}
	if f.Owner == "" && f.RunID == "" {
		// The list of everything has no blocks of its own, because all who
		// save would have to wait for each other to count in them. Nobody
		// pages deep into it.
		err = q.row(ctx, `
			SELECT CAST(COALESCE(SUM(`+column+`), 0) AS BIGINT) FROM checkpoint_blocks
			WHERE list >= 'owner/' AND list < 'owner0'`).Scan(&total)
		return first, offset, total - len(expired), err
	}
	l := ownerList(f.Owner)
	if f.RunID != "" {
		l = runList(f.RunID)
	}
	// Blocks come in the list's order, each with the place where it ends;
	// the next one begins there.
	found, end := false, first
	from, skip = first, offset
	err = q.each(ctx, `
		SELECT created_at, id, `+column+` FROM checkpoint_blocks WHERE list = ? ORDER BY created_at DESC, id DESC`,
		[]any{l.name}, func(row scanner) error {
			var (
				begin = end
				n     int
			)
			if err := row.Scan(&end.at, &end.id, &n); err != nil {
				return err
			}
			for len(expired) > 0 && expired[0].compare(end) >= 0 {
				n--
				expired = expired[1:]
			}
			total += n
			if !found && offset < total {
				found, from, skip = true, begin, offset-(total-n)
			}
			return nil
		})
	return from, skip, total, err
}

// unswept returns the places of the expired checkpoints that are still
// counted, in the list's order.
func unswept(ctx context.Context, q queries, f CheckpointFilter) ([]place, error) {
	condition, args := f.restricted()
	if f.RunID != "" {
		// The index of what expires is by owner.
		condition, args = condition+` AND owner = ?`, append(args, f.Owner)
	}
	places, err := list(ctx, q, `SELECT created_at, id FROM checkpoints WHERE listed <> 0`+condition+` AND expires_at <= ?`,
		append(args, micros(f.Now)), func(row scanner) (p place, err error) {
			return p, row.Scan(&p.at, &p.id)
		})
	slices.SortFunc(places, func(a, b place) int { return b.compare(a) })
	return places, err
}
