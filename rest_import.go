package tinkex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// Imports are an extension of this project's server: they bring in adapters
// that were trained elsewhere. On other servers the methods of this file fail
// with ErrNotFound. Package checkpoint's Import is what most programs want.

// importTimeout bounds an attempt to finish an import: the server puts the
// files together and has its engine load them.
const importTimeout = 15 * time.Minute

// Blob is bytes by their digest.
type Blob struct {
	SHA256    string `json:"sha256"` // 64 hexadecimal digits
	SizeBytes int64  `json:"size_bytes"`
}

// MissingBlobs is what has to be sent before it can be imported.
type MissingBlobs struct {
	Missing []string `json:"missing"` // SHA-256 digests
	// PartBytes bounds one upload; larger files are sent in parts of it.
	PartBytes int64 `json:"part_bytes"`
}

// ImportFile is a file of an adapter. Parts are what a file larger than
// PartBytes was sent as, in order.
type ImportFile struct {
	Name  string
	Blob  Blob
	Parts []Blob
}

// ImportRequest says what an adapter is to become. Name and Files are
// required.
type ImportRequest struct {
	// Name is that of the checkpoints.
	Name string
	// Types are Training, Sampler or both. Nil is both.
	Types []CheckpointType
	// BaseModel is needed if the adapter's configuration does not say.
	BaseModel string
	// RunID is a run of the caller's, of the same base model and rank. Empty
	// makes a run of its own.
	RunID string
	// Overwrite replaces checkpoints of that name in the run.
	Overwrite bool
	// TTL is how long the checkpoints live. Zero is for ever.
	TTL          time.Duration
	UserMetadata map[string]string
	Files        []ImportFile
}

// ImportResult is what an adapter became.
type ImportResult struct {
	Checkpoints   []Checkpoint `json:"checkpoints"`
	TrainingRunID string       `json:"training_run_id"`
}

// MissingBlobs asks which of the blobs the caller has to send. The others are
// in checkpoints that the caller may read or were sent within the last day,
// and will be there for a day from now. Asked about nothing, it tells whether
// the server offers imports, and PartBytes.
func (c *RestClient) MissingBlobs(ctx context.Context, blobs []Blob) (out MissingBlobs, err error) {
	const op = "ask which blobs are missing"
	err = c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/blobs/missing", extension: true},
		wire.MissingBlobsRequest{Blobs: wireBlobs(blobs)}, &out)
	if err == nil && out.PartBytes < 1 {
		err = &Error{Op: op, Category: CategoryServer, Message: fmt.Sprintf("the server allows uploads of %d bytes", out.PartBytes)}
	}
	return out, c.withoutImports(err)
}

// UploadBlob sends bytes to be imported within a day: those of r from its
// start, as many as blob says. They are read as they are sent, and again if
// they have to be sent again. Bytes that have another digest are ErrInvalid.
func (c *RestClient) UploadBlob(ctx context.Context, blob Blob, r io.ReaderAt) error {
	op := "upload blob " + clean(blob.SHA256, 64)
	if err := checkID("digest", blob.SHA256); err != nil {
		return withOp(op, err)
	}
	_, err := c.t.do(ctx, &call{
		op: op, method: http.MethodPut, path: "/blobs/" + blob.SHA256, extension: true,
		stream: r, streamSize: blob.SizeBytes, contentType: "application/octet-stream", accept: wire.ContentTypeJSON,
	})
	return c.withoutImports(err)
}

// ImportCheckpoint makes checkpoints of an adapter whose blobs the server has.
// Either all of them are there when it returns, or nothing. Blobs that are
// missing and names that are taken are ErrConflict, an adapter that the server
// cannot run is ErrInvalid.
func (c *RestClient) ImportCheckpoint(ctx context.Context, req ImportRequest) (out ImportResult, err error) {
	op := "import " + clean(req.Name, MaxNameLength)
	if err := ValidateName(req.Name); err != nil {
		return out, withOp(op, err)
	}
	body := wire.ImportRequest{
		Name: req.Name, BaseModel: req.BaseModel, RunID: req.RunID, Overwrite: req.Overwrite, UserMetadata: req.UserMetadata,
	}
	if body.TTLSeconds, err = ttlSeconds(req.TTL); err != nil {
		return out, invalid(op, "%v", err)
	}
	for _, t := range req.Types {
		if t != Training && t != Sampler {
			return out, invalid(op, "%q cannot be imported as: only %s and %s can", t, Training, Sampler)
		}
		body.Types = append(body.Types, t.Segment())
	}
	for _, f := range req.Files {
		body.Files = append(body.Files, wire.ImportFile{Name: f.Name, Blob: wire.Blob(f.Blob), Parts: wireBlobs(f.Parts)})
	}
	timeout := c.t.timeout
	if timeout > 0 {
		timeout = max(timeout, importTimeout)
	}
	err = c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/imports", extension: true, timeout: timeout}, body, &out)
	if req.RunID == "" {
		err = c.withoutImports(err)
	}
	return out, err
}

// RestoreRequest describes a checkpoint as it was on a server, this one or
// another. Origin, BaseModel, LoRARank and Files are required.
type RestoreRequest struct {
	// Origin is the checkpoint's path there. Its type and name stay; its run is
	// stood for by one of the caller's, always the same, unless RunID names
	// another.
	Origin TinkerPath
	RunID  string
	// BaseModel need not be on offer here.
	BaseModel string
	LoRARank  int
	// What was trained; nil is true.
	TrainAttn, TrainMLP, TrainUnembed *bool
	// RunMetadata is the run's user metadata.
	RunMetadata     map[string]string
	LastRequestTime time.Time // the run's; zero: not known
	Time            time.Time // when it was saved; zero: not known
	UserMetadata    map[string]string
	// TTL is how long the checkpoint lives. Zero is for ever.
	TTL time.Duration
	// Overwrite replaces a checkpoint that has other files.
	Overwrite bool
	Files     []ImportFile
}

// RestoreResult is what a RestoreRequest came to.
type RestoreResult struct {
	Checkpoint Checkpoint `json:"checkpoint"`
	// Created is false if it was there already.
	Created bool `json:"created"`
}

// RestoreCheckpoint makes a checkpoint of what one was elsewhere, when the
// server has its blobs. It is private, and its run cannot be trained; training
// resumes from it as from any other. Blobs that are missing and a name that is
// taken by another checkpoint are ErrConflict. Package checkpoint's Restore is
// what most programs want.
func (c *RestClient) RestoreCheckpoint(ctx context.Context, req RestoreRequest) (out RestoreResult, err error) {
	op := "restore " + req.Origin.String()
	if err := req.Origin.Validate(); err != nil {
		return out, withOp(op, err)
	}
	body := wire.RestoreRequest{
		Origin: req.Origin.String(), RunID: req.RunID, BaseModel: req.BaseModel, LoRARank: req.LoRARank,
		TrainAttn: req.TrainAttn, TrainMLP: req.TrainMLP, TrainUnembed: req.TrainUnembed,
		RunMetadata: req.RunMetadata, UserMetadata: req.UserMetadata, Overwrite: req.Overwrite,
	}
	if !req.LastRequestTime.IsZero() {
		body.LastRequestTime = &req.LastRequestTime
	}
	if !req.Time.IsZero() {
		body.Time = &req.Time
	}
	if body.TTLSeconds, err = ttlSeconds(req.TTL); err != nil {
		return out, invalid(op, "%v", err)
	}
	for _, f := range req.Files {
		body.Files = append(body.Files, wire.ImportFile{Name: f.Name, Blob: wire.Blob(f.Blob), Parts: wireBlobs(f.Parts)})
	}
	timeout := c.t.timeout
	if timeout > 0 {
		timeout = max(timeout, importTimeout)
	}
	err = c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/restores", extension: true, timeout: timeout}, body, &out)
	if req.RunID == "" {
		err = c.withoutImports(err)
	}
	return out, err
}

func wireBlobs(blobs []Blob) []wire.Blob {
	out := make([]wire.Blob, len(blobs))
	for i, b := range blobs {
		out[i] = wire.Blob(b)
	}
	return out
}

// withoutImports explains the answers of a server that has no imports.
func (c *RestClient) withoutImports(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return &Error{
			Op: e.Op, Status: e.Status, Category: CategoryUser, RequestID: e.RequestID, Err: ErrNotFound,
			Message: c.t.server() + " does not offer imports: they are an extension of tinkex serve",
		}
	}
	return err
}
