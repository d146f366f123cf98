package server_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

// TestUsage asks for the usage of checkpoints that share an adapter, over the
// wire.
func TestUsage(t *testing.T) {
	srv := tinkextest.NewServer(t)
	svc, err := tinkex.NewServiceClient(srv.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	var runs []string
	for i, names := range [][]string{{"a"}, {"a", "b"}} {
		seed := int64(i)
		tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2, Seed: &seed})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, tc.RunID())
		for _, name := range names {
			if _, err := tc.SaveState(t.Context(), name, tinkex.SaveOptions{}).Await(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tc.SaveWeightsForSampler(t.Context(), "s", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rest := svc.RestClient()
	byRun, err := rest.Usage(t.Context(), tinkex.UsageByRun, tinkex.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if byRun.Cursor.TotalCount != 2 || len(byRun.Groups) != 2 || byRun.Total.Checkpoints != 5 {
		t.Fatalf("usage is %+v", byRun)
	}
	for _, g := range byRun.Groups {
		if g.PhysicalBytes >= g.LogicalBytes || g.ExclusiveBytes > g.PhysicalBytes || g.ExclusiveBytes == 0 {
			t.Errorf("a run takes %+v, and its adapter should count once", g)
		}
	}
	if names := []string{byRun.Groups[0].Name, byRun.Groups[1].Name}; names[0] != runs[0] && names[1] != runs[0] {
		t.Errorf("the runs are %v, want %v", names, runs)
	}
	byKind, err := rest.Usage(t.Context(), tinkex.UsageByKind, tinkex.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if byKind.Groups[0].Name != "weights" || byKind.Groups[1].Name != "sampler_weights" || byKind.Groups[1].ExclusiveBytes != 0 || byKind.Total != byRun.Total {
		t.Errorf("by kind it is %+v", byKind)
	}
	page, err := rest.Usage(t.Context(), tinkex.UsageByRun, tinkex.ListOptions{Limit: 1, Offset: 1})
	if err != nil || len(page.Groups) != 1 || page.Groups[0] != byRun.Groups[1] || page.Total != byRun.Total {
		t.Errorf("the second page is %+v, %v", page, err)
	}

	// Somebody else has none of it.
	opts := srv.Options()
	opts.APIKey = "tml-somebody-else"
	other, err := tinkex.NewRestClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if u, err := other.Usage(t.Context(), tinkex.UsageByOwner, tinkex.ListOptions{}); err != nil || len(u.Groups) > 0 || u.Total != (tinkex.Space{}) {
		t.Errorf("somebody else has %+v, %v", u, err)
	}
	_, err = rest.Usage(t.Context(), "colour", tinkex.ListOptions{})
	if !errors.Is(err, tinkex.ErrInvalid) || !strings.Contains(err.Error(), "by: expected") {
		t.Errorf("by colour: %v", err)
	}
}
