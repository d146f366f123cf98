package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tinkex/tinkex"
)

// latest stands for the newest: in place of a run's id for the newest run, in
// place of a checkpoint's name for the newest of its kind in the run, unless
// one is really called that.
const latest = "latest"

const latestHelp = `
latest in place of a run's id is your newest run, and in place of a name the newest
checkpoint of that kind in the run: tinker://latest/weights/latest. What it stands
for is said before anything is done.
`

// resolver finds out what latest stands for, the same for a whole command, and
// tells people.
type resolver struct {
	client *tinkex.RestClient
	out    io.Writer

	newest string // run
	lists  map[string][]tinkex.Checkpoint
}

func (a *app) resolver(client *tinkex.RestClient) *resolver {
	return newResolver(client, a.Stderr)
}

func newResolver(client *tinkex.RestClient, out io.Writer) *resolver {
	return &resolver{client: client, out: out, lists: map[string][]tinkex.Checkpoint{}}
}

// run resolves a run's id as it was given to something: an option, a word.
func (r *resolver) run(ctx context.Context, id, given string) (string, error) {
	if id != latest {
		return id, nil
	}
	newest, err := r.newestRun(ctx, given)
	if err == nil {
		fmt.Fprintf(r.out, "%s is %s.\n", given, newest)
	}
	return newest, err
}

func (r *resolver) newestRun(ctx context.Context, given string) (string, error) {
	if r.newest == "" {
		runs, err := r.client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
		if err != nil {
			return "", err
		}
		if len(runs.TrainingRuns) == 0 {
			return "", fmt.Errorf("%s: you have no training runs: %w", given, tinkex.ErrNotFound)
		}
		r.newest = runs.TrainingRuns[0].TrainingRunID
		noteResolved(ctx, latest, r.newest)
	}
	return r.newest, nil
}

// path resolves a path.
func (r *resolver) path(ctx context.Context, p tinkex.TinkerPath) (tinkex.TinkerPath, error) {
	given := p
	if p.RunID == latest {
		id, err := r.newestRun(ctx, given.String())
		if err != nil {
			return p, err
		}
		p.RunID = id
	}
	if p.Name == latest {
		name, err := r.newestName(ctx, p)
		if err != nil {
			return p, err
		}
		p.Name = name
	}
	if p != given {
		noteResolved(ctx, given.String(), p.String())
		fmt.Fprintf(r.out, "%s is %s.\n", given, p)
	}
	return p, nil
}

// newestName is the name of a run's newest checkpoint of p's kind. Of somebody
// else's run that is not known, and latest is taken for a name.
func (r *resolver) newestName(ctx context.Context, p tinkex.TinkerPath) (string, error) {
	list, ok := r.lists[p.RunID]
	if !ok {
		answer, err := r.client.ListRunCheckpoints(ctx, p.RunID)
		switch {
		case errors.Is(err, tinkex.ErrNotFound), errors.Is(err, tinkex.ErrForbidden):
			return latest, nil
		case err != nil:
			return "", err
		}
		list = answer.Checkpoints
		r.lists[p.RunID] = list
	}
	var newest tinkex.Checkpoint
	name := ""
	for _, c := range list {
		q, err := c.Path()
		if err != nil || q.Type != p.Type {
			continue
		}
		if q.Name == latest {
			return latest, nil
		}
		if name == "" || c.Time.After(newest.Time) {
			newest, name = c, q.Name
		}
	}
	if name == "" {
		return "", fmt.Errorf("%s: the run has no checkpoint of that kind: %w", p, tinkex.ErrNotFound)
	}
	return name, nil
}

// paths resolves paths. What several stand for is in the list once.
func (r *resolver) paths(ctx context.Context, paths []tinkex.TinkerPath) ([]tinkex.TinkerPath, error) {
	resolved := make([]tinkex.TinkerPath, 0, len(paths))
	for _, p := range paths {
		q, err := r.path(ctx, p)
		if err != nil {
			return nil, err
		}
		if q == p || !slices.Contains(resolved, q) {
			resolved = append(resolved, q)
		}
	}
	return resolved, nil
}
