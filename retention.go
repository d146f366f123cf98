package tinkex

import (
	"encoding/json"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// RetentionPolicy says which of an owner's checkpoints a server keeps: those
// that any rule keeps, and public ones and each run's latest besides. The rules
// are those of package checkpoint's Policy, whose ForServer makes one of these.
type RetentionPolicy struct {
	KeepLast   int
	KeepEvery  int
	KeepWithin time.Duration // whole seconds
	KeepDaily  int
	KeepWeekly int
	// TimeZone is where days begin, such as "Europe/Berlin". Empty is UTC.
	TimeZone string
	// Types are those that the rules see; others stay, and do not count. Nil is
	// all.
	Types []CheckpointType
	// IncludePublic lets public checkpoints go, IncludeLatest each run's latest.
	IncludePublic, IncludeLatest bool
	// All permits a policy that keeps nothing. Without, it is refused when it is
	// set, and not applied when it comes to that later.
	All bool
}

func (p RetentionPolicy) wire(op string) (wire.RetentionPolicy, error) {
	if p.KeepWithin%time.Second != 0 {
		return wire.RetentionPolicy{}, invalid(op, "KeepWithin: %v: expected whole seconds", p.KeepWithin)
	}
	w := wire.RetentionPolicy{
		KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithinSeconds: int64(p.KeepWithin / time.Second),
		KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly, TimeZone: p.TimeZone,
		IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest, All: p.All,
	}
	for _, t := range p.Types {
		if t.Segment() == "" {
			return w, invalid(op, "Types: %q is no type of checkpoint", t)
		}
		w.Types = append(w.Types, t.Segment())
	}
	return w, nil
}

func policyOf(w wire.RetentionPolicy) (RetentionPolicy, error) {
	p := RetentionPolicy{
		KeepLast: w.KeepLast, KeepEvery: w.KeepEvery, KeepWithin: time.Duration(w.KeepWithinSeconds) * time.Second,
		KeepDaily: w.KeepDaily, KeepWeekly: w.KeepWeekly, TimeZone: w.TimeZone,
		IncludePublic: w.IncludePublic, IncludeLatest: w.IncludeLatest, All: w.All,
	}
	for _, s := range w.Types {
		t, err := ParseCheckpointType(s)
		if err != nil {
			return p, err
		}
		p.Types = append(p.Types, t)
	}
	return p, nil
}

// Retention is an owner's policy on a server, and what came of it.
type Retention struct {
	Policy RetentionPolicy
	SetAt  time.Time
	// AppliedAt is when it was applied last. Nil: not yet.
	AppliedAt *time.Time
	// Removed is how many checkpoints went then.
	Removed int
	// Refused is why nothing was done then: the policy would have left nothing.
	// Empty if it was not.
	Refused string
}

// RetentionPlan is what a policy would do now.
type RetentionPlan struct {
	Keep   []KeptCheckpoint `json:"keep"`
	Remove []Checkpoint     `json:"remove"`
	// Refused is why the policy would not be applied, empty if it would.
	Refused string `json:"refused"`
}

// KeptCheckpoint is a checkpoint that a policy keeps, and why, in words.
type KeptCheckpoint struct {
	Checkpoint
	Reasons []string `json:"reasons"`
}

// UnmarshalJSON reads what servers send.
func (k *KeptCheckpoint) UnmarshalJSON(b []byte) error {
	var reasons struct {
		Reasons []string `json:"reasons"`
	}
	if err := json.Unmarshal(b, &reasons); err != nil {
		return err
	}
	k.Reasons = reasons.Reasons
	return json.Unmarshal(b, &k.Checkpoint) // which has a method of its own
}
