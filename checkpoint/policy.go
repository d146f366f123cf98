package checkpoint

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/retention"
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
func (p Policy) Validate() error { return retention.Policy(p).Validate() }

// ForServer is the policy as a server keeps it; see RestClient.SetRetention.
func (p Policy) ForServer() tinkex.RetentionPolicy {
	zone := ""
	if p.Location != nil {
		zone = p.Location.String()
	}
	return tinkex.RetentionPolicy{
		KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithin: p.KeepWithin, KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly,
		TimeZone: zone, IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest,
	}
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
	for _, c := range list {
		if _, err := c.Path(); err != nil {
			return Plan{}, fmt.Errorf("plan: %w", err)
		}
	}
	keep, remove, err := retention.Plan(retention.Policy(p), list, itemOf, now)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Remove: remove}
	for _, k := range keep {
		plan.Keep = append(plan.Keep, Kept{k.Of, k.Reasons})
	}
	return plan, nil
}

// PlanOrder compares checkpoints in the order that plans have them in: by run
// and type, newest first.
func PlanOrder(a, b tinkex.Checkpoint) int { return retention.Compare(itemOf(a), itemOf(b)) }

// itemOf is what a policy looks at. A checkpoint is judged among those whose
// paths differ in the name only.
func itemOf(c tinkex.Checkpoint) retention.Item {
	at := strings.LastIndexByte(c.TinkerPath, '/') + 1
	return retention.Item{Group: c.TinkerPath[:at], Name: c.TinkerPath[at:], Public: c.Public, Time: c.Time}
}
