package server

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/retention"
	"github.com/tinkex/tinkex/internal/wire"
)

func (s *Server) retentionOps(api huma.API) {
	const path = "/retention"
	extend(api, http.MethodGet, path, "get-retention", "One's retention policy, and what came of it",
		func(ctx context.Context, _ *struct{}) (*reply[wire.Retention], error) {
			r, err := s.reg.Retention(ctx, ownerOf(ctx))
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(retentionOf(r)), nil
		})
	extend(api, http.MethodPut, path, "set-retention", "Have a retention policy applied to one's checkpoints, soon and then hourly",
		func(ctx context.Context, in *bodyOf[wire.RetentionPolicy]) (*reply[wire.Retention], error) {
			p, err := retentionPolicy(in.Body)
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			r, err := s.reg.SetRetention(ctx, ownerOf(ctx), p)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(retentionOf(r)), nil
		}, func(op *huma.Operation) { op.Errors = append(op.Errors, http.StatusConflict) })
	extend(api, http.MethodDelete, path, "unset-retention", "Remove one's retention policy",
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			return nil, s.fail(ctx, s.reg.DeleteRetention(ctx, ownerOf(ctx)))
		}, status(http.StatusNoContent))
	extend(api, http.MethodPost, path+"/preview", "preview-retention", "What a retention policy would do now",
		func(ctx context.Context, in *bodyOf[wire.RetentionPreviewRequest]) (*reply[tinkex.RetentionPlan], error) {
			var policy *registry.RetentionPolicy
			if in.Body.Policy != nil {
				p, err := retentionPolicy(*in.Body.Policy)
				if err != nil {
					return nil, failure(http.StatusBadRequest, err.Error())
				}
				policy = &p
			}
			plan, err := s.reg.PlanRetention(ctx, ownerOf(ctx), policy)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(retentionPlanOf(plan)), nil
		})
}

// retentionPolicy checks a policy as far as its own words go.
func retentionPolicy(w wire.RetentionPolicy) (registry.RetentionPolicy, error) {
	p := registry.RetentionPolicy{
		Policy: retention.Policy{
			KeepLast: w.KeepLast, KeepEvery: w.KeepEvery, KeepDaily: w.KeepDaily, KeepWeekly: w.KeepWeekly,
			IncludePublic: w.IncludePublic, IncludeLatest: w.IncludeLatest,
		},
		All: w.All,
	}
	if w.KeepWithinSeconds < 0 || w.KeepWithinSeconds > math.MaxInt64/int64(time.Second) {
		return p, fmt.Errorf("keep_within_seconds: %d: expected 0 to %d", w.KeepWithinSeconds, math.MaxInt64/int64(time.Second))
	}
	p.KeepWithin = time.Duration(w.KeepWithinSeconds) * time.Second
	if w.TimeZone != "" {
		var err error
		if p.Location, err = time.LoadLocation(w.TimeZone); err != nil || w.TimeZone == "Local" {
			return p, fmt.Errorf("time_zone: %q: expected one such as Europe/Berlin, which this server knows", w.TimeZone)
		}
	}
	for i, typ := range w.Types {
		kind := metastore.Kind(typ)
		switch {
		case kind != metastore.KindTraining && kind != metastore.KindSampler && kind != metastore.KindExternal:
			return p, fmt.Errorf("types[%d]: %q: expected weights, sampler_weights or external_weights", i, typ)
		case slices.Contains(p.Kinds, kind):
			return p, fmt.Errorf("types[%d]: %q is there twice", i, typ)
		}
		p.Kinds = append(p.Kinds, kind)
	}
	return p, p.Validate()
}

func retentionOf(r registry.Retention) wire.Retention {
	p := r.Policy
	out := wire.Retention{
		Policy: wire.RetentionPolicy{
			KeepLast: p.KeepLast, KeepEvery: p.KeepEvery, KeepWithinSeconds: int64(p.KeepWithin / time.Second),
			KeepDaily: p.KeepDaily, KeepWeekly: p.KeepWeekly, IncludePublic: p.IncludePublic, IncludeLatest: p.IncludeLatest, All: p.All,
		},
		SetAt: r.SetAt, AppliedAt: r.AppliedAt, Removed: r.Removed, Refused: r.Refused,
	}
	if p.Location != nil {
		out.Policy.TimeZone = p.Location.String()
	}
	for _, k := range p.Kinds {
		out.Policy.Types = append(out.Policy.Types, string(k))
	}
	return out
}

func retentionPlanOf(p registry.RetentionPlan) tinkex.RetentionPlan {
	out := tinkex.RetentionPlan{Keep: []tinkex.KeptCheckpoint{}, Remove: checkpointsOf(p.Remove), Refused: p.Refused}
	for _, k := range p.Keep {
		out.Keep = append(out.Keep, tinkex.KeptCheckpoint{Checkpoint: checkpointOf(k.Of), Reasons: k.Reasons})
	}
	return out
}
