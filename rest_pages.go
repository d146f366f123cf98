package tinkex

import (
	"context"
	"hash/maphash"
	"iter"
)

// PageOptions says how iterators fetch what they iterate over.
type PageOptions struct {
	// PageSize is how many items one request asks for, or the first one where
	// they become more; 0 is 100.
	PageSize int
}

const defaultPageSize = 100

// page is one answer to a paged request.
type page[T any] struct {
	items []T
	total int // of the whole list; -1 if the server does not say
}

// pages iterates over a list that is fetched page by page and may change in
// the meantime, be it by the loop's own body. An item is yielded once, as key
// tells items apart. Items that are there from beginning to end are all
// yielded: when the list has become shorter, what moved up is fetched again.
// After an error, which is yielded with a zero item, the iteration is over.
func pages[T any](ctx context.Context, op string, o PageOptions, key func(T) string, fetch func(ctx context.Context, limit, offset int) (page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		size := o.PageSize
		if size < 0 {
			yield(zero, invalid(op, "page size %d is negative", size))
			return
		}
		if size == 0 {
			size = defaultPageSize
		}
		// Hashes, because a list may have very many items with long keys. That two
		// of a million items have the same is less likely than one in ten million.
		seed, seen := maphash.MakeSeed(), map[uint64]struct{}{}
		offset, total := 0, -1
		for {
			p, err := fetch(ctx, size, offset)
			if err != nil {
				yield(zero, err)
				return
			}
			if p.total >= 0 && p.total < total {
				// What moved up lies before this page. Fetch from there: each time
				// the list is shorter, so this ends.
				offset = max(offset-(total-p.total), 0)
				total = p.total
				continue
			}
			total = p.total
			fresh := 0
			for _, item := range p.items {
				k := maphash.String(seed, key(item))
				if _, ok := seen[k]; !ok {
					seen[k] = struct{}{}
					fresh++
					if !yield(item, nil) {
						return
					}
				}
			}
			offset += len(p.items)
			switch {
			case len(p.items) == 0:
				return
			case p.total >= 0 && offset >= p.total:
				return
			case p.total < 0 && fresh == 0:
				return // the server does not page
			}
		}
	}
}
