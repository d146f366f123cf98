package checkpoint

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex"
)

// ErrKeepsNothing: the policy would delete everything that was selected.
var ErrKeepsNothing = errors.New("the policy keeps nothing of what was selected")

// PruneClient is what Prune needs of a *tinkex.RestClient. One that is a
// UsageClient as well lets it count what other runs share.
type PruneClient interface {
	ListClient
	ManifestClient
	DeleteClient
}

// UsageClient tells what checkpoints take.
type UsageClient interface {
	Usage(ctx context.Context, by tinkex.UsageBy, opts tinkex.ListOptions) (tinkex.Usage, error)
}

// PruneOptions configures Prune. The zero value applies the policy to all of
// the caller's checkpoints.
type PruneOptions struct {
	// Selection is what the policy is applied to. What it does not select is
	// neither deleted nor counted by any rule.
	Selection Selection
	// DryRun deletes nothing.
	DryRun bool
	// All permits a policy that keeps nothing of the selection; without it
	// that is ErrKeepsNothing.
	All bool
	// Now is the time that Policy.KeepWithin counts from; zero: the clock's.
	Now time.Time
	// Jobs is as in DeleteOptions.
	Jobs int
	// Confirm, if not nil, is asked before anything is deleted, unless there
	// is nothing to be deleted. Its error ends Prune.
	Confirm func(Pruned) error
	// Progress is as in DeleteOptions.
	Progress func(DeleteProgress)
	// Measured, if not nil, is told how many manifests have been read, in one
	// call at a time.
	Measured func(done, total int)
}

// Pruned is what Prune plans and does.
type Pruned struct {
	Plan
	// Freed is what deleting all of Remove frees; see Measure.
	Freed Freed
	// Deleted is empty before anything is deleted.
	Deleted Deleted
}

// Freed is how many bytes a deletion frees.
type Freed struct {
	Bytes int64 `json:"bytes"`
	// Exact says that files which others of the caller's checkpoints keep are
	// not counted, and shared ones once; what runs share with each other is
	// left out of account if it is less than a hundredth. Otherwise the server
	// does not tell what is shared, or not of all of them, and Bytes is an upper
	// bound.
	Exact bool `json:"exact"`
	// Unknown is how many checkpoints are not counted, because the server
	// tells no size.
	Unknown int `json:"unknown,omitempty"`
}

// Prune deletes what the policy does not keep. Checkpoints that are gone
// meanwhile count as deleted. Its errors are ErrKeepsNothing, Confirm's, those
// of listing, and those of Delete.
func Prune(ctx context.Context, client PruneClient, policy Policy, opts PruneOptions) (Pruned, error) {
	var out Pruned
	if err := policy.Validate(); err != nil {
		return out, err
	}
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	var selected, others []tinkex.Checkpoint
	for c, err := range opts.Selection.Considered(ctx, client) {
		switch {
		case err != nil:
			return out, err
		case opts.Selection.Match(c):
			selected = append(selected, c)
		default:
			others = append(others, c)
		}
	}
	var err error
	if out.Plan, err = policy.Plan(selected, now); err != nil {
		return out, err
	}
	if out.KeepsNothing() && !opts.All {
		return out, ErrKeepsNothing
	}
	for _, k := range out.Keep {
		others = append(others, k.Checkpoint)
	}
	out.Freed, err = measureAmong(ctx, client, opts, out.Remove, others)
	if err != nil || opts.DryRun || len(out.Remove) == 0 {
		return out, err
	}
	if opts.Confirm != nil {
		if err := opts.Confirm(out); err != nil {
			return out, err
		}
	}
	paths := make([]tinkex.TinkerPath, len(out.Remove))
	for i, c := range out.Remove {
		if paths[i], err = c.Path(); err != nil {
			return out, err
		}
	}
	out.Deleted, err = Delete(ctx, client, paths, DeleteOptions{Jobs: opts.Jobs, GoneIsDone: true, Progress: opts.Progress})
	return out, err
}

// measureAmong measures what removing some checkpoints frees while others, as
// far as they were listed, are kept. Those of the same runs are asked what they
// share, and those of other runs if the server says that these share anything
// that matters: asking all there are would cost more than deleting a few does.
func measureAmong(ctx context.Context, client PruneClient, opts PruneOptions, remove, others []tinkex.Checkpoint) (Freed, error) {
	affected := map[string]bool{}
	for _, c := range remove {
		affected[runOf(c)] = true
	}
	sharing, sharingErr := sharingRuns(ctx, client, remove, affected)
	var keep []tinkex.Checkpoint
	for _, c := range others {
		if run := runOf(c); affected[run] || sharing[run] {
			keep = append(keep, c)
		}
	}
	if opts.Selection.RunID != "" { // no other run was listed
		for run := range sharing {
			list, err := client.ListRunCheckpoints(ctx, run)
			if err != nil && !errors.Is(err, tinkex.ErrNotFound) {
				sharingErr = err
			}
			keep = append(keep, list.Checkpoints...)
		}
	}
	f, err := Measure(ctx, client, remove, keep, opts.Measured)
	f.Exact = f.Exact && sharingErr == nil
	return f, err
}

// sharingRuns returns runs other than the affected ones with which those may
// share files, if together that is more than a hundredth of what is removed, or
// of what they store.
func sharingRuns(ctx context.Context, client PruneClient, remove []tinkex.Checkpoint, affected map[string]bool) (map[string]bool, error) {
	usage, ok := client.(UsageClient)
	if !ok || len(remove) == 0 {
		return nil, nil
	}
	shared := map[string]int64{} // with any other run
	var stored int64             // of the affected runs
	for offset := 0; ; {
		u, err := usage.Usage(ctx, tinkex.UsageByRun, tinkex.ListOptions{Limit: usagePage, Offset: offset})
		if errors.Is(err, tinkex.ErrNotFound) {
			return nil, nil // a server that has none has no manifests either
		}
		if err != nil {
			return nil, err
		}
		for _, g := range u.Groups {
			shared[g.Name] = g.PhysicalBytes - g.ExclusiveBytes
			if affected[g.Name] {
				stored += g.PhysicalBytes
			}
		}
		offset += len(u.Groups)
		if len(u.Groups) == 0 || offset >= u.Cursor.TotalCount {
			break
		}
	}
	negligible := min(upperBound(remove).Bytes, stored) / 100
	var here int64
	for run := range affected {
		here += shared[run]
		delete(shared, run)
	}
	if here <= negligible {
		return nil, nil
	}
	runs := slices.SortedFunc(maps.Keys(shared), func(a, b string) int { return cmp.Compare(shared[a], shared[b]) })
	for len(runs) > 0 && shared[runs[0]] <= negligible {
		negligible -= shared[runs[0]]
		runs = runs[1:]
	}
	out := map[string]bool{}
	for _, run := range runs {
		out[run] = true
	}
	return out, nil
}

// usagePage is how many runs are asked for at once.
const usagePage = 10_000

func runOf(c tinkex.Checkpoint) string {
	run, _, _ := strings.Cut(strings.TrimPrefix(c.TinkerPath, tinkex.Scheme), "/")
	return run
}

func upperBound(list []tinkex.Checkpoint) Freed {
	f := Freed{Exact: len(list) == 0}
	for _, c := range list {
		if c.SizeBytes == nil {
			f.Unknown++
		} else {
			f.Bytes += *c.SizeBytes
		}
	}
	return f
}

// Measure says what removing some checkpoints frees while others are kept, by
// the digests in their manifests. On a server that has none it is the sum of
// the sizes. Only ctx's end is an error. progress may be nil.
func Measure(ctx context.Context, client ManifestClient, remove, keep []tinkex.Checkpoint, progress func(done, total int)) (Freed, error) {
	if len(remove) == 0 {
		return upperBound(remove), nil
	}
	// One tells whether the server has any.
	m := measurement{client: client, files: map[sha]*sharedFile{}, progress: progress, total: len(remove) + len(keep)}
	if m.read(ctx, remove[0], true); m.missing > 0 {
		return upperBound(remove), ctx.Err()
	}
	var g errgroup.Group
	g.SetLimit(DefaultDeleteJobs)
	read := func(list []tinkex.Checkpoint, goes bool) {
		for _, c := range list {
			if ctx.Err() != nil {
				return
			}
			g.Go(func() error {
				m.read(ctx, c, goes)
				return nil
			})
		}
	}
	read(remove[1:], true)
	read(keep, false)
	_ = g.Wait() // the functions return no errors
	if ctx.Err() != nil {
		return Freed{}, ctx.Err()
	}
	f := Freed{Bytes: m.unshared, Exact: m.missing == 0, Unknown: m.unknown}
	for _, file := range m.files {
		if file.goes && !file.stays {
			f.Bytes += file.size
		}
	}
	return f, nil
}

type sha [32]byte

type sharedFile struct {
	size        int64
	goes, stays bool
}

type measurement struct {
	client   ManifestClient
	progress func(done, total int)
	total    int

	mu       sync.Mutex
	files    map[sha]*sharedFile
	done     int
	missing  int   // manifests that could not be read
	unshared int64 // the size of removed checkpoints without one
	unknown  int   // of which not even that is known
}

func (m *measurement) read(ctx context.Context, c tinkex.Checkpoint, goes bool) {
	files, err := m.manifest(ctx, c)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done++
	if m.progress != nil {
		m.progress(m.done, m.total)
	}
	if err != nil {
		m.missing++
		switch {
		case !goes:
		case c.SizeBytes == nil:
			m.unknown++
		default:
			m.unshared += *c.SizeBytes
		}
		return
	}
	for digest, size := range files {
		file := m.files[digest]
		if file == nil {
			file = &sharedFile{size: size}
			m.files[digest] = file
		}
		file.goes = file.goes || goes
		file.stays = file.stays || !goes
	}
}

// manifest returns the sizes of a checkpoint's files.
func (m *measurement) manifest(ctx context.Context, c tinkex.Checkpoint) (map[sha]int64, error) {
	m.mu.Lock()
	givenUp := m.missing >= hopeless
	m.mu.Unlock()
	if givenUp {
		return nil, ErrNotTried
	}
	path, err := c.Path()
	if err != nil {
		return nil, err
	}
	manifest, err := m.client.Manifest(ctx, path)
	if err != nil {
		return nil, err
	}
	files := make(map[sha]int64, len(manifest.Files))
	for _, f := range manifest.Files {
		var digest sha
		b, err := hex.DecodeString(f.SHA256)
		if err != nil || copy(digest[:], b) != len(digest) {
			return nil, fmt.Errorf("measure %s: %q is not a SHA-256", path, f.SHA256)
		}
		files[digest] = f.SizeBytes
	}
	return files, nil
}
