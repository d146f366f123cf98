package registry

import (
	"context"

	"github.com/tinkex/tinkex/internal/metastore"
)

// Usage tells what the owner's checkpoints take. It compares them with each
// other only: what they share with somebody else's is nothing to be told.
func (r *Registry) Usage(ctx context.Context, owner string, by metastore.SpaceBy, p metastore.Page) (metastore.SpaceUsage, error) {
	u, err := r.meta.SpaceUsage(ctx, metastore.SpaceQuery{By: by, Owner: owner, Now: r.now().UTC()}, p)
	return u, classify(err)
}
