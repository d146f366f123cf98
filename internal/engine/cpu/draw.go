package cpu

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tinkex/tinkex/internal/engine"
)

// logprobs is the model's distribution over the next token.
type logprobs struct {
	logits []float32
	lse    float64

	exps  []float32 // scratch
	order []int32   // scratch: token ids
	probs []float64 // scratch: unnormalised, of the tokens in order
}

func (l *logprobs) set(logits []float32) {
	l.logits = logits
	l.exps = append(l.exps[:0], logits...)
	top, sum := expSum(l.exps)
	l.lse = float64(top) + math.Log(sum)
}

// of is a token's log probability at temperature 1.
func (l *logprobs) of(token int32) float32 {
	return float32(float64(l.logits[token]) - l.lse)
}

// top lists the k likeliest tokens, the likeliest first; of equals, the
// smallest id.
func (l *logprobs) top(k int) []engine.TokenLogprob {
	l.sortTop(k)
	best := make([]engine.TokenLogprob, min(k, len(l.order)))
	for i := range best {
		best[i] = engine.TokenLogprob{Token: l.order[i], Logprob: l.of(l.order[i])}
	}
	return best
}

// byLogit orders tokens by falling logit, then by id. NaN comes last.
func (l *logprobs) byLogit(a, b int32) int {
	if c := cmp.Compare(l.logits[b], l.logits[a]); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

// sortTop puts the k likeliest tokens first in order, sorted; k <= 0 or beyond
// the vocabulary sorts all of it.
func (l *logprobs) sortTop(k int) {
	v := len(l.logits)
	l.order = l.order[:0]
	if k <= 0 || k >= v {
		for t := range v {
			l.order = append(l.order, int32(t))
		}
		slices.SortFunc(l.order, l.byLogit)
		return
	}
	// A heap of the best k so far, the worst of them on top.
	for t := range int32(v) {
		switch {
		case len(l.order) < k:
			l.order = append(l.order, t)
			if len(l.order) == k {
				for i := k/2 - 1; i >= 0; i-- {
					l.sink(i)
				}
			}
		case l.byLogit(t, l.order[0]) < 0:
			l.order[0] = t
			l.sink(0)
		}
	}
	slices.SortFunc(l.order, l.byLogit)
}

// sink restores the heap below i: a parent is worse than its children.
func (l *logprobs) sink(i int) {
	for {
		worst := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(l.order); c++ {
			if l.byLogit(l.order[c], l.order[worst]) > 0 {
				worst = c
			}
		}
		if worst == i {
			return
		}
		l.order[i], l.order[worst] = l.order[worst], l.order[i]
		i = worst
	}
}

// draw samples a token: the likeliest at temperature 0, else at the given
// temperature from the topK likeliest (all if topK <= 0) and of these from the
// fewest that hold topP of the probability.
func (l *logprobs) draw(temperature float64, topK int, topP float64, rng *rand.Rand) int32 {
	if temperature == 0 {
		return l.argmax()
	}
	v := len(l.logits)
	all := (topK <= 0 || topK >= v) && topP >= 1
	switch {
	case all:
		l.order = l.order[:0]
		for t := range int32(v) {
			l.order = append(l.order, t)
		}
	default:
		l.sortTop(topK)
	}
	top := float64(l.logits[l.argmax()])
	l.probs = slices.Grow(l.probs[:0], len(l.order))
	var sum float64
	for _, t := range l.order {
		p := math.Exp((float64(l.logits[t]) - top) / temperature)
		l.probs = append(l.probs, p)
		sum += p
	}
	if topP < 1 {
		limit := topP * sum
		sum = 0
		for i, p := range l.probs {
			sum += p
			if sum >= limit {
				l.probs = l.probs[:i+1]
				break
			}
		}
	}
	// A random point on the line of the probabilities laid end to end.
	at := rng.Float64() * sum
	for i, p := range l.probs {
		at -= p
		if at < 0 {
			return l.order[i]
		}
	}
	// Rounding, or a distribution of NaNs from weights that have diverged.
	return l.order[len(l.probs)-1]
}

// argmax is the likeliest token, of equals the one with the smallest id.
func (l *logprobs) argmax() int32 {
	best := int32(0)
	for t, v := range l.logits {
		if v > l.logits[best] {
			best = int32(t)
		}
	}
	return best
}
