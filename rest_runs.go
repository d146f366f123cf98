package tinkex

import (
	"context"
	"iter"
	"net/url"
)

// ListRunsOptions selects a page of training runs.
type ListRunsOptions struct {
	Limit     int // as in ListOptions; 0: 20
	Offset    int
	Scope     AccessScope
	ProjectID string // empty: of all projects
}

// ListTrainingRuns returns a page of training runs, newest first. Its Cursor
// says how many there are.
func (c *RestClient) ListTrainingRuns(ctx context.Context, opts ListRunsOptions) (TrainingRunList, error) {
	const op = "list training runs"
	query, err := ListOptions{opts.Limit, opts.Offset}.query(op)
	if err != nil {
		return TrainingRunList{}, err
	}
	opts.Scope.addTo(query)
	if opts.ProjectID != "" {
		query.Set("project_id", opts.ProjectID)
	}
	return get[TrainingRunList](ctx, c.t, op, "/training_runs", query)
}

// AllTrainingRuns iterates over the caller's training runs, newest first, page
// by page.
func (c *RestClient) AllTrainingRuns(ctx context.Context, opts PageOptions) iter.Seq2[TrainingRun, error] {
	return pages(ctx, "list training runs", opts, func(r TrainingRun) string { return r.TrainingRunID },
		func(ctx context.Context, limit, offset int) (page[TrainingRun], error) {
			list, err := c.ListTrainingRuns(ctx, ListRunsOptions{Limit: limit, Offset: offset})
			if err != nil {
				return page[TrainingRun]{}, err
			}
			p := page[TrainingRun]{items: list.TrainingRuns, total: list.Cursor.TotalCount}
			if p.total == 0 && len(p.items) > 0 {
				p.total = -1
			}
			return p, nil
		})
}

// GetTrainingRun returns a training run of the caller's.
func (c *RestClient) GetTrainingRun(ctx context.Context, runID string) (TrainingRun, error) {
	op := "get training run " + clean(runID, 200)
	if err := checkID("run id", runID); err != nil {
		return TrainingRun{}, withOp(op, err)
	}
	return get[TrainingRun](ctx, c.t, op, "/training_runs/"+url.PathEscape(runID), nil)
}

// GetTrainingRunByPath returns the training run that a checkpoint belongs to.
func (c *RestClient) GetTrainingRunByPath(ctx context.Context, path TinkerPath) (TrainingRun, error) {
	if err := path.Validate(); err != nil {
		return TrainingRun{}, withOp("get training run of "+path.String(), err)
	}
	return c.GetTrainingRun(ctx, path.RunID)
}
