package registry

import (
	"context"
	"time"

	"github.com/tinkex/tinkex/internal/outage"
)

// storePatience is how long a request that was accepted waits for a store that
// cannot work for now. Its client cannot simply send it again, as it can one
// that is refused: later ones are queued behind it already.
const storePatience = 15 * time.Second

// How long it waits between two tries.
const (
	firstWait = 100 * time.Millisecond
	maxWait   = 2 * time.Second
)

// patiently carries a request out, again if a store could not work. What it
// does must come to the same done twice: a store that breaks down in the middle
// of a transaction may have committed it.
func (r *Registry) patiently(ctx context.Context, f *Future, do func(context.Context) (any, error)) (any, error) {
	var since time.Time
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		result, err := do(ctx)
		if _, down := outage.Of(err); !down {
			return result, err
		}
		now := time.Now()
		if since.IsZero() {
			since = now
			r.log.Warn("a request waits for a store", "request", f.ID, "type", f.Type, "at_most", r.patience, "error", err)
		}
		if now.Sub(since) >= r.patience {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// logFailure tells the operator of a failure that is not the client's.
func (r *Registry) logFailure(f *Future, err error) {
	_, down := outage.Of(err)
	if err != nil && (down || CodeOf(err) == Internal) {
		r.log.Error("request failed", "request", f.ID, "type", f.Type, "error", err)
	}
}
