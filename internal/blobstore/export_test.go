package blobstore

import (
	"context"
	"time"

	"gocloud.dev/blob"
)

// SetPatience sets how long a bucket's store may take.
func SetPatience(s Store, d time.Duration) {
	s.(*bucket).answer, s.(*bucket).stall = d, d
}

// Objects counts what a bucket's store keeps of a blob.
func Objects(ctx context.Context, s Store, d Digest) (int, error) {
	all, err := s.(*bucket).objects(ctx, d)
	return len(all), err
}

// PutObject adds an object to a blob as a Commit does that dies after it.
func PutObject(ctx context.Context, s Store, d Digest, data []byte) error {
	return s.(*bucket).b.WriteAll(ctx, newKey(d), data, nil)
}

// Bucket is what a bucket's store works on.
func Bucket(s Store) *blob.Bucket { return s.(*bucket).b }

// Sweep removes what uploads have left that began before a time.
func Sweep(ctx context.Context, s Store, bucket, prefix string, before time.Time) error {
	return drivers["s3"].Sweep(ctx, Bucket(s), bucket, prefix, before)
}
