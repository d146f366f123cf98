package tinkex

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// ServiceClient creates the clients that train and sample. They belong to one
// session, which is opened on the server by the first of them and ended by
// Close.
//
// A ServiceClient is safe for concurrent use, and so are the clients it
// creates.
type ServiceClient struct {
	t       *transport
	session lazy[string]
	opening wire.CreateSessionRequest

	nextModel   atomic.Int64
	nextSampler atomic.Int64

	closing  sync.Mutex
	finished bool

	// Sampling is held back after a 429 until this time, in Unix nanoseconds.
	samplingPause atomic.Int64
}

// NewServiceClient checks the options and returns a client. It does no I/O:
// whether the server is there and accepts the key shows at the first request.
// A missing or malformed key wraps ErrMissingAPIKey or ErrMalformedAPIKey, a
// malformed base URL ErrMalformedBaseURL.
func NewServiceClient(opts Options) (*ServiceClient, error) {
	return newServiceClient(opts, systemClock())
}

func newServiceClient(opts Options, clk clock) (*ServiceClient, error) {
	t, err := newTransport(opts, clk)
	if err != nil {
		return nil, err
	}
	opts = opts.withEnvironment()
	s := &ServiceClient{t: t, opening: wire.CreateSessionRequest{
		Tags:         append([]string{}, opts.Tags...),
		UserMetadata: anyMap(opts.UserMetadata),
		SDKVersion:   protocolVersion,
		Type:         "create_session",
	}}
	if opts.ProjectID != "" {
		s.opening.ProjectID = &opts.ProjectID
	}
	if opts.DisplayName != "" {
		s.opening.DisplayName = &opts.DisplayName
	}
	return s, nil
}

// String names the server.
func (s *ServiceClient) String() string { return fmt.Sprintf("tinkex.ServiceClient(%s)", s.t.server()) }

// RestClient returns a client for what is stored on the server. It shares the
// ServiceClient's connections and ends with it, but needs and opens no session.
func (s *ServiceClient) RestClient() *RestClient { return &RestClient{t: s.t} }

// ServerCapabilities lists the base models on offer. It opens no session.
func (s *ServiceClient) ServerCapabilities(ctx context.Context) (ServerCapabilities, error) {
	return s.RestClient().ServerCapabilities(ctx)
}

// SessionID returns the session's id, opening the session if there is none.
// Once the client is closed it wraps ErrClosed: the session has ended.
func (s *ServiceClient) SessionID(ctx context.Context) (string, error) {
	const op = "create session"
	if s.t.life.ctx.Err() != nil {
		return "", closedError(op)
	}
	return s.session.get(ctx, s.t.life, op, func(ctx context.Context) (string, error) {
		if _, err := s.t.flags(ctx); err != nil {
			return "", err
		}
		var out wire.CreateSessionResponse
		if err := s.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/create_session", pausable: true}, s.opening, &out); err != nil {
			return "", err
		}
		if err := checkID("session id", out.SessionID); err != nil {
			return "", &Error{Op: op, Category: CategoryServer, Err: err, Message: "the server's answer names no session: " + err.Error()}
		}
		for message, log := range map[string]func(string, ...any){
			out.InfoMessage: s.t.log.Info, out.WarningMessage: s.t.log.Warn, out.ErrorMessage: s.t.log.Error,
		} {
			if message != "" {
				log("message from the server", "session", out.SessionID, "message", clean(message, 2000))
			}
		}
		s.t.life.start(func() { s.heartbeat(out.SessionID) })
		return out.SessionID, nil
	})
}

// Outcome is how a session ended, as the protocol spells it.
type Outcome string

// The outcomes.
const (
	Success     Outcome = "success"
	Errored     Outcome = "errored"
	Interrupted Outcome = "interrupted"
)

// closeTimeout bounds what Close waits for.
const closeTimeout = 10 * time.Second

// Close is Finish with Success, given ten seconds.
func (s *ServiceClient) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return s.Finish(ctx, Success, "")
}

// Finish tells the server how the session ended, if there is one, and closes
// the client: requests that are still running fail with ErrClosed, heartbeats
// stop, connections are closed and no goroutine is left. What was submitted is
// carried out by the server all the same; await the Futures that matter first.
// Models that were not saved are lost.
//
// Only the first call does anything; later ones return nil. An error means
// that the server could not be told; the client is closed nevertheless.
func (s *ServiceClient) Finish(ctx context.Context, outcome Outcome, detail string) error {
	const op = "finish session"
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.finished {
		return nil
	}
	s.finished = true
	defer s.t.closeConnections()
	if _, err := s.t.close(ctx); err != nil {
		return &Error{Op: op, Category: CategoryUser, Err: err, Message: "a custom loss function is still running: " + err.Error()}
	}
	id, ok := s.session.peek()
	if !ok {
		return nil
	}
	body := wire.FinishSessionRequest{Reason: wire.FinishReason{Type: string(outcome)}}
	if detail != "" {
		body.Detail = &detail
	}
	err := s.t.json(ctx, &call{
		op: op, method: http.MethodPost, path: "/sessions/" + url.PathEscape(id) + "/finish", closing: true,
	}, body, nil)
	if errors.Is(err, ErrGone) || errors.Is(err, ErrNotFound) {
		return nil // it ended without us, or the server knows no ends
	}
	return err
}

// LoRAOptions describes the adapter to train. The zero value trains rank 32
// on attention, MLP and unembedding.
type LoRAOptions struct {
	Rank int    // 0: DefaultLoRARank
	Seed *int64 // of the adapter's initial weights; nil: the server chooses
	// What is left as it is; not all three.
	SkipAttn    bool // train_attn=false
	SkipMLP     bool // train_mlp=false
	SkipUnembed bool // train_unembed=false
	// UserMetadata is kept with the training run.
	UserMetadata map[string]string
}

// DefaultLoRARank is the rank of adapters that ask for none.
const DefaultLoRARank = 32

// CreateLoRATrainingClient starts a training run of a new adapter over a base
// model and waits until the server has created it.
func (s *ServiceClient) CreateLoRATrainingClient(ctx context.Context, baseModel string, opts LoRAOptions) (*TrainingClient, error) {
	op := "create training client for " + clean(baseModel, 200)
	switch {
	case baseModel == "":
		return nil, invalid("create training client", "no base model is named")
	case opts.Rank < 0:
		return nil, invalid(op, "rank %d is negative", opts.Rank)
	case opts.SkipAttn && opts.SkipMLP && opts.SkipUnembed:
		return nil, invalid(op, "attention, MLP and unembedding are all skipped: there is nothing to train")
	}
	if opts.Rank == 0 {
		opts.Rank = DefaultLoRARank
	}
	session, err := s.SessionID(ctx)
	if err != nil {
		return nil, err
	}
	return s.createModel(ctx, op, session, baseModel, opts)
}

func (s *ServiceClient) createModel(ctx context.Context, op, session, baseModel string, opts LoRAOptions) (*TrainingClient, error) {
	n := s.nextModel.Add(1) - 1
	var promise wire.Future
	err := s.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/create_model", pausable: true}, wire.CreateModelRequest{
		SessionID:    session,
		ModelSeqID:   n,
		BaseModel:    baseModel,
		UserMetadata: anyMap(opts.UserMetadata),
		LoRAConfig: &wire.LoRAConfig{
			Rank:         opts.Rank,
			Seed:         opts.Seed,
			TrainAttn:    new(!opts.SkipAttn),
			TrainMLP:     new(!opts.SkipMLP),
			TrainUnembed: new(!opts.SkipUnembed),
		},
		OptimizerConfig: &wire.OptimizerConfig{Type: "adamw"},
		Type:            "create_model",
	}, &promise)
	if err != nil {
		return nil, err
	}
	result, err := s.await(ctx, op, promise, "CreateModel")
	if err != nil {
		return nil, err
	}
	return s.trainingClient(session, n, result.ModelID, 1)
}

// modelCreated is the part of both creations' results that is used.
type modelCreated struct {
	ModelID string `json:"model_id"`
}

func (s *ServiceClient) await(ctx context.Context, op string, promise wire.Future, kind string) (modelCreated, error) {
	ctx, stop := s.t.life.bind(ctx)
	defer stop()
	return retrieve(ctx, s.t, retrieval{op: op, requestID: promise.RequestID, kind: kind}, decodeJSON[modelCreated])
}

// trainingClient wraps a model that was created. firstSeq is its next
// request's number.
func (s *ServiceClient) trainingClient(session string, n int64, modelID string, firstSeq int64) (*TrainingClient, error) {
	if modelID == "" {
		modelID = fmt.Sprintf("%s:train:%d", session, n)
	}
	flags, _ := s.t.config.peek()
	return &TrainingClient{s: s, t: s.t, modelID: modelID, flags: flags, queue: newTurns(firstSeq)}, nil
}

// StateOptions says what is different about a run that goes on from a
// checkpoint.
type StateOptions struct {
	// BaseModel overrides the checkpoint's, with a compatible one (another
	// context length, say). Empty: the checkpoint's.
	BaseModel string
	// UserMetadata is kept with the new training run.
	UserMetadata map[string]string
}

// CreateTrainingClientFromState starts a training run from a training
// checkpoint's weights, with a fresh optimizer. Base model, rank and what is
// trained (attention, MLP, unembedding) are the checkpoint's. The checkpoint
// may be another owner's if it is public.
func (s *ServiceClient) CreateTrainingClientFromState(ctx context.Context, path TinkerPath, opts StateOptions) (*TrainingClient, error) {
	return s.createFromState(ctx, path, opts, false)
}

// CreateTrainingClientFromStateWithOptimizer starts a training run that goes
// on exactly where the checkpoint was saved: weights, AdamW's moments and step
// count are the checkpoint's.
func (s *ServiceClient) CreateTrainingClientFromStateWithOptimizer(ctx context.Context, path TinkerPath, opts StateOptions) (*TrainingClient, error) {
	return s.createFromState(ctx, path, opts, true)
}

// createFromState lets the load create the model, so that the server derives
// everything from the checkpoint. Servers before that was possible are told
// the checkpoint's own values.
func (s *ServiceClient) createFromState(ctx context.Context, path TinkerPath, opts StateOptions, optimizer bool) (*TrainingClient, error) {
	op := "create training client from " + path.String()
	if err := checkLoadable(op, path); err != nil {
		return nil, err
	}
	session, err := s.SessionID(ctx)
	if err != nil {
		return nil, err
	}
	if flags, _ := s.t.config.peek(); !flags.createViaLoad {
		return s.createThenLoad(ctx, op, session, path, opts, optimizer)
	}
	n := s.nextModel.Add(1) - 1
	request := wire.LoadWeightsRequest{
		SessionID:    session,
		ModelSeqID:   &n,
		UserMetadata: anyMap(opts.UserMetadata),
		Path:         path.String(),
		Optimizer:    optimizer,
		Type:         "load_weights",
	}
	if opts.BaseModel != "" {
		request.BaseModel = &opts.BaseModel
	}
	var promise wire.Future
	err = s.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/load_weights", pausable: true}, request, &promise)
	if refusesCreateViaLoad(err) {
		s.t.log.Debug("the server does not create models by loading; creating it first", "error", err)
		return s.createThenLoad(ctx, op, session, path, opts, optimizer)
	}
	if err != nil {
		return nil, err
	}
	result, err := s.await(ctx, op, promise, "LoadWeights")
	if err != nil {
		return nil, err
	}
	return s.trainingClient(session, n, result.ModelID, 1)
}

// refusesCreateViaLoad recognises a server that knows only loads onto models:
// it misses the fields that name one.
func refusesCreateViaLoad(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return strings.Contains(e.Message, "model_id") || strings.Contains(e.Message, "seq_id") && !strings.Contains(e.Message, "model_seq_id")
	}
	return false
}

func (s *ServiceClient) createThenLoad(ctx context.Context, op, session string, path TinkerPath, opts StateOptions, optimizer bool) (*TrainingClient, error) {
	info, err := s.RestClient().WeightsInfo(ctx, path)
	if err != nil {
		return nil, err
	}
	if !info.IsLoRA || info.LoRARank == nil {
		return nil, &Error{Op: op, Category: CategoryUser, Err: ErrInvalid, Message: "the checkpoint is not a LoRA adapter"}
	}
	base := info.BaseModel
	if opts.BaseModel != "" {
		base = opts.BaseModel
	}
	skip := func(train *bool) bool { return train != nil && !*train }
	c, err := s.createModel(ctx, op, session, base, LoRAOptions{
		Rank:         *info.LoRARank,
		SkipAttn:     skip(info.TrainAttn),
		SkipMLP:      skip(info.TrainMLP),
		SkipUnembed:  skip(info.TrainUnembed),
		UserMetadata: opts.UserMetadata,
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.load(ctx, path, optimizer).Await(ctx); err != nil {
		c.Unload(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

func checkLoadable(op string, path TinkerPath) error {
	if err := path.Validate(); err != nil {
		return withOp(op, err)
	}
	if path.Type != Training {
		return &Error{Op: op, Category: CategoryUser, Err: ErrInvalidPath,
			Message: fmt.Sprintf("%s is not a training checkpoint; training goes on from tinker://<run-id>/weights/<name>", path)}
	}
	return nil
}

// SamplerOptions says what to sample from; one of the two fields is enough.
type SamplerOptions struct {
	// BaseModel samples from a base model as it is.
	BaseModel string
	// Path samples from a checkpoint.
	Path TinkerPath
}

// CreateSamplingClient opens a sampling session.
func (s *ServiceClient) CreateSamplingClient(ctx context.Context, opts SamplerOptions) (*SamplingClient, error) {
	op := "create sampling client"
	request := wire.CreateSamplingSessionRequest{Type: "create_sampling_session"}
	if opts.Path != (TinkerPath{}) {
		if err := opts.Path.Validate(); err != nil {
			return nil, withOp(op, err)
		}
		request.ModelPath = new(opts.Path.String())
		op += " for " + opts.Path.String()
	} else if opts.BaseModel == "" {
		return nil, invalid(op, "neither a base model nor a path is given")
	}
	if opts.BaseModel != "" {
		request.BaseModel = &opts.BaseModel
	}
	session, err := s.SessionID(ctx)
	if err != nil {
		return nil, err
	}
	request.SessionID = session
	request.SamplingSessionSeqID = s.nextSampler.Add(1) - 1
	var out wire.CreateSamplingSessionResponse
	if err := s.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/create_sampling_session", pausable: true}, request, &out); err != nil {
		return nil, err
	}
	if out.SamplingSessionID == "" {
		out.SamplingSessionID = fmt.Sprintf("%s:sample:%d", session, request.SamplingSessionSeqID)
	}
	return s.samplingClient(out.SamplingSessionID), nil
}

func (s *ServiceClient) samplingClient(id string) *SamplingClient {
	return &SamplingClient{s: s, t: s.t, id: id}
}

// anyMap is metadata as requests carry it.
func anyMap(m map[string]string) map[string]any {
	if m == nil {
		return nil
	}
	out := make(map[string]any, len(m))
	for k, v := range maps.All(m) {
		out[k] = v
	}
	return out
}
