package metastore

import (
	"reflect"
	"strings"
	"testing"
)

// What is not a row is an error, wherever it stops being one.
func TestNotARow(t *testing.T) {
	const row = "8 11001 alice\x1f7 12 1000000  1 run\x1fweights\x1fn\x1fmodel\x1f{\"a\":\"b\"}"
	c, err := parseCheckpointRow(row)
	want := Checkpoint{
		ID: 7, SizeBytes: 12, CreatedAt: moment(1_000_000), RunID: "run", Kind: KindTraining, Name: "n", Owner: "alice",
		Listed: true, Public: true, HasOptimizer: true, LoRA: LoRA{BaseModel: "model", Rank: 8, TrainAttn: true}, UserMetadata: map[string]string{"a": "b"},
	}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Fatalf("%q is %+v, %v, want %+v", row, c, err, want)
	}
	whole := strings.Index(row, "{")
	for n := range row {
		if _, err := parseCheckpointRow(row[:n]); (err == nil) != (n == whole) {
			t.Errorf("%q: %v", row[:n], err)
		}
	}
	for old, bad := range map[string]string{
		"7 12": "x 12", "1000000  1": "1000000 x 1", "11001": "1100", " 11001": " 110010", "1 run": "2 run", "1 r": "1r",
		"\x1fweights": "weights", "12 ": "99999999999999999999 ", "8 ": "a ", "alice\x1f": "alice",
	} {
		s := strings.Replace(row, old, bad, 1)
		if s == row {
			t.Fatalf("%q is not in it", old)
		}
		if c, err := parseCheckpointRow(s); err == nil {
			t.Errorf("%q is taken for %+v", s, c)
		}
	}
}

// What could not be read back is not stored.
func TestSeparable(t *testing.T) {
	good := Checkpoint{RunID: "r", Kind: KindTraining, Name: "n", Owner: "o", UserMetadata: map[string]string{"\x1f": "\x1f"}}
	if _, err := prepare(good); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Checkpoint){
		"run id": func(c *Checkpoint) { c.RunID += separator }, "name": func(c *Checkpoint) { c.Name = separator + "n" },
		"owner": func(c *Checkpoint) { c.Owner = separator }, "base model": func(c *Checkpoint) { c.LoRA.BaseModel = "a" + separator + "b" },
	} {
		bad := good
		spoil(&bad)
		if _, err := prepare(bad); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "U+001F") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
