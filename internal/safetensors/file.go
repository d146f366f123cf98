package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
)

// File is an opened safetensors file. It is safe for concurrent use if its
// io.ReaderAt is.
type File struct {
	r        io.ReaderAt
	dataAt   int64
	tensors  []TensorInfo
	byName   map[string]int
	metadata map[string]string
	closer   io.Closer
}

// Open reads and validates the header of the size bytes behind r. The tensors
// themselves are read when they are asked for. Errors about the contents wrap
// ErrFormat.
func Open(r io.ReaderAt, size int64) (*File, error) {
	if size < lengthBytes {
		return nil, formatError("%d bytes are too short for the header's length", size)
	}
	var length [lengthBytes]byte
	if err := readFull(r, length[:], 0); err != nil {
		return nil, fmt.Errorf("read safetensors header: %w", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeaderBytes {
		return nil, formatError("the header claims %d bytes, the format allows %d", n, maxHeaderBytes)
	}
	if int64(n) > size-lengthBytes {
		return nil, formatError("the header claims %d bytes, but only %d follow", n, size-lengthBytes)
	}
	raw := make([]byte, n)
	if err := readFull(r, raw, lengthBytes); err != nil {
		return nil, fmt.Errorf("read safetensors header: %w", err)
	}
	dataAt := lengthBytes + int64(n)
	h, err := parseHeader(raw, size-dataAt)
	if err != nil {
		return nil, err
	}
	f := &File{r: r, dataAt: dataAt, tensors: h.tensors, metadata: h.metadata, byName: make(map[string]int, len(h.tensors))}
	for i, t := range f.tensors {
		f.byName[t.Name] = i
	}
	return f, nil
}

// OpenFS opens a file of fsys. A file that cannot be read at random is read
// into memory whole. Close releases it.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	src, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	f, err := openFile(src)
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.closer = src
	return f, nil
}

func openFile(src fs.File) (*File, error) {
	if r, ok := src.(io.ReaderAt); ok {
		info, err := src.Stat()
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return nil, errors.New("is a directory")
		}
		return Open(r, info.Size())
	}
	all, err := io.ReadAll(src)
	if err != nil {
		return nil, err
	}
	return Open(bytes.NewReader(all), int64(len(all)))
}

// Close closes the file OpenFS opened. It does nothing after Open.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Metadata is the header's __metadata__, nil if it has none.
func (f *File) Metadata() map[string]string { return f.metadata }

// Tensors lists the tensors by position in the file.
func (f *File) Tensors() []TensorInfo { return slices.Clone(f.tensors) }

// Info describes the tensor called name; ok is false if there is none.
func (f *File) Info(name string) (info TensorInfo, ok bool) {
	i, ok := f.byName[name]
	if !ok {
		return TensorInfo{}, false
	}
	return f.tensors[i], true
}

// Section reads the raw bytes of the tensor called name.
func (f *File) Section(name string) (*io.SectionReader, error) {
	t, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f.r, f.dataAt+t.begin, t.Bytes()), nil
}

// Float32 decodes an F32, F16 or BF16 tensor, in row-major order. F16 and BF16
// convert exactly.
func (f *File) Float32(name string) ([]float32, error) {
	t, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	if err := t.checkFloat(); err != nil {
		return nil, err
	}
	dst := make([]float32, t.Elements())
	return dst, f.readFloat32(t, dst)
}

// ReadFloat32 is Float32 into dst, whose length must be the tensor's.
func (f *File) ReadFloat32(name string, dst []float32) error {
	t, err := f.lookup(name)
	if err != nil {
		return err
	}
	if err := t.checkFloat(); err != nil {
		return err
	}
	if len(dst) != t.Elements() {
		return fmt.Errorf("tensor %q: %s%v has %d elements, expected %d", name, t.DType, t.Shape, t.Elements(), len(dst))
	}
	return f.readFloat32(t, dst)
}

// Int64 decodes an I64 tensor, in row-major order.
func (f *File) Int64(name string) ([]int64, error) {
	t, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	if t.DType != I64 {
		return nil, fmt.Errorf("tensor %q is %s, expected I64", name, t.DType)
	}
	dst := make([]int64, t.Elements())
	err = f.readChunks(t, func(b []byte, at int) {
		for i := range len(b) / 8 {
			dst[at+i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		}
	})
	return dst, err
}

func (f *File) lookup(name string) (TensorInfo, error) {
	t, ok := f.Info(name)
	if !ok {
		return t, fmt.Errorf("tensor %q is missing", name)
	}
	return t, nil
}

func (t TensorInfo) checkFloat() error {
	switch t.DType {
	case F32, F16, BF16:
		return nil
	}
	return fmt.Errorf("tensor %q is %s, expected F32, F16 or BF16", t.Name, t.DType)
}

func (f *File) readFloat32(t TensorInfo, dst []float32) error {
	return f.readChunks(t, func(b []byte, at int) { decodeFloat32(t.DType, b, dst[at:]) })
}

// EachFloat32 is Float32 piece by piece, for tensors that are not worth their
// memory: each is called with the values from index at on, which are valid
// until it returns.
func (f *File) EachFloat32(name string, each func(values []float32, at int)) error {
	t, err := f.lookup(name)
	if err != nil {
		return err
	}
	if err := t.checkFloat(); err != nil {
		return err
	}
	size := t.DType.Bits() / 8
	buf := make([]float32, min(t.Elements(), chunkBytes/size))
	return f.readChunks(t, func(b []byte, at int) {
		values := buf[:len(b)/size]
		decodeFloat32(t.DType, b, values)
		each(values, at)
	})
}

// decodeFloat32 decodes the elements of an F32, F16 or BF16 tensor.
func decodeFloat32(d DType, b []byte, dst []float32) {
	switch d {
	case F32:
		for i := range len(b) / 4 {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	case BF16:
		for i := range len(b) / 2 {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
	case F16:
		for i := range len(b) / 2 {
			dst[i] = float16ToFloat32(binary.LittleEndian.Uint16(b[2*i:]))
		}
	}
}

// chunkBytes bounds the memory used on the way between file and tensor. It is
// a multiple of every element size this package decodes.
const chunkBytes = 1 << 16

// readChunks passes the tensor's bytes to decode, in pieces of whole elements,
// with the index of each piece's first element.
func (f *File) readChunks(t TensorInfo, decode func(b []byte, at int)) error {
	size := t.DType.Bits() / 8
	buf := make([]byte, min(t.Bytes(), chunkBytes))
	for off := int64(0); off < t.Bytes(); {
		b := buf[:min(t.Bytes()-off, chunkBytes)]
		if err := readFull(f.r, b, f.dataAt+t.begin+off); err != nil {
			return fmt.Errorf("read tensor %q: %w", t.Name, err)
		}
		decode(b, int(off)/size)
		off += int64(len(b))
	}
	return nil
}

// readFull fills b, treating a short file as an error even when the reader
// reports none.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// float16ToFloat32 widens an IEEE 754 half, subnormals, infinities and NaN
// included.
func float16ToFloat32(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 0x1f
	frac := uint32(h) & 0x3ff
	switch exp {
	case 0: // zero or subnormal: frac * 2^-24 is exact in float32
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}
