package checkpoint

import (
	"context"

	"github.com/tinkex/tinkex"
)

// CopyClient is what Copy needs of a *tinkex.RestClient.
type CopyClient interface {
	CopyCheckpoint(ctx context.Context, path tinkex.TinkerPath, opts tinkex.CopyOptions) (tinkex.TinkerPath, error)
}

// CopyOptions configures Copy. The zero value makes a copy of the same name,
// in a run of its own, that lives for ever.
type CopyOptions = tinkex.CopyOptions

// Copy makes a checkpoint of the caller's out of one of theirs or a public one
// of somebody else's, and returns its path. No bytes move. It is what keeps a
// checkpoint when its run is cleaned up, its TTL ends or its owner unpublishes
// it.
func Copy(ctx context.Context, client CopyClient, path tinkex.TinkerPath, opts CopyOptions) (tinkex.TinkerPath, error) {
	return client.CopyCheckpoint(ctx, path, opts)
}
