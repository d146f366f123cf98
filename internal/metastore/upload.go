package metastore

import (
	"context"
	"slices"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
)

func (s *store) PutUpload(ctx context.Context, owner string, b Blob, at time.Time) error {
	return s.write(ctx, func(q queries) error { return putUploads(ctx, q, owner, []Blob{b}, at) })
}

// putUploads records blobs, none of them twice.
func putUploads(ctx context.Context, q queries, owner string, blobs []Blob, at time.Time) error {
	for chunk := range slices.Chunk(blobs, many) {
		args := make([]any, 0, 4*len(chunk))
		for _, b := range chunk {
			args = append(args, owner, b.Digest[:], b.Size, micros(at))
		}
		_, err := q.exec(ctx, `INSERT INTO uploads (owner, digest, size, created_at) VALUES `+
			repeat("(?, ?, ?, ?)", len(chunk))+`
			ON CONFLICT (owner, digest) DO UPDATE SET created_at =
				CASE WHEN uploads.created_at < excluded.created_at THEN excluded.created_at ELSE uploads.created_at END`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *store) ClaimBlobs(ctx context.Context, owner string, digests []blobstore.Digest, now, since time.Time) (map[blobstore.Digest]int64, error) {
	// In one order, so that claims do not deadlock, and each once.
	digests = slices.Clone(digests)
	slices.SortFunc(digests, compareDigests)
	digests = slices.Compact(digests)
	var claimed map[blobstore.Digest]int64
	err := s.write(ctx, func(q queries) error {
		claimed = make(map[blobstore.Digest]int64)
		for chunk := range slices.Chunk(digests, many) {
			if err := findBlobs(ctx, q, owner, chunk, now, since, claimed); err != nil {
				return err
			}
		}
		blobs := make([]Blob, 0, len(claimed))
		for _, d := range digests {
			if size, ok := claimed[d]; ok {
				blobs = append(blobs, Blob{d, size})
			}
		}
		return putUploads(ctx, q, owner, blobs, now)
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

func compareDigests(a, b blobstore.Digest) int { return slices.Compare(a[:], b[:]) }

// findBlobs adds those of the digests that the owner may use, with their sizes.
func findBlobs(ctx context.Context, q queries, owner string, digests []blobstore.Digest, now, since time.Time, to map[blobstore.Digest]int64) error {
	wanted := `(` + repeat("?", len(digests)) + `)`
	args := make([]any, 0, 2*len(digests)+4)
	for _, d := range digests {
		args = append(args, d[:])
	}
	args = append(append(append(args, owner, micros(since)), args...), owner, micros(now))
	return q.each(ctx, `
		SELECT digest, size FROM uploads WHERE digest IN `+wanted+` AND owner = ? AND created_at > ?
		UNION
		SELECT digest, size FROM checkpoint_files JOIN checkpoints ON checkpoints.id = checkpoint_id
		WHERE digest IN `+wanted+` AND (owner = ? OR public = 1) AND (expires_at IS NULL OR expires_at > ?)`,
		args, func(row scanner) error {
			var raw []byte
			var size int64
			if err := row.Scan(&raw, &size); err != nil {
				return err
			}
			d, err := toDigest(raw)
			to[d] = size
			return err
		})
}

func (s *store) DeleteUploads(ctx context.Context, before time.Time) (int, error) {
	ctx = unhurried(ctx)
	var n int64
	err := s.write(ctx, func(q queries) (err error) {
		n, err = q.exec(ctx, `DELETE FROM uploads WHERE created_at <= ?`, micros(before))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

func (s *store) CommitImport(ctx context.Context, i Import) ([]Checkpoint, error) {
	all := make([]*prepared, len(i.Checkpoints))
	for n, c := range i.Checkpoints {
		p, err := prepare(c)
		if err != nil {
			return nil, err
		}
		all[n] = p
	}
	done := slices.Clone(i.Uploads)
	slices.SortFunc(done, compareDigests)
	err := s.write(ctx, func(q queries) error {
		if i.Session != nil {
			if err := createSession(ctx, q, *i.Session); err != nil {
				return err
			}
		}
		if i.Run != nil {
			if err := createRun(ctx, q, *i.Run); err != nil {
				return err
			}
		}
		for _, c := range all {
			if err := s.putCheckpoint(ctx, q, c, false, i.Overwrite); err != nil {
				return err
			}
		}
		for chunk := range slices.Chunk(done, many) {
			args := []any{i.Owner}
			for _, d := range chunk {
				args = append(args, d[:])
			}
			if _, err := q.exec(ctx, `DELETE FROM uploads WHERE owner = ? AND digest IN (`+repeat("?", len(chunk))+`)`, args...); err != nil {
				return err
			}
		}
		if i.Result != nil {
			return putResult(ctx, q, *i.Result)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	stored := make([]Checkpoint, len(all))
	for n, c := range all {
		stored[n] = c.Checkpoint
	}
	return stored, nil
}
