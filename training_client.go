package tinkex

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

// TrainingClient trains one model. Its methods return at once with a Future,
// so that steps overlap:
//
//	step := client.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
//	update := client.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-4})
//	loss, err := step.Await(ctx)
//	_, err = update.Await(ctx)
//
// The server carries requests out in the order of the calls. Each is sent when
// all before it have been acknowledged; until then, ending the context given
// to the method takes the request back. Once its sending has begun, the
// request goes through whatever becomes of that context. A request that fails
// does not stop those behind it.
//
// If a request is lost on the way, so that it is unknown whether the server
// has it, everything after it fails with ErrBroken: create a new client from
// the last checkpoint.
//
// Arguments must not be changed until the Future is done.
type TrainingClient struct {
	s       *ServiceClient
	t       *transport
	modelID string
	flags   flags
	queue   *turns
	info    lazy[*ModelInfo]
}

// String names the training run.
func (c *TrainingClient) String() string { return "tinkex.TrainingClient(" + c.modelID + ")" }

// RunID is the id of the training run, "<session-id>:train:<n>". Paths of its
// checkpoints begin with it.
func (c *TrainingClient) RunID() string { return c.modelID }

// ordered sends a request when its turn has come. send does the sending and
// returns what gets the result; that is done when the next request's turn has
// begun.
func ordered[T any](ctx context.Context, c *TrainingClient, op string, send func(context.Context) (func(context.Context) (T, error), error)) *Future[T] {
	f := newFuture[T](op)
	ctx, end := c.t.operation(ctx, op)
	place := c.queue.enter()
	started := c.t.life.start(func() {
		var v T
		waiting, stop := c.t.life.bind(ctx)
		defer stop()
		if place.wait(waiting) != nil {
			e := interrupted(waiting, op)
			e.Message = fmt.Sprintf("%v before the request was sent", e.Err)
			end(e)
			f.settle(v, e)
			select {
			case <-place.before:
			case <-c.t.life.ctx.Done():
			}
			close(place.over)
			return
		}
		working, stop := c.t.life.detach(ctx)
		defer stop()
		err := c.queue.check(op)
		var finish func(context.Context) (T, error)
		if err == nil {
			finish, err = send(working)
		}
		close(place.over)
		if err == nil {
			v, err = finish(working)
		}
		end(err)
		f.settle(v, err)
	})
	if !started {
		end(ErrClosed)
		close(place.over)
		return failedFuture[T](op, closedError(op))
	}
	return f
}

// submit sends one numbered request.
func (c *TrainingClient) submit(ctx context.Context, op, path string, build func(seq *int64) any) (wire.Future, error) {
	seq := c.queue.take(1)
	request := &call{op: op, method: http.MethodPost, path: path, pausable: true}
	var promise wire.Future
	err := c.t.json(ctx, request, build(&seq), &promise)
	c.queue.conclude(seq, []submission{{sent: request.sent, lost: request.lost, err: err}})
	return promise, err
}

// simple is a request of one JSON message with a JSON result.
func simple[W, T any](ctx context.Context, c *TrainingClient, op, path, kind string, build func(seq *int64) any, convert func(W) (T, error)) *Future[T] {
	return ordered(ctx, c, op, func(ctx context.Context) (func(context.Context) (T, error), error) {
		promise, err := c.submit(ctx, op, path, build)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (T, error) {
			return retrieve(ctx, c.t, retrieval{op: op, requestID: promise.RequestID, kind: kind}, func(b []byte) (T, error) {
				w, err := decodeJSON[W](b)
				if err != nil {
					var zero T
					return zero, err
				}
				return convert(w)
			})
		}, nil
	})
}

func decodeJSON[T any](b []byte) (T, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}

// Forward computes the loss of every datum, and the model's log probabilities,
// without gradients.
func (c *TrainingClient) Forward(ctx context.Context, data []Datum, loss LossFn, config LossConfig) *Future[*ForwardBackwardOutput] {
	return c.run(ctx, "forward", data, loss, config, true)
}

// ForwardBackward computes the loss of every datum and adds the gradient of
// their sum to the accumulated gradients, which OptimStep applies. A large
// batch is sent in several requests, whose results are joined.
func (c *TrainingClient) ForwardBackward(ctx context.Context, data []Datum, loss LossFn, config LossConfig) *Future[*ForwardBackwardOutput] {
	return c.run(ctx, "forward_backward", data, loss, config, false)
}

func (c *TrainingClient) run(ctx context.Context, op string, data []Datum, loss LossFn, config LossConfig, forwardOnly bool) *Future[*ForwardBackwardOutput] {
	op = op + " on " + c.modelID
	b := batch{data: data, loss: loss, forwardOnly: forwardOnly}
	err := validateData(data)
	if err == nil && loss == "" {
		err = fmt.Errorf("no loss function is named")
	}
	if err == nil {
		b.config, err = config.normal()
	}
	if err != nil {
		return failedFuture[*ForwardBackwardOutput](op, invalid(op, "%v", err))
	}
	return ordered(ctx, c, op, func(ctx context.Context) (func(context.Context) (*ForwardBackwardOutput, error), error) {
		return c.sendBatch(ctx, op, b)
	})
}

// normal returns the configuration with only float64 and string values.
func (c LossConfig) normal() (LossConfig, error) {
	if len(c) == 0 {
		return nil, nil
	}
	out := make(LossConfig, len(c))
	for name, v := range c {
		switch v := v.(type) {
		case string:
			out[name] = v
			continue
		case float64:
			out[name] = v
		case float32:
			out[name] = float64(v)
		case int:
			out[name] = float64(v)
		case int64:
			out[name] = float64(v)
		case int32:
			out[name] = float64(v)
		default:
			return nil, fmt.Errorf("loss configuration %q is a %T; numbers and strings are allowed", name, v)
		}
		if f := out[name].(float64); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("loss configuration %q is %v", name, f)
		}
	}
	return out, nil
}

// sendBatch sends a batch in chunks with consecutive numbers: all but the
// first at the same time and the first one last, as the official client does,
// so that the server begins when it has everything.
func (c *TrainingClient) sendBatch(ctx context.Context, op string, b batch) (func(context.Context) (*ForwardBackwardOutput, error), error) {
	chunks := b.chunks(c.flags.maxChunkLen, c.flags.maxChunkBytes)
	first := c.queue.take(len(chunks))
	sent := make([]submission, len(chunks))
	promises := make([]wire.Future, len(chunks))
	send := func(i int) {
		promises[i], sent[i] = c.sendChunk(ctx, op, first+int64(i), chunks[i])
	}
	if c.flags.parallelChunks {
		var rest sync.WaitGroup
		for i := 1; i < len(chunks); i++ {
			rest.Go(func() { send(i) })
		}
		rest.Wait()
		send(0)
	} else {
		for i := range chunks {
			if send(i); sent[i].err != nil {
				sent = sent[:i+1]
				break
			}
		}
	}
	c.queue.conclude(first, sent)
	for _, s := range sent {
		if s.err != nil {
			return nil, s.err
		}
	}
	kind := "ForwardBackward"
	if b.forwardOnly {
		kind = "Forward"
	}
	return func(ctx context.Context) (*ForwardBackwardOutput, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		parts := make([]*ForwardBackwardOutput, len(chunks))
		var firstErr error
		var once sync.Once
		get := func(i int) {
			var err error
			parts[i], err = retrieve(ctx, c.t, retrieval{op: op, requestID: promises[i].RequestID, kind: kind, protobuf: true},
				func(body []byte) (*ForwardBackwardOutput, error) {
					return decodeForwardBackward(body, len(chunks[i].data))
				})
			if err != nil {
				once.Do(func() {
					firstErr = err
					cancel()
				})
			}
		}
		var rest sync.WaitGroup
		for i := 1; i < len(chunks); i++ {
			rest.Go(func() { get(i) })
		}
		get(0)
		rest.Wait()
		if firstErr != nil {
			return nil, firstErr
		}
		return combine(parts), nil
	}, nil
}

func (c *TrainingClient) sendChunk(ctx context.Context, op string, seq int64, b batch) (promise wire.Future, s submission) {
	release, err := c.t.trainingBytes.acquire(ctx, b.estimateBytes())
	if err != nil {
		return promise, submission{err: interrupted(ctx, op)}
	}
	defer release()
	request := &call{
		op: op, method: http.MethodPost, path: "/forward_backward", pausable: true,
		contentType: wire.ContentTypeProtobuf, accept: wire.ContentTypeJSON,
	}
	if request.body, err = encodeForwardBackward(c.modelID, seq, b); err == nil && c.flags.compress {
		request.contentEncoding = "zstd"
		request.body, err = compress(request.body)
	}
	if err != nil {
		return promise, submission{err: invalid(op, "the request cannot be encoded: %v", err)}
	}
	err = c.t.json(ctx, request, nil, &promise)
	return promise, submission{sent: request.sent, lost: request.lost, err: err}
}

// OptimStep applies the accumulated gradients with AdamW and clears them.
func (c *TrainingClient) OptimStep(ctx context.Context, p AdamParams) *Future[*OptimStepOutput] {
	op := "optim_step on " + c.modelID
	params := wire.AdamParams{
		LearningRate: &p.LearningRate, Beta1: p.Beta1, Beta2: p.Beta2, Eps: p.Eps,
		WeightDecay: &p.WeightDecay, GradClipNorm: &p.GradClipNorm,
	}
	for name, v := range map[string]*float64{
		"learning rate": params.LearningRate, "beta1": p.Beta1, "beta2": p.Beta2, "eps": p.Eps,
		"weight decay": params.WeightDecay, "gradient clipping norm": params.GradClipNorm,
	} {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
			return failedFuture[*OptimStepOutput](op, invalid(op, "the %s is %v", name, *v))
		}
	}
	return simple(ctx, c, op, "/optim_step", "OptimStep", func(seq *int64) any {
		return wire.OptimStepRequest{ModelID: c.modelID, SeqID: seq, AdamParams: &params, Type: "optim_step"}
	}, func(r wire.OptimStepResult) (*OptimStepOutput, error) {
		return &OptimStepOutput{Metrics: r.Metrics}, nil
	})
}

// SaveOptions says how long a checkpoint is kept, and under which conditions
// it is made. The zero value keeps it for ever.
type SaveOptions struct {
	// TTL is how long the checkpoint is kept, in whole seconds; 0 is for ever.
	TTL time.Duration
	// Overwrite replaces a checkpoint of the same name; without it, such a
	// name is ErrConflict.
	Overwrite    bool
	UserMetadata map[string]string
}

// SaveState saves weights and optimizer state as "weights/<name>", to go on
// from later. Names are as ValidateName says.
func (c *TrainingClient) SaveState(ctx context.Context, name string, opts SaveOptions) *Future[*SavedCheckpoint] {
	return c.save(ctx, "save_weights", "SaveWeights", name, opts)
}

// SaveWeightsForSampler saves weights to sample from or to download, as
// "sampler_weights/<name>".
func (c *TrainingClient) SaveWeightsForSampler(ctx context.Context, name string, opts SaveOptions) *Future[*SavedCheckpoint] {
	return c.save(ctx, "save_weights_for_sampler", "SaveWeightsForSampler", name, opts)
}

func (c *TrainingClient) save(ctx context.Context, typ, kind, name string, opts SaveOptions) *Future[*SavedCheckpoint] {
	op := fmt.Sprintf("%s %q of %s", typ, clean(name, MaxNameLength), c.modelID)
	err := ValidateName(name)
	if err != nil {
		return failedFuture[*SavedCheckpoint](op, withOp(op, err))
	}
	ttl, err := ttlSeconds(opts.TTL)
	if err != nil {
		return failedFuture[*SavedCheckpoint](op, invalid(op, "%v", err))
	}
	return simple(ctx, c, op, "/"+typ, kind, func(seq *int64) any {
		return wire.SaveWeightsRequest{
			ModelID: c.modelID, Path: &name, SeqID: seq, TTLSeconds: ttl,
			Overwrite: opts.Overwrite, UserMetadata: opts.UserMetadata, Type: typ,
		}
	}, func(r wire.SaveWeightsResult) (*SavedCheckpoint, error) {
		path, err := ParseTinkerPath(r.Path)
		if err != nil {
			return nil, err
		}
		return &SavedCheckpoint{Path: path}, nil
	})
}

// SaveWeightsAndGetSamplingClient takes a snapshot of the weights, which is
// not listed and lasts as long as the session, and samples from it.
func (c *TrainingClient) SaveWeightsAndGetSamplingClient(ctx context.Context) *Future[*SamplingClient] {
	const typ = "save_weights_for_sampler"
	op := typ + " snapshot of " + c.modelID
	var n int64
	return simple(ctx, c, op, "/"+typ, "SaveWeightsForSampler", func(seq *int64) any {
		n = c.s.nextSampler.Add(1) - 1
		return wire.SaveWeightsRequest{ModelID: c.modelID, SeqID: seq, SamplingSessionSeqID: &n, Kind: "snapshot", Type: typ}
	}, func(r wire.SaveWeightsResult) (*SamplingClient, error) {
		if r.SamplingSessionID == "" {
			session, _, _ := strings.Cut(c.modelID, ":train:")
			r.SamplingSessionID = fmt.Sprintf("%s:sample:%d", session, n)
		}
		return c.s.samplingClient(r.SamplingSessionID), nil
	})
}

// LoadedCheckpoint is the result of a load: what the model goes on from.
type LoadedCheckpoint struct {
	Path TinkerPath
}

// LoadState loads a training checkpoint's weights; the optimizer starts
// afresh. Servers permit it only as a model's first request, and only for a
// checkpoint of the same base model, rank and trained modules; prefer
// ServiceClient.CreateTrainingClientFromState, which gets all of these right.
func (c *TrainingClient) LoadState(ctx context.Context, path TinkerPath) *Future[*LoadedCheckpoint] {
	return c.load(ctx, path, false)
}

// LoadStateWithOptimizer is LoadState with the optimizer's state, so that the
// next step is the one the saved model would have done next.
func (c *TrainingClient) LoadStateWithOptimizer(ctx context.Context, path TinkerPath) *Future[*LoadedCheckpoint] {
	return c.load(ctx, path, true)
}

func (c *TrainingClient) load(ctx context.Context, path TinkerPath, optimizer bool) *Future[*LoadedCheckpoint] {
	op := fmt.Sprintf("load %s into %s", path, c.modelID)
	if err := checkLoadable(op, path); err != nil {
		return failedFuture[*LoadedCheckpoint](op, err)
	}
	return simple(ctx, c, op, "/load_weights", "LoadWeights", func(seq *int64) any {
		return wire.LoadWeightsRequest{ModelID: c.modelID, SeqID: seq, Path: path.String(), Optimizer: optimizer, Type: "load_weights"}
	}, func(wire.LoadWeightsResult) (*LoadedCheckpoint, error) {
		return &LoadedCheckpoint{Path: path}, nil
	})
}

// Info describes the model. The server is asked once.
func (c *TrainingClient) Info(ctx context.Context) *Future[*ModelInfo] {
	op := "get_info of " + c.modelID
	return background(c.t.life, op, func() (*ModelInfo, error) {
		return c.info.get(ctx, c.t.life, op, func(ctx context.Context) (*ModelInfo, error) {
			var info ModelInfo
			err := c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/get_info", pausable: true},
				wire.ModelRequest{ModelID: c.modelID, Type: "get_info"}, &info)
			// Some servers qualify the tokenizer: "name:variant".
			info.ModelData.TokenizerID, _, _ = strings.Cut(info.ModelData.TokenizerID, ":")
			return &info, err
		})
	})
}

// Unload frees the model on the server, after everything asked for before.
// What was not saved is lost; later requests fail with ErrClosed.
func (c *TrainingClient) Unload(ctx context.Context) *Future[struct{}] {
	op := "unload " + c.modelID
	return ordered(ctx, c, op, func(ctx context.Context) (func(context.Context) (struct{}, error), error) {
		var promise wire.Future
		err := c.t.json(ctx, &call{op: op, method: http.MethodPost, path: "/unload_model"},
			wire.ModelRequest{ModelID: c.modelID, Type: "unload_model"}, &promise)
		if err != nil {
			return nil, err
		}
		c.queue.stop(closedError(op))
		return func(ctx context.Context) (struct{}, error) {
			if promise.RequestID == "" {
				return struct{}{}, nil
			}
			return retrieve(ctx, c.t, retrieval{op: op, requestID: promise.RequestID, kind: "UnloadModel"},
				func([]byte) (struct{}, error) { return struct{}{}, nil })
		}, nil
	})
}
