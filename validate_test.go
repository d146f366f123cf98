package tinkex

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestTensorsAreChecked(t *testing.T) {
	csr := func(shape []int, crow, col []int64, n int) TensorData {
		return TensorData{Float32: make([]float32, n), Shape: shape, CrowIndices: crow, ColIndices: col}
	}
	for _, test := range []struct {
		tensor TensorData
		says   string
	}{
		{Floats([]float32{1, 2}), ""},
		{Floats(make([]float32, 6), 2, 3), ""},
		{Ints([]int{1}), ""},
		{TensorData{}, ""},
		{TensorData{Float32: []float32{1}}, ""},
		{TensorData{Float32: []float32{1}, Shape: []int{}}, ""}, // a scalar
		{TensorData{Shape: []int{0, math.MaxInt, math.MaxInt}}, ""},
		{Floats(make([]float32, 5), 2, 3), "shape [2 3] holds 6 values, not 5"},
		{TensorData{Float32: []float32{1}, Int64: []int64{1}}, "both float32 and int64"},
		{Floats(nil, -1), "impossible"},
		{Floats(nil, math.MaxInt, math.MaxInt), "impossible"},

		{csr([]int{2, 3}, []int64{0, 1, 2}, []int64{2, 0}, 2), ""},
		{csr([]int{1, 3}, []int64{0, 0}, nil, 0), ""},
		{csr([]int{2, 3}, nil, []int64{1}, 1), "needs both"},
		{csr([]int{2, 3}, []int64{0, 1, 1}, nil, 1), "needs both"},
		{csr([]int{6}, []int64{0, 1}, []int64{0}, 1), "two dimensions"},
		{csr([]int{2, 3}, []int64{0, 1}, []int64{0}, 1), "are 3 numbers from 0 to 1"},
		{csr([]int{2, 3}, []int64{1, 1, 1}, []int64{0}, 1), "are 3 numbers from 0 to 1"},
		{csr([]int{2, 3}, []int64{0, 1, 5}, []int64{0}, 1), "are 3 numbers from 0 to 1"},
		{csr([]int{3, 3}, []int64{0, 2, 1, 2}, []int64{0, 1}, 2), "CrowIndices[2] is 1 after 2"},
		{csr([]int{3, 3}, []int64{0, 9, 1, 2}, []int64{0, 1}, 2), "CrowIndices[1] is 9"},
		{csr([]int{1, 3}, []int64{0, 2}, []int64{0}, 2), "1 ColIndices for 2 values"},
		{csr([]int{1, 3}, []int64{0, 1}, []int64{3}, 1), "ColIndices[0] is 3"},
		{csr([]int{1, 3}, []int64{0, 1}, []int64{-1}, 1), "ColIndices[0] is -1"},
		{csr([]int{1, 3}, []int64{0, 2}, []int64{1, 1}, 2), "ColIndices[1] is 1"},
	} {
		err := test.tensor.validate()
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%+v: %v, want %q", test.tensor, err, test.says)
		}
	}
}

func TestInputsAreChecked(t *testing.T) {
	type stranger struct{ TokenChunk }
	for says, chunks := range map[string][]Chunk{
		"is empty":                  nil,
		"chunk 1 has no tokens":     {TokenChunk{1}, TokenChunk{}},
		"token 1 is -5":             {TokenChunk{1, -5}},
		"image without data":        {ImageChunk{Format: "png"}},
		`image of format "gif"`:     {ImageChunk{Data: []byte("x"), Format: "gif"}},
		"chunk 0 is a tinkex.stran": {stranger{}},
		"chunk 0 is a <nil>":        {nil},
	} {
		err := validateInput(ModelInput{Chunks: chunks})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
	if err := validateData([]Datum{{Tokens(1), map[string]TensorData{"": Ints([]int{1})}}}); err == nil || !strings.Contains(err.Error(), "has no name") {
		t.Errorf("%v", err)
	}
}

func TestTTLSeconds(t *testing.T) {
	for _, test := range []struct {
		ttl  time.Duration
		want int64
	}{{time.Second, 1}, {1, 1}, {1500 * time.Millisecond, 2}, {time.Hour, 3600}, {math.MaxInt64, 9223372037}} {
		got, err := ttlSeconds(test.ttl)
		if err != nil || *got != test.want {
			t.Errorf("%v is %v s, %v; want %d", test.ttl, got, err, test.want)
		}
	}
	if got, err := ttlSeconds(0); got != nil || err != nil {
		t.Errorf("0 is %v, %v", got, err)
	}
	if _, err := ttlSeconds(-time.Second); err == nil {
		t.Error("a negative TTL passes")
	}
}
