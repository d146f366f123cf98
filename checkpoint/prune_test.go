package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// savedAs saves checkpoints of one run on a server of its own, in order; those
// that are called "sampler:<name>" to sample from.
func savedAs(t *testing.T, names ...string) (*tinkex.RestClient, string) {
	t.Helper()
	svc, err := tinkex.NewServiceClient(tinkextest.NewServer(t).Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		save := tc.SaveState
		if n, ok := strings.CutPrefix(name, "sampler:"); ok {
			name, save = n, tc.SaveWeightsForSampler
		}
		if _, err := save(t.Context(), name, tinkex.SaveOptions{}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return svc.RestClient(), tc.RunID()
}

func remaining(t *testing.T, client *tinkex.RestClient) string {
	t.Helper()
	var out []string
	for c, err := range client.AllCheckpoints(t.Context(), tinkex.PageOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c.CheckpointID)
	}
	return strings.Join(out, " ")
}

func TestPrune(t *testing.T) {
	client, run := savedAs(t, "1", "2", "sampler:1", "3", "4", "sampler:2")
	policy := checkpoint.Policy{KeepLast: 1, KeepEvery: 2}
	dry, err := checkpoint.Prune(t.Context(), client, policy, checkpoint.PruneOptions{DryRun: true})
	if err != nil || len(dry.Keep) != 3 || len(dry.Remove) != 3 || len(dry.Deleted.Deleted) != 0 || !dry.Freed.Exact {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	// Nothing was trained between the saves, so the kept ones share every file.
	if dry.Freed.Bytes != 0 {
		t.Errorf("%d bytes would be freed of files that are shared", dry.Freed.Bytes)
	}
	if got := remaining(t, client); got != "sampler_weights/2 weights/4 weights/3 sampler_weights/1 weights/2 weights/1" {
		t.Fatalf("after a dry run: %s", got)
	}

	refused := errors.New("no")
	asked := 0
	opts := checkpoint.PruneOptions{Confirm: func(p checkpoint.Pruned) error {
		if asked++; len(p.Remove) != 3 || len(p.Deleted.Deleted) != 0 {
			t.Errorf("asked about %+v", p)
		}
		return refused
	}}
	if _, err := checkpoint.Prune(t.Context(), client, policy, opts); !errors.Is(err, refused) || asked != 1 {
		t.Fatalf("refused: %v", err)
	}
	var last checkpoint.DeleteProgress
	p, err := checkpoint.Prune(t.Context(), client, policy, checkpoint.PruneOptions{Progress: func(p checkpoint.DeleteProgress) { last = p }})
	if err != nil || len(p.Deleted.Deleted) != 3 || last.Done != 3 || last.Total != 3 {
		t.Fatalf("%+v, %v, progress %+v", p, err, last)
	}
	if got := remaining(t, client); got != "sampler_weights/2 weights/4 weights/2" {
		t.Errorf("left are %s", got)
	}
	// Again there is nothing to do, and nothing to ask.
	opts.Confirm = func(checkpoint.Pruned) error { return refused }
	if p, err := checkpoint.Prune(t.Context(), client, policy, opts); err != nil || len(p.Remove) != 0 {
		t.Errorf("again: %+v, %v", p, err)
	}

	nothing := checkpoint.Policy{KeepEvery: 1000, IncludeLatest: true}
	some := checkpoint.Selection{RunID: run, Types: []tinkex.CheckpointType{tinkex.Training}}
	if _, err := checkpoint.Prune(t.Context(), client, nothing, checkpoint.PruneOptions{Selection: some}); !errors.Is(err, checkpoint.ErrKeepsNothing) {
		t.Errorf("keeps nothing: %v", err)
	}
	if _, err := checkpoint.Prune(t.Context(), client, nothing, checkpoint.PruneOptions{Selection: some, All: true}); err != nil {
		t.Error(err)
	}
	if got := remaining(t, client); got != "sampler_weights/2" {
		t.Errorf("left are %s", got)
	}
	if _, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{}, checkpoint.PruneOptions{}); err == nil {
		t.Error("a policy without rules was applied")
	}
	some.RunID = "none"
	if _, err := checkpoint.Prune(t.Context(), client, policy, checkpoint.PruneOptions{Selection: some}); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("unknown run: %v", err)
	}
}

// What is not selected, or of another run, is left alone; what is not selected
// of the same run still holds on to its files.
func TestPruneMeasuresTheRunsConcerned(t *testing.T) {
	client := struct {
		*lists
		manifests
		deleter
	}{
		&lists{list: []tinkex.Checkpoint{
			described("a", "tmp-1", 2), described("a", "tmp-2", 1), described("a", "best", 0), described("b", "other", 0),
		}},
		manifests{"tmp-1": "a:1 b:10 c:100", "tmp-2": "a:1", "best": "b:10"}, // none for other, of another run
		func(_ context.Context, p tinkex.TinkerPath) error {
			if p.Name != "tmp-1" {
				t.Errorf("%s was deleted", p)
			}
			return nil
		},
	}
	opts := checkpoint.PruneOptions{Selection: checkpoint.Selection{Name: "tmp-*"}}
	p, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{KeepLast: 1}, opts)
	if want := (checkpoint.Freed{Bytes: 100, Exact: true}); err != nil || p.Freed != want || len(p.Deleted.Deleted) != 1 || len(p.Keep) != 1 {
		t.Errorf("%+v, %v; want %+v freed", p, err, want)
	}
}

// What runs share with each other is not freed by pruning one of them: what a
// dry run says is what the server has less afterwards.
func TestPruneMeasuresWhatOtherRunsShare(t *testing.T) {
	for name, among := range map[string]checkpoint.Selection{"all": {}, "one run": {RunID: "a:train:0"}} {
		t.Run(name, func(t *testing.T) {
			server := tinkextest.NewServer(t)
			client := server.RestClient(t)
			physical := func() int64 {
				t.Helper()
				u, err := client.Usage(t.Context(), tinkex.UsageByRun, tinkex.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return u.Total.PhysicalBytes
			}
			run := server.SeedRun(t, tinkextest.Run{ID: "a:train:0"})
			var paths []tinkex.TinkerPath
			for _, n := range []string{"1", "2", "3"} {
				paths = append(paths, server.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: n, SizeBytes: 100_000}))
			}
			if _, err := client.CopyCheckpoint(t.Context(), paths[0], tinkex.CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			opts := checkpoint.PruneOptions{Selection: among, DryRun: true}
			dry, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{KeepLast: 1}, opts)
			if err != nil || len(dry.Remove) != 2 {
				t.Fatalf("%+v, %v", dry, err)
			}
			before := physical()
			opts.DryRun = false
			if _, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{KeepLast: 1}, opts); err != nil {
				t.Fatal(err)
			}
			if freed := before - physical(); dry.Freed != (checkpoint.Freed{Bytes: freed, Exact: true}) || freed < 90_000 || freed > 110_000 {
				t.Errorf("%+v was to be freed, %d bytes were", dry.Freed, freed)
			}
		})
	}
}

// Runs that share nothing that matters are not asked, and those that do are,
// however little is stored of what is removed.
func TestPruneAsksTheRunsThatShare(t *testing.T) {
	client := struct {
		*lists
		manifests
		deleter
		usage
	}{
		&lists{list: []tinkex.Checkpoint{
			described("a", "1", 2), described("a", "2", 1), described("copy", "copied", 0), described("b", "other", 0),
		}},
		manifests{"1": "a:1 b:1", "2": "a:1", "copied": "b:1"}, // none for other
		nil,
		usage{"a": {PhysicalBytes: 2, ExclusiveBytes: 1}, "copy": {PhysicalBytes: 1}, "b": {PhysicalBytes: 100, ExclusiveBytes: 100}},
	}
	for _, among := range []checkpoint.Selection{{}, {RunID: "a"}} {
		p, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{KeepLast: 1}, checkpoint.PruneOptions{Selection: among, DryRun: true})
		if want := (checkpoint.Freed{Exact: true}); err != nil || p.Freed != want || len(p.Remove) != 1 {
			t.Errorf("%+v, %v; want %+v freed", p, err, want)
		}
	}
	client.usage = nil
	p, err := checkpoint.Prune(t.Context(), client, checkpoint.Policy{KeepLast: 1}, checkpoint.PruneOptions{DryRun: true})
	if want := (checkpoint.Freed{Bytes: 1}); err != nil || p.Freed != want {
		t.Errorf("the server does not say what runs share: %+v, %v; want %+v freed", p, err, want)
	}
}

// usage is a UsageClient of one run a page; a nil one fails.
type usage map[string]tinkex.Space

func (u usage) Usage(_ context.Context, _ tinkex.UsageBy, opts tinkex.ListOptions) (tinkex.Usage, error) {
	if u == nil {
		return tinkex.Usage{}, errors.New("no")
	}
	name := slices.Sorted(maps.Keys(u))[opts.Offset]
	return tinkex.Usage{Groups: []tinkex.UsageGroup{{Name: name, Space: u[name]}}, Cursor: tinkex.Cursor{TotalCount: len(u)}}, nil
}

// manifests is a ManifestClient; each checkpoint's files, as "digest:size".
type manifests map[string]string

func (m manifests) Manifest(_ context.Context, p tinkex.TinkerPath) (tinkex.Manifest, error) {
	var out tinkex.Manifest
	files, ok := m[p.Name]
	if !ok {
		return out, tinkex.ErrNotFound
	}
	for _, f := range strings.Fields(files) {
		var file tinkex.ManifestFile
		digest, size, _ := strings.Cut(f, ":")
		file.SHA256 = strings.Repeat(digest, 64)
		if _, err := fmt.Sscan(size, &file.SizeBytes); err != nil {
			return out, err
		}
		out.Files = append(out.Files, file)
	}
	return out, nil
}

func TestMeasure(t *testing.T) {
	list := func(names ...string) []tinkex.Checkpoint {
		var out []tinkex.Checkpoint
		for _, n := range names {
			out = append(out, described("run", n, 0)) // of 100 bytes
		}
		return out
	}
	all := manifests{"a": "a:1 b:10", "b": "b:10 c:100", "c": "c:100 d:1000", "bad": "g:1"}
	unsized := list("x")
	unsized[0].SizeBytes = nil
	for name, tc := range map[string]struct {
		client       manifests
		remove, keep []tinkex.Checkpoint
		want         checkpoint.Freed
	}{
		"nothing":               {all, nil, list("a"), checkpoint.Freed{Exact: true}},
		"alone":                 {all, list("a"), nil, checkpoint.Freed{Bytes: 11, Exact: true}},
		"shared with a kept":    {all, list("a"), list("b"), checkpoint.Freed{Bytes: 1, Exact: true}},
		"shared by removed":     {all, list("a", "b"), list("c"), checkpoint.Freed{Bytes: 11, Exact: true}},
		"all":                   {all, list("a", "b", "c"), nil, checkpoint.Freed{Bytes: 1111, Exact: true}},
		"one not told":          {all, list("a", "x"), nil, checkpoint.Freed{Bytes: 111}},
		"a kept not told":       {all, list("a"), list("x"), checkpoint.Freed{Bytes: 11}},
		"no manifests":          {nil, list("a", "b"), list("c"), checkpoint.Freed{Bytes: 200}},
		"not even sizes":        {nil, unsized, nil, checkpoint.Freed{Unknown: 1}},
		"one of unknown size":   {all, append(list("a"), unsized...), nil, checkpoint.Freed{Bytes: 11, Unknown: 1}},
		"a digest that is none": {all, append(list("a"), list("bad")...), nil, checkpoint.Freed{Bytes: 111}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := checkpoint.Measure(t.Context(), tc.client, tc.remove, tc.keep, nil)
			if err != nil || got != tc.want {
				t.Errorf("%+v (%v), want %+v", got, err, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := checkpoint.Measure(ctx, all, list("a", "b"), nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	done := 0
	if _, err := checkpoint.Measure(t.Context(), all, list("a", "b"), list("c"), func(n, total int) {
		if done++; n != done || total != 3 {
			t.Errorf("progress %d of %d", n, total)
		}
	}); err != nil || done != 3 {
		t.Errorf("progress ended at %d, %v", done, err)
	}
}
