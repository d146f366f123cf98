package tinkex

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// CopyOptions says what a copy is to be. The zero value makes one of the same
// name, in a run of its own.
type CopyOptions struct {
	// ProjectID is the project of the run that is made.
	ProjectID string
	// TTL is how long the copy lives. Zero is for ever, whatever the source
	// does; the hosted service wants at least an hour.
	TTL time.Duration

	// The others need this project's server.

	// Name is that of the copy; empty: the source's.
	Name string
	// RunID is a run of the caller's to copy into, of the same base model and
	// rank; empty makes one, which cannot be trained.
	RunID string
	// Overwrite replaces what has that name in the run.
	Overwrite bool
}

// CopyCheckpoint makes a private checkpoint of the caller's out of one that the
// caller may read, their own or a public one, and returns its path. The server
// does it, and no bytes move: the two share their storage. The copy's kind is
// the source's. A name that is taken is ErrConflict.
func (c *RestClient) CopyCheckpoint(ctx context.Context, path TinkerPath, opts CopyOptions) (TinkerPath, error) {
	op := "copy " + path.String()
	if err := path.Validate(); err != nil {
		return TinkerPath{}, withOp(op, err)
	}
	ttl, err := ttlSeconds(opts.TTL)
	switch {
	case err != nil:
		return TinkerPath{}, invalid(op, "%v", err)
	case opts.RunID != "" && opts.ProjectID != "":
		return TinkerPath{}, invalid(op, "the run %s has its project; give a run or a project", clean(opts.RunID, 200))
	case opts.Name != "":
		if err := ValidateName(opts.Name); err != nil {
			return TinkerPath{}, withOp(op, err)
		}
	}
	if opts.RunID != "" {
		if err := checkID("run id", opts.RunID); err != nil {
			return TinkerPath{}, withOp(op, err)
		}
	}
	official := opts.Name == "" && opts.RunID == "" && !opts.Overwrite
	if official && opts.ProjectID != "" {
		return c.copyWeights(ctx, op, wire.CopyWeightsRequest{
			SourcePath: path.String(), DestinationProjectID: opts.ProjectID, TTLSeconds: ttl,
		})
	}
	var out wire.CopyWeightsResponse
	err = c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/copies", extension: true}, wire.CopyRequest{
		SourcePath: path.String(), Name: opts.Name, RunID: opts.RunID, ProjectID: opts.ProjectID, TTLSeconds: ttl, Overwrite: opts.Overwrite,
	}, &out)
	if err == nil {
		return copiedTo(op, out)
	}
	if !unknownCall(err) {
		return TinkerPath{}, err
	}
	// Either the server has no such call, or something is not there.
	if _, infoErr := c.WeightsInfo(ctx, path); infoErr != nil {
		if errors.Is(infoErr, ErrNotFound) {
			return TinkerPath{}, &Error{Op: op, Status: http.StatusNotFound, Category: CategoryUser, Err: ErrNotFound,
				Message: "there is no such checkpoint, it has expired, or it is private and somebody else's"}
		}
		return TinkerPath{}, infoErr
	}
	if !official {
		if opts.RunID != "" && errors.Is(err, ErrNotFound) {
			if _, runErr := c.GetTrainingRun(ctx, opts.RunID); errors.Is(runErr, ErrNotFound) {
				return TinkerPath{}, &Error{Op: op, Status: http.StatusNotFound, Category: CategoryUser, Err: ErrNotFound,
					Message: fmt.Sprintf("you have no training run %s", clean(opts.RunID, 200))}
			}
		}
		return TinkerPath{}, &Error{Op: op, Status: http.StatusNotFound, Category: CategoryUser, Err: ErrNotFound,
			Message: c.t.server() + " copies checkpoints under their own names and into runs of their own only: a name, a run and overwriting are an extension of tinkex serve"}
	}
	return c.copyToSession(ctx, op, path, ttl)
}

// unknownCall reports whether err may be how a server answers that does not
// have the call.
func unknownCall(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented)
}

// copyToSession copies into a session made for it, for want of a project.
func (c *RestClient) copyToSession(ctx context.Context, op string, path TinkerPath, ttl *int64) (TinkerPath, error) {
	name := "copy of " + path.Name
	var session wire.CreateSessionResponse
	err := c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/create_session"}, wire.CreateSessionRequest{
		Tags: []string{"copy"}, SDKVersion: protocolVersion, DisplayName: &name, Type: "create_session",
	}, &session)
	if err == nil {
		err = checkID("session id", session.SessionID)
	}
	if err != nil {
		return TinkerPath{}, err
	}
	first := int64(0)
	to, err := c.copyWeights(ctx, op, wire.CopyWeightsRequest{
		SourcePath: path.String(), SessionID: session.SessionID, ModelSeqID: &first, TTLSeconds: ttl,
	})
	outcome := Success
	if err != nil {
		outcome = Errored
	}
	// A session that nobody ends ends by itself.
	_ = c.t.json(ctx, &call{
		op: op, method: http.MethodPost, path: "/sessions/" + url.PathEscape(session.SessionID) + "/finish", closing: true,
	}, wire.FinishSessionRequest{Reason: wire.FinishReason{Type: string(outcome)}}, nil)
	return to, err
}

// copyWeights is the protocol's own call.
func (c *RestClient) copyWeights(ctx context.Context, op string, body wire.CopyWeightsRequest) (TinkerPath, error) {
	var out wire.CopyWeightsResponse
	if err := c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/copy_weights"}, body, &out); err != nil {
		return TinkerPath{}, err
	}
	return copiedTo(op, out)
}

func copiedTo(op string, out wire.CopyWeightsResponse) (TinkerPath, error) {
	to, err := ParseTinkerPath(out.TinkerPath)
	if err != nil {
		return TinkerPath{}, &Error{Op: op, Category: CategoryServer, Err: err, Message: "the server's answer names no checkpoint: " + err.Error()}
	}
	return to, nil
}
