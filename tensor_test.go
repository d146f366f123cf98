package tinkex

import (
	"reflect"
	"testing"
)

func TestTensors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ got, want TensorData }{
		"floats":        {Floats([]float32{1, 2}), TensorData{Float32: []float32{1, 2}, Shape: []int{2}}},
		"shaped floats": {Floats([]float32{1, 2, 3, 4}, 2, 2), TensorData{Float32: []float32{1, 2, 3, 4}, Shape: []int{2, 2}}},
		"no floats":     {Floats(nil), TensorData{Shape: []int{0}}},
		"ints":          {Ints([]int{1, -2}), TensorData{Int64: []int64{1, -2}, Shape: []int{2}}},
		"bytes":         {Ints([]byte("ab"), 2, 1), TensorData{Int64: []int64{'a', 'b'}, Shape: []int{2, 1}}},
	} {
		if !reflect.DeepEqual(tc.got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, tc.got, tc.want)
		}
		if n := max(len(tc.want.Float32), len(tc.want.Int64)); tc.got.Len() != n {
			t.Errorf("%s: %d values, want %d", name, tc.got.Len(), n)
		}
	}
}
