package tinkex

import (
	"maps"
	"math"
	"testing"
)

func TestChunks(t *testing.T) {
	image := func(n int) Datum {
		return Datum{ModelInput: ModelInput{Chunks: []Chunk{ImageChunk{Data: make([]byte, n), Format: "png"}}}}
	}
	for _, test := range []struct {
		name             string
		sizes            []int
		maxLen, maxBytes int
		want             []int
	}{
		{"none", nil, 3, 10, nil},
		{"all in one", []int{3, 3, 4}, 3, 10, []int{3}},
		{"one byte too many", []int{3, 3, 5}, 3, 10, []int{2, 1}},
		{"one datum too many", []int{0, 0, 0, 0}, 3, 10, []int{3, 1}},
		{"larger than a chunk", []int{1, 50, 1}, 3, 10, []int{1, 1, 1}},
		{"only larger ones", []int{50, 50}, 3, 10, []int{1, 1}},
		{"exactly", []int{10, 10, 10}, 3, 10, []int{1, 1, 1}},
		{"many", make([]int, 2049), 1024, 5_000_000, []int{1024, 1024, 1}},
	} {
		b := batch{loss: PPO, forwardOnly: true, config: LossConfig{"a": 1.0}}
		for _, n := range test.sizes {
			b.data = append(b.data, image(n))
		}
		chunks := b.chunks(test.maxLen, test.maxBytes)
		total := 0
		for i, c := range chunks {
			if i >= len(test.want) || len(c.data) != test.want[i] {
				t.Errorf("%s: chunk %d has %d datums, want %v", test.name, i, len(c.data), test.want)
			}
			if c.loss != PPO || !c.forwardOnly || c.config["a"] != 1.0 {
				t.Errorf("%s: chunk %d is %+v", test.name, i, c)
			}
			total += len(c.data)
		}
		if len(chunks) != len(test.want) || total != len(test.sizes) {
			t.Errorf("%s: %d chunks of %d datums", test.name, len(chunks), total)
		}
	}
}

func TestEstimatedBytes(t *testing.T) {
	d := Datum{
		ModelInput: ModelInput{Chunks: []Chunk{TokenChunk{1, 2, 3}, ImageChunk{Data: make([]byte, 100), ExpectedTokens: 7}}},
		LossFnInputs: map[string]TensorData{
			"a": Floats(make([]float32, 5)),
			"b": Ints(make([]int, 2)),
			"c": {Float32: make([]float32, 1), CrowIndices: make([]int64, 3), ColIndices: make([]int64, 1)},
		},
	}
	if got, want := estimateBytes(d), 3*4+100+5*4+2*8+4+8*4; got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}

func TestMetricsAreCombinedAsTheirNamesSay(t *testing.T) {
	part := func(datums int, m map[string]float64) *ForwardBackwardOutput {
		return &ForwardBackwardOutput{LossFnOutputType: "ArrayRecord", LossFnOutputs: make([]map[string]TensorData, datums), Metrics: m}
	}
	// Values as tinker 0.38.0's combine_fwd_bwd_output_results gives them.
	got := combine([]*ForwardBackwardOutput{
		part(3, map[string]float64{"a:sum": 1, "b:mean": 2, "c:min": 3, "d:max": 4, "e:slack": 8, "f:hash2": 1 << 62, "g:unique": 7, "h:other": 1, "plain": 1, "i:sum": 1}),
		part(1, map[string]float64{"a:sum": 10, "b:mean": 6, "c:min": 5, "d:max": -1, "e:slack": 4, "f:hash2": 1 << 63, "g:unique": 8, "h:other": 1, "plain": 1}),
		part(0, map[string]float64{"a:sum": 100, "b:mean": 1000, "c:min": 9, "d:max": 0, "e:slack": 0, "f:hash2": -1, "g:unique": 9, "h:other": 1, "plain": 1}),
	})
	want := map[string]float64{
		"a:sum": 111, "b:mean": 3, "c:min": 3, "d:max": 4, "e:slack": 1, "f:hash2": float64(uint64(1<<62 + 1<<63 - 1)),
		"g:unique": 7, "g:unique_1": 8, "g:unique_2": 9,
	}
	if !maps.Equal(got.Metrics, want) {
		t.Errorf("got  %v\nwant %v", got.Metrics, want)
	}
	if len(got.LossFnOutputs) != 4 {
		t.Errorf("%d outputs", len(got.LossFnOutputs))
	}
	// One chunk's metrics are the server's own words.
	one := part(1, map[string]float64{"e:slack": 8, "plain": 1})
	if combine([]*ForwardBackwardOutput{one}) != one {
		t.Error("a single chunk was changed")
	}
	if got := weightedMean([]float64{1, 3}, []float64{0, 0}); got != 2 {
		t.Errorf("without datums the mean is %v", got)
	}
	if got := hashSum([]float64{math.NaN(), 1}); !math.IsNaN(got) {
		t.Errorf("hash of NaN is %v", got)
	}
	if got := hashSum([]float64{0x1p64, 0x1p70, 2.9}); got != 2 {
		t.Errorf("hash is %v", got)
	}
}
