package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
)

// Policy says which checkpoints are worth keeping. Each run and, in it, each
// type is judged by itself. A checkpoint is kept if any rule keeps it, and
// rules do not see what others keep, so that a policy may be applied again and
// again, to what an earlier time left, without more being lost than time
// passing and new checkpoints account for.
type Policy struct {
	// KeepLast keeps the newest N.
	KeepLast int
	// KeepEvery keeps those whose number is a multiple of N, where a
	// checkpoint's number is the digits its name ends in: 1500 for
	// "step-1500", 3 for "0003". Names that end in none ("final") are kept.
	// A count of what there is would be another one after each pruning, and
	// pruning daily would lose all but a few.
	KeepEvery int
	// KeepWithin keeps those saved in this time before now.
	KeepWithin time.Duration
	// KeepDaily keeps the newest of each of the last N days that have one.
	KeepDaily int
	// KeepWeekly keeps the newest of each of the last N weeks, Monday to
	// Sunday, that have one.
	KeepWeekly int
	// Location is where days begin; nil: UTC.
	Location *time.Location

	// IncludePublic lets public checkpoints go, which are kept otherwise:
	// others may rely on them.
	IncludePublic bool
	// IncludeLatest lets the newest checkpoint of a run and type go, which is
	// kept otherwise: with it the run could not be resumed.
	IncludeLatest bool
}

// Validate reports a policy without any rule, or with one that is negative.
func (p Policy) Validate() error {
	rules := false
	for _, r := range []struct {
		name  string
		value int64
	}{
		{"KeepLast", int64(p.KeepLast)}, {"KeepEvery", int64(p.KeepEvery)}, {"KeepWithin", int64(p.KeepWithin)},
		{"KeepDaily", int64(p.KeepDaily)}, {"KeepWeekly", int64(p.KeepWeekly)},
	} {
		if r.value < 0 {
			return fmt.Errorf("policy: %s is negative", r.name)
		}
		rules = rules || r.value > 0
	}
	if !rules {
		return errors.New("policy: no rule says what to keep")
	}
	return nil
}

// Kept is a checkpoint that a policy keeps.
type Kept struct {
	tinkex.Checkpoint
	Reasons []string `json:"reasons"` // in words, at least one
}

// UnmarshalJSON reads what is marshalled.
func (k *Kept) UnmarshalJSON(b []byte) error {
	var reasons struct {
		Reasons []string `json:"reasons"`
	}
	if err := json.Unmarshal(b, &reasons); err != nil {
		return err
	}
	k.Reasons = reasons.Reasons
	return json.Unmarshal(b, &k.Checkpoint) // which has a method of its own
}

// Plan is what a policy comes to, without anything being done yet.
type Plan struct {
	// Keep and Remove hold every checkpoint once, in PlanOrder.
	Keep   []Kept
	Remove []tinkex.Checkpoint
}

// KeepsNothing reports whether the plan is to remove all there is.
func (p Plan) KeepsNothing() bool { return len(p.Keep) == 0 && len(p.Remove) > 0 }

// Plan applies the policy. It looks at nothing but its arguments; the order of
// the list makes no difference, and it is left as it is.
func (p Policy) Plan(list []tinkex.Checkpoint, now time.Time) (Plan, error) {
	if err := p.Validate(); err != nil {
		return Plan{}, err
	}
	sorted := make([]tinkex.Checkpoint, 0, len(list))
	seen := make(map[string]bool, len(list))
	for _, c := range list {
		if seen[c.TinkerPath] {
			continue
		}
		seen[c.TinkerPath] = true
		if _, err := c.Path(); err != nil {
			return Plan{}, fmt.Errorf("plan: %w", err)
		}
		sorted = append(sorted, c)
	}
	slices.SortFunc(sorted, PlanOrder)
	var plan Plan
	for len(sorted) > 0 {
		end := 1
		for end < len(sorted) && groupOf(sorted[end]) == groupOf(sorted[0]) {
			end++
		}
		group := sorted[:end]
		sorted = sorted[end:]
		reasons := p.reasons(group, now)
		for i, c := range group {
			if len(reasons[i]) > 0 {
				plan.Keep = append(plan.Keep, Kept{c, reasons[i]})
			} else {
				plan.Remove = append(plan.Remove, c)
			}
		}
	}
	return plan, nil
}

// PlanOrder compares checkpoints in the order that plans have them in: by run
// and type, newest first.
func PlanOrder(a, b tinkex.Checkpoint) int {
	return cmp.Or(strings.Compare(groupOf(a), groupOf(b)), compareCreated(a, b))
}

// groupOf is what a checkpoint is judged among: its path without the name.
func groupOf(c tinkex.Checkpoint) string {
	return c.TinkerPath[:strings.LastIndexByte(c.TinkerPath, '/')+1]
}

// reasons says for each of a run's checkpoints of one type, which come newest
// first, why it is kept.
func (p Policy) reasons(group []tinkex.Checkpoint, now time.Time) [][]string {
	place := p.Location
	if place == nil {
		place = time.UTC
	}
	days := buckets{name: "keep-daily", n: p.KeepDaily, of: func(t time.Time) string { return t.In(place).Format(time.DateOnly) }}
	weeks := buckets{name: "keep-weekly", n: p.KeepWeekly, of: func(t time.Time) string {
		year, week := t.In(place).ISOWeek()
		return fmt.Sprintf("%d week %d", year, week)
	}}
	all := make([][]string, len(group))
	for i, c := range group {
		var why []string
		if i == 0 && !p.IncludeLatest {
			why = append(why, "latest")
		}
		if c.Public && !p.IncludePublic {
			why = append(why, "public")
		}
		if i < p.KeepLast {
			why = append(why, fmt.Sprintf("keep-last %d of %d", i+1, p.KeepLast))
		}
		if p.KeepEvery > 0 {
			if number, ok := numberOf(nameOf(c)); !ok {
				why = append(why, "keep-every: no number")
			} else if number%uint64(p.KeepEvery) == 0 {
				why = append(why, fmt.Sprintf("keep-every: %d", number))
			}
		}
		if p.KeepWithin > 0 && !c.Time.Before(now.Add(-p.KeepWithin)) {
			why = append(why, "keep-within")
		}
		why = append(why, days.reason(c.Time)...)
		all[i] = append(why, weeks.reason(c.Time)...)
	}
	return all
}

// buckets keeps the first of each of n periods.
type buckets struct {
	name string
	n    int
	of   func(time.Time) string
	last string
}

func (b *buckets) reason(t time.Time) []string {
	if b.n == 0 {
		return nil
	}
	period := b.of(t)
	if period == b.last {
		return nil
	}
	b.n--
	b.last = period
	return []string{b.name + ": " + period}
}

// numberOf is what a name counts, if it ends in a number.
func numberOf(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name[len(strings.TrimRight(name, "0123456789")):], 10, 64)
	return n, err == nil
}
