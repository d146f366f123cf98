package cpu

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"runtime"
	"testing"
)

// Checkpoints hang on these weights, so they must never change, on any
// platform.
func TestTinyWeightsNeverChange(t *testing.T) {
	c := tinyConfig()
	w := randomWeights(&c, tinySeed)
	h := sha256.New()
	params := 0
	for _, data := range w.slices(&c) {
		params += len(data)
		for _, v := range data {
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
		}
	}
	const want = "ffe9190dfceffb979fc320ef5f04d1fa3591bf3bc19828d79fc1a71bdfa92146"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the weights' digest is %s, want %s", got, want)
	}
	if params != 952_704 {
		t.Errorf("the model has %d parameters", params)
	}
}

func TestTinyTokens(t *testing.T) {
	table, err := tinyTokens()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int32]string{0: "\x00", 'a': "a", 255: "\xff", TinyEndOfText: "<|endoftext|>", TinyStart: "<|im_start|>", TinyEnd: "<|im_end|>", TinyPad: "<|pad|>", 260: ""} {
		if got := table.text(id); got != want {
			t.Errorf("token %d is %q, want %q", id, got, want)
		}
	}
}

// An engine that nobody uses costs next to nothing.
func TestIdleEngineIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e := newTestEngine(t)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<16 {
		t.Errorf("New allocates %d bytes", got)
	}
	if e.bases[0].weights != nil {
		t.Error("New computes the weights")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, models := range map[string][]ModelDir{
		"no name":      {{Dir: t.TempDir()}},
		"no directory": {{Name: "somebody/model"}},
		"twice":        {{Name: TinyModel}, {Name: TinyModel}},
		"missing":      {{Name: "m", Dir: "does/not/exist"}},
		"empty":        {{Name: "m", Dir: t.TempDir()}},
		"a file":       {{Name: "m", Dir: "doc.go"}},
	} {
		if _, err := New(Options{Models: models}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
