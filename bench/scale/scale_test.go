//go:build linux

package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

func TestWorld(t *testing.T) {
	s := shape{checkpoints: 20_000, runs: 2000, people: 50}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	w, sessions := newWorld(s, time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC))
	if len(sessions) != s.runs || len(w.runs) != s.runs {
		t.Errorf("%d sessions and %d runs, want %d", len(sessions), len(w.runs), s.runs)
	}
	of := map[string]int{}
	for i := range w.run {
		owner := w.runs[w.run[i]].Owner
		if o := w.ownerOf(i); ownerName(o) != owner {
			t.Fatalf("%d is said to be %s's and is %s's", i, ownerName(o), owner)
		}
		of[owner]++
	}
	average := s.checkpoints / s.people
	if n := of[ownerName(0)]; n != len(w.first) || n < 9*average || n > 11*average {
		t.Errorf("the first owner has %d and %d, want about ten times %d", n, len(w.first), average)
	}
	for i := range s.people {
		if of[ownerName(i)] == 0 {
			t.Errorf("owner %d has nothing", i)
		}
	}
	names := map[string]bool{}
	n := 0
	now := time.Now()
	for c := range w.each(t.Context(), pool{adapter: make([]metastore.File, poolSize), optimizers: make([]metastore.File, poolSize)}, now) {
		names[c.RunID+string(c.Kind)+c.Name] = true
		if c.ExpiresAt != nil && c.ExpiresAt.Before(now.AddDate(0, 0, 1)) && (n%purposes != ending || c.Owner == ownerName(0)) {
			t.Errorf("%d expires during the measurement", n)
		}
		n++
	}
	if n != s.checkpoints || len(names) != n {
		t.Errorf("%d checkpoints with %d names, want %d", n, len(names), s.checkpoints)
	}
}

// What is deleted is deleted once, and nobody reads it.
func TestPurposes(t *testing.T) {
	s := shape{checkpoints: 20_000, runs: 2000, people: 50}
	w, _ := newWorld(s, time.Now())
	c := &client{w: w}
	used := map[int]bool{}
	for range s.checkpoints / purposes {
		for _, purpose := range []int{forDelete, toPublish} {
			i := c.once(purpose)
			if used[i] || i%purposes != purpose || i >= s.checkpoints {
				t.Fatalf("%d is to serve purpose %d", i, purpose)
			}
			used[i] = true
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		if i := c.some(random); used[i] || i >= s.checkpoints {
			t.Fatalf("%d is to be read", i)
		}
	}
}

func TestShares(t *testing.T) {
	sum := 0
	for _, kind := range requests {
		sum += kind.share
	}
	if sum != 100 {
		t.Errorf("the shares are %d percent", sum)
	}
}

func TestPercentile(t *testing.T) {
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(199-i))
	}
	for p, want := range map[float64]time.Duration{0: 0, 50: 100, 99: 198, 100: 199} {
		if got := percentile(all, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
	if percentile(nil, 50) != 0 {
		t.Error("of nothing there is something")
	}
}
