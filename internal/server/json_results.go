package server

import (
	"math"
	"reflect"

	"github.com/tinkex/tinkex/internal/engine"
)

// The results that official clients take only as protobuf, in the JSON form
// they had before (tinker 0.24), for everybody else. What JSON cannot carry
// is null.

type jsonOutput struct {
	LossFnOutputType string                  `json:"loss_fn_output_type"`
	LossFnOutputs    []map[string]jsonTensor `json:"loss_fn_outputs"`
	Metrics          map[string]float64      `json:"metrics"`
}

type jsonTensor struct {
	Data  any    `json:"data"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
}

type jsonSample struct {
	Type               string         `json:"type"`
	Sequences          []jsonSequence `json:"sequences"`
	PromptLogprobs     []*float32     `json:"prompt_logprobs,omitempty"`
	TopKPromptLogprobs [][][2]float64 `json:"topk_prompt_logprobs,omitempty"`
}

type jsonSequence struct {
	StopReason   string         `json:"stop_reason"`
	Tokens       []int32        `json:"tokens"`
	Logprobs     []*float32     `json:"logprobs"`
	TopKLogprobs [][][2]float64 `json:"topk_logprobs,omitempty"`
}

func outputToJSON(out *engine.ForwardBackwardOutput) jsonOutput {
	j := jsonOutput{LossFnOutputType: out.OutputType, LossFnOutputs: []map[string]jsonTensor{}, Metrics: finite(out.Metrics)}
	for _, o := range out.Outputs {
		m := map[string]jsonTensor{}
		for name, t := range o {
			if t.DType == engine.Int64 {
				m[name] = jsonTensor{t.I, "int64", t.Shape}
			} else {
				m[name] = jsonTensor{nullable(t.F), "float32", t.Shape}
			}
		}
		j.LossFnOutputs = append(j.LossFnOutputs, m)
	}
	return j
}

func sampleToJSON(out *engine.SampleOutput) jsonSample {
	j := jsonSample{
		Type: "sample", PromptLogprobs: nullable(out.PromptLogprobs),
		TopKPromptLogprobs: pairs(out.TopKPromptLogprobs),
	}
	for _, q := range out.Sequences {
		reason := "length"
		if q.Stopped {
			reason = "stop"
		}
		j.Sequences = append(j.Sequences, jsonSequence{reason, nonNil(q.Tokens), nullable(q.Logprobs), pairs(q.TopKLogprobs)})
	}
	return j
}

func nullable(v []float32) []*float32 {
	var out []*float32
	for i, x := range v {
		if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
			out = append(out, nil)
			continue
		}
		out = append(out, &v[i])
	}
	return out
}

func pairs(rows [][]engine.TokenLogprob) [][][2]float64 {
	var out [][][2]float64
	for _, row := range rows {
		var p [][2]float64
		for _, t := range row {
			p = append(p, [2]float64{float64(t.Token), max(float64(t.Logprob), maskedLogprob)})
		}
		out = append(out, p)
	}
	return out
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
