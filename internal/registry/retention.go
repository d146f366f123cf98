package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/retention"
)

const (
	// retentionEvery is how often a policy is applied.
	retentionEvery = time.Hour
	// retentionPage is how many checkpoints and policies are read at once.
	retentionPage = 1000
)

// RetentionPolicy says which of an owner's checkpoints are kept.
type RetentionPolicy struct {
	retention.Policy
	// Kinds are those that the rules see. Nil is all.
	Kinds []metastore.Kind
	// All permits a policy that keeps nothing.
	All bool
}

// Retention is an owner's policy, and what came of it when it was applied last.
type Retention struct {
	Policy    RetentionPolicy
	SetAt     time.Time
	AppliedAt *time.Time
	Removed   int
	Refused   string
}

// RetentionPlan is what a policy would do.
type RetentionPlan struct {
	Keep   []retention.Kept[metastore.Checkpoint]
	Remove []metastore.Checkpoint
	// Refused is why it would not be done, empty if it would.
	Refused string
}

// savedPolicy is how a policy is stored. Fields may be added.
type savedPolicy struct {
	KeepLast      int              `json:"keep_last,omitempty"`
	KeepEvery     int              `json:"keep_every,omitempty"`
	KeepWithin    time.Duration    `json:"keep_within_ns,omitempty"`
	KeepDaily     int              `json:"keep_daily,omitempty"`
	KeepWeekly    int              `json:"keep_weekly,omitempty"`
	TimeZone      string           `json:"time_zone,omitempty"`
	Kinds         []metastore.Kind `json:"kinds,omitempty"`
	IncludePublic bool             `json:"include_public,omitempty"`
	IncludeLatest bool             `json:"include_latest,omitempty"`
	All           bool             `json:"all,omitempty"`
}

func (p RetentionPolicy) save() ([]byte, error) {
	s := savedPolicy{
		KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithin: p.KeepWithin, KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly,
		Kinds: p.Kinds, IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest, All: p.All,
	}
	if p.Location != nil {
		s.TimeZone = p.Location.String()
	}
	return json.Marshal(s)
}

func savedRetention(m metastore.Retention) (Retention, error) {
	var s savedPolicy
	if err := json.Unmarshal(m.Policy, &s); err != nil {
		return Retention{}, fmt.Errorf("the retention policy of %s is damaged: %w", m.Owner, err)
	}
	p := RetentionPolicy{Kinds: s.Kinds, All: s.All, Policy: retention.Policy{
		KeepLast: s.KeepLast, KeepEvery: s.KeepEvery, KeepWithin: s.KeepWithin, KeepDaily: s.KeepDaily, KeepWeekly: s.KeepWeekly,
		IncludePublic: s.IncludePublic, IncludeLatest: s.IncludeLatest,
	}}
	if s.TimeZone != "" {
		// A server that does not know where days begin deletes nothing by them.
		var err error
		if p.Location, err = time.LoadLocation(s.TimeZone); err != nil {
			return Retention{}, fmt.Errorf("the retention policy of %s: %w", m.Owner, err)
		}
	}
	return Retention{Policy: p, SetAt: m.SetAt, AppliedAt: m.AppliedAt, Removed: m.Removed, Refused: m.Refused}, nil
}

// Retention returns the owner's policy.
func (r *Registry) Retention(ctx context.Context, owner string) (Retention, error) {
	m, err := r.meta.Retention(ctx, owner)
	if errors.Is(err, metastore.ErrNotFound) {
		return Retention{}, newError(NotFound, "no retention policy is set")
	}
	if err != nil {
		return Retention{}, classify(err)
	}
	out, err := savedRetention(m)
	return out, classify(err)
}

// SetRetention makes p the owner's policy in the place of another, to be applied
// soon. One that keeps nothing of what there is now is a Conflict, unless it
// says that this is meant.
func (r *Registry) SetRetention(ctx context.Context, owner string, p RetentionPolicy) (Retention, error) {
	plan, err := r.PlanRetention(ctx, owner, &p)
	if err != nil {
		return Retention{}, err
	}
	if plan.Refused != "" {
		return Retention{}, newError(Conflict, "%s; set \"all\" if that is meant", plan.Refused)
	}
	saved, err := p.save()
	if err != nil {
		return Retention{}, classify(err)
	}
	m := metastore.Retention{Owner: owner, Version: uuid.NewString(), Policy: saved, SetAt: r.now().UTC().Truncate(time.Microsecond)}
	if err := r.meta.SetRetention(ctx, m); err != nil {
		return Retention{}, classify(err)
	}
	r.log.Info("retention policy set", "owner", OwnerInLog(owner), "policy", p.String(), "version", m.Version)
	return Retention{Policy: p, SetAt: m.SetAt}, nil
}

// DeleteRetention removes the owner's policy. Nothing is deleted because of it
// any more.
func (r *Registry) DeleteRetention(ctx context.Context, owner string) error {
	err := r.meta.DeleteRetention(ctx, owner)
	switch {
	case errors.Is(err, metastore.ErrNotFound):
		return newError(NotFound, "no retention policy is set")
	case err != nil:
		return classify(err)
	}
	r.log.Info("retention policy removed", "owner", OwnerInLog(owner))
	return nil
}

// PlanRetention tells what a policy would do now, or with nil what the owner's
// would.
func (r *Registry) PlanRetention(ctx context.Context, owner string, p *RetentionPolicy) (RetentionPlan, error) {
	if p == nil {
		set, err := r.Retention(ctx, owner)
		if err != nil {
			return RetentionPlan{}, err
		}
		p = &set.Policy
	}
	if err := p.Validate(); err != nil {
		return RetentionPlan{}, &Error{Code: Invalid, Message: err.Error(), Err: err}
	}
	return r.planRetention(ctx, owner, *p)
}

func (r *Registry) planRetention(ctx context.Context, owner string, p RetentionPolicy) (RetentionPlan, error) {
	now := r.now().UTC()
	var all []metastore.Checkpoint
	// What is removed meanwhile may make others be passed over. Then these are
	// not counted, and more is kept than need be.
	for page := (metastore.Page{Limit: retentionPage}); ; page.Offset += retentionPage {
		list, _, err := r.meta.Checkpoints(ctx, metastore.CheckpointFilter{Owner: owner, Now: now}, page)
		if err != nil {
			return RetentionPlan{}, classify(err)
		}
		for _, c := range list {
			if len(p.Kinds) == 0 || slices.Contains(p.Kinds, c.Kind) {
				all = append(all, c)
			}
		}
		if len(list) < retentionPage {
			break
		}
	}
	var plan RetentionPlan
	var err error
	plan.Keep, plan.Remove, err = retention.Plan(p.Policy, all, func(c metastore.Checkpoint) retention.Item {
		return retention.Item{Group: c.RunID + "/" + string(c.Kind) + "/", Name: c.Name, Public: c.Public, Time: c.CreatedAt}
	}, now)
	if err != nil {
		return RetentionPlan{}, classify(err)
	}
	if len(plan.Keep) == 0 && len(plan.Remove) > 0 && !p.All {
		plan.Refused = fmt.Sprintf("the retention policy would delete all %d checkpoints that it applies to", len(plan.Remove))
	}
	return plan, nil
}

// applyRetention applies the policies that are due. One that cannot be applied
// keeps no other from it.
func (r *Registry) applyRetention(ctx context.Context) (removed int, err error) {
	since := r.now().UTC().Add(-retentionEvery)
	var errs []error
	for after := ""; ; {
		due, err := r.meta.DueRetention(ctx, since, after, retentionPage)
		if err != nil {
			return removed, errors.Join(append(errs, err)...)
		}
		for _, m := range due {
			n, err := r.retain(ctx, m)
			removed += n
			if err != nil {
				errs = append(errs, fmt.Errorf("apply the retention policy of %s: %w", m.Owner, err))
			}
			after = m.Owner
		}
		if len(due) < retentionPage {
			return removed, errors.Join(errs...)
		}
	}
}

// retain applies one owner's policy and writes down what was deleted, and why.
// It returns how many that were.
func (r *Registry) retain(ctx context.Context, m metastore.Retention) (int, error) {
	set, err := savedRetention(m)
	if err != nil {
		return 0, err
	}
	p := set.Policy
	plan, err := r.planRetention(ctx, m.Owner, p)
	if err != nil {
		return 0, err
	}
	log := r.log.With("owner", OwnerInLog(m.Owner), "policy", p.String(), "version", m.Version)
	now := r.now().UTC()
	m.AppliedAt, m.Removed, m.Refused = &now, 0, plan.Refused
	if plan.Refused != "" {
		log.Warn("retention policy not applied", "reason", plan.Refused)
		plan.Remove = nil
	}
	for chunk := range slices.Chunk(plan.Remove, sweepBatch) {
		ids := make([]int64, len(chunk))
		for i, c := range chunk {
			ids[i] = c.ID
		}
		gone, err := r.meta.DeleteRetired(ctx, m, ids, p.IncludePublic)
		if errors.Is(err, metastore.ErrNotFound) {
			return m.Removed, nil // it is the policy no more
		}
		if err != nil {
			return m.Removed, err
		}
		for _, c := range chunk {
			if slices.Contains(gone, c.ID) {
				log.Info("retention deleted a checkpoint", "checkpoint", Ref{c.RunID, c.Kind, c.Name}.String(),
					"created_at", c.CreatedAt, "size_bytes", c.SizeBytes, "public", c.Public, "reason", "no rule keeps it")
			}
		}
		m.Removed += len(gone)
	}
	if m.Removed > 0 {
		log.Info("retention policy applied", "removed", m.Removed, "kept", len(plan.Keep))
	}
	if err := r.meta.RetentionApplied(ctx, m); err != nil && !errors.Is(err, metastore.ErrNotFound) {
		return m.Removed, err
	}
	return m.Removed, nil
}

// String is the policy as the command's options spell it.
func (p RetentionPolicy) String() string {
	parts := []string{p.Policy.String()}
	for _, k := range p.Kinds {
		parts = append(parts, "type "+string(k))
	}
	if p.All {
		parts = append(parts, "all")
	}
	return strings.Join(parts, ", ")
}
