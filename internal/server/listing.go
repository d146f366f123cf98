package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/checkpointjson"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// listingOps are for going through all of one's checkpoints. The protocol's
// list is by offset and comes with the total: each page has to be looked up,
// and shifts while others are read. Here one stretch says where the next one
// begins, and an answer is lines, which both sides can write and read one by
// one.
func (s *Server) listingOps(api huma.API) {
	extend(api, http.MethodGet, "/checkpoints", "list-all-checkpoints",
		"Go through one's checkpoints, newest first: a JSON object a line, and at last where to go on", s.listing,
		func(op *huma.Operation) {
			schemas := api.OpenAPI().Components.Schemas
			op.Responses = map[string]*huma.Response{"200": {
				Description: "Checkpoints, and a last line whose next is the after to go on with, or null at the end of the list",
				Content: map[string]*huma.MediaType{wire.ContentTypeLines: {Schema: &huma.Schema{AnyOf: []*huma.Schema{
					schemas.Schema(typeOf[tinkex.Checkpoint](), true, "Checkpoint"),
					schemas.Schema(typeOf[wire.ListEnd](), true, "ListEnd"),
				}}}},
			}}
		})
}

// Answers are put together in memory that is used again: with a list of a
// hundred thousand, collecting it would take longer than writing.
var listingMemory = sync.Pool{New: func() any { return new(listingRoom) }}

type listingRoom struct {
	list []metastore.ListedCheckpoint
	body []byte
}

func (m *listingRoom) putBack() {
	clear(m.list) // what it refers to is not kept
	listingMemory.Put(m)
}

func (s *Server) listing(ctx context.Context, in *struct {
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000"`
	After string `query:"after" doc:"The next of the answer before"`
}) (*huma.StreamResponse, error) {
	var after *metastore.CheckpointPlace
	if in.After != "" {
		place, err := parsePlace(in.After)
		if err != nil {
			return nil, failure(http.StatusBadRequest, err.Error())
		}
		after = &place
	}
	m := listingMemory.Get().(*listingRoom)
	list, next, err := s.reg.CheckpointsAfter(ctx, ownerOf(ctx), after, in.Limit, m.list[:0])
	if err == nil {
		m.list = list
		m.body, err = appendListing(m.body[:0], list, next)
	}
	if err != nil {
		m.putBack()
		return nil, s.fail(ctx, err)
	}
	return &huma.StreamResponse{Body: func(out huma.Context) {
		defer m.putBack()
		out.SetHeader("Content-Type", wire.ContentTypeLines)
		out.SetHeader("Content-Length", strconv.Itoa(len(m.body)))
		_, _ = out.BodyWriter().Write(m.body)
	}}, nil
}

func appendListing(body []byte, list []metastore.ListedCheckpoint, next *metastore.CheckpointPlace) ([]byte, error) {
	var err error
	for i := range list {
		c := &list[i]
		item := tinkex.Checkpoint{
			Time: c.CreatedAt, SizeBytes: &c.SizeBytes, Public: c.Public, UserMetadata: c.UserMetadata, ExpiresAt: c.ExpiresAt, BaseModel: c.BaseModel,
		}
		if body, err = checkpointjson.AppendAt(body, pathOf(c), &item, checkpointjson.Indent{}); err != nil {
			return body, err
		}
		body = append(body, '\n')
	}
	var end wire.ListEnd
	if next != nil {
		end.Next = ptr(formatPlace(*next))
	}
	line, err := json.Marshal(end)
	return append(append(body, line...), '\n'), err
}

// formatPlace writes a place in a list down.
func formatPlace(p metastore.CheckpointPlace) string {
	return fmt.Sprintf("%d-%d", p.CreatedAt.UnixMicro(), p.ID)
}

func parsePlace(s string) (metastore.CheckpointPlace, error) {
	// The first number may be negative.
	at, id, _ := strings.Cut(s[1:], "-")
	us, err := strconv.ParseInt(s[:1]+at, 10, 64)
	n, idErr := strconv.ParseInt(id, 10, 64)
	if err != nil || idErr != nil {
		return metastore.CheckpointPlace{}, fmt.Errorf("after: %.64q is no place in the list; use what the answer before has as next", s)
	}
	return metastore.CheckpointPlace{CreatedAt: time.UnixMicro(us).UTC(), ID: n}, nil
}
