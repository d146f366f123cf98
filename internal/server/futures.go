package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// rawReply is an answer whose form depends on what it holds.
type rawReply struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (s *Server) futureOps(api huma.API) {
	register(api, http.MethodPost, "/retrieve_future", "retrieve-future",
		"Wait for a request's result. Results of forward_backward and of sampling are protobuf", s.retrieveFuture,
		func(op *huma.Operation) {
			op.Responses = map[string]*huma.Response{"200": {
				Description: "The result, a failure, or a request to come again",
				Content: map[string]*huma.MediaType{
					wire.ContentTypeJSON:     {Schema: api.OpenAPI().Components.Schemas.Schema(typeOf[wire.FutureStatus](), true, "FutureStatus")},
					wire.ContentTypeProtobuf: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
				},
			}}
		})
	register(api, http.MethodPost, "/cancel_future", "cancel-future", "Give up on a sampling request",
		func(ctx context.Context, in *bodyOf[wire.CancelFutureRequest]) (*struct{}, error) {
			return nil, s.fail(ctx, s.reg.Cancel(ctx, ownerOf(ctx), in.Body.RequestID))
		}, status(http.StatusNoContent))
}

func (s *Server) retrieveFuture(ctx context.Context, in *bodyOf[wire.RetrieveFutureRequest]) (*rawReply, error) {
	f, err := s.reg.Retrieve(ctx, ownerOf(ctx), in.Body.RequestID)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	select {
	case <-f.Done():
	default:
		timer := time.NewTimer(s.poll)
		defer timer.Stop()
		select {
		case <-f.Done():
		case <-timer.C:
			return tryAgain(f)
		case <-s.draining:
			return tryAgain(f)
		case <-ctx.Done():
			return nil, failure(http.StatusServiceUnavailable, "the client went away")
		}
	}
	result, err := f.Result()
	out, err := s.encodeResult(ctx, f, result, err)
	if err == nil {
		s.reg.Fetched(f)
	}
	return out, err
}

func tryAgain(f *registry.Future) (*rawReply, error) {
	return asJSON(wire.FutureStatus{Type: wire.TypeTryAgain, RequestID: f.ID, QueueState: "active"})
}

// encodeResult writes a settled future as its kind of request is answered.
func (s *Server) encodeResult(ctx context.Context, f *registry.Future, result any, err error) (*rawReply, error) {
	if err != nil {
		code, detail := s.describe(ctx, err)
		if code == http.StatusGone {
			return nil, failure(code, detail)
		}
		st := wire.FutureStatus{RequestID: f.ID, Error: detail, Category: "user", StatusCode: code}
		if code >= http.StatusInternalServerError {
			st.Category = "server"
		}
		return asJSON(st)
	}
	protobuf := strings.Contains(callerOf(ctx).accept, wire.ContentTypeProtobuf)
	switch v := result.(type) {
	case *engine.ForwardBackwardOutput:
		if protobuf {
			return asProtobuf(outputToProto(v))
		}
		return asJSON(outputToJSON(v))
	case *engine.SampleOutput:
		if protobuf {
			return asProtobuf(sampleToProto(v))
		}
		return asJSON(sampleToJSON(v))
	case wire.OptimStepResult:
		v.Metrics = finite(v.Metrics)
		return asJSON(v)
	}
	return asJSON(result)
}

func asJSON(v any) (*rawReply, error) {
	b, err := json.Marshal(v)
	return &rawReply{ContentType: wire.ContentTypeJSON, Body: b}, err
}

func asProtobuf(m proto.Message) (*rawReply, error) {
	b, err := proto.Marshal(m)
	return &rawReply{ContentType: wire.ContentTypeProtobuf, Body: b}, err
}
