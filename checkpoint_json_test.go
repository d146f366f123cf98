package tinkex

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// compactCheckpoint is one as this project's server writes it.
const compactCheckpoint = `{"checkpoint_id":"weights/step-1","checkpoint_type":"training","time":"2026-01-02T03:04:05.678901Z","tinker_path":"tinker://s:train:0/weights/step-1","size_bytes":12345678901,"public":true,"user_metadata":{"k":"v"},"expires_at":"2026-02-03T04:05:06+01:00","base_model":"m"}`

// viaJSON decodes a checkpoint without the short cut: a space is what that
// does not take.
func viaJSON(b []byte, c *Checkpoint) error { return json.Unmarshal(append([]byte("{ "), b[1:]...), c) }

func TestCheckpointsShortCut(t *testing.T) {
	for _, s := range []string{
		compactCheckpoint,
		`{}`,
		`{"checkpoint_id":"x","tinker_path":"other"}`,
		`{"tinker_path":"tinker://r/weights/x","checkpoint_id":"weights/x","size_bytes":0,"public":false}`,
		`{"checkpoint_type":"something-new","user_metadata":{}}`,
	} {
		var c Checkpoint
		if r := (checkpointReader{rest: []byte(s)}); !r.checkpoint(&c) {
			t.Errorf("%s is not read the short way", s)
		}
		var want Checkpoint
		if err := viaJSON([]byte(s), &want); err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s is %+v, want %+v, %v", s, c, want, err)
		}
	}
}

// What is not quite the usual is not taken for it.
func TestCheckpointsLongWay(t *testing.T) {
	for old, unusual := range map[string]string{
		`"public":true`:               `"public":true,"new":1`,
		`:true`:                       `: true`,
		`weights/step-1"`:             `weights/st\u0065p-1"`,
		`"base_model":"m"}`:           `"base_model":"m",}`,
		`"m"}`:                        `"ä"}`,
		`{"checkpoint_id"`:            `{,"checkpoint_id"`,
		`12345678901`:                 `012345678901`,
		`2026-01-02T03:04:05.678901Z`: `2026-01-02 03:04:05`,
		`{"k":"v"}`:                   `null`,
		`"k":"v"`:                     `"k":1`,
		`"expires_at":"2026-02-03T04:05:06+01:00"`: `"expires_at":null`,
		`"m"`: `"m","user_metadata":{"again":""}`,
	} {
		s := strings.Replace(compactCheckpoint, old, unusual, 1)
		if s == compactCheckpoint {
			t.Fatalf("%s is not in it", old)
		}
		var c Checkpoint
		if r := (checkpointReader{rest: []byte(s)}); r.checkpoint(&c) {
			t.Errorf("%s is read the short way", s)
		}
	}
	for n := range compactCheckpoint {
		var c Checkpoint
		if json.Unmarshal([]byte(compactCheckpoint[:n]), &c) == nil || c.UnmarshalJSON([]byte(compactCheckpoint[:n])) == nil {
			t.Fatalf("%q is taken for a checkpoint", compactCheckpoint[:n])
		}
	}
}

// Into one that has values already, it is decoded as encoding/json does.
func TestCheckpointIntoAnother(t *testing.T) {
	for _, s := range []string{compactCheckpoint, `{"public":true}`, `{"user_metadata":{"b":"2"}}`} {
		before := func() Checkpoint {
			return Checkpoint{CheckpointID: "id", BaseModel: "base", SizeBytes: new(int64(3)), UserMetadata: map[string]string{"a": "1"}}
		}
		got, want := before(), before()
		if err := json.Unmarshal([]byte(s), &got); err != nil {
			t.Fatal(err)
		}
		if err := viaJSON([]byte(s), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s makes %+v of it, want %+v, %v", s, got, want, err)
		}
	}
}

// The short way must never read anything as something else than encoding/json
// does.
func FuzzCheckpoint(f *testing.F) {
	f.Add(compactCheckpoint)
	for _, s := range []string{`{}`, `{"public":false,"size_bytes":1}`, `{"user_metadata":{"a":"b","a":"c"}}`, `{"time":"2026-01-02T03:04:05Z"}`,
		`{"expires_at":null}`, `{"size_bytes":-1}`, `{"size_bytes":1e3}`, `{"public":true,}`, `{"base_model":"\n"}`, `{"tinker_path":"tinker://a/weights/b","checkpoint_id":"b"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c Checkpoint
		if r := (checkpointReader{rest: []byte(s)}); !r.checkpoint(&c) {
			return
		}
		var want Checkpoint
		if err := viaJSON([]byte(s), &want); err != nil {
			t.Fatalf("%q is read as %+v, but: %v", s, c, err)
		}
		if !reflect.DeepEqual(c, want) {
			t.Fatalf("%q is read as %+v, want %+v", s, c, want)
		}
	})
}

func BenchmarkCheckpointJSON(b *testing.B) {
	for name, s := range map[string]string{"short": compactCheckpoint, "long": strings.Replace(compactCheckpoint, ":true", ": true", 1)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var c Checkpoint
				if err := c.UnmarshalJSON([]byte(s)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
