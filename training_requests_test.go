package tinkex

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// The JSON requests, field by field as the official client sends them.
func TestTrainingRequestsOnTheWire(t *testing.T) {
	path := TinkerPath{RunID: "r", Type: Training, Name: "old"}
	for _, test := range []struct {
		name, route string
		do          func(*TrainingClient) error
		want        string
	}{
		{"optim_step", "POST /optim_step", func(c *TrainingClient) error {
			return failure(c.OptimStep(t.Context(), AdamParams{LearningRate: 0.5}))
		}, `{"model_id":"s1:train:0","seq_id":1,"adam_params":{"learning_rate":0.5,"weight_decay":0,"grad_clip_norm":0},"type":"optim_step"}`},
		{"optim_step with everything", "POST /optim_step", func(c *TrainingClient) error {
			return failure(c.OptimStep(t.Context(), AdamParams{Beta1: new(0.0), Beta2: new(0.5), Eps: new(1e-8), WeightDecay: 0.1, GradClipNorm: 1}))
		}, `{"model_id":"s1:train:0","seq_id":1,"adam_params":{"learning_rate":0,"beta1":0,"beta2":0.5,"eps":1e-8,"weight_decay":0.1,"grad_clip_norm":1},"type":"optim_step"}`},
		{"save_state", "POST /save_weights", func(c *TrainingClient) error {
			return failure(c.SaveState(t.Context(), "a.b", SaveOptions{}))
		}, `{"model_id":"s1:train:0","path":"a.b","seq_id":1,"type":"save_weights"}`},
		{"save_state with everything", "POST /save_weights", func(c *TrainingClient) error {
			return failure(c.SaveState(t.Context(), "x", SaveOptions{TTL: time.Hour + time.Millisecond, Overwrite: true, UserMetadata: map[string]string{"k": "v"}}))
		}, `{"model_id":"s1:train:0","path":"x","seq_id":1,"ttl_seconds":3601,"overwrite":true,"user_metadata":{"k":"v"},"type":"save_weights"}`},
		{"save_weights_for_sampler", "POST /save_weights_for_sampler", func(c *TrainingClient) error {
			return failure(c.SaveWeightsForSampler(t.Context(), "x", SaveOptions{TTL: time.Second}))
		}, `{"model_id":"s1:train:0","path":"x","seq_id":1,"ttl_seconds":1,"type":"save_weights_for_sampler"}`},
		{"snapshot", "POST /save_weights_for_sampler", func(c *TrainingClient) error {
			return failure(c.SaveWeightsAndGetSamplingClient(t.Context()))
		}, `{"model_id":"s1:train:0","seq_id":1,"sampling_session_seq_id":0,"kind":"snapshot","type":"save_weights_for_sampler"}`},
		{"load_state", "POST /load_weights", func(c *TrainingClient) error {
			return failure(c.LoadState(t.Context(), path))
		}, `{"model_id":"s1:train:0","seq_id":1,"path":"tinker://r/weights/old","optimizer":false,"type":"load_weights"}`},
		{"load_state_with_optimizer", "POST /load_weights", func(c *TrainingClient) error {
			return failure(c.LoadStateWithOptimizer(t.Context(), path))
		}, `{"model_id":"s1:train:0","seq_id":1,"path":"tinker://r/weights/old","optimizer":true,"type":"load_weights"}`},
		{"info", "POST /get_info", func(c *TrainingClient) error {
			return failure(c.Info(t.Context()))
		}, `{"model_id":"s1:train:0","type":"get_info"}`},
		{"unload", "POST /unload_model", func(c *TrainingClient) error {
			return failure(c.Unload(t.Context()))
		}, `{"model_id":"s1:train:0","type":"unload_model"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeTinker(t)
			client := f.training()
			if err := test.do(client); err != nil {
				t.Fatal(err)
			}
			if got := string(f.seen(test.route)[0].body); !sameJSON(t, got, test.want) {
				t.Errorf("sent %s\nwant %s", got, test.want)
			}
		})
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

func TestTrainingResults(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	if client.RunID() != "s1:train:0" || !strings.Contains(client.String(), "s1:train:0") {
		t.Error(client)
	}
	saved := await(t, client.SaveState(t.Context(), "x", SaveOptions{}))
	if want := (TinkerPath{RunID: "s1:train:0", Type: Training, Name: "x"}); saved.Path != want {
		t.Errorf("saved %v", saved.Path)
	}
	sampler := await(t, client.SaveWeightsForSampler(t.Context(), "x", SaveOptions{}))
	if sampler.Path.Type != Sampler {
		t.Errorf("saved %v", sampler.Path)
	}
	if loaded := await(t, client.LoadState(t.Context(), saved.Path)); loaded.Path != saved.Path {
		t.Errorf("loaded %v", loaded.Path)
	}
	if got := await(t, client.SaveWeightsAndGetSamplingClient(t.Context())); got.ID() != "s1:sample:0" {
		t.Errorf("sampling session %q", got.ID())
	}
	if got := await(t, client.SaveWeightsAndGetSamplingClient(t.Context())); got.ID() != "s1:sample:1" {
		t.Errorf("sampling session %q", got.ID())
	}
	for range 3 {
		info := await(t, client.Info(t.Context()))
		if info.ModelName != "m" || *info.LoRARank != 8 || info.ModelData.TokenizerID != "tok" || info.ModelData.Arch != "qwen3" {
			t.Errorf("info: %+v", info)
		}
	}
	if n := len(f.seen("POST /get_info")); n != 1 {
		t.Errorf("info was asked for %d times", n)
	}
}

func TestSnapshotIDIsDerivedIfTheServerDoesNotSayIt(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	f.accept("POST /save_weights_for_sampler", func(recorded) any { return map[string]any{} })
	if got := await(t, client.SaveWeightsAndGetSamplingClient(t.Context())); got.ID() != "s1:sample:0" {
		t.Errorf("sampling session %q", got.ID())
	}
}

func TestUnloadComesLast(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	step := client.OptimStep(t.Context(), AdamParams{})
	unload := client.Unload(t.Context())
	late := client.OptimStep(t.Context(), AdamParams{})
	await(t, step)
	await(t, unload)
	_, err := late.Await(t.Context())
	wantError(t, err, ErrClosed, "was unloaded")
	if errors.Is(err, ErrBroken) {
		t.Error("an unloaded model counts as broken")
	}
}

func TestRefusedBeforeSending(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	f.forget()
	good := []Datum{datum(1, 1)}
	ctx := t.Context()
	noop := func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) { return 0, nil, nil, nil }
	path := TinkerPath{RunID: "r", Type: Training, Name: "x"}
	samplerPath := path
	samplerPath.Type = Sampler
	for name, test := range map[string]struct {
		err  error
		want error
		says string
	}{
		"empty batch":         {failure(client.Forward(ctx, nil, CrossEntropy, nil)), ErrInvalid, "the batch is empty"},
		"no loss":             {failure(client.ForwardBackward(ctx, good, "", nil)), ErrInvalid, "no loss function"},
		"odd loss config":     {failure(client.ForwardBackward(ctx, good, PPO, LossConfig{"clip": []int{1}})), ErrInvalid, `"clip" is a []int`},
		"NaN in loss config":  {failure(client.ForwardBackward(ctx, good, PPO, LossConfig{"clip": math.NaN()})), ErrInvalid, `"clip" is NaN`},
		"custom, empty":       {failure(client.ForwardBackwardCustom(ctx, nil, noop)), ErrInvalid, "the batch is empty"},
		"custom, no function": {failure(client.ForwardBackwardCustom(ctx, good, nil)), ErrInvalid, "no loss function"},
		"custom, no targets":  {failure(client.ForwardBackwardCustom(ctx, []Datum{{Tokens(1), map[string]TensorData{"weights": Floats([]float32{1})}}}, noop)), ErrInvalid, "target_tokens are missing"},
		"NaN learning rate":   {failure(client.OptimStep(ctx, AdamParams{LearningRate: math.NaN()})), ErrInvalid, "the learning rate is NaN"},
		"infinite eps":        {failure(client.OptimStep(ctx, AdamParams{Eps: new(math.Inf(1))})), ErrInvalid, "the eps is +Inf"},
		"no name":             {failure(client.SaveState(ctx, "", SaveOptions{})), ErrInvalidPath, "the checkpoint name is empty"},
		"unsafe name":         {failure(client.SaveWeightsForSampler(ctx, "..", SaveOptions{})), ErrInvalidPath, "unsafe"},
		"negative TTL":        {failure(client.SaveState(ctx, "x", SaveOptions{TTL: -1})), ErrInvalid, "negative"},
		"load of a sampler":   {failure(client.LoadState(ctx, samplerPath)), ErrInvalidPath, "not a training checkpoint"},
		"load of nothing":     {failure(client.LoadStateWithOptimizer(ctx, TinkerPath{})), ErrInvalidPath, ""},
		"weights' shape":      {failure(client.Forward(ctx, []Datum{{Tokens(1, 2), map[string]TensorData{"target_tokens": Ints([]int{1, 2}), "weights": Floats([]float32{1})}}}, CrossEntropy, nil)), ErrInvalid, "weights has shape [1] but target_tokens has [2]"},
		"no input":            {failure(client.Forward(ctx, []Datum{{ModelInput{}, good[0].LossFnInputs}}, CrossEntropy, nil)), ErrInvalid, "the model input is empty"},
		"no loss inputs":      {failure(client.Forward(ctx, []Datum{{ModelInput: Tokens(1)}}, CrossEntropy, nil)), ErrInvalid, "no loss function inputs"},
	} {
		e := wantError(t, test.err, test.want, test.says)
		if e.Category != CategoryUser || e.Op == "" {
			t.Errorf("%s: category %q, op %q", name, e.Category, e.Op)
		}
	}
	if len(f.paths()) != 0 {
		t.Errorf("requests: %v", f.paths())
	}
}

func TestCompressedBodies(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"proto_compress_fwdbwd": true})
	client := f.training()
	accept := f.routes["POST /forward_backward"]
	f.handle("POST /forward_backward", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Encoding") != "zstd" {
			t.Errorf("content encoding %q", r.Header.Get("Content-Encoding"))
		}
		d, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		plain, err := io.ReadAll(d)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(plain))
		accept(w, r)
	})
	out := await(t, client.ForwardBackward(t.Context(), []Datum{datum(3, 10)}, CrossEntropy, nil))
	if len(out.LossFnOutputs) != 1 {
		t.Errorf("%+v", out)
	}
}

func TestLossConfigOnTheWire(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	await(t, client.ForwardBackward(t.Context(), []Datum{datum(1, 1)}, PPO, LossConfig{
		"clip_low_threshold": 0.8, "n": 3, "n32": int32(4), "n64": int64(5), "f32": float32(0.5), "mode": "fast",
	}))
	q := decodeChunks(t, f)[0]
	if q.LossFn != "ppo" || q.ForwardOnly || q.ModelId != "s1:train:0" {
		t.Errorf("%v", q)
	}
	for name, want := range map[string]float64{"clip_low_threshold": 0.8, "n": 3, "n32": 4, "n64": 5, "f32": 0.5} {
		if q.LossFnConfig[name] != want || q.LossFnConfigV2[name].GetNumber() != want {
			t.Errorf("%s is %v and %v", name, q.LossFnConfig[name], q.LossFnConfigV2[name])
		}
	}
	if _, ok := q.LossFnConfig["mode"]; ok || q.LossFnConfigV2["mode"].GetText() != "fast" {
		t.Errorf("mode is %v", q.LossFnConfigV2["mode"])
	}
}

// A loss of one's own equal to the server's gives the same request.
func TestCustomLossOfCrossEntropy(t *testing.T) {
	f := newFakeTinker(t)
	f.answer("POST /client/config", 200, map[string]any{"fwdbwd_max_chunk_len": 2})
	client := f.training()
	data := []Datum{datum(2, 10), datum(1, 20), datum(3, 30)}
	delete(data[1].LossFnInputs, "weights")
	var seen [][]float32
	custom := client.ForwardBackwardCustom(t.Context(), data, func(d []Datum, logprobs [][]float32) (float64, [][]float32, map[string]float64, error) {
		if len(d) != 3 {
			t.Errorf("%d datums", len(d))
		}
		seen = logprobs
		loss := 0.0
		grads := make([][]float32, len(logprobs))
		for i, lp := range logprobs {
			grads[i] = make([]float32, len(lp))
			for j := range lp {
				loss -= float64(lp[j])
				grads[i][j] = -1
			}
		}
		return 2 * loss, grads, map[string]float64{"mine": 5, "loss:sum": 77}, nil
	})
	after := client.OptimStep(t.Context(), AdamParams{})
	out := await(t, custom)
	await(t, after)
	if len(seen) != 3 || seen[2][2] != -3.2 || len(seen[1]) != 1 {
		t.Errorf("the loss saw %v", seen)
	}
	if got := out.Metrics; math.Abs(got["loss:sum"]-2*got["surrogate_loss:sum"]) > 1e-5 || got["mine"] != 5 || got["loss:sum"] == 77 {
		t.Errorf("metrics: %v", got)
	}
	var forward, backward []*pb.ForwardBackwardRequest
	for _, q := range decodeChunks(t, f) {
		if q.LossFn != "cross_entropy" {
			t.Errorf("loss %q", q.LossFn)
		}
		if q.ForwardOnly {
			forward = append(forward, q)
		} else {
			backward = append(backward, q)
		}
	}
	if len(forward) != 2 || len(backward) != 2 || forward[1].SeqId != 1 || backward[1].SeqId != 3 {
		t.Fatalf("%d forward, %d backward requests", len(forward), len(backward))
	}
	weights, err := wire.UnpackFloat32(backward[1].Data[0].LossFnInputs["weights"].GetDense())
	if err != nil || len(weights) != 2 || weights[0] != 1 {
		t.Errorf("weights %v, %v", weights, err)
	}
	zero, err := wire.UnpackFloat32(forward[1].Data[1].LossFnInputs["weights"].GetDense())
	if err != nil || len(zero) != 1 || zero[0] != 0 {
		t.Errorf("weights of the forward pass %v, %v", zero, err)
	}
	if got := stepNumbers(t, f); got[0] != 5 {
		t.Errorf("the step has number %v", got)
	}
}

func TestCustomLossFailures(t *testing.T) {
	ours := errors.New("my own reason")
	for _, test := range []struct {
		name string
		fn   CustomLoss
		want error
		says string
	}{
		{"error", func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) { return 0, nil, nil, ours }, ours, "my own reason"},
		{"panic", func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) { panic("boom") }, nil, "the loss function panicked: boom"},
		{"too few", func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) { return 0, nil, nil, nil }, nil, "gradients for 0 datums instead of 1"},
		{"too short", func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) {
			return 0, [][]float32{{1}}, nil, nil
		}, nil, "1 gradients for 2 log probabilities"},
		{"NaN", func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) {
			return 0, [][]float32{{1, float32(math.NaN())}}, nil, nil
		}, nil, "gradient 1 is NaN"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFakeTinker(t)
			client := f.training()
			custom := client.ForwardBackwardCustom(t.Context(), []Datum{datum(2, 1)}, test.fn)
			after := client.OptimStep(t.Context(), AdamParams{})
			_, err := custom.Await(t.Context())
			if e := wantError(t, err, test.want, test.says); e.Category != CategoryUser {
				t.Errorf("category %q", e.Category)
			}
			await(t, after)
			// Nothing was accumulated, and no number is missing.
			if n, got := len(f.seen("POST /forward_backward")), stepNumbers(t, f); n != 1 || got[0] != 2 {
				t.Errorf("%d requests, the step has number %v", n, got)
			}
		})
	}
	t.Run("no logprobs", func(t *testing.T) {
		f := newFakeTinker(t)
		client := f.training()
		f.handle("POST /forward_backward", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, 200, f.promise(protobufResult(&pb.ForwardBackwardOutput{})))
		})
		_, err := client.ForwardBackwardCustom(t.Context(), []Datum{datum(2, 1)}, func([]Datum, [][]float32) (float64, [][]float32, map[string]float64, error) {
			t.Error("the loss was computed")
			return 0, nil, nil, nil
		}).Await(t.Context())
		wantError(t, err, nil, "log probabilities of 0 datums instead of 1")
	})
}

func TestCustomLossGivenUpMeanwhileIsNotTorn(t *testing.T) {
	f := newFakeTinker(t)
	client := f.training()
	ctx, cancel := context.WithCancel(t.Context())
	out := await(t, client.ForwardBackwardCustom(ctx, []Datum{datum(1, 1)}, func(_ []Datum, lp [][]float32) (float64, [][]float32, map[string]float64, error) {
		cancel()
		return 1, lp, nil, nil
	}))
	if out.Metrics["loss:sum"] != 1 {
		t.Errorf("%v", out.Metrics)
	}
}

func TestSparseTargetsOfACustomLoss(t *testing.T) {
	sparse := TensorData{Int64: []int64{5, 6}, Shape: []int{1, 4}, CrowIndices: []int64{0, 2}, ColIndices: []int64{0, 3}}
	forward, err := customForwardData([]Datum{{Tokens(1), map[string]TensorData{"target_tokens": sparse}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := validateData(forward); err != nil {
		t.Error(err)
	}
	if w := forward[0].LossFnInputs["weights"]; len(w.Float32) != 2 || w.Int64 != nil || w.CrowIndices == nil {
		t.Errorf("weights: %+v", w)
	}
	body, err := encodeForwardBackward("m", 1, batch{data: forward, loss: CrossEntropy})
	if err != nil {
		t.Fatal(err)
	}
	var q pb.ForwardBackwardRequest
	if err := proto.Unmarshal(body, &q); err != nil {
		t.Fatal(err)
	}
	if csr := q.Data[0].LossFnInputs["target_tokens"].GetSparseCsr(); len(csr.GetValues()) != 16 || len(csr.GetCrowIndices()) != 16 {
		t.Errorf("%v", csr)
	}
}
