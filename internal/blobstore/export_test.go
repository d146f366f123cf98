package blobstore

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
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

// S3Client is a bucket's client.
func S3Client(s Store) *s3.Client {
	var c *s3.Client
	s.(*bucket).b.As(&c)
	return c
}

var AbortUploads = abortUploads
