package registry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/retention"
)

// retained is a registry whose log is kept, with checkpoints of alice's, step-1
// to step-<n> an hour apart, the last one now.
func retained(t *testing.T, n int) (f *fixture, run string, log *bytes.Buffer) {
	t.Helper()
	f = newFixture(t)
	log = &bytes.Buffer{}
	f.reopen(func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	run = f.run(alice, f.session(alice))
	for i := 1; i <= n; i++ {
		if i > 1 {
			f.clock.advance(time.Hour)
		}
		f.commit(alice, run, metastore.KindTraining, fmt.Sprintf("step-%d", i))
	}
	return f, run, log
}

// reopen opens another registry.
func (f *fixture) reopen(change ...func(*Options)) {
	f.t.Helper()
	if err := f.Close(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	f.start(change...)
}

// commit makes a checkpoint of nothing.
func (f *fixture) commit(owner, run string, kind metastore.Kind, name string) metastore.Checkpoint {
	f.t.Helper()
	c, err := f.meta.CommitCheckpoint(f.t.Context(), metastore.Checkpoint{
		RunID: run, Kind: kind, Name: name, Owner: owner, Listed: true, CreatedAt: f.clock.now().UTC(), LoRA: tinyLoRA,
	}, false, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// left are the names of an owner's checkpoints, the newest first.
func (f *fixture) left(owner string) string {
	f.t.Helper()
	list, _, err := f.Checkpoints(f.t.Context(), owner, metastore.Page{Limit: 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, c := range list {
		name := c.Name
		if c.Kind != metastore.KindTraining {
			name = string(c.Kind) + "/" + name
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func (f *fixture) sweep() {
	f.t.Helper()
	if err := f.Sweep(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) retain(owner string, p RetentionPolicy) {
	f.t.Helper()
	if _, err := f.SetRetention(f.t.Context(), owner, p); err != nil {
		f.t.Fatal(err)
	}
}

func keepLast(n int) RetentionPolicy {
	return RetentionPolicy{Policy: retention.Policy{KeepLast: n}}
}

func TestRetentionIsAppliedAndWrittenDown(t *testing.T) {
	t.Parallel()
	f, run, log := retained(t, 4)
	theirs := f.run(bob, f.session(bob))
	f.commit(bob, theirs, metastore.KindTraining, "b-1")
	f.commit(bob, theirs, metastore.KindTraining, "b-2")
	f.retain(alice, keepLast(2))
	if got := f.left(alice); got != "step-4 step-3 step-2 step-1" {
		t.Errorf("setting it left %q", got)
	}
	f.sweep()
	if got := f.left(alice); got != "step-4 step-3" {
		t.Errorf("it left %q", got)
	}
	if got := f.left(bob); got != "b-2 b-1" {
		t.Errorf("somebody else has %q left", got)
	}
	set, err := f.Retention(t.Context(), alice)
	if err != nil || set.Removed != 2 || set.AppliedAt == nil || !set.AppliedAt.Equal(f.clock.now()) || set.Refused != "" || set.Policy.KeepLast != 2 {
		t.Errorf("%+v, %v", set, err)
	}
	for _, want := range []string{"tinker://" + run + "/weights/step-1", "/step-2", "owner=" + OwnerInLog(alice), `reason="no rule keeps it"`, `policy="keep-last 2"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), alice) {
		t.Errorf("the log has an owner's name:\n%s", log)
	}
	if strings.Contains(log.String(), "/step-3") {
		t.Errorf("the log says that what stayed went:\n%s", log)
	}

	// Not before an hour is over it is applied again.
	f.commit(alice, run, metastore.KindTraining, "step-5")
	f.clock.advance(retentionEvery - time.Microsecond)
	f.sweep()
	if got := f.left(alice); got != "step-5 step-4 step-3" {
		t.Errorf("before the hour was over it left %q", got)
	}
	f.clock.advance(time.Microsecond)
	f.sweep()
	if got := f.left(alice); got != "step-5 step-4" {
		t.Errorf("an hour later it left %q", got)
	}
	// Once more there is nothing to do, which is no error and nothing to log.
	log.Reset()
	f.clock.advance(retentionEvery)
	f.sweep()
	if set, _ = f.Retention(t.Context(), alice); set.Removed != 0 || strings.Contains(log.String(), "retention") {
		t.Errorf("%+v\n%s", set, log)
	}
	// Without the policy everything stays.
	if err := f.DeleteRetention(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	f.commit(alice, run, metastore.KindTraining, "step-6")
	f.clock.advance(2 * retentionEvery)
	f.sweep()
	if got := f.left(alice); got != "step-6 step-5 step-4" {
		t.Errorf("without a policy %q is left", got)
	}
	if err := f.DeleteRetention(t.Context(), alice); CodeOf(err) != NotFound {
		t.Errorf("removing none: %v", err)
	}
}

// A policy outlives the server, and so does when it was applied.
func TestRetentionOutlivesTheServer(t *testing.T) {
	t.Parallel()
	f, run, _ := retained(t, 2)
	f.retain(alice, keepLast(1))
	f.sweep()
	f.commit(alice, run, metastore.KindTraining, "step-3")
	f.reopen()
	f.sweep()
	if got := f.left(alice); got != "step-3 step-2" {
		t.Errorf("the next server left %q at once", got)
	}
	f.clock.advance(retentionEvery)
	f.sweep()
	if got := f.left(alice); got != "step-3" {
		t.Errorf("the next server left %q", got)
	}
}

func TestRetentionKeepsPublicAndLatest(t *testing.T) {
	t.Parallel()
	every := RetentionPolicy{Policy: retention.Policy{KeepEvery: 100}}
	for name, tc := range map[string]struct {
		change func(p *RetentionPolicy)
		left   string
	}{
		"both":           {func(*RetentionPolicy) {}, "sampler_weights/s-2 step-4 step-2"},
		"public may go":  {func(p *RetentionPolicy) { p.IncludePublic = true }, "sampler_weights/s-2 step-4"},
		"latest may go":  {func(p *RetentionPolicy) { p.IncludeLatest = true }, "step-2"},
		"all may go":     {func(p *RetentionPolicy) { p.IncludePublic, p.IncludeLatest, p.All = true, true, true }, ""},
		"samplers only":  {func(p *RetentionPolicy) { p.Kinds = []metastore.Kind{metastore.KindSampler} }, "sampler_weights/s-2 step-4 step-3 step-2 step-1"},
		"within an hour": {func(p *RetentionPolicy) { p.KeepWithin = time.Hour }, "sampler_weights/s-2 sampler_weights/s-1 step-4 step-3 step-2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, run, _ := retained(t, 4)
			f.commit(alice, run, metastore.KindSampler, "s-1")
			f.commit(alice, run, metastore.KindSampler, "s-2")
			if err := f.SetPublic(t.Context(), alice, Ref{run, metastore.KindTraining, "step-2"}, true); err != nil {
				t.Fatal(err)
			}
			p := every
			tc.change(&p)
			f.retain(alice, p)
			f.sweep()
			got := strings.Fields(f.left(alice))
			want := strings.Fields(tc.left)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("left are %q, want %q", got, want)
			}
		})
	}
}

// A policy that keeps nothing is refused when it is set, and is not applied
// when it comes to that later.
func TestRetentionThatKeepsNothing(t *testing.T) {
	t.Parallel()
	f, _, log := retained(t, 2)
	p := RetentionPolicy{Policy: retention.Policy{KeepWithin: 90 * time.Minute, IncludeLatest: true}}
	f.retain(alice, p)
	f.clock.advance(2 * time.Hour)
	f.sweep()
	if got := f.left(alice); got != "step-2 step-1" {
		t.Errorf("left are %q", got)
	}
	set, err := f.Retention(t.Context(), alice)
	if err != nil || !strings.Contains(set.Refused, "would delete all 2 checkpoints") || set.Removed != 0 || set.AppliedAt == nil {
		t.Errorf("%+v, %v", set, err)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log does not warn:\n%s", log)
	}
	if _, err := f.SetRetention(t.Context(), alice, p); CodeOf(err) != Conflict || !strings.Contains(err.Error(), "would delete all 2 checkpoints") {
		t.Errorf("set again: %v", err)
	}
	if plan, err := f.PlanRetention(t.Context(), alice, nil); err != nil || plan.Refused == "" || len(plan.Remove) != 2 {
		t.Errorf("%+v, %v", plan, err)
	}
	p.All = true
	f.retain(alice, p)
	f.sweep()
	if got := f.left(alice); got != "" {
		t.Errorf("left are %q", got)
	}
}

func TestPlanRetention(t *testing.T) {
	t.Parallel()
	f, _, log := retained(t, 3)
	if _, err := f.PlanRetention(t.Context(), alice, nil); CodeOf(err) != NotFound {
		t.Errorf("without a policy: %v", err)
	}
	if _, err := f.PlanRetention(t.Context(), alice, &RetentionPolicy{}); CodeOf(err) != Invalid {
		t.Errorf("without a rule: %v", err)
	}
	p := keepLast(1)
	plan, err := f.PlanRetention(t.Context(), alice, &p)
	if err != nil || len(plan.Keep) != 1 || len(plan.Remove) != 2 || !slices.Equal(plan.Keep[0].Reasons, []string{"latest", "keep-last 1 of 1"}) {
		t.Errorf("%+v, %v", plan, err)
	}
	f.sweep()
	if got := f.left(alice); got != "step-3 step-2 step-1" || strings.Contains(log.String(), "retention") {
		t.Errorf("a plan left %q\n%s", got, log)
	}
}

// What is published, or whose policy is removed, between the plan and the
// deletion, stays.
func TestRetentionMeanwhile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		meanwhile func(f *fixture, run string) error
		left      string
	}{
		"published": {func(f *fixture, run string) error {
			return f.SetPublic(context.Background(), alice, Ref{run, metastore.KindTraining, "step-1"}, true)
		}, "step-3 step-1"},
		"removed": {func(f *fixture, _ string) error { return f.DeleteRetention(context.Background(), alice) }, "step-3 step-2 step-1"},
		"set anew": {func(f *fixture, _ string) error {
			_, err := f.SetRetention(context.Background(), alice, keepLast(3))
			return err
		}, "step-3 step-2 step-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, run, _ := retained(t, 3)
			f.retain(alice, keepLast(1))
			f.reopen(func(o *Options) {
				o.Meta = &before{Store: f.meta, do: func() error { return tc.meanwhile(f, run) }}
			})
			f.sweep()
			if got := f.left(alice); got != tc.left {
				t.Errorf("left are %q, want %q", got, tc.left)
			}
		})
	}
}

// before is a store in which something happens before checkpoints are deleted.
type before struct {
	metastore.Store
	do func() error
}

func (b *before) DeleteRetired(ctx context.Context, r metastore.Retention, ids []int64, public bool) ([]int64, error) {
	if err := b.do(); err != nil {
		return nil, err
	}
	return b.Store.DeleteRetired(ctx, r, ids, public)
}

// One owner's policy that cannot be read is said, and keeps no other from being
// applied.
func TestRetentionThatIsDamaged(t *testing.T) {
	t.Parallel()
	f, _, _ := retained(t, 2)
	for owner, policy := range map[string]string{"a-damaged": "{", "a-zone": `{"keep_daily":1,"time_zone":"Nowhere/Else"}`} {
		if err := f.meta.SetRetention(t.Context(), metastore.Retention{Owner: owner, Version: "1", Policy: []byte(policy), SetAt: f.clock.now()}); err != nil {
			t.Fatal(err)
		}
	}
	f.retain(alice, keepLast(1))
	err := f.Sweep(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a-damaged") || !strings.Contains(err.Error(), "Nowhere/Else") {
		t.Errorf("%v", err)
	}
	if got := f.left(alice); got != "step-2" {
		t.Errorf("left are %q", got)
	}
}

func TestRetentionPolicyIsStoredWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	place, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("no time zones here: %v", err)
	}
	p := RetentionPolicy{
		Policy: retention.Policy{
			KeepLast: 1, KeepEvery: 2, KeepWithin: 3 * time.Hour, KeepDaily: 4, KeepWeekly: 5, Location: place, IncludePublic: true, IncludeLatest: true,
		},
		Kinds: []metastore.Kind{metastore.KindSampler}, All: true,
	}
	f.retain(alice, p)
	const want = "keep-last 1, keep-every 2, keep-within 3h, keep-daily 4, keep-weekly 5, time-zone Europe/Berlin, include-public, include-latest, type sampler_weights, all"
	if got, err := f.Retention(t.Context(), alice); err != nil || got.Policy.String() != want || got.Policy.KeepWithin != p.KeepWithin {
		t.Errorf("%s, %v", got.Policy, err)
	}
}
