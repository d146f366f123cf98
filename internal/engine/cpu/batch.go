package cpu

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/tinkex/tinkex/internal/engine"
)

// checkBatch reports the first thing in b that ForwardBackward cannot use.
func checkBatch(c *config, b *engine.Batch) error {
	l := losses[b.Loss]
	if l == nil {
		return engine.Invalid("loss_fn", "unknown loss %q, expected one of %s", b.Loss, lossNames())
	}
	if err := l.checkConfig(b.LossConfig); err != nil {
		return err
	}
	if len(b.Data) == 0 {
		return engine.Invalid("data", "must not be empty")
	}
	for i := range b.Data {
		if err := checkDatum(c, l, b.LossConfig, &b.Data[i], fmt.Sprintf("data[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}

func (l *loss) checkConfig(cfg map[string]float64) error {
	for _, key := range slices.Sorted(maps.Keys(cfg)) {
		field := "loss_fn_config." + key
		if _, ok := l.config[key]; !ok {
			return engine.Invalid(field, "is not a setting of %s%s", l.name, listSettings(l))
		}
		if v := cfg[key]; math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return engine.Invalid(field, "must be a finite number, 0 or greater, got %v", v)
		}
	}
	low, high := cfg[inClipLow], cfg[inClipHigh]
	if _, ok := cfg[inClipLow]; !ok {
		low = l.config[inClipLow]
	}
	if _, ok := cfg[inClipHigh]; !ok {
		high = l.config[inClipHigh]
	}
	if low > high {
		return engine.Invalid("loss_fn_config."+inClipLow, "must not be greater than %s: %v > %v", inClipHigh, low, high)
	}
	return nil
}

func listSettings(l *loss) string {
	if len(l.config) == 0 {
		return ", which has none"
	}
	return fmt.Sprintf(", which has %q", slices.Sorted(maps.Keys(l.config)))
}

// checkTokens checks a model's input.
func checkTokens(c *config, tokens []int32, field string) error {
	if len(tokens) == 0 {
		return engine.Invalid(field, "must not be empty")
	}
	if len(tokens) > c.context {
		return engine.Invalid(field, "has %d tokens, the model's context holds %d", len(tokens), c.context)
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= c.vocab {
			return engine.Invalid(field, "token %d is %d, outside the vocabulary of %d tokens", i, t, c.vocab)
		}
	}
	return nil
}

func checkDatum(c *config, l *loss, cfg map[string]float64, d *engine.Datum, field string) error {
	if err := checkTokens(c, d.Tokens, field+".model_input"); err != nil {
		return err
	}
	field += ".loss_fn_inputs"
	for _, name := range slices.Sorted(maps.Keys(d.Inputs)) {
		if name != inTargets && !slices.Contains(l.required, name) && !slices.Contains(l.optional, name) {
			// Clients share one datum between losses, so inputs of other
			// losses are no mistake; anything else is probably a misspelling.
			if !knownInput(name) {
				return engine.Invalid(field+"."+name, "is not an input of %s", l.name)
			}
		}
	}
	shape, err := checkTargets(c, l, d, field)
	if err != nil {
		return err
	}
	for _, name := range l.required {
		t, ok := d.Inputs[name]
		if !ok {
			return engine.Invalid(field+"."+name, "is missing; %s needs it", l.name)
		}
		if err := checkFloats(t, shape, false, field+"."+name); err != nil {
			return err
		}
	}
	for _, name := range l.optional {
		t, ok := d.Inputs[name]
		if !ok {
			continue
		}
		threshold := name == inClipLow || name == inClipHigh
		if err := checkFloats(t, shape, threshold, field+"."+name); err != nil {
			return err
		}
	}
	return checkThresholds(l, cfg, d, field)
}

func knownInput(name string) bool {
	switch name {
	case inTargets, inWeights, inMask, inLogprobs, inAdvantage, inClipLow, inClipHigh:
		return true
	}
	return false
}

// checkTargets checks target_tokens and returns their shape.
func checkTargets(c *config, l *loss, d *engine.Datum, field string) ([]int, error) {
	t, ok := d.Inputs[inTargets]
	if !ok {
		return nil, engine.Invalid(field+"."+inTargets, "is missing; %s needs it", l.name)
	}
	field += "." + inTargets
	if t.DType != engine.Int64 {
		return nil, engine.Invalid(field, "must be int64, got float32")
	}
	shape, err := checkShape(t, len(t.I), field)
	if err != nil {
		return nil, err
	}
	switch {
	case len(shape) == 2 && !l.manyTargets:
		return nil, engine.Invalid(field, "has shape %v, but %s takes one target for each token: [%d]", shape, l.name, len(d.Tokens))
	case len(shape) != 1 && len(shape) != 2:
		return nil, engine.Invalid(field, "has shape %v, expected [%d] or [%d, K]", shape, len(d.Tokens), len(d.Tokens))
	case shape[0] != len(d.Tokens):
		return nil, engine.Invalid(field, "has %d positions, model_input has %d", shape[0], len(d.Tokens))
	case len(shape) == 2 && shape[1] == 0:
		return nil, engine.Invalid(field, "has shape %v, expected at least one target for each token", shape)
	}
	for i, v := range t.I {
		if v < 0 || v >= int64(c.vocab) {
			return nil, engine.Invalid(fmt.Sprintf("%s[%d]", field, i), "is %d, outside the vocabulary of %d tokens", v, c.vocab)
		}
	}
	return shape, nil
}

// checkShape returns t's shape, which must have n elements. A tensor without a
// shape is a vector.
func checkShape(t engine.Tensor, n int, field string) ([]int, error) {
	if t.Shape == nil {
		return []int{n}, nil
	}
	size := 1
	for _, d := range t.Shape {
		if d < 0 || d > 0 && size > n/d {
			return nil, engine.Invalid(field, "has shape %v but %d elements", t.Shape, n)
		}
		size *= d
	}
	if size != n {
		return nil, engine.Invalid(field, "has shape %v but %d elements", t.Shape, n)
	}
	return t.Shape, nil
}

// checkFloats checks a float input that must have the targets' shape or, if
// scalar is set, may also be a single number.
func checkFloats(t engine.Tensor, want []int, scalar bool, field string) error {
	if t.DType != engine.Float32 {
		return engine.Invalid(field, "must be float32, got int64")
	}
	shape, err := checkShape(t, len(t.F), field)
	if err != nil {
		return err
	}
	if fits := slices.Equal(shape, want) || scalar && len(t.F) == 1; !fits {
		return engine.Invalid(field, "has shape %v, target_tokens has %v", shape, want)
	}
	for i, v := range t.F {
		if v-v != 0 { // NaN and the infinities
			return engine.Invalid(fmt.Sprintf("%s[%d]", field, i), "is %v, expected a finite number", v)
		}
	}
	return nil
}

// checkThresholds checks a datum's own clip thresholds against each other, or
// against those of the configuration.
func checkThresholds(l *loss, cfg map[string]float64, d *engine.Datum, field string) error {
	if !slices.Contains(l.optional, inClipLow) {
		return nil
	}
	_, low := d.Inputs[inClipLow]
	_, high := d.Inputs[inClipHigh]
	if !low && !high {
		return nil
	}
	t := newTarget(l, cfg, d)
	for i := range t.tokens {
		lo, hi := pick(t.low, i, t.setting(inClipLow)), pick(t.high, i, t.setting(inClipHigh))
		if lo < 0 || lo > hi {
			name := inClipLow
			if !low {
				name = inClipHigh
			}
			return engine.Invalid(field+"."+name, "clip thresholds must satisfy 0 <= low <= high, token %d has %v and %v", i, lo, hi)
		}
	}
	return nil
}
