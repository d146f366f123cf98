package tinkex

import "errors"

// ModelInput is what a model reads: a sequence of chunks.
type ModelInput struct {
	Chunks []Chunk
}

// Chunk is a piece of a ModelInput: TokenChunk or ImageChunk.
type Chunk interface {
	// Length is how many positions the chunk takes in the model's context.
	Length() int
	isChunk()
}

// TokenChunk is a run of token ids.
type TokenChunk []int32

// ImageChunk is an encoded image, for models that read images. ExpectedTokens
// is advisory; the server computes the real number.
type ImageChunk struct {
	Data           []byte
	Format         string // "png" or "jpeg"
	ExpectedTokens int
}

// Length returns the number of tokens.
func (c TokenChunk) Length() int { return len(c) }

// Length returns ExpectedTokens.
func (c ImageChunk) Length() int { return c.ExpectedTokens }

func (TokenChunk) isChunk() {}
func (ImageChunk) isChunk() {}

// Tokens makes a ModelInput of token ids. Any integer type will do, bytes
// included, which are the tokens of byte-level models.
func Tokens[T ~int | ~int32 | ~int64 | ~uint8](ids ...T) ModelInput {
	chunk := make(TokenChunk, len(ids))
	for i, id := range ids {
		chunk[i] = int32(id)
	}
	return ModelInput{Chunks: []Chunk{chunk}}
}

// Length is the sum of the chunks' lengths.
func (m ModelInput) Length() int {
	n := 0
	for _, c := range m.Chunks {
		n += c.Length()
	}
	return n
}

// TokenIDs returns the tokens of all chunks; it fails if one is not made of
// tokens.
func (m ModelInput) TokenIDs() ([]int32, error) {
	var ids []int32
	for _, c := range m.Chunks {
		t, ok := c.(TokenChunk)
		if !ok {
			return nil, errors.New("model input has chunks that are not tokens")
		}
		ids = append(ids, t...)
	}
	return ids, nil
}
