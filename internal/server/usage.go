package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
)

func (s *Server) usageOps(api huma.API) {
	extend(api, http.MethodGet, "/usage", "usage", "What one's checkpoints take, the largest first",
		func(ctx context.Context, in *struct {
			By     string `query:"by" enum:"owner,run,kind" default:"run" doc:"What to break it down by"`
			Limit  int    `query:"limit" minimum:"0" maximum:"10000" default:"100"`
			Offset int    `query:"offset" minimum:"0" default:"0"`
		}) (*reply[tinkex.Usage], error) {
			u, err := s.reg.Usage(ctx, ownerOf(ctx), metastore.SpaceBy(in.By), metastore.Page{Limit: in.Limit, Offset: in.Offset})
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			return replyWith(UsageOf(metastore.SpaceBy(in.By), u, metastore.Page{Limit: in.Limit, Offset: in.Offset})), nil
		})
}

// UsageOf is a page of usage as clients see it.
func UsageOf(by metastore.SpaceBy, u metastore.SpaceUsage, p metastore.Page) tinkex.Usage {
	out := tinkex.Usage{
		By: tinkex.UsageBy(by), Groups: []tinkex.UsageGroup{}, Total: spaceOf(u.Total),
		Cursor: tinkex.Cursor{Offset: p.Offset, Limit: p.Limit, TotalCount: u.Count},
	}
	for _, g := range u.Groups {
		out.Groups = append(out.Groups, tinkex.UsageGroup{Name: g.Name, Space: spaceOf(g.Space)})
	}
	return out
}

func spaceOf(s metastore.Space) tinkex.Space {
	return tinkex.Space{Checkpoints: s.Checkpoints, LogicalBytes: s.Logical, PhysicalBytes: s.Physical, ExclusiveBytes: s.Exclusive}
}
