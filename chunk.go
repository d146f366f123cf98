package tinkex

import (
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// batch is the data of one forward_backward request.
type batch struct {
	data        []Datum
	loss        LossFn
	config      LossConfig
	forwardOnly bool
}

// chunks cuts a batch as the official client does (tinker 0.38.0,
// TrainingClient._chunked_requests_generator), so that servers see the same
// sizes: at most maxLen datums and, but for a single larger one, maxBytes
// estimated bytes.
func (b batch) chunks(maxLen, maxBytes int) []batch {
	var out []batch
	start, size := 0, 0
	cut := func(end int) {
		c := b
		c.data = b.data[start:end:end]
		out = append(out, c)
		start, size = end, 0
	}
	for i, d := range b.data {
		n := estimateBytes(d)
		if i > start && size+n > maxBytes || i-start == maxLen {
			cut(i)
		}
		size += n
	}
	if start < len(b.data) {
		cut(len(b.data))
	}
	return out
}

func (b batch) estimateBytes() int64 {
	n := int64(0)
	for _, d := range b.data {
		n += int64(estimateBytes(d))
	}
	return n
}

// estimateBytes is how large a datum is on the wire, before compression.
func estimateBytes(d Datum) int {
	n := 0
	for _, c := range d.ModelInput.Chunks {
		if image, ok := c.(ImageChunk); ok {
			n += len(image.Data)
		} else {
			n += 4 * c.Length()
		}
	}
	for _, t := range d.LossFnInputs {
		n += 4*len(t.Float32) + 8*(len(t.Int64)+len(t.CrowIndices)+len(t.ColIndices))
	}
	return n
}

var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
})

func compress(b []byte) ([]byte, error) {
	e, err := zstdEncoder()
	if err != nil {
		return nil, err
	}
	return e.EncodeAll(b, nil), nil
}

// combine joins the results of a batch's chunks, in order.
func combine(parts []*ForwardBackwardOutput) *ForwardBackwardOutput {
	if len(parts) == 1 {
		return parts[0]
	}
	out := &ForwardBackwardOutput{LossFnOutputType: parts[0].LossFnOutputType, Metrics: combineMetrics(parts)}
	for _, p := range parts {
		out.LossFnOutputs = append(out.LossFnOutputs, p.LossFnOutputs...)
	}
	return out
}

// combineMetrics reduces each metric as its name says (tinker 0.38.0,
// lib/chunked_fwdbwd_helpers.py). Metrics that not all chunks have, or whose
// reduction is unknown, are left out.
func combineMetrics(parts []*ForwardBackwardOutput) map[string]float64 {
	weights := make([]float64, len(parts))
	for i, p := range parts {
		weights[i] = float64(len(p.LossFnOutputs))
	}
	out := map[string]float64{}
metrics:
	for key := range parts[0].Metrics {
		values := make([]float64, len(parts))
		for i, p := range parts {
			v, ok := p.Metrics[key]
			if !ok {
				continue metrics
			}
			values[i] = v
		}
		_, reduction, _ := strings.Cut(key, ":")
		switch reduction {
		case "sum":
			for _, v := range values {
				out[key] += v
			}
		case "mean":
			out[key] = weightedMean(values, weights)
		case "min":
			out[key] = reduce(values, math.Min)
		case "max":
			out[key] = reduce(values, math.Max)
		case "slack":
			out[key] = reduce(values, math.Max) - weightedMean(values, weights)
		case "hash2":
			out[key] = hashSum(values)
		case "unique":
			out[key] = values[0]
			for i, v := range values[1:] {
				out[key+"_"+strconv.Itoa(i+1)] = v
			}
		}
	}
	return out
}

func reduce(values []float64, f func(a, b float64) float64) float64 {
	acc := values[0]
	for _, v := range values[1:] {
		acc = f(acc, v)
	}
	return acc
}

// weightedMean weighs by datums; without any, all chunks count the same.
func weightedMean(values, weights []float64) float64 {
	sum, total, plain := 0.0, 0.0, 0.0
	for i, v := range values {
		sum += v * weights[i]
		total += weights[i]
		plain += v
	}
	if total == 0 {
		return plain / float64(len(values))
	}
	return sum / total
}

// hashSum adds integers modulo 2^64.
func hashSum(values []float64) float64 {
	var sum uint64
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return math.NaN()
		}
		r := math.Mod(math.Trunc(v), 1<<64) // exact
		if r < 0 {
			sum -= uint64(-r)
		} else {
			sum += uint64(r)
		}
	}
	return float64(sum)
}
