package safetensors

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Tensor is a tensor to write, in row-major order. Exactly one of F32 and I64
// is used; the element type in the file is the one of the field that is set.
type Tensor struct {
	Name  string
	Shape []int // empty for a scalar
	F32   []float32
	I64   []int64
}

func (t Tensor) dtype() DType {
	if t.I64 != nil {
		return I64
	}
	return F32
}

func (t Tensor) elements() int {
	if t.I64 != nil {
		return len(t.I64)
	}
	return len(t.F32)
}

// Write writes a whole file to w: tensors with wider elements first, so that
// all of them are aligned, and otherwise by name, whatever the order of the
// argument. Equal arguments give equal bytes. Nothing is written if the
// tensors are not valid.
func Write(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	tensors = slices.Clone(tensors)
	slices.SortStableFunc(tensors, func(a, b Tensor) int {
		if d := b.dtype().Bits() - a.dtype().Bits(); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	infos, err := layout(tensors)
	if err != nil {
		return err
	}
	head, err := encodeHeader(infos, metadata)
	if err != nil {
		return err
	}
	var length [lengthBytes]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(head)))
	if _, err := w.Write(length[:]); err != nil {
		return fmt.Errorf("write safetensors header: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write safetensors header: %w", err)
	}
	buf := make([]byte, 0, chunkBytes)
	for _, t := range tensors {
		if err := writeTensor(w, t, buf); err != nil {
			return fmt.Errorf("write tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

// layout places tensors one after another and checks them.
func layout(tensors []Tensor) ([]TensorInfo, error) {
	infos := make([]TensorInfo, len(tensors))
	seen := make(map[string]bool, len(tensors))
	var at int64
	for i, t := range tensors {
		switch {
		case t.Name == metadataKey:
			return nil, fmt.Errorf("write safetensors: a tensor cannot be called %q", t.Name)
		case seen[t.Name]:
			return nil, fmt.Errorf("write safetensors: tensor %q is given twice", t.Name)
		case t.F32 != nil && t.I64 != nil:
			return nil, fmt.Errorf("write safetensors: tensor %q has both F32 and I64 elements", t.Name)
		}
		seen[t.Name] = true
		for _, d := range t.Shape {
			if d < 0 {
				return nil, fmt.Errorf("write safetensors: tensor %q has shape %v", t.Name, t.Shape)
			}
		}
		size, ok := byteSize(t.dtype(), t.Shape)
		if !ok || size != int64(t.elements())*int64(t.dtype().Bits()/8) {
			return nil, fmt.Errorf("write safetensors: tensor %q has shape %v but %d elements", t.Name, t.Shape, t.elements())
		}
		infos[i] = TensorInfo{Name: t.Name, DType: t.dtype(), Shape: t.Shape, begin: at, end: at + size}
		at += size
	}
	return infos, nil
}

func writeTensor(w io.Writer, t Tensor, buf []byte) error {
	for f := t.F32; len(f) > 0; {
		n := min(len(f), chunkBytes/4)
		buf = buf[:0]
		for _, v := range f[:n] {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		f = f[n:]
	}
	for v := t.I64; len(v) > 0; {
		n := min(len(v), chunkBytes/8)
		buf = buf[:0]
		for _, x := range v[:n] {
			buf = binary.LittleEndian.AppendUint64(buf, uint64(x))
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}
