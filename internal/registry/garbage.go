package registry

import (
	"context"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// DefaultGCGrace is how old an unreferenced blob must be to be removed, unless
// told otherwise.
const DefaultGCGrace = time.Hour

// Garbage is what a collection removed, or would have.
type Garbage struct {
	Blobs int
	Bytes int64
	// Young blobs are unreferenced too, but within the grace period: they may
	// be of a save in progress.
	Young      int
	YoungBytes int64
}

// Collector removes blobs that nothing refers to. It needs nothing but the two
// stores, and may be used beside servers at work on them.
type Collector struct {
	Meta  metastore.Store
	Blobs blobstore.Store
	// Grace is how old an unreferenced blob must be to be removed; it must
	// exceed the time a save takes.
	Grace time.Duration
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
}

// Collect removes blobs that no manifest or upload refers to and that were not
// committed within the grace period; a dry run only counts them. It is safe
// beside saves: a save commits its blobs anew before it refers to them, which
// makes them young; and beside imports, which refer only to what an upload
// refers to.
func (c Collector) Collect(ctx context.Context, dryRun bool) (Garbage, error) {
	var g Garbage
	now := c.Now
	if now == nil {
		now = time.Now
	}
	before := now().Add(-c.Grace)
	referenced, err := c.Meta.Referenced(ctx)
	if err != nil {
		return g, err
	}
	for info, err := range c.Blobs.All(ctx) {
		if err != nil {
			return g, err
		}
		if _, ok := referenced[info.Digest]; ok {
			continue
		}
		remove := info.ModTime.Before(before)
		if !remove {
			g.Young++
			g.YoungBytes += info.Size
			continue
		}
		if !dryRun {
			if remove, err = c.Blobs.Delete(ctx, info.Digest, before); err != nil {
				return g, err
			}
		}
		if remove {
			g.Blobs++
			g.Bytes += info.Size
		}
	}
	return g, nil
}

// CollectGarbage removes unreferenced blobs.
func (r *Registry) CollectGarbage(ctx context.Context) (Garbage, error) {
	g, err := Collector{Meta: r.meta, Blobs: r.blobs, Grace: r.gcGrace, Now: r.now}.Collect(ctx, false)
	r.rounds.collected(r.now(), g, err)
	if g.Blobs > 0 {
		r.log.Info("removed unreferenced blobs", "blobs", g.Blobs, "bytes", g.Bytes)
	}
	return g, err
}
