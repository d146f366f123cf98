package blobstore

import (
	"context"
	"net/url"
	"time"

	"gocloud.dev/blob"
)

// Driver is what a service's client needs, or can do, besides what all do. What
// it does not have is nil.
type Driver struct {
	// Before is called before the driver makes a client.
	Before func() error
	// Check says what is missing before the service is asked anything.
	Check func(ctx context.Context, b *blob.Bucket) error
	// Sweep removes what uploads to keys with a prefix have left in a bucket
	// that began before a time and died.
	Sweep func(ctx context.Context, b *blob.Bucket, bucket, prefix string, before time.Time) error
}

var drivers = map[string]Driver{}

// RegisterDriver says what the driver of a URL's scheme can do. It is for
// package drivers, when a program starts.
func RegisterDriver(scheme string, d Driver) { drivers[scheme] = d }

// check asks whether a client has what it needs.
func (d Driver) check(ctx context.Context, b *blob.Bucket) error {
	if d.Check == nil {
		return nil
	}
	ctx, cancel := within(ctx, answerTime)
	defer cancel()
	return d.Check(ctx, b)
}

// sweepUploads removes what died with other processes. What it cannot remove
// costs space and nothing else.
func (s *bucket) sweepUploads(ctx context.Context, u *url.URL) {
	sweep := drivers[u.Scheme].Sweep
	if sweep == nil {
		return
	}
	ctx, cancel := within(ctx, answerTime)
	defer cancel()
	_ = sweep(ctx, s.b, u.Host, u.Query().Get("prefix")+digestsRoot, time.Now().Add(-abandonedAfter))
}
