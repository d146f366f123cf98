package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/retention"
)

// Selection says which of the caller's checkpoints are meant. A zero field
// asks for nothing, so the zero Selection is all of them.
type Selection struct {
	RunID string
	// Types are the wanted types; empty: all.
	Types []tinkex.CheckpointType
	// Before and After bound when it was saved, both exclusively.
	Before, After time.Time
	// MinSize and MaxSize bound the size in bytes, both inclusively. What the
	// server tells no size of is outside of any bound. 0: no bound.
	MinSize, MaxSize int64
	// Public, if not nil, is whether it is public.
	Public *bool
	// ExpiresBefore selects those that expire, and before this time.
	ExpiresBefore time.Time
	// Name is a pattern as path.Match takes it, for the name or, if it contains
	// a slash, for the id ("weights/step-*").
	Name string
	// BaseModel is a pattern as path.Match takes it, but that * and ? stand for
	// slashes too: "*Qwen3*" is "Qwen/Qwen3-8B". On servers whose lists do not
	// tell the base model, the checkpoint's run is asked.
	BaseModel string
	// Metadata are values of the user metadata that a checkpoint has to have.
	Metadata map[string]string
}

// Validate reports a selection that contradicts itself or whose patterns are
// malformed.
func (s Selection) Validate() error {
	switch {
	case s.MinSize < 0 || s.MaxSize < 0:
		return fmt.Errorf("select: a size of %d bytes is negative", min(s.MinSize, s.MaxSize))
	case s.MaxSize > 0 && s.MinSize > s.MaxSize:
		return fmt.Errorf("select: nothing has at least %d and at most %d bytes", s.MinSize, s.MaxSize)
	case !s.Before.IsZero() && !s.After.IsZero() && !s.After.Before(s.Before):
		return fmt.Errorf("select: nothing was saved after %s and before %s", s.After.Format(time.RFC3339), s.Before.Format(time.RFC3339))
	}
	for _, pattern := range []string{s.Name, s.BaseModel} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("select: %q is not a pattern: %w", pattern, err)
		}
	}
	return nil
}

// Filters reports whether anything but the run is asked for.
func (s Selection) Filters() bool {
	return len(s.Types) > 0 || !s.Before.IsZero() || !s.After.IsZero() || s.MinSize != 0 || s.MaxSize != 0 ||
		s.Public != nil || !s.ExpiresBefore.IsZero() || s.Name != "" || s.BaseModel != "" || len(s.Metadata) > 0
}

// Match reports whether a checkpoint, as lists describe it, is selected.
func (s Selection) Match(c tinkex.Checkpoint) bool {
	switch {
	case len(s.Types) > 0 && !slices.Contains(s.Types, c.CheckpointType),
		!s.Before.IsZero() && !c.Time.Before(s.Before),
		!s.After.IsZero() && !c.Time.After(s.After),
		(s.MinSize > 0 || s.MaxSize > 0) && c.SizeBytes == nil,
		s.MinSize > 0 && *c.SizeBytes < s.MinSize,
		s.MaxSize > 0 && *c.SizeBytes > s.MaxSize,
		s.Public != nil && c.Public != *s.Public,
		!s.ExpiresBefore.IsZero() && (c.ExpiresAt == nil || !c.ExpiresAt.Before(s.ExpiresBefore)),
		s.BaseModel != "" && !glob(noSlashes.Replace(s.BaseModel), noSlashes.Replace(c.BaseModel)):
		return false
	}
	for k, v := range s.Metadata {
		if got, ok := c.UserMetadata[k]; !ok || got != v {
			return false
		}
	}
	if s.RunID == "" && s.Name == "" {
		return true
	}
	p, err := c.Path()
	if err != nil || s.RunID != "" && p.RunID != s.RunID {
		return false
	}
	if strings.Contains(s.Name, "/") {
		return glob(s.Name, p.CheckpointID())
	}
	return s.Name == "" || glob(s.Name, p.Name)
}

// glob matches a pattern that Validate has seen.
func glob(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// noSlashes makes slashes characters like any other for path.Match.
var noSlashes = strings.NewReplacer("/", "\x00")

// ListClient is what selecting needs of a *tinkex.RestClient.
type ListClient interface {
	AllCheckpoints(ctx context.Context, opts tinkex.PageOptions) iter.Seq2[tinkex.Checkpoint, error]
	ListRunCheckpoints(ctx context.Context, runID string) (tinkex.CheckpointList, error)
	GetTrainingRun(ctx context.Context, runID string) (tinkex.TrainingRun, error)
}

// listPage is how many checkpoints one request asks for: few round trips, and
// an answer that is small all the same.
const listPage = 1000

// All iterates over the selected checkpoints in the server's order, newest
// first, as they arrive. After an error the iteration is over.
func (s Selection) All(ctx context.Context, client ListClient) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		for c, err := range s.Considered(ctx, client) {
			if (err != nil || s.Match(c)) && !yield(c, err) {
				return
			}
		}
	}
}

// Considered iterates over what All chooses from: all checkpoints of the run,
// or of the caller. A Selection that is not valid is the first error.
func (s Selection) Considered(ctx context.Context, client ListClient) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		if err := s.Validate(); err != nil {
			yield(tinkex.Checkpoint{}, err)
			return
		}
		models := map[string]string{}
		for c, err := range s.listed(ctx, client) {
			if err == nil && s.BaseModel != "" && c.BaseModel == "" {
				c.BaseModel, err = baseModelOf(ctx, client, c, models)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func (s Selection) listed(ctx context.Context, client ListClient) iter.Seq2[tinkex.Checkpoint, error] {
	if s.RunID == "" {
		return client.AllCheckpoints(ctx, tinkex.PageOptions{PageSize: listPage})
	}
	return func(yield func(tinkex.Checkpoint, error) bool) {
		list, err := client.ListRunCheckpoints(ctx, s.RunID)
		if err != nil {
			yield(tinkex.Checkpoint{}, err)
			return
		}
		for _, c := range list.Checkpoints {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// baseModelOf asks a checkpoint's run, once.
func baseModelOf(ctx context.Context, client ListClient, c tinkex.Checkpoint, known map[string]string) (string, error) {
	p, err := c.Path()
	if err != nil {
		return "", err
	}
	model, ok := known[p.RunID]
	if !ok {
		run, err := client.GetTrainingRun(ctx, p.RunID)
		if err != nil {
			return "", err
		}
		model = run.BaseModel
		known[p.RunID] = model
	}
	return model, nil
}

// Order is what checkpoints are sorted by.
type Order string

// The orders. Times are newest first, sizes largest first, names ascending,
// and expiry soonest first with those that never expire last.
const (
	ByCreated Order = "created"
	BySize    Order = "size"
	ByName    Order = "name"
	ByExpiry  Order = "expires"
)

// Orders are all of them.
func Orders() []Order { return []Order{ByCreated, BySize, ByName, ByExpiry} }

// Sort sorts checkpoints, those that are equal in the order newest first and
// then by path. It does not depend on the order they were in.
func Sort(list []tinkex.Checkpoint, by Order, reverse bool) {
	order := compareCreated
	switch by {
	case BySize:
		order = func(a, b tinkex.Checkpoint) int { return cmp.Compare(sizeOf(b), sizeOf(a)) }
	case ByName:
		order = func(a, b tinkex.Checkpoint) int { return retention.CompareNames(nameOf(a), nameOf(b)) }
	case ByExpiry:
		order = compareExpiry
	}
	slices.SortFunc(list, func(a, b tinkex.Checkpoint) int {
		c := cmp.Or(order(a, b), compareCreated(a, b))
		if reverse {
			return -c
		}
		return c
	})
}

// compareCreated puts the newest first.
func compareCreated(a, b tinkex.Checkpoint) int { return retention.CompareAge(itemOf(a), itemOf(b)) }

func compareExpiry(a, b tinkex.Checkpoint) int {
	switch {
	case a.ExpiresAt == nil && b.ExpiresAt == nil:
		return 0
	case a.ExpiresAt == nil:
		return 1
	case b.ExpiresAt == nil:
		return -1
	}
	return a.ExpiresAt.Compare(*b.ExpiresAt)
}

func nameOf(c tinkex.Checkpoint) string {
	return c.TinkerPath[strings.LastIndexByte(c.TinkerPath, '/')+1:]
}

// sizeOf is -1 for a size that the server does not tell.
func sizeOf(c tinkex.Checkpoint) int64 {
	if c.SizeBytes == nil {
		return -1
	}
	return *c.SizeBytes
}
