package checkpoint_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

var noon = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC) // a Monday

// described is a checkpoint as a list describes it. Its name is "kind/name" or, of
// a training checkpoint, "name".
func described(run, name string, age time.Duration) tinkex.Checkpoint {
	kind := tinkex.Training
	if k, n, ok := strings.Cut(name, "/"); ok {
		kind, name = tinkex.CheckpointType(k), n
	}
	p := tinkex.TinkerPath{RunID: run, Type: kind, Name: name}
	size := int64(100)
	return tinkex.Checkpoint{CheckpointID: p.CheckpointID(), CheckpointType: kind, TinkerPath: p.String(), Time: noon.Add(-age), SizeBytes: &size}
}

func public(c tinkex.Checkpoint) tinkex.Checkpoint {
	c.Public = true
	return c
}

// steps are a run's checkpoints step-100 to step-<n>00, an hour apart, the last
// one now.
func steps(n int) []tinkex.Checkpoint {
	var list []tinkex.Checkpoint
	for i := 1; i <= n; i++ {
		list = append(list, described("run", fmt.Sprintf("step-%d00", i), time.Duration(n-i)*time.Hour))
	}
	return list
}

func names(plan checkpoint.Plan) string {
	var out []string
	for _, k := range plan.Keep {
		out = append(out, strings.TrimPrefix(strings.TrimPrefix(k.TinkerPath, "tinker://run/weights/"), "tinker://"))
	}
	return strings.Join(out, " ")
}

func TestPolicy(t *testing.T) {
	const day = 24 * time.Hour
	berlin := time.FixedZone("CEST", 2*3600)
	for name, tc := range map[string]struct {
		policy checkpoint.Policy
		list   []tinkex.Checkpoint
		keeps  string
	}{
		"last":         {checkpoint.Policy{KeepLast: 2}, steps(4), "step-400 step-300"},
		"last of few":  {checkpoint.Policy{KeepLast: 9}, steps(2), "step-200 step-100"},
		"numbers":      {checkpoint.Policy{KeepLast: 1}, []tinkex.Checkpoint{described("run", "step-9", 0), described("run", "step-10", 0)}, "step-10"},
		"every":        {checkpoint.Policy{KeepEvery: 200}, steps(5), "step-500 step-400 step-200"},
		"every, zeros": {checkpoint.Policy{KeepEvery: 2}, []tinkex.Checkpoint{described("run", "0003", 0), described("run", "0002", 1), described("run", "0001", 2), described("run", "0000", 3)}, "0003 0002 0000"},
		"every, no number": {
			checkpoint.Policy{KeepEvery: 2}, []tinkex.Checkpoint{described("run", "new", 0), described("run", "best", 1), described("run", "3-ema", 2), described("run", "v3", 3), described("run", "99999999999999999999", 4)},
			"new best 3-ema 99999999999999999999",
		},
		"within":       {checkpoint.Policy{KeepWithin: 90 * time.Minute}, steps(4), "step-400 step-300"},
		"within edge":  {checkpoint.Policy{KeepWithin: time.Hour}, steps(4), "step-400 step-300"},
		"within, old":  {checkpoint.Policy{KeepWithin: time.Hour}, []tinkex.Checkpoint{described("run", "a", day), described("run", "b", 2*day)}, "a"},
		"daily":        {checkpoint.Policy{KeepDaily: 2}, []tinkex.Checkpoint{described("run", "a", 0), described("run", "b", time.Hour), described("run", "c", 5*day), described("run", "d", 5*day+time.Hour), described("run", "e", 6*day)}, "a c"},
		"daily, UTC":   {checkpoint.Policy{KeepDaily: 9}, []tinkex.Checkpoint{described("run", "a", 13*time.Hour), described("run", "b", 15*time.Hour)}, "a"},
		"daily, zone":  {checkpoint.Policy{KeepDaily: 9, Location: berlin}, []tinkex.Checkpoint{described("run", "a", 13*time.Hour), described("run", "b", 15*time.Hour)}, "a b"},
		"weekly":       {checkpoint.Policy{KeepWeekly: 2}, []tinkex.Checkpoint{described("run", "a", 0), described("run", "b", day), described("run", "c", 7*day), described("run", "d", 8*day)}, "a b"},
		"rules add up": {checkpoint.Policy{KeepLast: 1, KeepEvery: 300}, steps(4), "step-400 step-300"},
		"public":       {checkpoint.Policy{KeepLast: 1}, []tinkex.Checkpoint{described("run", "a", 0), public(described("run", "b", 1)), described("run", "c", 2)}, "a b"},
		"public goes":  {checkpoint.Policy{KeepLast: 1, IncludePublic: true}, []tinkex.Checkpoint{described("run", "a", 0), public(described("run", "b", 1))}, "a"},
		"latest goes":  {checkpoint.Policy{KeepEvery: 1000, IncludeLatest: true}, steps(4), ""},
		"latest":       {checkpoint.Policy{KeepEvery: 1000}, steps(4), "step-400"},
		"per run": {
			checkpoint.Policy{KeepLast: 1}, []tinkex.Checkpoint{described("a", "1", 0), described("a", "2", 1), described("b", "1", 2), described("b", "2", 3)},
			"a/weights/1 b/weights/1",
		},
		"per type": {
			checkpoint.Policy{KeepLast: 1}, []tinkex.Checkpoint{described("a", "1", 0), described("a", "sampler/1", 1), described("a", "sampler/2", 2), described("a", "external/1", 3)},
			"a/external_weights/1 a/sampler_weights/1 a/weights/1",
		},
		"nothing there": {checkpoint.Policy{KeepLast: 1}, nil, ""},
		"named twice":   {checkpoint.Policy{KeepLast: 2}, append(steps(3), steps(3)...), "step-300 step-200"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := tc.policy.Plan(tc.list, noon)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(plan); got != tc.keeps {
				t.Errorf("keeps %q, want %q", got, tc.keeps)
			}
		})
	}
}

func TestPolicyReasons(t *testing.T) {
	list := steps(3)
	list[2].Public = true
	plan, err := checkpoint.Policy{KeepLast: 2, KeepEvery: 300, KeepWithin: time.Minute, KeepDaily: 1, KeepWeekly: 1}.Plan(list, noon)
	if err != nil || len(plan.Keep) != 2 {
		t.Fatalf("%+v, %v", plan, err)
	}
	const want = "latest; public; keep-last 1 of 2; keep-every: 300; keep-within; keep-daily: 2026-06-15; keep-weekly: 2026 week 25"
	if got := strings.Join(plan.Keep[0].Reasons, "; "); got != want {
		t.Errorf("kept because %s\nwant %s", got, want)
	}
}

func TestPolicyThatMakesNoSense(t *testing.T) {
	for says, p := range map[string]checkpoint.Policy{
		"no rule":                {},
		"no rule says":           {IncludeLatest: true},
		"KeepLast is negative":   {KeepLast: -1, KeepDaily: 1},
		"KeepWithin is negative": {KeepWithin: -1},
	} {
		if _, err := p.Plan(steps(2), noon); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if _, err := (checkpoint.Policy{KeepLast: 1}).Plan([]tinkex.Checkpoint{{TinkerPath: "tinker://a"}}, noon); err == nil {
		t.Error("a checkpoint without a path was accepted")
	}
}

// randomList has ties of time, several runs and types, public ones, and names
// with and without numbers.
func randomList(r *rand.Rand) []tinkex.Checkpoint {
	var list []tinkex.Checkpoint
	for i := range r.IntN(40) {
		name := fmt.Sprintf("%sstep-%d", []string{"", "sampler/"}[r.IntN(2)], i*50)
		if r.IntN(6) == 0 {
			name = fmt.Sprintf("best%d-x", i)
		}
		c := described(fmt.Sprintf("run-%d", r.IntN(2)), name, time.Duration(r.IntN(60*24/7))*7*time.Hour)
		c.Public = r.IntN(8) == 0
		list = append(list, c)
	}
	return list
}

func randomPolicy(r *rand.Rand) checkpoint.Policy {
	p := checkpoint.Policy{
		KeepLast: r.IntN(4), KeepEvery: r.IntN(3) * 100, KeepWithin: time.Duration(r.IntN(3)) * 100 * time.Hour,
		KeepDaily: r.IntN(5), KeepWeekly: r.IntN(5), IncludePublic: r.IntN(2) == 0, IncludeLatest: r.IntN(2) == 0,
	}
	if p.Validate() != nil {
		p.KeepDaily = 1
	}
	return p
}

func kept(t *testing.T, p checkpoint.Policy, list []tinkex.Checkpoint, now time.Time) map[string]tinkex.Checkpoint {
	t.Helper()
	plan, err := p.Plan(list, now)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]tinkex.Checkpoint{}
	for _, k := range plan.Keep {
		if out[k.TinkerPath] = k.Checkpoint; len(k.Reasons) == 0 {
			t.Errorf("%s is kept without a reason", k.TinkerPath)
		}
	}
	return out
}

// includes reports whether all of the smaller set is in the larger one.
func includes(larger, smaller map[string]tinkex.Checkpoint) bool {
	for k := range smaller {
		if _, ok := larger[k]; !ok {
			return false
		}
	}
	return true
}

func TestPolicyProperties(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		list, p := randomList(r), randomPolicy(r)
		before := slices.Clone(list)
		plan, err := p.Plan(list, noon)
		if err != nil {
			t.Fatal(err)
		}
		fail := func(what string) {
			t.Helper()
			t.Fatalf("seed %d: %s: %+v keeps %s of %d", seed, what, p, names(plan), len(list))
		}
		for i := range list {
			if list[i].TinkerPath != before[i].TinkerPath {
				fail("the list was changed")
			}
		}

		// Kept and removed are all, and no checkpoint is both.
		all := map[string]bool{}
		for _, k := range plan.Keep {
			all[k.TinkerPath] = true
		}
		for _, c := range plan.Remove {
			all[c.TinkerPath] = true
		}
		if len(all) != len(list) || len(plan.Keep)+len(plan.Remove) != len(list) {
			fail("kept and removed are not all")
		}
		order := func(a, b tinkex.Checkpoint) int { return checkpoint.PlanOrder(a, b) }
		if !slices.IsSortedFunc(plan.Remove, order) {
			fail("not in order")
		}

		// The order of the list makes no difference.
		shuffled := slices.Clone(list)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, err := p.Plan(shuffled, noon)
		if err != nil || names(again) != names(plan) {
			fail("another order, another plan")
		}

		// What is left is kept the next time.
		keeps := kept(t, p, list, noon)
		var left []tinkex.Checkpoint
		for _, k := range plan.Keep {
			left = append(left, k.Checkpoint)
		}
		if next := kept(t, p, left, noon); len(next) != len(left) {
			fail("applied again it keeps less")
		}

		// Each rule made stronger keeps as much, and one more rule too.
		for what, stronger := range map[string]func(*checkpoint.Policy){
			"KeepLast":      func(p *checkpoint.Policy) { p.KeepLast++ },
			"KeepWithin":    func(p *checkpoint.Policy) { p.KeepWithin += 30 * time.Hour },
			"KeepDaily":     func(p *checkpoint.Policy) { p.KeepDaily++ },
			"KeepWeekly":    func(p *checkpoint.Policy) { p.KeepWeekly++ },
			"IncludePublic": func(p *checkpoint.Policy) { p.IncludePublic = false },
			"IncludeLatest": func(p *checkpoint.Policy) { p.IncludeLatest = false },
			"KeepEvery": func(p *checkpoint.Policy) {
				if p.KeepEvery = p.KeepEvery / 2; p.KeepEvery == 0 {
					p.KeepEvery = 7
				}
			},
		} {
			q := p
			stronger(&q)
			if !includes(kept(t, q, list, noon), keeps) {
				fail(what + " made stronger keeps less")
			}
		}

		// Later, without new checkpoints, nothing comes back.
		if !includes(keeps, kept(t, p, list, noon.Add(50*time.Hour))) {
			fail("time passing brings something back")
		}
		// What is protected is never removed.
		for _, c := range plan.Remove {
			if c.Public && !p.IncludePublic {
				fail("a public one goes")
			}
		}
	}
}
