package server

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"math"
	"slices"

	"crypto/sha256"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/wire"
	"github.com/tinkex/tinkex/internal/wire/pb"
)

// maxTensor bounds the elements of one tensor, which a sparse tensor's shape
// could otherwise make as large as it likes.
const maxTensor = 1 << 26

// batchFromProto decodes a request's batch, and hashes it independently of the
// order in which a client writes its maps. Its errors are *engine.InputError.
func batchFromProto(msg *pb.ForwardBackwardRequest) (*engine.Batch, string, error) {
	h := sha256.New()
	b := &engine.Batch{Loss: msg.GetLossFn(), ForwardOnly: msg.GetForwardOnly()}
	fmt.Fprintf(h, "%q%t", b.Loss, b.ForwardOnly)
	var firstErr error
	note := func(err error) {
		if firstErr == nil {
			firstErr = err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(msg.GetLossFnConfigV2())) {
		v := msg.GetLossFnConfigV2()[k]
		fmt.Fprintf(h, "%q%v%q", k, v.GetNumber(), v.GetText())
		if _, text := v.GetValue().(*pb.LossConfigValue_Text); text {
			note(engine.Invalid("loss_fn_config."+k, "a text; this server's losses take numbers"))
			continue
		}
		b.LossConfig = put(b.LossConfig, k, v.GetNumber())
	}
	for _, k := range slices.Sorted(maps.Keys(msg.GetLossFnConfig())) {
		v := msg.GetLossFnConfig()[k]
		fmt.Fprintf(h, "%q%v", k, v)
		if _, ok := msg.GetLossFnConfigV2()[k]; !ok {
			b.LossConfig = put(b.LossConfig, k, v)
		}
	}
	b.Data = make([]engine.Datum, len(msg.GetData()))
	for i, d := range msg.GetData() {
		datum, err := datumFromProto(d, h, fmt.Sprintf("data[%d]", i))
		if err != nil {
			note(err)
		}
		b.Data[i] = datum
	}
	return b, hex.EncodeToString(h.Sum(nil)), firstErr
}

func put[V any](m map[string]V, k string, v V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[k] = v
	return m
}

func datumFromProto(d *pb.Datum, h hash.Hash, where string) (engine.Datum, error) {
	var out engine.Datum
	for i, c := range d.GetModelInput() {
		text, ok := c.GetChunk().(*pb.Chunk_EncodedText)
		if !ok {
			return out, engine.Invalid(fmt.Sprintf("%s.model_input.chunks[%d]", where, i), "not a chunk of tokens; this server's models read nothing else")
		}
		tokens, err := wire.UnpackInt32(text.EncodedText.GetTokens())
		if err != nil {
			return out, engine.Invalid(fmt.Sprintf("%s.model_input.chunks[%d].tokens", where, i), "%v", err)
		}
		hashBytes(h, text.EncodedText.GetTokens())
		out.Tokens = append(out.Tokens, tokens...)
	}
	for _, name := range slices.Sorted(maps.Keys(d.GetLossFnInputs())) {
		t := d.GetLossFnInputs()[name]
		hashBytes(h, []byte(name))
		hashTensor(h, t)
		tensor, err := tensorFromProto(t)
		if err != nil {
			return out, engine.Invalid(where+".loss_fn_inputs."+name, "%v", err)
		}
		out.Inputs = put(out.Inputs, name, tensor)
	}
	return out, nil
}

// hashBytes hashes length and bytes, so that no two lists of byte strings
// hash the same.
func hashBytes(h hash.Hash, b []byte) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}

func hashTensor(h hash.Hash, t *pb.Tensor) {
	fmt.Fprintf(h, "%d%v", t.GetDtype(), t.GetShape())
	hashBytes(h, t.GetDense())
	if csr := t.GetSparseCsr(); csr != nil {
		hashBytes(h, csr.GetValues())
		hashBytes(h, csr.GetCrowIndices())
		hashBytes(h, csr.GetColIndices())
	}
}

// tensorFromProto decodes a tensor, making it dense.
func tensorFromProto(t *pb.Tensor) (engine.Tensor, error) {
	var out engine.Tensor
	raw := t.GetDense()
	csr := t.GetSparseCsr()
	if csr != nil {
		raw = csr.GetValues()
	}
	var err error
	switch t.GetDtype() {
	case pb.DType_DTYPE_FLOAT32:
		out.F, err = wire.UnpackFloat32(raw)
	case pb.DType_DTYPE_BFLOAT16:
		out.F, err = wire.UnpackBFloat16(raw)
	case pb.DType_DTYPE_INT64:
		out.DType = engine.Int64
		out.I, err = wire.UnpackInt64(raw)
	case pb.DType_DTYPE_INT32:
		var v []int32
		out.DType = engine.Int64
		v, err = wire.UnpackInt32(raw)
		out.I = make([]int64, len(v))
		for i, x := range v {
			out.I[i] = int64(x)
		}
	default:
		err = fmt.Errorf("unknown dtype %d", t.GetDtype())
	}
	if err != nil {
		return out, err
	}
	stored := max(len(out.F), len(out.I))
	if len(t.GetShape()) == 0 {
		out.Shape = []int{stored}
	}
	size := int64(1)
	for _, d := range t.GetShape() {
		if d < 0 || d > maxTensor || size*d > maxTensor {
			return out, fmt.Errorf("shape %v: expected dimensions whose product is at most %d", t.GetShape(), maxTensor)
		}
		size *= d
		out.Shape = append(out.Shape, int(d))
	}
	if csr != nil {
		return densify(out, csr)
	}
	if len(t.GetShape()) > 0 && size != int64(stored) {
		return out, fmt.Errorf("shape %v has %d elements, but %d were sent", t.GetShape(), size, stored)
	}
	return out, nil
}

// densify spreads a CSR tensor's values; cells it does not list are 0.
func densify(t engine.Tensor, csr *pb.SparseCsr) (engine.Tensor, error) {
	crow, err := wire.UnpackInt64(csr.GetCrowIndices())
	if err != nil {
		return t, fmt.Errorf("crow_indices: %w", err)
	}
	col, err := wire.UnpackInt64(csr.GetColIndices())
	if err != nil {
		return t, fmt.Errorf("col_indices: %w", err)
	}
	stored := max(len(t.F), len(t.I))
	if len(t.Shape) != 2 || len(crow) != t.Shape[0]+1 || len(col) != stored {
		return t, fmt.Errorf("a sparse tensor needs a shape [rows, columns], rows+1 crow_indices and a column for each value; got shape %v, %d, %d and %d values", t.Shape, len(crow), len(col), stored)
	}
	rows, cols := t.Shape[0], t.Shape[1]
	var f []float32
	var i []int64
	if t.DType == engine.Int64 {
		i = make([]int64, rows*cols)
	} else {
		f = make([]float32, rows*cols)
	}
	if crow[0] != 0 || crow[rows] != int64(stored) {
		return t, fmt.Errorf("crow_indices must run from 0 to the number of values, %d", stored)
	}
	for r := range rows {
		if crow[r+1] < crow[r] || crow[r+1] > int64(stored) {
			return t, fmt.Errorf("crow_indices[%d] is %d: they may not fall or exceed the number of values", r+1, crow[r+1])
		}
		for k := crow[r]; k < crow[r+1]; k++ {
			if col[k] < 0 || col[k] >= int64(cols) {
				return t, fmt.Errorf("col_indices[%d] is %d: the tensor has %d columns", k, col[k], cols)
			}
			at := r*cols + int(col[k])
			if i != nil {
				i[at] = t.I[k]
			} else {
				f[at] = t.F[k]
			}
		}
	}
	t.F, t.I = f, i
	return t, nil
}

// outputToProto encodes a result. Consecutive datums whose values have the
// same trailing shape share a record.
func outputToProto(out *engine.ForwardBackwardOutput) *pb.ForwardBackwardOutput {
	msg := &pb.ForwardBackwardOutput{LossFnOutputType: out.OutputType, Metrics: out.Metrics}
	for start := 0; start < len(out.Outputs); {
		end := start + 1
		for end < len(out.Outputs) && sameLayout(out.Outputs[start], out.Outputs[end]) {
			end++
		}
		msg.LossFnOutputs = append(msg.LossFnOutputs, recordToProto(out.OutputType, out.Outputs[start:end]))
		start = end
	}
	return msg
}

func sameLayout(a, b map[string]engine.Tensor) bool {
	return maps.EqualFunc(a, b, func(x, y engine.Tensor) bool {
		return x.DType == y.DType && len(x.Shape) == len(y.Shape) && slices.Equal(x.Shape[1:], y.Shape[1:])
	})
}

func recordToProto(tag string, datums []map[string]engine.Tensor) *pb.ArrayRecord {
	rec := &pb.ArrayRecord{TypeTag: tag, NumDatums: int64(len(datums)), Fields: map[string]*pb.BatchedTensor{}}
	for name, first := range datums[0] {
		bt := &pb.BatchedTensor{Dtype: pb.DType_DTYPE_FLOAT32}
		if first.DType == engine.Int64 {
			bt.Dtype = pb.DType_DTYPE_INT64
		}
		for _, d := range first.Shape[1:] {
			bt.TrailingShape = append(bt.TrailingShape, int64(d))
		}
		offsets := []int64{0}
		for _, datum := range datums {
			t := datum[name]
			if t.DType == engine.Int64 {
				bt.Data = append(bt.Data, wire.PackInt64(t.I)...)
			} else {
				bt.Data = append(bt.Data, wire.PackFloat32(t.F)...)
			}
			offsets = append(offsets, int64(len(bt.Data)))
		}
		bt.Offsets = wire.PackInt64(offsets)
		rec.Fields[name] = bt
	}
	return rec
}

// maskedLogprob fills the cells of a top-k matrix that hold nothing
// (tinker.types.topk_logprobs.MASK_LOGPROB); their token is 0.
const maskedLogprob = -99999.0

func topkToProto(rows [][]engine.TokenLogprob, k int) *pb.TopkLogprobs {
	tokens := make([]int32, len(rows)*k)
	logprobs := make([]float32, len(rows)*k)
	for i := range logprobs {
		logprobs[i] = maskedLogprob
	}
	for r, row := range rows {
		for c, t := range row {
			tokens[r*k+c], logprobs[r*k+c] = t.Token, t.Logprob
		}
	}
	return &pb.TopkLogprobs{TokenIds: wire.PackInt32(tokens), Logprobs: wire.PackFloat32(logprobs), K: uint32(k), Length: uint32(len(rows))}
}

func widest(rows [][]engine.TokenLogprob) int {
	k := 0
	for _, row := range rows {
		k = max(k, len(row))
	}
	return k
}

func sampleToProto(out *engine.SampleOutput) *pb.SampleResponse {
	msg := &pb.SampleResponse{}
	for _, q := range out.Sequences {
		seq := &pb.SampledSequence{
			StopReason: pb.StopReason_STOP_REASON_LENGTH,
			Tokens:     wire.PackInt32(q.Tokens),
			Logprobs:   wire.PackFloat32(q.Logprobs),
		}
		if q.Stopped {
			seq.StopReason = pb.StopReason_STOP_REASON_STOP
		}
		if k := widest(q.TopKLogprobs); k > 0 {
			seq.TopkSampledLogprobs = topkToProto(q.TopKLogprobs, k)
		}
		msg.Sequences = append(msg.Sequences, seq)
	}
	if out.PromptLogprobs != nil {
		msg.PromptLogprobs = wire.PackFloat32(out.PromptLogprobs)
	}
	if k := widest(out.TopKPromptLogprobs); k > 0 {
		msg.TopkPromptLogprobs = topkToProto(out.TopKPromptLogprobs, k)
	}
	if rows := out.TargetPromptLogprobs; rows != nil {
		msg.TargetPromptLogprobs = matrixToProto(rows)
	}
	if rows := out.PromptAltTokens; rows != nil {
		k := widest(rows)
		var tokens []int64
		var logprobs []float32
		for _, row := range rows {
			for _, t := range row {
				tokens = append(tokens, int64(t.Token))
				logprobs = append(logprobs, t.Logprob)
			}
		}
		shape := []int64{int64(len(rows)), int64(k)}
		msg.PromptAltTokens = &pb.PromptAltTokens{
			Tokens:   &pb.Tensor{Encoding: &pb.Tensor_Dense{Dense: wire.PackInt64(tokens)}, Dtype: pb.DType_DTYPE_INT64, Shape: shape},
			Logprobs: &pb.Tensor{Encoding: &pb.Tensor_Dense{Dense: wire.PackFloat32(logprobs)}, Dtype: pb.DType_DTYPE_FLOAT32, Shape: shape},
		}
	}
	return msg
}

func matrixToProto(rows [][]float32) *pb.Tensor {
	var flat []float32
	k := 0
	for _, row := range rows {
		k = len(row)
		flat = append(flat, row...)
	}
	return &pb.Tensor{
		Encoding: &pb.Tensor_Dense{Dense: wire.PackFloat32(flat)},
		Dtype:    pb.DType_DTYPE_FLOAT32, Shape: []int64{int64(len(rows)), int64(k)},
	}
}

// finite drops the metrics that JSON cannot carry.
func finite(m map[string]float64) map[string]float64 {
	out := make(map[string]float64, len(m))
	for k, v := range m {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[k] = v
		}
	}
	return out
}
