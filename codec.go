package tinkex

import (
	"fmt"
	"maps"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// Encoding and decoding of what travels as protobuf. The decoders are given
// whatever a server sent: they return errors, never panic, and allocate in
// proportion to the bytes they were given.

// encodeForwardBackward builds the body of a forward_backward request, of
// data that was validated.
func encodeForwardBackward(modelID string, seqID int64, b batch) ([]byte, error) {
	if seqID > math.MaxInt32 {
		return nil, fmt.Errorf("seq_id %d does not fit the protocol", seqID)
	}
	msg := &pb.ForwardBackwardRequest{
		ModelId:     modelID,
		SeqId:       int32(seqID),
		LossFn:      string(b.loss),
		ForwardOnly: b.forwardOnly,
		Data:        make([]*pb.Datum, len(b.data)),
	}
	for name, v := range b.config {
		if msg.LossFnConfigV2 == nil {
			msg.LossFnConfigV2 = map[string]*pb.LossConfigValue{}
		}
		switch v := v.(type) {
		case string:
			msg.LossFnConfigV2[name] = &pb.LossConfigValue{Value: &pb.LossConfigValue_Text{Text: v}}
		case float64:
			if msg.LossFnConfig == nil {
				msg.LossFnConfig = map[string]float64{}
			}
			msg.LossFnConfig[name] = v
			msg.LossFnConfigV2[name] = &pb.LossConfigValue{Value: &pb.LossConfigValue_Number{Number: v}}
		}
	}
	for i, d := range b.data {
		m := &pb.Datum{LossFnInputs: make(map[string]*pb.Tensor, len(d.LossFnInputs))}
		for _, c := range d.ModelInput.Chunks {
			chunk, err := encodeChunk(c)
			if err != nil {
				return nil, err
			}
			m.ModelInput = append(m.ModelInput, chunk)
		}
		for name, t := range d.LossFnInputs {
			m.LossFnInputs[name] = encodeTensor(t)
		}
		msg.Data[i] = m
	}
	// Deterministic, so that the same batch is the same bytes.
	return proto.MarshalOptions{Deterministic: true}.Marshal(msg)
}

func encodeChunk(c Chunk) (*pb.Chunk, error) {
	switch c := c.(type) {
	case TokenChunk:
		return &pb.Chunk{Chunk: &pb.Chunk_EncodedText{EncodedText: &pb.EncodedTextChunk{Tokens: wire.PackInt32(c)}}}, nil
	case ImageChunk:
		image := &pb.ImageChunk{Data: c.Data, Format: c.Format}
		if c.ExpectedTokens > 0 {
			image.ExpectedTokens = proto.Int32(int32(min(c.ExpectedTokens, math.MaxInt32)))
		}
		return &pb.Chunk{Chunk: &pb.Chunk_Image{Image: image}}, nil
	}
	return nil, fmt.Errorf("unknown chunk type %T", c)
}

func encodeTensor(t TensorData) *pb.Tensor {
	msg := &pb.Tensor{Dtype: pb.DType_DTYPE_FLOAT32}
	values := wire.PackFloat32(t.Float32)
	if t.Int64 != nil {
		msg.Dtype = pb.DType_DTYPE_INT64
		values = wire.PackInt64(t.Int64)
	}
	for _, n := range t.shape() {
		msg.Shape = append(msg.Shape, int64(n))
	}
	if t.CrowIndices != nil {
		msg.Encoding = &pb.Tensor_SparseCsr{SparseCsr: &pb.SparseCsr{
			Values:      values,
			CrowIndices: wire.PackInt64(t.CrowIndices),
			ColIndices:  wire.PackInt64(t.ColIndices),
		}}
	} else {
		msg.Encoding = &pb.Tensor_Dense{Dense: values}
	}
	return msg
}

// decodeForwardBackward reads a result. datums is how many were sent.
func decodeForwardBackward(b []byte, datums int) (*ForwardBackwardOutput, error) {
	var msg pb.ForwardBackwardOutput
	if err := proto.Unmarshal(b, &msg); err != nil {
		return nil, err
	}
	out := &ForwardBackwardOutput{
		LossFnOutputType: lossFnOutputType(msg.LossFnOutputType),
		Metrics:          map[string]float64{},
	}
	maps.Copy(out.Metrics, msg.Metrics)
	for i, record := range msg.LossFnOutputs {
		records, err := decodeRecord(record, datums-len(out.LossFnOutputs))
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		out.LossFnOutputs = append(out.LossFnOutputs, records...)
	}
	return out, nil
}

// lossFnOutputType is the last part of what servers write as "module:Class".
func lossFnOutputType(s string) string {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ':' {
			return s[i+1:]
		}
	}
	if s == "" {
		return "ArrayRecord"
	}
	return s
}

// decodeRecord cuts a batch into its datums, at most limit of them.
func decodeRecord(r *pb.ArrayRecord, limit int) ([]map[string]TensorData, error) {
	n := r.GetNumDatums()
	fields := make(map[string][]TensorData, len(r.GetFields()))
	for name, f := range r.GetFields() {
		tensors, err := decodeBatchedTensor(f, limit)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
		if n == 0 {
			n = int64(len(tensors))
		}
		if int64(len(tensors)) != n {
			return nil, fmt.Errorf("field %q has %d datums instead of %d", name, len(tensors), n)
		}
		fields[name] = tensors
	}
	if n < 0 || n > int64(limit) {
		return nil, fmt.Errorf("it holds outputs of %d datums where %d are missing", n, limit)
	}
	out := make([]map[string]TensorData, n)
	for i := range out {
		out[i] = make(map[string]TensorData, len(fields))
		for name, tensors := range fields {
			out[i][name] = tensors[i]
		}
	}
	return out, nil
}

// maxDims bounds the dimensions of a tensor that a server may send.
const maxDims = 16

// decodeBatchedTensor cuts one field at its byte offsets, into at most limit
// tensors.
func decodeBatchedTensor(f *pb.BatchedTensor, limit int) ([]TensorData, error) {
	if len(f.GetOffsets())/8 > limit+1 {
		return nil, fmt.Errorf("it has more than %d datums", limit)
	}
	if len(f.GetTrailingShape()) >= maxDims {
		return nil, fmt.Errorf("it has %d dimensions", len(f.TrailingShape)+1)
	}
	floats, ints, size, err := decodeValues(f.GetData(), f.GetDtype())
	if err != nil {
		return nil, err
	}
	offsets, err := wire.UnpackInt64(f.GetOffsets())
	if err != nil {
		return nil, fmt.Errorf("offsets: %w", err)
	}
	if len(offsets) == 0 {
		return nil, nil
	}
	row := 1 // values per step of the first dimension
	trailing := make([]int, len(f.TrailingShape))
	for i, n := range f.TrailingShape {
		if n < 0 || n > math.MaxInt32 || n > 0 && row > math.MaxInt32/int(n) {
			return nil, fmt.Errorf("trailing shape %v is impossible", f.TrailingShape)
		}
		trailing[i] = int(n)
		row *= int(n)
	}
	out := make([]TensorData, len(offsets)-1)
	for i := range out {
		from, to := offsets[i], offsets[i+1]
		if from < 0 || to < from || to > int64(len(f.Data)) || from%size != 0 || to%size != 0 {
			return nil, fmt.Errorf("offsets %d to %d do not fit %d bytes of %v", from, to, len(f.Data), f.Dtype)
		}
		n := int((to - from) / size)
		first := 0
		if row > 0 {
			first = n / row
		}
		if first*row != n {
			return nil, fmt.Errorf("%d values are not a whole number of rows of shape %v", n, f.TrailingShape)
		}
		t := TensorData{Shape: append([]int{first}, trailing...)}
		if ints != nil {
			t.Int64 = ints[from/size : to/size : to/size]
		} else {
			t.Float32 = floats[from/size : to/size : to/size]
		}
		out[i] = t
	}
	return out, nil
}

// decodeValues widens what the protocol packs narrowly: int32 to int64,
// bfloat16 to float32. One of the slices is not nil; size is a packed value's.
func decodeValues(b []byte, dtype pb.DType) (floats []float32, ints []int64, size int64, err error) {
	switch dtype {
	case pb.DType_DTYPE_FLOAT32:
		size = 4
		floats, err = wire.UnpackFloat32(b)
	case pb.DType_DTYPE_BFLOAT16:
		size = 2
		floats, err = wire.UnpackBFloat16(b)
	case pb.DType_DTYPE_INT64:
		size = 8
		ints, err = wire.UnpackInt64(b)
	case pb.DType_DTYPE_INT32:
		size = 4
		var narrow []int32
		narrow, err = wire.UnpackInt32(b)
		ints = make([]int64, len(narrow))
		for i, v := range narrow {
			ints[i] = int64(v)
		}
	default:
		err = fmt.Errorf("unknown dtype %d", dtype)
	}
	return floats, ints, size, err
}

// decodeSample reads a result of sampling.
func decodeSample(b []byte) (*SampleOutput, error) {
	var msg pb.SampleResponse
	if err := proto.Unmarshal(b, &msg); err != nil {
		return nil, err
	}
	out := &SampleOutput{Sequences: make([]SampledSequence, len(msg.Sequences))}
	var err error
	for i, s := range msg.Sequences {
		if out.Sequences[i], err = decodeSequence(s); err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
	}
	if len(msg.PromptLogprobs) > 0 {
		if out.PromptLogprobs, err = wire.UnpackFloat32(msg.PromptLogprobs); err != nil {
			return nil, fmt.Errorf("prompt logprobs: %w", err)
		}
	}
	if out.TopKPromptLogprobs, err = decodeTopK(msg.TopkPromptLogprobs); err != nil {
		return nil, fmt.Errorf("top-k prompt logprobs: %w", err)
	}
	return out, nil
}

func decodeSequence(s *pb.SampledSequence) (SampledSequence, error) {
	var out SampledSequence
	var err error
	switch s.GetStopReason() {
	case pb.StopReason_STOP_REASON_STOP:
		out.StopReason = StopReasonStop
	case pb.StopReason_STOP_REASON_LENGTH:
		out.StopReason = StopReasonLength
	default:
		return out, fmt.Errorf("unknown stop reason %d", s.GetStopReason())
	}
	if out.Tokens, err = wire.UnpackInt32(s.GetTokens()); err != nil {
		return out, fmt.Errorf("tokens: %w", err)
	}
	if len(s.GetLogprobs()) > 0 {
		if out.Logprobs, err = wire.UnpackFloat32(s.GetLogprobs()); err != nil {
			return out, fmt.Errorf("logprobs: %w", err)
		}
	}
	out.TopKLogprobs, err = decodeTopK(s.GetTopkSampledLogprobs())
	return out, err
}

// emptyCell is the log probability of a cell of a top-k matrix that holds
// nothing.
const emptyCell = -99999

// decodeTopK turns the dense matrices into rows of what they hold.
func decodeTopK(m *pb.TopkLogprobs) ([][]TokenLogprob, error) {
	if m == nil || m.K == 0 || m.Length == 0 {
		return nil, nil
	}
	ids, err := wire.UnpackInt32(m.TokenIds)
	if err != nil {
		return nil, err
	}
	logprobs, err := wire.UnpackFloat32(m.Logprobs)
	if err != nil {
		return nil, err
	}
	k, n := uint64(m.K), uint64(m.Length)
	if cells := k * n; uint64(len(ids)) != cells || uint64(len(logprobs)) != cells {
		return nil, fmt.Errorf("%d token ids and %d logprobs are not %d rows of %d", len(ids), len(logprobs), n, k)
	}
	rows := make([][]TokenLogprob, n)
	for i := range rows {
		row := make([]TokenLogprob, 0, k)
		for j := uint64(i) * k; j < uint64(i+1)*k; j++ {
			if ids[j] != 0 || logprobs[j] != emptyCell {
				row = append(row, TokenLogprob{Token: ids[j], Logprob: logprobs[j]})
			}
		}
		rows[i] = row
	}
	return rows, nil
}
