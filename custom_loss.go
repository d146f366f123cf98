package tinkex

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
)

// CustomLoss computes a loss over the model's log probabilities, and its
// gradient with respect to them. logprobs has one slice per datum, of
// target_tokens' size in row-major order; grads must have the same sizes.
// Metrics are added to the result's.
type CustomLoss func(data []Datum, logprobs [][]float32) (loss float64, grads [][]float32, metrics map[string]float64, err error)

// ForwardBackwardCustom is ForwardBackward with a loss computed here: the
// server computes the log probabilities of target_tokens, fn the gradient with
// respect to them, and the server carries it back into the model.
//
// The result's "loss:sum" is fn's loss; the one of the cross entropy that
// stands for it on the server is in "surrogate_loss:sum". Requests made after
// this one wait until fn has returned. If fn fails or panics, the Future fails
// and nothing is accumulated.
func (c *TrainingClient) ForwardBackwardCustom(ctx context.Context, data []Datum, fn CustomLoss) *Future[*ForwardBackwardOutput] {
	op := "forward_backward with a custom loss on " + c.modelID
	forward, err := customForwardData(data)
	if err == nil && fn == nil {
		err = fmt.Errorf("there is no loss function")
	}
	if err != nil {
		return failedFuture[*ForwardBackwardOutput](op, invalid(op, "%v", err))
	}
	return ordered(ctx, c, op, func(ctx context.Context) (func(context.Context) (*ForwardBackwardOutput, error), error) {
		get, err := c.sendBatch(ctx, op, batch{data: forward, loss: CrossEntropy, forwardOnly: true})
		if err != nil {
			return nil, err
		}
		scored, err := get(ctx)
		if err != nil {
			return nil, err
		}
		loss, backward, metrics, err := customBackwardData(data, scored, fn)
		if err != nil {
			return nil, &Error{Op: op, Category: CategoryUser, Err: err}
		}
		get, err = c.sendBatch(ctx, op, batch{data: backward, loss: CrossEntropy})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (*ForwardBackwardOutput, error) {
			out, err := get(ctx)
			if err != nil {
				return nil, err
			}
			surrogate, ok := out.Metrics["loss:sum"]
			maps.Copy(out.Metrics, metrics)
			if ok {
				out.Metrics["surrogate_loss:sum"] = surrogate
			}
			out.Metrics["loss:sum"] = loss
			return out, nil
		}, nil
	})
}

// customForwardData keeps what a cross entropy takes. Weights do not matter to
// log probabilities, but servers want some.
func customForwardData(data []Datum) ([]Datum, error) {
	if err := validateData(data); err != nil {
		return nil, err
	}
	out := make([]Datum, len(data))
	for i, d := range data {
		target, ok := d.LossFnInputs["target_tokens"]
		if !ok {
			return nil, fmt.Errorf("data[%d]: target_tokens are missing", i)
		}
		weights, ok := d.LossFnInputs["weights"]
		if !ok {
			weights = target
			weights.Int64 = nil
			weights.Float32 = make([]float32, target.Len())
		}
		out[i] = Datum{ModelInput: d.ModelInput, LossFnInputs: map[string]TensorData{"target_tokens": target, "weights": weights}}
	}
	return out, nil
}

// customBackwardData runs the loss function. The cross entropy of the data it
// returns, sum(-weights * logprobs) with weights = -grads, has the custom
// loss's gradient.
func customBackwardData(data []Datum, scored *ForwardBackwardOutput, fn CustomLoss) (loss float64, out []Datum, metrics map[string]float64, err error) {
	if len(scored.LossFnOutputs) != len(data) {
		return 0, nil, nil, fmt.Errorf("the server returned log probabilities of %d datums instead of %d", len(scored.LossFnOutputs), len(data))
	}
	logprobs := make([][]float32, len(data))
	for i, o := range scored.LossFnOutputs {
		t, ok := o["logprobs"]
		if !ok || t.Float32 == nil {
			return 0, nil, nil, fmt.Errorf("data[%d]: the server returned no log probabilities", i)
		}
		logprobs[i] = t.Float32
	}
	loss, grads, metrics, err := callCustomLoss(fn, data, logprobs)
	if err != nil {
		return 0, nil, nil, err
	}
	if len(grads) != len(data) {
		return 0, nil, nil, fmt.Errorf("the loss function returned gradients for %d datums instead of %d", len(grads), len(data))
	}
	out = make([]Datum, len(data))
	for i, d := range data {
		if len(grads[i]) != len(logprobs[i]) {
			return 0, nil, nil, fmt.Errorf("data[%d]: the loss function returned %d gradients for %d log probabilities", i, len(grads[i]), len(logprobs[i]))
		}
		weights := make([]float32, len(grads[i]))
		for j, g := range grads[i] {
			if math.IsNaN(float64(g)) || math.IsInf(float64(g), 0) {
				return 0, nil, nil, fmt.Errorf("data[%d]: gradient %d is %v", i, j, g)
			}
			weights[j] = -g
		}
		out[i] = Datum{ModelInput: d.ModelInput, LossFnInputs: map[string]TensorData{
			"target_tokens": d.LossFnInputs["target_tokens"],
			"weights":       {Float32: weights, Shape: scored.LossFnOutputs[i]["logprobs"].Shape},
		}}
	}
	return loss, out, metrics, nil
}

// callCustomLoss turns a panic into an error: on this goroutine the caller
// could not recover it.
func callCustomLoss(fn CustomLoss, data []Datum, logprobs [][]float32) (loss float64, grads [][]float32, metrics map[string]float64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the loss function panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(data, logprobs)
}
