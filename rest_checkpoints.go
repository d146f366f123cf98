package tinkex

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// ListCheckpoints returns a page of the caller's checkpoints, of all runs,
// newest first. Its Cursor says how many there are.
func (c *RestClient) ListCheckpoints(ctx context.Context, opts ListOptions) (CheckpointList, error) {
	const op = "list checkpoints"
	query, err := opts.query(op)
	if err != nil {
		return CheckpointList{}, err
	}
	return get[CheckpointList](ctx, c.t, op, "/checkpoints", query)
}

// ListRunCheckpoints returns all checkpoints of one training run, newest first.
func (c *RestClient) ListRunCheckpoints(ctx context.Context, runID string) (CheckpointList, error) {
	op := "list checkpoints of " + clean(runID, 200)
	if err := checkID("run id", runID); err != nil {
		return CheckpointList{}, withOp(op, err)
	}
	return get[CheckpointList](ctx, c.t, op, "/training_runs/"+url.PathEscape(runID)+"/checkpoints", nil)
}

// GetCheckpoint returns what the list of its run says about a checkpoint of
// the caller's. The protocol has no request for a single one.
func (c *RestClient) GetCheckpoint(ctx context.Context, path TinkerPath) (Checkpoint, error) {
	op := "get " + path.String()
	if err := path.Validate(); err != nil {
		return Checkpoint{}, withOp(op, err)
	}
	list, err := c.ListRunCheckpoints(ctx, path.RunID)
	if err != nil {
		return Checkpoint{}, err
	}
	for _, k := range list.Checkpoints {
		if k.CheckpointID == path.CheckpointID() || k.TinkerPath == path.String() {
			return k, nil
		}
	}
	return Checkpoint{}, &Error{Op: op, Status: http.StatusNotFound, Category: CategoryUser, Message: "the run has no such checkpoint"}
}

// ResolveCheckpoint returns the path of a run's checkpoint, given its id as
// answers spell it, "weights/<name>" or "sampler_weights/<name>", or its name
// alone. A name is looked up among the run's checkpoints; where several have
// it, the training checkpoint is meant, then the sampler's.
func (c *RestClient) ResolveCheckpoint(ctx context.Context, runID, checkpointID string) (TinkerPath, error) {
	op := fmt.Sprintf("find checkpoint %q of %s", clean(checkpointID, 300), clean(runID, 200))
	if strings.Contains(checkpointID, "/") {
		path, err := ParseTinkerPath(Scheme + runID + "/" + checkpointID)
		return path, withOp(op, err)
	}
	for _, err := range []error{checkID("run id", runID), ValidateName(checkpointID)} {
		if err != nil {
			return TinkerPath{}, withOp(op, err)
		}
	}
	list, err := c.ListRunCheckpoints(ctx, runID)
	if err != nil {
		return TinkerPath{}, err
	}
	for _, t := range []CheckpointType{Training, Sampler, External} {
		path := TinkerPath{RunID: runID, Type: t, Name: checkpointID}
		for _, k := range list.Checkpoints {
			if k.CheckpointID == path.CheckpointID() {
				return path, nil
			}
		}
	}
	return TinkerPath{}, &Error{Op: op, Status: http.StatusNotFound, Category: CategoryUser, Message: "the run has no checkpoint of this name"}
}

// WeightsInfo returns what one needs to know to load a checkpoint: the
// caller's, or any public one.
func (c *RestClient) WeightsInfo(ctx context.Context, path TinkerPath) (info WeightsInfo, err error) {
	op := "read weights info of " + path.String()
	if err := path.Validate(); err != nil {
		return info, withOp(op, err)
	}
	err = c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/weights_info"}, wire.WeightsInfoRequest{TinkerPath: path.String()}, &info)
	return info, err
}

// DeleteCheckpoint deletes a checkpoint. If the answer to an attempt was lost
// and the next one finds nothing, the first one did it.
func (c *RestClient) DeleteCheckpoint(ctx context.Context, path TinkerPath) error {
	return c.change(ctx, "delete", path, &call{method: http.MethodDelete, done: http.StatusNotFound}, nil)
}

// DeleteCheckpointByID is DeleteCheckpoint for ids as ResolveCheckpoint takes them.
func (c *RestClient) DeleteCheckpointByID(ctx context.Context, runID, checkpointID string) error {
	path, err := c.ResolveCheckpoint(ctx, runID, checkpointID)
	if err != nil {
		return err
	}
	return c.DeleteCheckpoint(ctx, path)
}

// Publish lets everyone read, load and download a checkpoint. One that is
// public already is ErrConflict.
func (c *RestClient) Publish(ctx context.Context, path TinkerPath) error {
	return c.change(ctx, "publish", path, &call{method: http.MethodPost, path: "/publish", done: http.StatusConflict}, nil)
}

// Unpublish makes a checkpoint private again. One that is not public is
// ErrConflict.
func (c *RestClient) Unpublish(ctx context.Context, path TinkerPath) error {
	return c.change(ctx, "unpublish", path, &call{method: http.MethodDelete, path: "/publish", done: http.StatusConflict}, nil)
}

// SetTTL lets a checkpoint expire ttl from now. ttl is positive; fractions of
// a second are rounded up.
func (c *RestClient) SetTTL(ctx context.Context, path TinkerPath, ttl time.Duration) error {
	seconds, err := ttlSeconds(ttl)
	if err == nil && seconds == nil {
		err = fmt.Errorf("the TTL is 0; use RemoveTTL to keep the checkpoint for ever")
	}
	if err != nil {
		return invalid("set TTL of "+path.String(), "%v", err)
	}
	return c.change(ctx, "set TTL of", path, &call{method: http.MethodPut, path: "/ttl"}, wire.SetTTLRequest{TTLSeconds: seconds})
}

// RemoveTTL keeps a checkpoint for ever.
func (c *RestClient) RemoveTTL(ctx context.Context, path TinkerPath) error {
	return c.change(ctx, "remove TTL of", path, &call{method: http.MethodPut, path: "/ttl"}, wire.SetTTLRequest{})
}

// change makes a request about one checkpoint that has no answer to speak of;
// request.path is what comes after the checkpoint's own path.
func (c *RestClient) change(ctx context.Context, verb string, path TinkerPath, request *call, body any) error {
	request.op = verb + " " + path.String()
	if err := path.Validate(); err != nil {
		return withOp(request.op, err)
	}
	request.path = checkpointURL(path) + request.path
	return c.t.json(ctx, request, body, nil)
}

// checkpointURL is a checkpoint's path in the REST interface.
func checkpointURL(path TinkerPath) string {
	return "/training_runs/" + url.PathEscape(path.RunID) + "/checkpoints/" + path.Type.Segment() + "/" + url.PathEscape(path.Name)
}
