package retention_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/retention"
)

var noon = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// Which rule keeps what is checked where policies are public, in package
// checkpoint; here, that a plan depends on nothing but what is in the list.
func TestPlan(t *testing.T) {
	t.Parallel()
	list := []retention.Item{
		{Group: "b", Name: "step-1", Time: noon}, {Group: "a", Name: "step-9", Time: noon}, {Group: "a", Name: "step-10", Time: noon},
		{Group: "a", Name: "step-11", Time: noon.Add(-time.Hour)}, {Group: "b", Name: "step-2", Time: noon.Add(-time.Hour)},
		{Group: "a", Name: "step-9", Time: noon},
	}
	self := func(i retention.Item) retention.Item { return i }
	for range len(list) {
		list = append(list[1:], list[0])
		before := slices.Clone(list)
		keep, remove, err := retention.Plan(retention.Policy{KeepLast: 1}, list, self, noon)
		if err != nil {
			t.Fatal(err)
		}
		var plan string
		for _, k := range keep {
			plan += k.Of.Group + "/" + k.Of.Name + " "
		}
		plan += "-"
		for _, r := range remove {
			plan += " " + r.Group + "/" + r.Name
		}
		if want := "a/step-10 b/step-1 - a/step-9 a/step-11 b/step-2"; plan != want {
			t.Errorf("the plan is %q, want %q", plan, want)
		}
		if !slices.Equal(list, before) {
			t.Error("the list was changed")
		}
	}
	if _, _, err := retention.Plan(retention.Policy{KeepDaily: -1}, list, self, noon); err == nil {
		t.Error("a negative rule is taken")
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]retention.Policy{
		"":                          {},
		"keep-last 3, keep-every 9": {KeepLast: 3, KeepEvery: 9},
		"keep-within 7d":            {KeepWithin: 7 * 24 * time.Hour},
		"keep-within 36h":           {KeepWithin: 36 * time.Hour},
		"keep-within 1h30m":         {KeepWithin: 90 * time.Minute},
		"keep-within 20m":           {KeepWithin: 20 * time.Minute},
		"keep-within 10s":           {KeepWithin: 10 * time.Second},
		"keep-daily 1, keep-weekly 2, include-public, include-latest": {KeepDaily: 1, KeepWeekly: 2, Location: time.UTC, IncludePublic: true, IncludeLatest: true},
		"keep-daily 1, time-zone X":                                   {KeepDaily: 1, Location: time.FixedZone("X", 3600)},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
