package tinkex

import (
	"slices"
	"testing"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	type id int64
	for name, in := range map[string]ModelInput{
		"int":   Tokens(1, 2, 300),
		"int32": Tokens([]int32{1, 2, 300}...),
		"named": Tokens([]id{1, 2, 300}...),
	} {
		if ids, err := in.TokenIDs(); err != nil || !slices.Equal(ids, []int32{1, 2, 300}) || in.Length() != 3 {
			t.Errorf("%s: %v, %v, length %d", name, ids, err, in.Length())
		}
	}
	if ids, err := Tokens([]byte("hi")...).TokenIDs(); err != nil || !slices.Equal(ids, []int32{'h', 'i'}) {
		t.Errorf("bytes: %v, %v", ids, err)
	}
}

func TestModelInputOfSeveralChunks(t *testing.T) {
	t.Parallel()
	in := ModelInput{Chunks: []Chunk{TokenChunk{1, 2}, TokenChunk{}, TokenChunk{3}}}
	if ids, err := in.TokenIDs(); err != nil || !slices.Equal(ids, []int32{1, 2, 3}) {
		t.Errorf("tokens %v, %v", ids, err)
	}
	in.Chunks = append(in.Chunks, ImageChunk{Data: []byte("x"), Format: "png", ExpectedTokens: 7})
	if in.Length() != 10 {
		t.Errorf("length %d, want 10", in.Length())
	}
	if ids, err := in.TokenIDs(); err == nil {
		t.Errorf("an image has the tokens %v", ids)
	}
	if ids, err := (ModelInput{}).TokenIDs(); err != nil || len(ids) != 0 {
		t.Errorf("nothing: %v, %v", ids, err)
	}
}
