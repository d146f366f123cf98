package server_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// TestRetention sets, reads, previews and removes a policy over the wire.
func TestRetention(t *testing.T) {
	srv := tinkextest.NewServer(t)
	svc, err := tinkex.NewServiceClient(srv.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"step-1", "step-2", "step-3"} {
		if _, err := tc.SaveState(t.Context(), name, tinkex.SaveOptions{}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rest, ctx := svc.RestClient(), t.Context()
	none := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, tinkex.ErrNotFound) || !strings.Contains(err.Error(), "no retention policy is set") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = rest.Retention(ctx)
	none("read", err)
	none("removed", rest.UnsetRetention(ctx))
	_, err = rest.PreviewRetention(ctx, nil)
	none("previewed", err)

	// What the server would do is what Prune would.
	policy := checkpoint.Policy{KeepLast: 1, KeepEvery: 2}
	wanted := policy.ForServer()
	plan, err := rest.PreviewRetention(ctx, &wanted)
	if err != nil {
		t.Fatal(err)
	}
	pruned, err := checkpoint.Prune(ctx, rest, policy, checkpoint.PruneOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Keep) != 2 || len(plan.Remove) != 1 || plan.Refused != "" || plan.Remove[0].TinkerPath != pruned.Remove[0].TinkerPath {
		t.Errorf("the server plans %+v, Prune %+v", plan, pruned.Plan)
	}
	for i, k := range plan.Keep {
		if k.TinkerPath != pruned.Keep[i].TinkerPath || !slices.Equal(k.Reasons, pruned.Keep[i].Reasons) || k.SizeBytes == nil {
			t.Errorf("the server keeps %+v, Prune %+v", k, pruned.Keep[i])
		}
	}

	// A policy that deletes nothing now: the server's own sweeps go on meanwhile.
	all := tinkex.RetentionPolicy{
		KeepLast: 10, KeepEvery: 3, KeepWithin: 90 * time.Minute, KeepDaily: 4, KeepWeekly: 5, TimeZone: "UTC",
		Types: []tinkex.CheckpointType{tinkex.Training, tinkex.Sampler}, IncludePublic: true, IncludeLatest: true, All: true,
	}
	for range 2 {
		set, err := rest.SetRetention(ctx, all)
		if err != nil || !samePolicy(set.Policy, all) || set.AppliedAt != nil || set.SetAt.IsZero() {
			t.Errorf("set %+v, %v", set, err)
		}
	}
	if got, err := rest.Retention(ctx); err != nil || !samePolicy(got.Policy, all) || got.Removed != 0 || got.Refused != "" {
		t.Errorf("read %+v, %v", got, err)
	}
	if plan, err := rest.PreviewRetention(ctx, nil); err != nil || len(plan.Keep) != 3 || len(plan.Remove) != 0 {
		t.Errorf("previewed %+v, %v", plan, err)
	}

	// Somebody else has none of it.
	opts := srv.Options()
	opts.APIKey = "tml-somebody-else"
	other, err := tinkex.NewRestClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = other.Retention(ctx)
	none("somebody else's", err)
	if plan, err := other.PreviewRetention(ctx, &wanted); err != nil || len(plan.Keep)+len(plan.Remove) != 0 {
		t.Errorf("somebody else's plan is %+v, %v", plan, err)
	}

	for want, bad := range map[string]tinkex.RetentionPolicy{
		"no rule says what to keep": {IncludeLatest: true},
		"keep_last":                 {KeepLast: -1},
		"whole seconds":             {KeepWithin: time.Millisecond},
		"time_zone":                 {KeepDaily: 1, TimeZone: "Nowhere/Else"},
		`time_zone: "Local"`:        {KeepDaily: 1, TimeZone: "Local"},
		"is there twice":            {KeepDaily: 1, Types: []tinkex.CheckpointType{tinkex.Training, tinkex.Training}},
		"no type":                   {KeepDaily: 1, Types: []tinkex.CheckpointType{"x"}},
	} {
		if _, err := rest.SetRetention(ctx, bad); !errors.Is(err, tinkex.ErrInvalid) && !strings.Contains(want, "whole") && !strings.Contains(want, "no type") || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", bad, err, want)
		}
		if _, err := rest.PreviewRetention(ctx, &bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("preview of %+v: %v, want %q", bad, err, want)
		}
	}
	// One that deletes everything has to say so.
	nothing := tinkex.RetentionPolicy{KeepEvery: 100, IncludeLatest: true}
	if _, err := rest.SetRetention(ctx, nothing); !errors.Is(err, tinkex.ErrConflict) || !strings.Contains(err.Error(), "all 3 checkpoints") {
		t.Errorf("%v", err)
	}
	if got, err := rest.Retention(ctx); err != nil || !samePolicy(got.Policy, all) {
		t.Errorf("what was refused changed it to %+v, %v", got, err)
	}
	if err := rest.UnsetRetention(ctx); err != nil {
		t.Error(err)
	}
	_, err = rest.Retention(ctx)
	none("after it was removed", err)
}

func samePolicy(a, b tinkex.RetentionPolicy) bool {
	same := slices.Equal(a.Types, b.Types)
	a.Types, b.Types = nil, nil
	return same && a.KeepLast == b.KeepLast && a.KeepEvery == b.KeepEvery && a.KeepWithin == b.KeepWithin && a.KeepDaily == b.KeepDaily &&
		a.KeepWeekly == b.KeepWeekly && a.TimeZone == b.TimeZone && a.IncludePublic == b.IncludePublic && a.IncludeLatest == b.IncludeLatest && a.All == b.All
}
