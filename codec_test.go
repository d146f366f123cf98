package tinkex

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

func TestEncodeForwardBackward(t *testing.T) {
	b := batch{loss: CISPO, forwardOnly: true, data: []Datum{{
		ModelInput: ModelInput{Chunks: []Chunk{
			TokenChunk{1, 2, 300000}, ImageChunk{Data: []byte("png!"), Format: "png", ExpectedTokens: 9}, ImageChunk{Data: []byte("j"), Format: "jpeg"},
		}},
		LossFnInputs: map[string]TensorData{
			"target_tokens": {Int64: []int64{1, 2, 3, -4}, Shape: []int{2, 2}},
			"weights":       {Float32: []float32{0.5, float32(math.Inf(-1))}},
			"sparse":        {Float32: []float32{7}, Shape: []int{2, 3}, CrowIndices: []int64{0, 0, 1}, ColIndices: []int64{2}},
			"empty":         {},
		},
	}}}
	body, err := encodeForwardBackward("model", 7, b)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := encodeForwardBackward("model", 7, b)
	if !bytes.Equal(body, again) {
		t.Error("the same batch is encoded in two ways")
	}
	var got pb.ForwardBackwardRequest
	if err := proto.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := &pb.ForwardBackwardRequest{ModelId: "model", SeqId: 7, LossFn: "cispo", ForwardOnly: true, Data: []*pb.Datum{{
		ModelInput: []*pb.Chunk{
			{Chunk: &pb.Chunk_EncodedText{EncodedText: &pb.EncodedTextChunk{Tokens: wire.PackInt32([]int32{1, 2, 300000})}}},
			{Chunk: &pb.Chunk_Image{Image: &pb.ImageChunk{Data: []byte("png!"), Format: "png", ExpectedTokens: proto.Int32(9)}}},
			{Chunk: &pb.Chunk_Image{Image: &pb.ImageChunk{Data: []byte("j"), Format: "jpeg"}}},
		},
		LossFnInputs: map[string]*pb.Tensor{
			"target_tokens": {Encoding: &pb.Tensor_Dense{Dense: wire.PackInt64([]int64{1, 2, 3, -4})}, Dtype: pb.DType_DTYPE_INT64, Shape: []int64{2, 2}},
			"weights":       {Encoding: &pb.Tensor_Dense{Dense: wire.PackFloat32([]float32{0.5, float32(math.Inf(-1))})}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: []int64{2}},
			"sparse": {Encoding: &pb.Tensor_SparseCsr{SparseCsr: &pb.SparseCsr{
				Values: wire.PackFloat32([]float32{7}), CrowIndices: wire.PackInt64([]int64{0, 0, 1}), ColIndices: wire.PackInt64([]int64{2}),
			}}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: []int64{2, 3}},
			"empty": {Encoding: &pb.Tensor_Dense{Dense: []byte{}}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: []int64{0}},
		},
	}}}
	if !proto.Equal(&got, want) {
		t.Errorf("got  %v\nwant %v", &got, want)
	}
	if _, err := encodeForwardBackward("m", math.MaxInt32+1, b); err == nil {
		t.Error("a number beyond the protocol's was encoded")
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeForwardBackward(t *testing.T) {
	msg := &pb.ForwardBackwardOutput{
		LossFnOutputType: "tinker.types:ArrayRecord",
		Metrics:          map[string]float64{"loss:sum": 1.5, "x:mean": math.NaN()},
		LossFnOutputs: []*pb.ArrayRecord{
			{NumDatums: 2, Fields: map[string]*pb.BatchedTensor{
				"logprobs": {Data: wire.PackFloat32([]float32{1, 2, 3, 4, 5, 6}), Offsets: wire.PackInt64([]int64{0, 8, 24}), Dtype: pb.DType_DTYPE_FLOAT32, TrailingShape: []int64{2}},
				"half":     {Data: []byte{0x80, 0x3f, 0x00, 0xc0}, Offsets: wire.PackInt64([]int64{0, 2, 4}), Dtype: pb.DType_DTYPE_BFLOAT16},
				"ids":      {Data: wire.PackInt32([]int32{7, -8}), Offsets: wire.PackInt64([]int64{0, 0, 8}), Dtype: pb.DType_DTYPE_INT32},
			}},
			{Fields: map[string]*pb.BatchedTensor{ // without num_datums
				"logprobs": {Data: wire.PackInt64([]int64{9}), Offsets: wire.PackInt64([]int64{0, 8}), Dtype: pb.DType_DTYPE_INT64},
			}},
			{NumDatums: 1},
		},
	}
	out, err := decodeForwardBackward(marshal(t, msg), 4)
	if err != nil {
		t.Fatal(err)
	}
	if out.LossFnOutputType != "ArrayRecord" || out.Metrics["loss:sum"] != 1.5 || !math.IsNaN(out.Metrics["x:mean"]) {
		t.Errorf("type %q, metrics %v", out.LossFnOutputType, out.Metrics)
	}
	want := []map[string]TensorData{
		{"logprobs": {Float32: []float32{1, 2}, Shape: []int{1, 2}}, "half": {Float32: []float32{1}, Shape: []int{1}}, "ids": {Int64: []int64{}, Shape: []int{0}}},
		{"logprobs": {Float32: []float32{3, 4, 5, 6}, Shape: []int{2, 2}}, "half": {Float32: []float32{-2}, Shape: []int{1}}, "ids": {Int64: []int64{7, -8}, Shape: []int{2}}},
		{"logprobs": {Int64: []int64{9}, Shape: []int{1}}},
		{},
	}
	if !reflect.DeepEqual(out.LossFnOutputs, want) {
		t.Errorf("got  %v\nwant %v", out.LossFnOutputs, want)
	}
	for typ, want := range map[string]string{"": "ArrayRecord", "X": "X", "a:b:C": "C", "a:": ""} {
		if got := lossFnOutputType(typ); got != want {
			t.Errorf("type %q is %q, want %q", typ, got, want)
		}
	}
}

func TestDecodeRefusesNonsense(t *testing.T) {
	record := func(n int64, f *pb.BatchedTensor) *pb.ForwardBackwardOutput {
		return &pb.ForwardBackwardOutput{LossFnOutputs: []*pb.ArrayRecord{{NumDatums: n, Fields: map[string]*pb.BatchedTensor{"x": f}}}}
	}
	tensor := func(bytes int, dtype pb.DType, shape []int64, offsets ...int64) *pb.BatchedTensor {
		return &pb.BatchedTensor{Data: make([]byte, bytes), Dtype: dtype, TrailingShape: shape, Offsets: wire.PackInt64(offsets)}
	}
	f32 := pb.DType_DTYPE_FLOAT32
	for says, msg := range map[string]*pb.ForwardBackwardOutput{
		"unknown dtype 0":                                record(1, tensor(4, 0, nil, 0, 4)),
		"unknown dtype 99":                               record(1, tensor(4, 99, nil, 0, 4)),
		"whole number of float32":                        record(1, tensor(5, f32, nil, 0, 4)),
		"whole number of bfloat16":                       record(1, tensor(5, pb.DType_DTYPE_BFLOAT16, nil, 0, 4)),
		"whole number of int32":                          record(1, tensor(5, pb.DType_DTYPE_INT32, nil, 0, 4)),
		"whole number of int64":                          record(1, tensor(9, pb.DType_DTYPE_INT64, nil, 0, 8)),
		"do not fit 4 bytes":                             record(1, tensor(4, f32, nil, 0, 8)),
		"offsets -4 to 4":                                record(1, tensor(4, f32, nil, -4, 4)),
		"offsets 4 to 0":                                 record(2, tensor(4, f32, nil, 0, 4, 0)),
		"offsets 0 to 2":                                 record(2, tensor(4, f32, nil, 0, 2, 4)),
		"to 9223372036854775807":                         record(1, tensor(4, f32, nil, 0, math.MaxInt64)),
		"trailing shape [-1]":                            record(1, tensor(4, f32, []int64{-1}, 0, 4)),
		"trailing shape [2147483647 2147483647]":         record(1, tensor(4, f32, []int64{math.MaxInt32, math.MaxInt32}, 0, 4)),
		"trailing shape [9223372036854775807]":           record(1, tensor(4, f32, []int64{math.MaxInt64}, 0, 4)),
		"not a whole number of rows of shape [2]":        record(1, tensor(12, f32, []int64{2}, 0, 12)),
		"not a whole number of rows of shape [0]":        record(1, tensor(4, f32, []int64{0}, 0, 4)),
		"it has 18 dimensions":                           record(1, tensor(4, f32, make([]int64, 17), 0, 4)),
		"has 1 datums instead of 2":                      record(2, tensor(4, f32, nil, 0, 4)),
		"more than 2 datums":                             record(0, tensor(0, f32, nil, 0, 0, 0, 0)),
		"holds outputs of 9223372036854775807":           {LossFnOutputs: []*pb.ArrayRecord{{NumDatums: math.MaxInt64}}},
		"holds outputs of -1":                            {LossFnOutputs: []*pb.ArrayRecord{{NumDatums: -1}}},
		"record 1: it holds outputs of 2 datums where 1": {LossFnOutputs: []*pb.ArrayRecord{{NumDatums: 1}, {NumDatums: 2}}},
	} {
		out, err := decodeForwardBackward(marshal(t, msg), 2)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v, %v", says, out, err)
		}
	}
	odd := tensor(4, f32, nil)
	odd.Offsets = []byte{1, 2, 3}
	if _, err := decodeForwardBackward(marshal(t, record(1, odd)), 2); err == nil {
		t.Error("offsets of three bytes")
	}
	if _, err := decodeForwardBackward([]byte("not protobuf"), 1); err == nil {
		t.Error("not protobuf")
	}
}

func TestDecodeSample(t *testing.T) {
	msg := &pb.SampleResponse{
		Sequences: []*pb.SampledSequence{
			{StopReason: pb.StopReason_STOP_REASON_LENGTH, Tokens: wire.PackInt32([]int32{5, 6}), Logprobs: wire.PackFloat32([]float32{-1, -2}),
				TopkSampledLogprobs: &pb.TopkLogprobs{K: 2, Length: 2, TokenIds: wire.PackInt32([]int32{5, 0, 0, 0}), Logprobs: wire.PackFloat32([]float32{-1, emptyCell, -0.5, emptyCell})}},
			{Tokens: nil},
		},
		PromptLogprobs:     wire.PackFloat32([]float32{float32(math.NaN()), -3}),
		TopkPromptLogprobs: &pb.TopkLogprobs{K: 1, Length: 1, TokenIds: wire.PackInt32([]int32{9}), Logprobs: wire.PackFloat32([]float32{-4})},
	}
	out, err := decodeSample(marshal(t, msg))
	if err != nil {
		t.Fatal(err)
	}
	want := []SampledSequence{
		{Tokens: []int32{5, 6}, Logprobs: []float32{-1, -2}, StopReason: StopReasonLength, TopKLogprobs: [][]TokenLogprob{{{5, -1}}, {{0, -0.5}}}},
		{Tokens: []int32{}, StopReason: StopReasonStop},
	}
	if !reflect.DeepEqual(out.Sequences, want) {
		t.Errorf("got  %+v\nwant %+v", out.Sequences, want)
	}
	if len(out.PromptLogprobs) != 2 || !math.IsNaN(float64(out.PromptLogprobs[0])) || out.PromptLogprobs[1] != -3 {
		t.Errorf("prompt logprobs %v", out.PromptLogprobs)
	}
	if !reflect.DeepEqual(out.TopKPromptLogprobs, [][]TokenLogprob{{{9, -4}}}) {
		t.Errorf("top-k prompt logprobs %v", out.TopKPromptLogprobs)
	}
	for says, bad := range map[string]*pb.SampleResponse{
		"sequence 0: unknown stop reason 7":     {Sequences: []*pb.SampledSequence{{StopReason: 7}}},
		"sequence 0: tokens: 3 bytes":           {Sequences: []*pb.SampledSequence{{Tokens: []byte("abc")}}},
		"sequence 0: logprobs: 3 bytes":         {Sequences: []*pb.SampledSequence{{Logprobs: []byte("abc")}}},
		"prompt logprobs: 3 bytes":              {PromptLogprobs: []byte("abc")},
		"are not 4294967295 rows of 4294967295": {TopkPromptLogprobs: &pb.TopkLogprobs{K: math.MaxUint32, Length: math.MaxUint32}},
		"top-k prompt logprobs: 3 bytes":        {TopkPromptLogprobs: &pb.TopkLogprobs{K: 1, Length: 1, TokenIds: []byte("abc")}},
		"1 token ids and 0 logprobs":            {TopkPromptLogprobs: &pb.TopkLogprobs{K: 1, Length: 1, TokenIds: make([]byte, 4)}},
	} {
		if out, err := decodeSample(marshal(t, bad)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v, %v", says, out, err)
		}
	}
}

// Small answers cannot make a client allocate much.
func TestDecodingIsProportional(t *testing.T) {
	dims := make([]int64, 1<<20)
	offsets := make([]byte, 8<<17)
	for name, msg := range map[string]proto.Message{
		"shape":   &pb.ForwardBackwardOutput{LossFnOutputs: []*pb.ArrayRecord{{Fields: map[string]*pb.BatchedTensor{"x": {Dtype: 1, TrailingShape: dims, Offsets: offsets}}}}},
		"offsets": &pb.ForwardBackwardOutput{LossFnOutputs: []*pb.ArrayRecord{{Fields: map[string]*pb.BatchedTensor{"x": {Dtype: 1, Offsets: offsets}}}}},
	} {
		b := marshal(t, msg)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeForwardBackward(b, 8)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if grew := after.TotalAlloc - before.TotalAlloc; grew > 20*uint64(len(b)) {
			t.Errorf("%s: %d bytes allocated for %d", name, grew, len(b))
		}
	}
}

// What a decoder accepts is consistent with itself, and nothing panics.
func FuzzDecodeOutputs(f *testing.F) {
	q := &pb.ForwardBackwardRequest{}
	for i := range 3 {
		d := datum(i+1, 10*i)
		q.Data = append(q.Data, &pb.Datum{LossFnInputs: map[string]*pb.Tensor{"target_tokens": encodeTensor(d.LossFnInputs["target_tokens"])}})
	}
	f.Add(marshal(f, scoreAll(q)))
	f.Add(marshal(f, &pb.ForwardBackwardOutput{LossFnOutputs: []*pb.ArrayRecord{{NumDatums: 1, Fields: map[string]*pb.BatchedTensor{
		"h": {Data: make([]byte, 12), Offsets: wire.PackInt64([]int64{0, 12}), Dtype: pb.DType_DTYPE_BFLOAT16, TrailingShape: []int64{3, 2}},
	}}}}))
	f.Add(marshal(f, &pb.SampleResponse{
		Sequences:          []*pb.SampledSequence{{Tokens: make([]byte, 8), Logprobs: make([]byte, 8)}},
		TopkPromptLogprobs: &pb.TopkLogprobs{K: 2, Length: 1, TokenIds: make([]byte, 8), Logprobs: make([]byte, 8)},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := decodeForwardBackward(b, 5); err == nil {
			if len(out.LossFnOutputs) > 5 {
				t.Errorf("%d outputs", len(out.LossFnOutputs))
			}
			for _, o := range out.LossFnOutputs {
				for name, v := range o {
					if err := v.validate(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		}
		if out, err := decodeSample(b); err == nil {
			_ = fmt.Sprint(out)
		}
	})
}
