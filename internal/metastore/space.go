package metastore

import (
	"context"
	"fmt"
	"time"
)

// SpaceBy is what usage is broken down by.
type SpaceBy string

// What usage can be broken down by.
const (
	ByOwner SpaceBy = "owner"
	ByRun   SpaceBy = "run"
	ByKind  SpaceBy = "kind"
)

// SpaceQuery selects checkpoints, listed or not, that have not expired at Now.
// Only the selected ones are compared with each other, so that what is told of
// an owner's does not depend on what others have.
type SpaceQuery struct {
	By    SpaceBy
	Owner string    // empty is everybody
	Now   time.Time // required
}

// Space is what checkpoints take, in bytes.
type Space struct {
	Checkpoints int
	Logical     int64 // the sum of their sizes
	Physical    int64 // of their blobs, each counted once
	// Exclusive is of the blobs that no selected checkpoint outside of the
	// group has: what deleting the whole group would free.
	Exclusive int64
}

// SpaceGroup is the space of one owner, run or kind.
type SpaceGroup struct {
	Name string
	Space
}

// SpaceUsage is a page of groups, the largest Physical first, ties by name,
// with their number and the space of all. The total's Exclusive is its
// Physical.
type SpaceUsage struct {
	Groups []SpaceGroup
	Count  int
	Total  Space
}

func (s *store) SpaceUsage(ctx context.Context, sq SpaceQuery, p Page) (u SpaceUsage, err error) {
	ctx = unhurried(ctx)
	column, ok := map[SpaceBy]string{ByOwner: "owner", ByRun: "run_id", ByKind: "kind"}[sq.By]
	if !ok {
		return SpaceUsage{}, fmt.Errorf("usage by %q: expected owner, run or kind", sq.By)
	}
	// chosen are the checkpoints, refs each group's blobs. An owner's are found
	// by the index of the listed ones and in that of the few that are not.
	chosen := `SELECT id, ` + column + ` AS grp, size_bytes FROM checkpoints WHERE ` + unexpired
	args := []any{micros(sq.Now)}
	if sq.Owner != "" {
		chosen = chosen + ` AND listed > 0 AND owner = ? UNION ALL ` + chosen + ` AND listed = 0 AND owner = ?`
		args = []any{micros(sq.Now), sq.Owner, micros(sq.Now), sq.Owner}
	}
	limit, offset := p.bounds()
	err = s.read(ctx, func(q queries) error {
		u = SpaceUsage{}
		err := q.row(ctx, `
			WITH chosen AS (`+chosen+`),
			blobs AS (
				SELECT MAX(size) AS size FROM chosen JOIN checkpoint_files ON checkpoint_id = chosen.id GROUP BY digest)
			SELECT COUNT(DISTINCT grp), COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT),
				(SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM blobs)
			FROM chosen`, args...).Scan(&u.Count, &u.Total.Checkpoints, &u.Total.Logical, &u.Total.Physical)
		u.Total.Exclusive = u.Total.Physical
		if err != nil || limit == 0 || offset >= u.Count {
			return err
		}
		u.Groups, err = list(ctx, q, `
			WITH chosen AS (`+chosen+`),
			refs AS (
				SELECT grp, digest, MAX(size) AS size FROM chosen
				JOIN checkpoint_files ON checkpoint_id = chosen.id GROUP BY grp, digest),
			sharing AS (SELECT grp, size, COUNT(*) OVER (PARTITION BY digest) AS holders FROM refs),
			physical AS (
				SELECT grp, CAST(SUM(size) AS BIGINT) AS bytes,
					CAST(SUM(CASE WHEN holders = 1 THEN size ELSE 0 END) AS BIGINT) AS only_here
				FROM sharing GROUP BY grp),
			logical AS (SELECT grp, COUNT(*) AS n, CAST(SUM(size_bytes) AS BIGINT) AS bytes FROM chosen GROUP BY grp)
			SELECT logical.grp, logical.n, logical.bytes, COALESCE(physical.bytes, 0), COALESCE(physical.only_here, 0)
			FROM logical LEFT JOIN physical ON physical.grp = logical.grp
			ORDER BY 4 DESC, 1 LIMIT ? OFFSET ?`, append(args[:len(args):len(args)], limit, offset), func(row scanner) (g SpaceGroup, err error) {
			return g, row.Scan(&g.Name, &g.Checkpoints, &g.Logical, &g.Physical, &g.Exclusive)
		})
		return err
	})
	if err != nil {
		return SpaceUsage{}, err
	}
	return u, nil
}
