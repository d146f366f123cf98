package server

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// Whatever bytes come, they are a batch whose tensors are what their shapes
// say, or an error that names the field.
func FuzzBatchFromProto(f *testing.F) {
	seed := func(change func(*pb.ForwardBackwardRequest)) {
		q := &pb.ForwardBackwardRequest{ModelId: "m", SeqId: 1, LossFn: "cross_entropy", Data: []*pb.Datum{goodDatum()}}
		change(q)
		b, err := proto.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	sparse := func(crow, col []int64, shape ...int64) func(*pb.ForwardBackwardRequest) {
		return func(q *pb.ForwardBackwardRequest) {
			q.Data[0].LossFnInputs["weights"] = &pb.Tensor{
				Encoding: &pb.Tensor_SparseCsr{SparseCsr: &pb.SparseCsr{
					Values: wire.PackFloat32([]float32{1, 2}), CrowIndices: wire.PackInt64(crow), ColIndices: wire.PackInt64(col),
				}},
				Dtype: pb.DType_DTYPE_FLOAT32, Shape: shape,
			}
		}
	}
	seed(func(*pb.ForwardBackwardRequest) {})
	seed(sparse([]int64{0, 1, 2}, []int64{0, 2}, 2, 3))
	seed(sparse([]int64{0, 9, 2}, []int64{0, 2}, 2, 3))
	seed(sparse([]int64{0, 2}, []int64{0, -1}, 1, 3))
	seed(sparse([]int64{2}, []int64{0, 1}, 0, 3))
	seed(func(q *pb.ForwardBackwardRequest) {
		q.LossFnConfig = map[string]float64{"epsilon": 0.2}
		q.ForwardOnly = true
	})
	seed(func(q *pb.ForwardBackwardRequest) { q.Data[0].LossFnInputs["weights"].Shape = []int64{1 << 62, 4} })
	seed(func(q *pb.ForwardBackwardRequest) { q.Data[0].LossFnInputs["weights"].Dtype = pb.DType_DTYPE_BFLOAT16 })
	seed(func(q *pb.ForwardBackwardRequest) {
		q.Data[0].ModelInput = append(q.Data[0].ModelInput, &pb.Chunk{Chunk: &pb.Chunk_Image{}}, &pb.Chunk{})
	})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var msg pb.ForwardBackwardRequest
		if proto.Unmarshal(b, &msg) != nil {
			return
		}
		for _, d := range msg.GetData() {
			for _, x := range d.GetLossFnInputs() {
				if cells(x.GetShape()) > 1<<16 {
					t.Skip("a large tensor: allowed, but slow to fuzz")
				}
			}
		}
		batch, hash, err := batchFromProto(&msg)
		_, again, _ := batchFromProto(proto.Clone(&msg).(*pb.ForwardBackwardRequest))
		if hash != again {
			t.Errorf("one request has two hashes")
		}
		var input *engine.InputError
		if err != nil {
			if !errors.As(err, &input) || input.Error() == "" {
				t.Errorf("%v does not name a field", err)
			}
			return
		}
		if len(batch.Data) != len(msg.GetData()) {
			t.Fatalf("%d datums became %d", len(msg.GetData()), len(batch.Data))
		}
		for _, d := range batch.Data {
			for name, x := range d.Inputs {
				n := 1
				for _, dim := range x.Shape {
					n *= dim
				}
				if len(x.Shape) == 0 || max(len(x.F), len(x.I)) != n || (x.DType == engine.Int64) != (len(x.I) == n && n > 0) && n > 0 {
					t.Errorf("%s has shape %v, %d floats and %d integers", name, x.Shape, len(x.F), len(x.I))
				}
			}
		}
	})
}

// cells is how many cells a shape has, if a tensor may have as many.
func cells(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > maxTensor || n*d > maxTensor {
			return 0
		}
		n *= d
	}
	return n
}

// Whatever asample is sent becomes a request within bounds or an error, and
// what was understood of stop conditions is understood again.
func FuzzSampleRequest(f *testing.F) {
	for _, stop := range []string{`"\n"`, `["a","b"]`, `[1,2]`, `[]`, `null`, `""`, `[1.5]`, `["a",1]`, `{}`, `[99999999999]`} {
		f.Add([]byte(`{"prompt":{"chunks":[{"type":"encoded_text","tokens":[1]}]},"sampling_params":{"stop":` + stop + `}}`))
	}
	f.Add([]byte(`{"num_samples":3,"prompt_logprobs":true,"prompt_logprobs_last_n":1,"prompt":{"chunks":[]},"sampling_params":{"seed":-1,"max_tokens":2}}`))
	f.Add([]byte(`{"prompt":{"chunks":[]},"sampling_params":{},"target_prompt_logprobs":{"dtype":"int64","shape":[2,2],"data":[1,2,3,4]}}`))
	f.Add([]byte(`{"prompt":{"chunks":[]},"sampling_params":{},"target_prompt_logprobs":{"dtype":"int64","shape":[2,3],"data":[7],"sparse_crow_indices":[0,0,1],"sparse_col_indices":[2]}}`))
	f.Add([]byte(`{"prompt":{"chunks":[]},"sampling_params":{},"target_prompt_logprobs":{"dtype":"int64","shape":[1,3],"data":[7],"sparse_crow_indices":[-5,9],"sparse_col_indices":[2]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w wire.SampleRequest
		if json.Unmarshal(b, &w) != nil {
			return
		}
		if x := w.TargetPromptLogprobs; x != nil && len(x.Shape) == 2 && int64(x.Shape[0])*int64(x.Shape[1]) > 1<<16 {
			t.Skip("a large tensor: allowed, but slow to fuzz")
		}
		req, err := sampleRequest(w)
		if err != nil {
			var input *engine.InputError
			if !errors.As(err, &input) {
				t.Errorf("%v does not name a field", err)
			}
			return
		}
		if req.NumSamples < 1 || req.NumSamples > maxSamples || req.MaxTokens < 0 {
			t.Errorf("out of bounds: %+v", req)
		}
		for _, row := range req.TargetPromptTokens {
			if len(row) != w.TargetPromptLogprobs.Shape[1] {
				t.Errorf("a row has %d cells, want %d", len(row), w.TargetPromptLogprobs.Shape[1])
			}
		}
		stop := w.SamplingParams.Stop
		if stop == nil {
			if req.NoStop || req.StopStrings != nil || req.StopTokens != nil {
				t.Errorf("no stop condition became %+v", req)
			}
			return
		}
		if len(stop.Strings) > 0 && len(stop.Tokens) > 0 {
			t.Errorf("stop is two things at once: %+v", stop)
		}
		enc, err := json.Marshal(stop)
		if err != nil {
			t.Fatal(err)
		}
		var back wire.Stop
		if err := json.Unmarshal(enc, &back); err != nil || len(back.Strings) != len(stop.Strings) || len(back.Tokens) != len(stop.Tokens) {
			t.Errorf("%+v was written as %s and read as %+v, %v", stop, enc, back, err)
		}
	})
}

// No query but the one made for a path opens it, and that one does.
func FuzzSignedQuery(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	s := &signer{secret: []byte("secret"), now: func() time.Time { return now }}
	const path = "/tinkex/v1/archives/r/weights/n/d"
	good := s.query(path, now.Add(time.Hour))
	f.Add(path, good)
	f.Add(path+"x", good)
	f.Add(path, s.query(path, now))
	f.Add(path, good+"&expires=1")
	f.Add(path, "expires=&signature="+s.mac(path, ""))
	f.Add(path, "expires=+1700003600&signature=%zz")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, p, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		err = s.verify(p, q)
		if err != nil {
			if !errors.Is(err, errURLExpired) && !errors.Is(err, errURLTampered) {
				t.Errorf("refused for %v", err)
			}
			return
		}
		at, err := strconv.ParseInt(q.Get("expires"), 10, 64)
		if err != nil || at <= now.Unix() {
			t.Errorf("%q opens until %q", p, q.Get("expires"))
		}
		if q.Get("signature") != s.mac(p, q.Get("expires")) {
			t.Errorf("%q opens with %q", p, query)
		}
		other := &signer{secret: []byte("another"), now: s.now}
		if other.verify(p, q) == nil {
			t.Errorf("%q opens another server", query)
		}
	})
}

// A null field is the same as no field, at any depth.
func FuzzDropNulls(f *testing.F) {
	for _, body := range []string{
		`{}`, `[]`, `null`, `{"session_id":"s","model_seq_id":0,"base_model":"tinkex/tiny","lora_config":{"rank":2}}`,
		`{"model_id":"m","seq_id":1,"path":"x","ttl_seconds":1}`, `{"request_id":"r"}`, `{"path":"tinkex://a/weights/b"}`,
		`{"tinker_path":"tinker://a/weights/b"}`, `{"a":[null,{"b":null}]}`, `{"tags":[null]}`, "\xff",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var loose any
		if jsonFormat.Unmarshal([]byte(body), &loose) != nil {
			return
		}
		if hasNullField(loose) {
			t.Errorf("%q keeps a null: %v", body, loose)
		}
	})
}

func hasNullField(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			if x == nil || hasNullField(x) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if hasNullField(x) {
				return true
			}
		}
	}
	return false
}
