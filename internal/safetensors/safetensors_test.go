package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// build makes a file of a header as given and n bytes of data.
func build(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func open(b []byte) (*File, error) { return Open(bytes.NewReader(b), int64(len(b))) }

func TestHeaders(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header string
		data   int
		want   string // part of the error; empty if the file is valid
	}{
		{"empty", `{}`, 0, ""},
		{"padded", `{}      `, 0, ""},
		{"metadata only", `{"__metadata__":{"format":"pt"}}`, 0, ""},
		{"one tensor", `{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24, ""},
		{"scalar", `{"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}`, 8, ""},
		{"empty tensors", `{"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 0, ""},
		{"empty between", `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},"c":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3, ""},
		{"any order", `{"b":{"dtype":"BOOL","shape":[1],"data_offsets":[4,5]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}`, 5, ""},
		{"all types", `{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"I32","shape":[1],"data_offsets":[2,6]},"c":{"dtype":"F64","shape":[1],"data_offsets":[6,14]},"d":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[14,15]},"e":{"dtype":"C64","shape":[1],"data_offsets":[15,23]},"f":{"dtype":"F4","shape":[2],"data_offsets":[23,24]}}`, 24, ""},
		{"unknown field", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":1}}`, 1, ""},

		{"no JSON", `hello`, 0, "does not start"},
		{"array", `[]`, 0, "does not start"},
		{"leading space", ` {}`, 0, "does not start"},
		{"cut off", `{"a":`, 0, `"a"`},
		{"not closed", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}`, 1, "header"},
		{"not UTF-8", "{\"\xff\":1}", 0, "UTF-8"},
		{"trailing text", `{} x`, 0, "followed by"},
		{"two values", `{}{}`, 0, "followed by"},
		{"listed twice", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1, `"a" is listed twice`},
		{"metadata twice", `{"__metadata__":{},"__metadata__":{}}`, 0, "listed twice"},
		{"metadata of numbers", `{"__metadata__":{"a":1}}`, 0, "strings"},
		{"metadata of nulls", `{"__metadata__":{"a":null}}`, 0, "null"},
		{"tensor is null", `{"a":null}`, 0, `"a" has no dtype`},
		{"tensor is a number", `{"a":1}`, 0, `"a"`},
		{"no dtype", `{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1, "no dtype"},
		{"unknown dtype", `{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}`, 16, `unknown dtype "F128"`},
		{"no shape", `{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1, "no shape"},
		{"null shape", `{"a":{"dtype":"U8","shape":null,"data_offsets":[0,1]}}`, 1, "no shape"},
		{"negative dimension", `{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1, "dimension 0 is -1"},
		{"fractional dimension", `{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}`, 1, `"a"`},
		{"overflowing shape", `{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0, "representable"},
		{"half a byte", `{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`, 2, "whole"},
		{"no offsets", `{"a":{"dtype":"U8","shape":[1]}}`, 1, "expected 2"},
		{"three offsets", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}`, 1, "expected 2"},
		{"backward", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1, "not a range"},
		{"negative offset", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}`, 1, "not a range"},
		{"huge offset", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,99999999999999999999]}}`, 1, `"a"`},
		{"too small", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4, "takes 8 bytes, but data_offsets hold 4"},
		{"beyond the file", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 3, "the file holds 3"},
		{"gap", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3, `"b" begins at byte 2, leaving a gap`},
		{"overlap", `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3, `"b" begins at byte 1, inside`},
		{"same place", `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, "inside"},
		{"data left over", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2, "take 1 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := open(build(tc.header, tc.data))
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Open: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Open: %v, want an error with %q", err, tc.want)
			case tc.want != "" && !errors.Is(err, ErrFormat):
				t.Errorf("Open: %v is not ErrFormat", err)
			}
		})
	}
}

func TestHeaderLength(t *testing.T) {
	for name, b := range map[string][]byte{
		"no bytes":         nil,
		"seven bytes":      make([]byte, 7),
		"no header":        make([]byte, 8),
		"beyond the file":  binary.LittleEndian.AppendUint64(nil, 10),
		"beyond the limit": binary.LittleEndian.AppendUint64(nil, maxHeaderBytes+1),
		"huge":             binary.LittleEndian.AppendUint64(nil, math.MaxUint64),
	} {
		if _, err := open(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var sample = []Tensor{
	{Name: "z", Shape: []int{2, 2}, F32: []float32{1, -2, 3.5, float32(math.Inf(1))}},
	{Name: "a", Shape: []int{3}, F32: []float32{0, math.MaxFloat32, math.SmallestNonzeroFloat32}},
	{Name: "ids", Shape: []int{2}, I64: []int64{math.MinInt64, 7}},
	{Name: "scalar", F32: []float32{42}},
	{Name: "none", Shape: []int{0, 4}},
	{Name: "strange <&>\"\u2028 name", Shape: []int{1}, F32: []float32{1}},
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, sample, map[string]string{"format": "pt", "<a>": "ü"}); err != nil {
		t.Fatal(err)
	}
	f, err := open(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if f.dataAt%8 != 0 {
		t.Errorf("the data starts at byte %d", f.dataAt)
	}
	if m := f.Metadata(); len(m) != 2 || m["format"] != "pt" || m["<a>"] != "ü" {
		t.Errorf("metadata is %v", m)
	}
	if got := f.Tensors(); len(got) != len(sample) || got[0].Name != "ids" {
		t.Errorf("tensors are %v", got)
	}
	for _, want := range sample {
		info, ok := f.Info(want.Name)
		if !ok || !slices.Equal(info.Shape, want.Shape) || info.Elements() != want.elements() {
			t.Errorf("%q: %+v, want shape %v", want.Name, info, want.Shape)
		}
		if want.I64 != nil {
			got, err := f.Int64(want.Name)
			if err != nil || !slices.Equal(got, want.I64) {
				t.Errorf("%q: %v, %v", want.Name, got, err)
			}
			continue
		}
		got, err := f.Float32(want.Name)
		if err != nil || !slices.Equal(got, want.F32) {
			t.Errorf("%q: %v, %v", want.Name, got, err)
		}
	}
	s, err := f.Section("scalar")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(raw, []byte{0, 0, 0x28, 0x42}) {
		t.Errorf("the scalar's bytes are %x, %v", raw, err)
	}
}

// The bytes are part of the promise: digests of checkpoints hang on them.
func TestWriteIsDeterministic(t *testing.T) {
	want := build(`{"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}     `, 0)
	if pad := len(want) % 8; pad != 0 {
		t.Fatalf("the expected header is %d bytes over", pad)
	}
	want = append(want, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0)
	ts := []Tensor{{Name: "a", Shape: []int{2}, F32: []float32{1, -2}}, {Name: "b", Shape: []int{1}, I64: []int64{7}}}
	for range 2 {
		var got bytes.Buffer
		if err := Write(&got, ts, map[string]string{"format": "pt"}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("wrote\n%q, want\n%q", got.Bytes(), want)
		}
		slices.Reverse(ts)
	}
}

func TestLargeTensor(t *testing.T) {
	big := make([]float32, 3*chunkBytes/4+5)
	ids := make([]int64, chunkBytes/8+1)
	for i := range big {
		big[i] = float32(i)
	}
	for i := range ids {
		ids[i] = int64(-i)
	}
	var b bytes.Buffer
	if err := Write(&b, []Tensor{{Name: "f", Shape: []int{len(big)}, F32: big}, {Name: "i", Shape: []int{len(ids)}, I64: ids}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := open(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, len(big))
	if err := f.ReadFloat32("f", got); err != nil || !slices.Equal(got, big) {
		t.Errorf("floats differ: %v", err)
	}
	if got, err := f.Int64("i"); err != nil || !slices.Equal(got, ids) {
		t.Errorf("integers differ: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, ts := range map[string][]Tensor{
		"metadata":       {{Name: metadataKey, Shape: []int{}, F32: []float32{1}}},
		"twice":          {{Name: "a", F32: []float32{1}}, {Name: "a", F32: []float32{1}}},
		"two types":      {{Name: "a", F32: []float32{1}, I64: []int64{1}}},
		"too few":        {{Name: "a", Shape: []int{2}, F32: []float32{1}}},
		"too many":       {{Name: "a", Shape: []int{2}, I64: []int64{1, 2, 3}}},
		"negative shape": {{Name: "a", Shape: []int{-1, -1}, F32: []float32{1}}},
		"not UTF-8":      {{Name: "\xff", F32: []float32{1}}},
	} {
		var b bytes.Buffer
		if err := Write(&b, ts, nil); err == nil || b.Len() != 0 {
			t.Errorf("%s: error %v after %d bytes", name, err, b.Len())
		}
	}
}

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriteErrors(t *testing.T) {
	var whole bytes.Buffer
	if err := Write(&whole, sample, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 8, whole.Len() / 2, whole.Len() - 1} {
		if err := Write(&limitedWriter{n}, sample, nil); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("after %d of %d bytes: %v", n, whole.Len(), err)
		}
	}
}

// Piece by piece come the values that come at once.
func TestEachFloat32(t *testing.T) {
	want := make([]float32, 3*chunkBytes/4+5)
	for i := range want {
		want[i] = float32(i)
	}
	var b bytes.Buffer
	if err := Write(&b, []Tensor{{Name: "a", Shape: []int{len(want)}, F32: want}, {Name: "i", Shape: []int{1}, I64: []int64{1}}, {Name: "empty", Shape: []int{0}, F32: []float32{}}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := open(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var got []float32
	if err := f.EachFloat32("a", func(v []float32, at int) {
		if at != len(got) || len(v) > chunkBytes/4 {
			t.Errorf("%d values at %d after %d", len(v), at, len(got))
		}
		got = append(got, v...)
	}); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d values, which differ from %d: %v", len(got), len(want), err)
	}
	none := func(v []float32, at int) { t.Errorf("%d values at %d", len(v), at) }
	if err := f.EachFloat32("empty", none); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"i", "nothing"} {
		if err := f.EachFloat32(name, none); err == nil {
			t.Errorf("%q was read", name)
		}
	}
}

func TestHalfPrecision(t *testing.T) {
	file := func(dtype DType, v ...uint16) *File {
		b := build(fmt.Sprintf(`{"a":{"dtype":%q,"shape":[%d],"data_offsets":[0,%d]}}`, dtype, len(v), 2*len(v)), 0)
		for _, x := range v {
			b = binary.LittleEndian.AppendUint16(b, x)
		}
		f, err := open(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		dtype DType
		bits  uint16
		want  float32
	}{
		{BF16, 0x3f80, 1}, {BF16, 0xc049, -3.140625}, {BF16, 0x7f80, inf}, {BF16, 0x0001, math.Float32frombits(0x10000)},
		{F16, 0x3c00, 1}, {F16, 0xc248, -3.140625}, {F16, 0x7bff, 65504}, {F16, 0x0400, 1.0 / (1 << 14)},
		{F16, 0x0001, 1.0 / (1 << 24)}, {F16, 0x83ff, -1023.0 / (1 << 24)}, {F16, 0x7c00, inf}, {F16, 0xfc00, -inf}, {F16, 0x8000, 0},
	} {
		got, err := file(tc.dtype, tc.bits).Float32("a")
		if err != nil || got[0] != tc.want {
			t.Errorf("%s %#04x is %v, want %v (%v)", tc.dtype, tc.bits, got, tc.want, err)
		}
	}
	for dtype, bits := range map[DType]uint16{F16: 0x7e01, BF16: 0x7fc1} {
		if got, err := file(dtype, bits).Float32("a"); err != nil || got[0] == got[0] {
			t.Errorf("%s %#04x is %v, want NaN (%v)", dtype, bits, got, err)
		}
	}
	if v, _ := file(F16, 0x8000).Float32("a"); !math.Signbit(float64(v[0])) {
		t.Error("negative zero lost its sign")
	}
}

func TestReadErrors(t *testing.T) {
	b := build(`{"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"i":{"dtype":"I32","shape":[1],"data_offsets":[8,12]}}`, 12)
	f, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		read func() error
		want string
	}{
		{"missing", func() error { _, err := f.Float32("x"); return err }, `"x" is missing`},
		{"missing ints", func() error { _, err := f.Int64("x"); return err }, `"x" is missing`},
		{"missing section", func() error { _, err := f.Section("x"); return err }, `"x" is missing`},
		{"missing into", func() error { return f.ReadFloat32("x", nil) }, `"x" is missing`},
		{"ints as floats", func() error { _, err := f.Float32("i"); return err }, `"i" is I32, expected F32`},
		{"ints into floats", func() error { return f.ReadFloat32("i", make([]float32, 1)) }, `"i" is I32, expected F32`},
		{"floats as ints", func() error { _, err := f.Int64("f"); return err }, `"f" is F32, expected I64`},
		{"wrong length", func() error { return f.ReadFloat32("f", make([]float32, 3)) }, `has 2 elements, expected 3`},
	} {
		if err := tc.read(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", tc.name, err, tc.want)
		}
	}
	// A file that has shrunk since it was opened.
	f.r = bytes.NewReader(b[:len(b)-8])
	if _, err := f.Float32("f"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shrunk file: %v", err)
	}
	if _, err := Open(bytes.NewReader(nil), 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file of another size: %v", err)
	}
}

// sequentialFS hides ReadAt, as archives do.
type sequentialFS struct{ fstest.MapFS }

func (f sequentialFS) Open(name string) (fs.File, error) {
	file, err := f.MapFS.Open(name)
	if err != nil {
		return nil, err
	}
	return struct{ fs.File }{file}, nil
}

func TestOpenFS(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, sample, nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	mem := fstest.MapFS{"m": {Data: b.Bytes()}, "bad": {Data: []byte("x")}}
	for name, fsys := range map[string]fs.FS{"folder": os.DirFS(dir), "memory": mem, "sequential": sequentialFS{mem}} {
		f, err := OpenFS(fsys, "m")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if v, err := f.Float32("scalar"); err != nil || v[0] != 42 {
			t.Errorf("%s: scalar is %v, %v", name, v, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if _, err := OpenFS(fsys, "missing"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: missing file: %v", name, err)
		}
	}
	if _, err := OpenFS(mem, "bad"); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "bad: ") {
		t.Errorf("bad file: %v", err)
	}
	if _, err := OpenFS(os.DirFS(filepath.Dir(dir)), filepath.Base(dir)); err == nil {
		t.Error("opened a directory")
	}
}

// FuzzHeader: whatever a header says, reading every tensor it describes neither
// fails nor leaves the file.
func FuzzHeader(f *testing.F) {
	f.Add([]byte(`{}`), 0)
	f.Add([]byte(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`), 24)
	f.Add([]byte(`{"__metadata__":{"a":"b"},"x":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   `), 2)
	f.Add([]byte(`{"a":{"dtype":"F4","shape":[0,18446744073709551615],"data_offsets":[0,0]}}`), 0)
	f.Add([]byte(`{"a":{"dtype":"I64","shape":[4294967296,4294967296],"data_offsets":[0,8]}}`), 8)
	f.Fuzz(func(t *testing.T, header []byte, n int) {
		file, err := open(build(string(header), min(max(n, 0), 1<<12)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is not ErrFormat", err)
			}
			return
		}
		var size int64
		for _, info := range file.Tensors() {
			size += info.Bytes()
			if got := int64(info.Elements()) * int64(info.DType.Bits()); got != 8*info.Bytes() {
				t.Fatalf("%+v: %d bits in %d bytes", info, got, info.Bytes())
			}
			switch info.DType {
			case F32, F16, BF16:
				_, err = file.Float32(info.Name)
			case I64:
				_, err = file.Int64(info.Name)
			default:
				s, _ := file.Section(info.Name)
				_, err = io.Copy(io.Discard, s)
			}
			if err != nil {
				t.Fatalf("%+v: %v", info, err)
			}
		}
		if size > 1<<12 {
			t.Fatalf("%d bytes of tensors in a smaller file", size)
		}
	})
}
