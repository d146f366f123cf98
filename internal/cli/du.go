package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/server"
)

func (a *app) duCommand() *cobra.Command {
	var (
		by      string
		dataDir string
		limit   int
	)
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show the space that checkpoints take",
		Long: `Show the space that your checkpoints take on the server, largest first; with
--data-dir that of all owners' in the data directory of a server of your own,
beside the running server too. Snapshots that were made to be sampled from
count as well; what has expired or is in quarantine does not.

Logical is the sum of the sizes. Physical is what is stored: files of equal
content are kept once. Freed is what deleting all of a run, kind or owner would
free, that is, what nothing else in the list shares. Among your own checkpoints
only your own are compared; --data-dir compares all.

With -f json the answer is {"by", "groups": [{"name", "checkpoints",
"logical_bytes", "physical_bytes", "exclusive_bytes"}], "total": {...},
"total_count"}; exclusive is what would be freed.
` + exitStatusHelp,
		Example: "  tinkex du\n  tinkex du --by owner --data-dir ./tinkex-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch tinkex.UsageBy(by) {
			case tinkex.UsageByOwner, tinkex.UsageByRun, tinkex.UsageByKind:
			default:
				return usagef("--by: %q: use owner, run or kind", by)
			}
			if limit < 0 {
				return usagef("--limit may not be negative; --limit 0 is all")
			}
			u, err := a.usage(cmd.Context(), tinkex.UsageBy(by), dataDir, limit)
			if err != nil {
				return err
			}
			return a.printUsage(u)
		},
	}
	cmd.Flags().StringVar(&by, "by", "run", "what to break it down by: owner, run or kind")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "look into this data directory instead of asking a server")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many to show; 0 is all")
	return cmd
}

// usagePage is how many groups are asked for at a time.
const usagePage = 1000

// usage reads up to limit groups, or all of them if it is 0.
func (a *app) usage(ctx context.Context, by tinkex.UsageBy, dataDir string, limit int) (tinkex.Usage, error) {
	read, done, err := a.usageFrom(ctx, by, dataDir)
	if err != nil {
		return tinkex.Usage{}, err
	}
	defer done()
	var all tinkex.Usage
	for {
		want := usagePage
		if limit > 0 {
			want = min(want, limit-len(all.Groups))
		}
		page, err := read(want, len(all.Groups))
		if err != nil {
			return tinkex.Usage{}, err
		}
		page.Groups = append(all.Groups, page.Groups...)
		grown := len(page.Groups) > len(all.Groups)
		all = page
		if !grown || len(all.Groups) >= all.Cursor.TotalCount || len(all.Groups) == limit {
			return all, nil
		}
	}
}

// usageFrom is where usage is read from.
func (a *app) usageFrom(ctx context.Context, by tinkex.UsageBy, dataDir string) (read func(limit, offset int) (tinkex.Usage, error), done func(), err error) {
	if dataDir == "" {
		client, err := a.rest()
		if err != nil {
			return nil, nil, err
		}
		return func(limit, offset int) (tinkex.Usage, error) {
			u, err := client.Usage(ctx, by, tinkex.ListOptions{Limit: limit, Offset: offset})
			if errors.Is(err, tinkex.ErrNotFound) {
				err = &tinkex.Error{Op: "read usage", Message: "this server does not tell: usage is an extension of tinkex serve", Category: tinkex.CategoryUser, Status: 404}
			}
			return u, err
		}, func() { _ = client.Close() }, nil
	}
	s, err := openStores(ctx, node.Stores{DataDir: dataDir})
	if err != nil {
		return nil, nil, err
	}
	now := time.Now().UTC()
	return func(limit, offset int) (tinkex.Usage, error) {
		p := metastore.Page{Limit: limit, Offset: offset}
		u, err := s.meta.SpaceUsage(ctx, metastore.SpaceQuery{By: metastore.SpaceBy(by), Now: now}, p)
		return server.UsageOf(metastore.SpaceBy(by), u, p), err
	}, func() { _ = s.close() }, nil
}

func (a *app) printUsage(u tinkex.Usage) error {
	if a.format == "json" {
		return a.printJSON(struct {
			By         tinkex.UsageBy      `json:"by"`
			Groups     []tinkex.UsageGroup `json:"groups"`
			Total      tinkex.Space        `json:"total"`
			TotalCount int                 `json:"total_count"`
		}{u.By, append([]tinkex.UsageGroup{}, u.Groups...), u.Total, u.Cursor.TotalCount})
	}
	if len(u.Groups) == 0 {
		a.say("No checkpoints.")
		return nil
	}
	t := a.table("Checkpoints", "Logical", "Physical", "Freed", map[tinkex.UsageBy]string{
		tinkex.UsageByOwner: "Owner", tinkex.UsageByRun: "Run", tinkex.UsageByKind: "Kind",
	}[u.By])
	row := func(s tinkex.Space, name string) {
		t.row(strconv.Itoa(s.Checkpoints), size(s.LogicalBytes), size(s.PhysicalBytes), size(s.ExclusiveBytes), name)
	}
	for _, g := range u.Groups {
		row(g.Space, g.Name)
	}
	row(u.Total, "total")
	if err := t.render(); err != nil {
		return err
	}
	if n := len(u.Groups); n < u.Cursor.TotalCount {
		a.say("%d of %d; --limit 0 shows all.", n, u.Cursor.TotalCount)
	}
	return nil
}
