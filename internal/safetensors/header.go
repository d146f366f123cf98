package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

const (
	// maxHeaderBytes is the reference implementation's limit. It bounds what a
	// hostile file can make a reader allocate.
	maxHeaderBytes = 100_000_000

	lengthBytes = 8 // of the little-endian header length that opens a file

	metadataKey = "__metadata__"
)

// ErrFormat is wrapped by every error about a file that is not valid
// safetensors, as opposed to one that could not be read.
var ErrFormat = errors.New("invalid safetensors file")

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// TensorInfo describes one tensor of a file.
type TensorInfo struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar

	begin, end int64 // relative to the end of the header
}

// Elements is the number of elements: the product of the shape, 1 for a scalar.
func (t TensorInfo) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes is the tensor's size in the file.
func (t TensorInfo) Bytes() int64 { return t.end - t.begin }

// header is a parsed and validated header.
type header struct {
	tensors  []TensorInfo // by position in the file
	metadata map[string]string
}

// parseHeader validates the JSON header raw against dataBytes, the number of
// bytes after it. A header it accepts is safe to use without further checks:
// every tensor lies within the file and fits in memory as an int count.
func parseHeader(raw []byte, dataBytes int64) (*header, error) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, formatError("the header does not start with '{'")
	}
	if !utf8.Valid(raw) {
		return nil, formatError("the header is not UTF-8")
	}
	// encoding/json keeps the last of duplicate keys, which would let two
	// readers see two different files, so the top level is read by token.
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return nil, formatError("header: %v", err)
	}
	h := &header{}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, formatError("header: %v", err)
		}
		name, ok := tok.(string)
		if !ok {
			return nil, formatError("header: unexpected %v", tok)
		}
		if seen[name] {
			return nil, formatError("tensor %q is listed twice", name)
		}
		seen[name] = true
		if name == metadataKey {
			if h.metadata, err = parseMetadata(dec); err != nil {
				return nil, err
			}
			continue
		}
		info, err := parseTensor(dec, name)
		if err != nil {
			return nil, err
		}
		h.tensors = append(h.tensors, info)
	}
	if _, err := dec.Token(); err != nil {
		return nil, formatError("header: %v", err)
	}
	if rest := raw[dec.InputOffset():]; len(bytes.TrimRight(rest, " ")) > 0 {
		return nil, formatError("the header is followed by something other than spaces")
	}
	return h, h.checkLayout(dataBytes)
}

func parseMetadata(dec *json.Decoder) (map[string]string, error) {
	var raw map[string]*string
	if err := dec.Decode(&raw); err != nil {
		return nil, formatError("%s must map strings to strings: %v", metadataKey, err)
	}
	meta := make(map[string]string, len(raw))
	for k, v := range raw {
		if v == nil {
			return nil, formatError("%s: %q is null, expected a string", metadataKey, k)
		}
		meta[k] = *v
	}
	return meta, nil
}

func parseTensor(dec *json.Decoder, name string) (TensorInfo, error) {
	var entry struct {
		DType   *DType  `json:"dtype"`
		Shape   []int64 `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
	info := TensorInfo{Name: name}
	if err := dec.Decode(&entry); err != nil {
		return info, formatError("tensor %q: %v", name, err)
	}
	switch {
	case entry.DType == nil:
		return info, formatError("tensor %q has no dtype", name)
	case entry.Shape == nil:
		return info, formatError("tensor %q has no shape", name)
	case len(entry.Offsets) != 2:
		return info, formatError("tensor %q: data_offsets has %d entries, expected 2", name, len(entry.Offsets))
	}
	info.DType = *entry.DType
	if info.DType.Bits() == 0 {
		return info, formatError("tensor %q has unknown dtype %q", name, info.DType)
	}
	info.Shape = make([]int, len(entry.Shape))
	for i, d := range entry.Shape {
		if d < 0 || d > math.MaxInt {
			return info, formatError("tensor %q: dimension %d is %d", name, i, d)
		}
		info.Shape[i] = int(d)
	}
	info.begin, info.end = entry.Offsets[0], entry.Offsets[1]
	if info.begin < 0 || info.end < info.begin {
		return info, formatError("tensor %q: data_offsets [%d, %d] are not a range", name, info.begin, info.end)
	}
	want, ok := byteSize(info.DType, info.Shape)
	if !ok {
		return info, formatError("tensor %q: %s%v does not make a whole, representable number of bytes", name, info.DType, info.Shape)
	}
	if got := info.Bytes(); got != want {
		return info, formatError("tensor %q: %s%v takes %d bytes, but data_offsets hold %d", name, info.DType, info.Shape, want, got)
	}
	return info, nil
}

// byteSize is the size of a tensor; ok is false if it overflows or, for types
// smaller than a byte, ends inside one.
func byteSize(d DType, shape []int) (size int64, ok bool) {
	// A zero anywhere makes the tensor empty, however large the other
	// dimensions are; the product must still not overflow for Elements.
	n := uint64(1)
	for _, dim := range shape {
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 {
			return 0, false
		}
		n = lo
	}
	hi, nbits := bits.Mul64(n, uint64(d.Bits()))
	if hi != 0 || nbits > math.MaxInt64 || nbits%8 != 0 || n > math.MaxInt {
		return 0, false
	}
	return int64(nbits / 8), true
}

// checkLayout orders the tensors by position and requires that they cover
// [0, dataBytes) without overlap or gap.
func (h *header) checkLayout(dataBytes int64) error {
	slices.SortStableFunc(h.tensors, func(a, b TensorInfo) int {
		switch {
		case a.begin != b.begin:
			return cmpInt64(a.begin, b.begin)
		case a.end != b.end:
			return cmpInt64(a.end, b.end)
		}
		return strings.Compare(a.Name, b.Name)
	})
	var at int64
	for _, t := range h.tensors {
		switch {
		case t.end > dataBytes:
			return formatError("tensor %q ends at byte %d, but the file holds %d bytes of data", t.Name, t.end, dataBytes)
		case t.begin < at:
			return formatError("tensor %q begins at byte %d, inside the one before it, which ends at %d", t.Name, t.begin, at)
		case t.begin > at:
			return formatError("tensor %q begins at byte %d, leaving a gap after byte %d", t.Name, t.begin, at)
		}
		at = t.end
	}
	if at != dataBytes {
		return formatError("the tensors take %d bytes, but the file holds %d bytes of data", at, dataBytes)
	}
	return nil
}

func cmpInt64(a, b int64) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// encodeHeader writes the JSON header for tensors already in file order, padded
// with spaces so that the data starts at a multiple of 8 bytes.
func encodeHeader(tensors []TensorInfo, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	if len(metadata) > 0 {
		if err := writeString(&b, metadataKey); err != nil {
			return nil, err
		}
		b.WriteString(":{")
		keys := make([]string, 0, len(metadata))
		for k := range metadata {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeString(&b, k); err != nil {
				return nil, err
			}
			b.WriteByte(':')
			if err := writeString(&b, metadata[k]); err != nil {
				return nil, err
			}
		}
		b.WriteByte('}')
	}
	for _, t := range tensors {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		if err := writeString(&b, t.Name); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, `:{"dtype":%q,"shape":[`, t.DType)
		for i, d := range t.Shape {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%d", d)
		}
		fmt.Fprintf(&b, `],"data_offsets":[%d,%d]}`, t.begin, t.end)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > maxHeaderBytes {
		return nil, fmt.Errorf("write safetensors: the header takes %d bytes, the format allows %d", b.Len(), maxHeaderBytes)
	}
	return b.Bytes(), nil
}

func writeString(w io.Writer, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("write safetensors: %q is not UTF-8", s)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	_, err := w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return err
}
