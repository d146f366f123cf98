package cpu

import (
	"context"
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
)

func TestStops(t *testing.T) {
	s, err := newTestEngine(t).NewSampler(context.Background(), TinyModel, nil)
	if err != nil {
		t.Fatal(err)
	}
	bytes := func(text string) []int32 {
		var ts []int32
		for _, b := range []byte(text) {
			ts = append(ts, int32(b))
		}
		return ts
	}
	for _, tc := range []struct {
		name   string
		req    engine.SampleRequest
		tokens []int32
		want   int // tokens up to the stop, -1 for none
	}{
		{"end of text", engine.SampleRequest{}, []int32{1, TinyEndOfText, 2}, 2},
		{"end of message", engine.SampleRequest{}, []int32{TinyEnd, 1}, 1},
		{"disabled", engine.SampleRequest{NoStop: true}, []int32{TinyEndOfText, TinyEnd}, -1},
		{"own tokens only", engine.SampleRequest{StopTokens: []int32{7}}, []int32{TinyEndOfText, 7}, 2},
		{"own tokens with NoStop", engine.SampleRequest{StopTokens: []int32{7}, NoStop: true}, []int32{TinyEndOfText, 7}, 2},
		{"string", engine.SampleRequest{StopStrings: []string{"\n\n"}}, bytes("a\nb\n\nc"), 5},
		{"overlapping", engine.SampleRequest{StopStrings: []string{"aab"}}, bytes("aaab"), 4},
		{"first of several", engine.SampleRequest{StopStrings: []string{"long stop", "x"}}, bytes("long xtop"), 6},
		{"several bytes to a character", engine.SampleRequest{StopStrings: []string{"é"}}, bytes("eé"), 3},
		{"within a token", engine.SampleRequest{StopStrings: []string{"<|im"}}, []int32{'a', TinyStart, 'b'}, 2},
		{"across tokens", engine.SampleRequest{StopStrings: []string{"a<|pad|>b"}}, []int32{'a', TinyPad, 'b', 'c'}, 3},
		{"none", engine.SampleRequest{StopStrings: []string{"zz"}}, bytes("zyzyzy"), -1},
	} {
		st, err := s.(*Sampler).newStopper(&tc.req)
		if err != nil {
			t.Fatal(err)
		}
		var state stopState
		got := -1
		for i, tok := range tc.tokens {
			if st.stops(&state, tok) {
				got = i + 1
				break
			}
		}
		if got != tc.want {
			t.Errorf("%s: stopped after %d tokens, want %d", tc.name, got, tc.want)
		}
	}
}
