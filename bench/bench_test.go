package bench

import (
	"testing"

	"github.com/tinkex/tinkex/tinkextest"
)

func BenchmarkStepInEngine(b *testing.B) {
	step, end, err := EngineStep(b.Context())
	run(b, step, end, err)
}

func BenchmarkStepOverLoopback(b *testing.B) {
	step, end, err := SDKStep(b.Context(), tinkextest.NewServer(b).Options())
	run(b, step, end, err)
}

func run(b *testing.B, step Step, end func() error, err error) {
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := end(); err != nil {
			b.Error(err)
		}
	}()
	for b.Loop() {
		if err := step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
