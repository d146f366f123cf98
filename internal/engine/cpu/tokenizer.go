package cpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// tokenTable says which bytes a token stands for.
type tokenTable struct {
	bytes []string // by token id; "" for ids without any
}

func (t *tokenTable) text(token int32) string {
	if int(token) >= len(t.bytes) {
		return ""
	}
	return t.bytes[token]
}

// errNoTokenizer: the model's directory has no tokenizer this package can turn
// tokens into bytes with.
var errNoTokenizer = errors.New("no byte-level tokenizer.json")

// readTokenizer reads a Hugging Face tokenizer.json whose vocabulary spells
// bytes with GPT-2's alphabet, as those of Llama 3, Qwen and SmolLM do.
func readTokenizer(dir fs.FS, vocab int) (*tokenTable, error) {
	raw, err := fs.ReadFile(dir, "tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the model's directory has none", errNoTokenizer)
	}
	if err != nil {
		return nil, err
	}
	var file struct {
		Model struct {
			Vocab json.RawMessage `json:"vocab"`
		} `json:"model"`
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
		PreTokenizer json.RawMessage `json:"pre_tokenizer"`
		Decoder      json.RawMessage `json:"decoder"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoTokenizer, err)
	}
	if !mentionsByteLevel(file.PreTokenizer) && !mentionsByteLevel(file.Decoder) {
		return nil, fmt.Errorf("%w: its vocabulary is not byte-level", errNoTokenizer)
	}
	var words map[string]int
	if err := json.Unmarshal(file.Model.Vocab, &words); err != nil {
		return nil, fmt.Errorf("%w: vocabulary: %w", errNoTokenizer, err)
	}
	t := &tokenTable{bytes: make([]string, vocab)}
	alphabet := byteAlphabet()
	for word, id := range words {
		if id < 0 || id >= vocab {
			continue // some models have fewer embeddings than their tokenizer has words
		}
		b := make([]byte, 0, len(word))
		for _, r := range word {
			c, ok := alphabet[r]
			if !ok {
				b = append(b, string(r)...)
				continue
			}
			b = append(b, c)
		}
		t.bytes[id] = string(b)
	}
	for _, a := range file.Added {
		if a.ID >= 0 && a.ID < vocab {
			t.bytes[a.ID] = a.Content
		}
	}
	return t, nil
}

// mentionsByteLevel looks for a component of type ByteLevel, alone or in a
// sequence.
func mentionsByteLevel(raw json.RawMessage) bool {
	var part struct {
		Type          string            `json:"type"`
		PreTokenizers []json.RawMessage `json:"pretokenizers"`
		Decoders      []json.RawMessage `json:"decoders"`
	}
	if json.Unmarshal(raw, &part) != nil {
		return false
	}
	if part.Type == "ByteLevel" {
		return true
	}
	for _, p := range append(part.PreTokenizers, part.Decoders...) {
		if mentionsByteLevel(p) {
			return true
		}
	}
	return false
}

// byteAlphabet is GPT-2's: printable bytes stand for themselves, and the others
// for the code points from 256 on, in order.
func byteAlphabet() map[rune]byte {
	m := make(map[rune]byte, 256)
	next := rune(256)
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae && b <= 0xff {
			m[rune(b)] = byte(b)
			continue
		}
		m[next] = byte(b)
		next++
	}
	return m
}
