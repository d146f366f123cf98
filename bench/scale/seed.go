//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/seed"
)

// shape is how many of everything there are.
type shape struct{ checkpoints, runs, people int }

func (s shape) check() error {
	if s.people <= large || s.runs < 20*s.people || s.checkpoints < 100*s.people {
		return fmt.Errorf("expected more than %d -owners, and at least 20 -runs and 100 -checkpoints for each", large)
	}
	return nil
}

// large is how many times the average the first owner has.
const large = 10

// Checkpoints are told apart by their place in the order of saving. What one
// is used for follows from the last digit, so that none is deleted that is to
// be read.
const (
	purposes  = 10
	forDelete = 9
	toPublish = 8
	ending    = 7 // some of these expire during the measurement
)

// world is what is in the store, as far as requests need to know it.
type world struct {
	shape
	runs   []metastore.Run
	owners [][]int32 // the runs of each, by their places in runs
	run    []int32   // of each checkpoint
	start  time.Time // of the first save
	key    []string  // of each owner
	first  []int     // checkpoints of the first owner, for whom lists are long
}

const between = 5 * time.Second // two saves

// newWorld decides what there is. It is the same every time: one owner has ten
// times the average, the others between a fraction and a few times of it, and
// runs differ by as much.
func newWorld(s shape, now time.Time) (*world, []metastore.Session) {
	random := rand.New(rand.NewPCG(1, 2))
	w := &world{
		shape: s, start: now.Add(-between * time.Duration(s.checkpoints)).Truncate(time.Second).UTC(),
		owners: make([][]int32, s.people), run: make([]int32, s.checkpoints),
	}
	share := make([]float64, s.people)
	var sum float64
	for i := 1; i < s.people; i++ {
		share[i] = 0.1 + random.ExpFloat64()
		sum += share[i]
	}
	share[0] = sum * large / float64(s.people-large)
	sum += share[0]
	pick := func() int {
		x := random.Float64() * sum
		for i, of := range share {
			if x -= of; x < 0 {
				return i
			}
		}
		return 0
	}
	var sessions []metastore.Session
	for i := range s.runs {
		owner := i // everybody has one
		if i >= s.people {
			owner = pick()
		}
		id := fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i)
		sessions = append(sessions, metastore.Session{ID: id, Owner: ownerName(owner), CreatedAt: w.start, LastHeartbeat: now.UTC(), SDKVersion: "bench"})
		w.owners[owner] = append(w.owners[owner], int32(i))
		w.runs = append(w.runs, metastore.Run{
			ID: id + ":train:0", SessionID: id, Owner: ownerName(owner), CreatedAt: w.start.Add(time.Duration(i) * time.Millisecond),
			LastRequestAt: now.UTC(), State: metastore.RunEnded, LoRA: lora,
		})
	}
	for i := range w.run {
		owner := pick()
		all := w.owners[owner]
		at := math.Pow(random.Float64(), 1.25) // the owner's older runs have more
		w.run[i] = all[int(at*float64(len(all)))]
		if owner == 0 {
			w.first = append(w.first, i)
		}
	}
	for i := range s.people {
		w.key = append(w.key, fmt.Sprintf("tml-bench-%d", i))
	}
	return w, sessions
}

var lora = metastore.LoRA{BaseModel: "tinkex/tiny", Rank: 8, TrainAttn: true, TrainMLP: true, TrainUnembed: true}

func ownerName(i int) string { return fmt.Sprintf("tml:user:bench-%d", i) }

func kindOf(i int) metastore.Kind {
	if i%3 == 0 {
		return metastore.KindTraining
	}
	return metastore.KindSampler
}

func nameOf(i int) string { return fmt.Sprintf("step-%07d", i) }

// ownerOf is the place of the owner of a checkpoint.
func (w *world) ownerOf(i int) int {
	for o, runs := range w.owners {
		if _, ok := slices.BinarySearch(runs, w.run[i]); ok {
			return o
		}
	}
	panic("a run of nobody's")
}

// each are the checkpoints, of files that there are.
func (w *world) each(ctx context.Context, files pool, now time.Time) iter.Seq[metastore.Checkpoint] {
	return func(yield func(metastore.Checkpoint) bool) {
		mine := make(map[int32]bool, len(w.owners[0]))
		for _, r := range w.owners[0] {
			mine[r] = true
		}
		for i, r := range w.run {
			run := w.runs[r]
			c := metastore.Checkpoint{
				RunID: run.ID, Owner: run.Owner, Kind: kindOf(i), Name: nameOf(i), Listed: true, LoRA: lora,
				CreatedAt: w.start.Add(time.Duration(i) * between), Public: i%100 == 0,
				HasOptimizer: kindOf(i) == metastore.KindTraining, Files: files.of(i),
			}
			switch {
			case i%purposes == ending && !mine[r] && i%1000 < purposes:
				c.ExpiresAt = at(now.Add(time.Duration(i%900) * time.Second))
			case i%20 == 5:
				c.ExpiresAt = at(now.AddDate(0, 0, 2+i%90))
			}
			if ctx.Err() != nil || !yield(c) {
				return
			}
		}
	}
}

func at(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}

// pool are the files that all checkpoints share.
type pool struct {
	config, complete    metastore.File
	adapter, optimizers []metastore.File
}

// poolSize is how many different adapters there are.
const poolSize = 256

func (p pool) of(i int) []metastore.File {
	files := []metastore.File{p.config, p.adapter[i%poolSize]}
	if kindOf(i) == metastore.KindTraining {
		files = append(files, p.optimizers[i%poolSize])
	}
	return append(files, p.complete)
}

// store writes the pool.
func (p *pool) store(ctx context.Context, s *seed.Stores) (err error) {
	put := func(name string, content []byte) metastore.File {
		if err != nil {
			return metastore.File{}
		}
		var f metastore.File
		f, err = s.File(ctx, seed.File{Name: name, Body: bytes.NewReader(content)})
		return f
	}
	p.config = put(engine.AdapterConfigFile, []byte(`{"base_model_name_or_path": "tinkex/tiny", "peft_type": "LORA", "r": 8}`))
	p.complete = put(registry.CompleteFile, nil)
	for i := range poolSize {
		p.adapter = append(p.adapter, put(engine.AdapterWeightsFile, fmt.Appendf(nil, "adapter %d", i)))
		p.optimizers = append(p.optimizers, put(engine.OptimizerFile, fmt.Appendf(nil, "optimizer %d", i)))
	}
	return err
}

// fill puts the world into the stores.
func (w *world) fill(ctx context.Context, s *seed.Stores, sessions []metastore.Session, now time.Time) error {
	var files pool
	if err := files.store(ctx, s); err != nil {
		return err
	}
	for i, key := range w.key {
		if err := s.Key(ctx, key, ownerName(i)); err != nil {
			return err
		}
	}
	if err := metastore.Fill(ctx, s.Meta, sessions, w.runs, w.each(ctx, files, now)); err != nil {
		return err
	}
	return ctx.Err()
}
