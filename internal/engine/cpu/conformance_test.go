package cpu

import (
	"testing"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/enginetest"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		e, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}
