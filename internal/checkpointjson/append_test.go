package checkpointjson_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/checkpointjson"
)

// reference is what it must be, byte for byte.
func reference(t *testing.T, c tinkex.Checkpoint, in checkpointjson.Indent) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if in.Lines {
		enc.SetIndent(in.Prefix, "  ")
	}
	if err := enc.Encode(c); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

var indents = []checkpointjson.Indent{{}, {Lines: true}, {Prefix: "    ", Lines: true}}

func same(t *testing.T, c tinkex.Checkpoint) {
	t.Helper()
	for _, in := range indents {
		got, err := checkpointjson.Append([]byte("before "), &c, in)
		if want := "before " + reference(t, c, in); err != nil || string(got) != want {
			t.Errorf("%+v with %+v is\n%s, %v\nwant\n%s", c, in, got, err, want)
		}
	}
}

func TestAppend(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	whole := at.Truncate(time.Second).In(time.FixedZone("", 3600+1800))
	for _, c := range []tinkex.Checkpoint{
		{},
		{CheckpointID: "weights/x", CheckpointType: tinkex.Training, Time: at, TinkerPath: "tinker://r:train:0/weights/x", SizeBytes: new(int64(12345678901)), BaseModel: "m/n"},
		{Time: whole, ExpiresAt: &at, Public: true, SizeBytes: new(int64(0)), UserMetadata: map[string]string{}},
		{UserMetadata: map[string]string{"b": "2", "a": "1", "": "<&>", "ü": "\x00\n\u2028\xff"}, ExpiresAt: &whole},
		{CheckpointID: `"\`, CheckpointType: "neu\t", TinkerPath: "\x7f", BaseModel: "ä😀"},
	} {
		same(t, c)
	}
	for _, c := range []tinkex.Checkpoint{
		{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{ExpiresAt: new(time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC))},
	} {
		if got, err := checkpointjson.Append([]byte("before"), &c, checkpointjson.Indent{}); err == nil || string(got) != "before" {
			t.Errorf("a year that JSON has no form for makes %s", got)
		}
	}
}

func TestAppendAt(t *testing.T) {
	for _, p := range []tinkex.TinkerPath{
		{RunID: "r:train:0", Type: tinkex.Training, Name: "step-1"}, {RunID: "r", Type: tinkex.Sampler, Name: "x"},
		{RunID: `r"`, Type: tinkex.External, Name: "x"}, {RunID: "r", Type: tinkex.Training, Name: "ä"}, {},
	} {
		c := tinkex.Checkpoint{Time: time.Unix(5, 0).UTC(), SizeBytes: new(int64(7)), UserMetadata: map[string]string{"k": "v"}, BaseModel: "m"}
		whole := c
		whole.CheckpointID, whole.CheckpointType, whole.TinkerPath = p.CheckpointID(), p.Type, p.String()
		for _, in := range indents {
			got, err := checkpointjson.AppendAt([]byte("before "), p, &c, in)
			if want := "before " + reference(t, whole, in); err != nil || string(got) != want {
				t.Errorf("at %v with %+v it is\n%s, %v\nwant\n%s", p, in, got, err, want)
			}
		}
	}
	if got, err := checkpointjson.AppendAt([]byte("before"), tinkex.TinkerPath{}, &tinkex.Checkpoint{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, checkpointjson.Indent{}); err == nil || string(got) != "before" {
		t.Errorf("a year that JSON has no form for makes %s", got)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("weights/x", "training", int64(1767323045678901), "tinker://r/weights/x", int64(5), true, "k", "v", "m")
	f.Add("\"", "\\", int64(-1), "\xff\u2029", int64(-1), false, "", "<", "é")
	f.Fuzz(func(t *testing.T, id, kind string, us int64, path string, size int64, public bool, k, v, model string) {
		at := time.UnixMicro(us % (200_000_000_000_000_000)).UTC()
		if at.Year() < 0 || at.Year() > 9999 {
			return
		}
		c := tinkex.Checkpoint{CheckpointID: id, CheckpointType: tinkex.CheckpointType(kind), Time: at, TinkerPath: path, Public: public, BaseModel: model}
		if size >= 0 {
			c.SizeBytes, c.ExpiresAt, c.UserMetadata = &size, &at, map[string]string{k: v, v: k}
		}
		same(t, c)
	})
}

func BenchmarkAppend(b *testing.B) {
	c := tinkex.Checkpoint{CheckpointID: "weights/step-1", CheckpointType: tinkex.Training, Time: time.Now().UTC(),
		TinkerPath: "tinker://00000000-0000-4000-8000-000000000001:train:0/weights/step-1", SizeBytes: new(int64(1 << 30)), BaseModel: "tinkex/tiny"}
	in := checkpointjson.Indent{Prefix: "    ", Lines: true}
	b.Run("ours", func(b *testing.B) {
		var buf []byte
		for b.Loop() {
			buf, _ = checkpointjson.Append(buf[:0], &c, in)
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetIndent(in.Prefix, "  ")
		for b.Loop() {
			buf.Reset()
			_ = enc.Encode(&c)
		}
	})
}
