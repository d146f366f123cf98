package cpu

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
)

// Names of loss function inputs.
const (
	inTargets   = "target_tokens"
	inWeights   = "weights"
	inMask      = "mask"
	inLogprobs  = "logprobs"
	inAdvantage = "advantages"
	inClipLow   = "clip_low_threshold"
	inClipHigh  = "clip_high_threshold"

	cfgBeta = "beta"
)

// loss is a loss function: a sum over target tokens, each token's share of
// which depends on that token's log probability alone. The definitions are
// those of https://tinker-docs.thinkingmachines.ai/losses.
type loss struct {
	name string

	// required and optional name the float inputs. Only cross_entropy takes
	// more than one target for a position. weights and mask, where optional,
	// scale a token's share.
	required, optional []string
	manyTargets        bool

	// config holds the keys of loss_fn_config with their defaults.
	config map[string]float64

	// token returns a token's loss and its derivative by lp.
	token func(lp float64, in *lossInputs) (loss, grad float64)
}

// lossInputs are one target token's inputs.
type lossInputs struct {
	weight, logprob, advantage float64
	low, high, beta            float64
}

// ratio is how much likelier the token has become since it was sampled.
func (in *lossInputs) ratio(lp float64) float64 { return math.Exp(lp - in.logprob) }

func (in *lossInputs) clip(r float64) float64 { return min(max(r, in.low), in.high) }

var losses = map[string]*loss{
	"cross_entropy": {
		name:        "cross_entropy",
		required:    []string{inWeights},
		optional:    []string{inMask},
		manyTargets: true,
		token: func(lp float64, in *lossInputs) (float64, float64) {
			return -lp, -1
		},
	},
	"importance_sampling": {
		name:     "importance_sampling",
		required: []string{inLogprobs, inAdvantage},
		optional: []string{inWeights, inMask},
		token: func(lp float64, in *lossInputs) (float64, float64) {
			l := -in.ratio(lp) * in.advantage
			return l, l
		},
	},
	"ppo": {
		name:     "ppo",
		required: []string{inLogprobs, inAdvantage},
		optional: []string{inWeights, inMask, inClipLow, inClipHigh},
		config:   map[string]float64{inClipLow: 0.8, inClipHigh: 1.2},
		token: func(lp float64, in *lossInputs) (float64, float64) {
			free := in.ratio(lp) * in.advantage
			clipped := in.clip(in.ratio(lp)) * in.advantage
			if clipped < free {
				return -clipped, 0
			}
			return -free, -free
		},
	},
	"cispo": {
		name:     "cispo",
		required: []string{inLogprobs, inAdvantage},
		optional: []string{inWeights, inMask, inClipLow, inClipHigh},
		// One-sided by default: only a ratio that has grown is clipped.
		config: map[string]float64{inClipLow: 0, inClipHigh: 4},
		token: func(lp float64, in *lossInputs) (float64, float64) {
			c := in.clip(in.ratio(lp)) * in.advantage // a constant to the gradient
			return -c * lp, -c
		},
	},
	"dro": {
		name:     "dro",
		required: []string{inLogprobs, inAdvantage},
		optional: []string{inWeights, inMask},
		config:   map[string]float64{cfgBeta: 0.05},
		token: func(lp float64, in *lossInputs) (float64, float64) {
			d := lp - in.logprob
			return -(lp*in.advantage - in.beta/2*d*d), -(in.advantage - in.beta*d)
		},
	},
}

// lossNames lists the losses for error messages.
func lossNames() string {
	return strings.Join(slices.Sorted(maps.Keys(losses)), ", ")
}

// target is one datum's view of its loss: what each target token's share is.
type target struct {
	loss   *loss
	tokens []int64 // [T·K]
	k      int     // targets for each position

	weights, mask, logprobs, advantages []float32 // [T·K] or nil
	low, high                           []float32 // [T·K], [1] or nil
	config                              map[string]float64
}

// newTarget prepares a datum that checkBatch has accepted.
func newTarget(l *loss, config map[string]float64, d *engine.Datum) *target {
	t := &target{loss: l, tokens: d.Inputs[inTargets].I, config: config}
	t.k = len(t.tokens) / len(d.Tokens)
	t.weights = d.Inputs[inWeights].F
	t.mask = d.Inputs[inMask].F
	t.logprobs = d.Inputs[inLogprobs].F
	t.advantages = d.Inputs[inAdvantage].F
	t.low = d.Inputs[inClipLow].F
	t.high = d.Inputs[inClipHigh].F
	return t
}

// at returns target token i's loss and its derivative by the token's log
// probability.
func (t *target) at(i int, lp float64) (loss, grad float64) {
	in := lossInputs{
		weight:    pick(t.weights, i, 1) * pick(t.mask, i, 1),
		logprob:   pick(t.logprobs, i, 0),
		advantage: pick(t.advantages, i, 0),
		low:       pick(t.low, i, t.setting(inClipLow)),
		high:      pick(t.high, i, t.setting(inClipHigh)),
		beta:      t.setting(cfgBeta),
	}
	if in.weight == 0 {
		return 0, 0 // whatever the token's logprob, even if it is infinite
	}
	loss, grad = t.loss.token(lp, &in)
	return loss * in.weight, grad * in.weight
}

func (t *target) setting(name string) float64 {
	if v, ok := t.config[name]; ok {
		return v
	}
	return t.loss.config[name]
}

// pick is values[i], the only value of a scalar, or def if there are none.
func pick(values []float32, i int, def float64) float64 {
	switch len(values) {
	case 0:
		return def
	case 1:
		return float64(values[0])
	}
	return float64(values[i])
}
