package metastoretest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
)

// crowd calls f that many times at once.
func crowd(n int, f func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func testReopen(t *testing.T, f fixture) {
	run := f.alice()
	c := f.commit(checkpoint(training, "x", t0))
	f.must(f.PutResult(f.ctx, metastore.Result{RequestID: "r", CreatedAt: t0, Payload: []byte("{}")}))
	f.must(f.CreateKey(f.ctx, metastore.Key{ID: "k", Hash: "h", CreatedAt: t0}))
	secret := value(f.Secret(f.ctx, "s", func() ([]byte, error) { return []byte("s"), nil }))(f)
	s, r := value(f.Session(f.ctx, "s1"))(f), value(f.Run(f.ctx, run))(f)
	f.must(f.Close())

	f.Store = f.reopen()
	same(t, "session", value(f.Session(f.ctx, "s1"))(f), s)
	same(t, "run", value(f.Run(f.ctx, run))(f), r)
	same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, "x"))(f), c)
	value(f.Result(f.ctx, "r"))(f)
	value(f.KeyByHash(f.ctx, "h"))(f)
	same(t, "secret", value(f.Secret(f.ctx, "s", func() ([]byte, error) { return nil, errors.New("it is there") }))(f), secret)
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 1)
	f.commit(checkpoint(training, "y", t0))
}

func testTwoAtOnce(t *testing.T, f fixture) {
	run := f.alice()
	stores := []metastore.Store{f.Store, f.reopen()}
	const n = 40
	crowd(2, func(i int) {
		for j := range n {
			_, err := stores[i].CommitCheckpoint(f.ctx, checkpoint(training, fmt.Sprint(i, "-", j), after(j)), false, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := stores[i].TouchSession(f.ctx, "s1", after(j)); err != nil {
				t.Error(err)
			}
			if _, _, err := stores[i].Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{Limit: 10}); err != nil {
				t.Error(err)
			}
		}
	})
	for _, s := range stores {
		_, got, err := s.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{})
		f.must(err)
		same(t, "number of checkpoints", got, 2*n)
	}
}

func testRaceForName(t *testing.T, f fixture) {
	run := f.alice()
	for round := range 5 {
		name := fmt.Sprint(round)
		var (
			mu   sync.Mutex
			won  []metastore.Checkpoint
			lost int
		)
		crowd(16, func(i int) {
			c := checkpoint(training, name, t0)
			c.Files = []metastore.File{file("f", int64(i), byte(i))}
			c, err := f.CommitCheckpoint(f.ctx, c, false, &metastore.Result{RequestID: fmt.Sprint(round, " ", i)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, c)
			case errors.Is(err, metastore.ErrExists):
				lost++
			default:
				t.Error(err)
			}
		})
		if len(won) != 1 || lost != 15 {
			t.Fatalf("%d won and %d lost, want 1 and 15", len(won), lost)
		}
		same(t, "checkpoint", value(f.Checkpoint(f.ctx, run, training, name))(f), won[0])
	}
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "number of checkpoints", n, 5)
}

func testRaceToReplace(t *testing.T, f fixture) {
	run := f.alice()
	var last sync.Map
	crowd(16, func(i int) {
		c, err := f.CommitCheckpoint(f.ctx, checkpoint(training, "x", after(i)), true, nil)
		if err != nil {
			t.Error(err)
		}
		last.Store(c.ID, c)
	})
	got := value(f.Checkpoint(f.ctx, run, training, "x"))(f)
	one, _ := last.Load(got.ID)
	same(t, "checkpoint", any(got), one)
	page, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{Limit: 9})
	f.must(err)
	if n != 1 || len(page) != 1 {
		t.Errorf("%d of %d are listed, want 1", len(page), n)
	}
}

func testRaceToFinish(t *testing.T, f fixture) {
	f.session("s1", "alice")
	var seen sync.Map
	crowd(16, func(i int) {
		if err := f.FinishSession(f.ctx, "s1", after(i), "errored", fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
		// Whoever returns sees the reason that stays.
		s, err := f.Session(f.ctx, "s1")
		if err != nil {
			t.Error(err)
			return
		}
		seen.Store(s.FinishDetail, s.FinishedAt)
	})
	s := value(f.Session(f.ctx, "s1"))(f)
	reasons := 0
	for range seen.Range {
		reasons++
	}
	same(t, "number of reasons seen", reasons, 1)
	same(t, "time and detail", *s.FinishedAt, after(number(s.FinishDetail)))
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func testRaceForSecret(t *testing.T, f fixture) {
	stores := []metastore.Store{f.Store, f.reopen()}
	got := make([]string, 16)
	crowd(len(got), func(i int) {
		b, err := stores[i%2].Secret(f.ctx, "s", func() ([]byte, error) { return []byte{byte(i)}, nil })
		if err != nil {
			t.Error(err)
		}
		got[i] = string(b)
	})
	for _, s := range got {
		same(t, "secret", s, got[0])
	}
}

// testRaceOfFailures lets changes that fail at their very end, and such that
// are given up, go on among others. Of those that fail nothing is to be seen,
// and those that are done are.
func testRaceOfFailures(t *testing.T, f fixture) {
	f.spread()
	f.must(f.PutResult(f.ctx, metastore.Result{RequestID: "taken", CreatedAt: t0}))
	const workers, rounds = 16, 10
	var done [workers][rounds]bool
	crowd(workers, func(worker int) {
		owner := []string{"alice", "bob"}[worker%2]
		for round := range rounds {
			c := checkpoint(training, fmt.Sprint(worker, "-", round), after(round))
			c.RunID, c.Owner = fmt.Sprintf("%s%d:train:0", owner, round%3), owner
			ctx, cancel := context.WithCancel(f.ctx)
			res := &metastore.Result{RequestID: c.Name, CreatedAt: t0}
			switch worker % 4 {
			case 1:
				res.RequestID = "taken"
			case 2:
				go cancel()
			}
			_, err := f.CommitCheckpoint(ctx, c, false, res)
			switch {
			case err == nil:
				done[worker][round] = true
			case worker%4 == 1 && errors.Is(err, metastore.ErrExists), worker%4 == 2 && errors.Is(err, context.Canceled):
			default:
				t.Errorf("worker %d: %v", worker, err)
			}
			cancel()
		}
	})
	for worker := range done {
		for round, ok := range done[worker] {
			name := fmt.Sprint(worker, "-", round)
			run := fmt.Sprintf("%s%d:train:0", []string{"alice", "bob"}[worker%2], round%3)
			_, err := f.Checkpoint(f.ctx, run, training, name)
			switch {
			case ok && err != nil:
				t.Errorf("%s is done, but: %v", name, err)
			case worker%4 == 1 && !errors.Is(err, metastore.ErrNotFound):
				t.Errorf("%s failed, but is there: %v", name, err)
			}
			// Both or neither.
			if _, err2 := f.Result(f.ctx, name); worker%4 != 1 && (err == nil) != (err2 == nil) {
				t.Errorf("%s: checkpoint %v, result %v", name, err, err2)
			}
		}
	}
	same(t, "counters that are wrong", len(value(f.Counters(f.ctx))(f)), 0)
}

// testRaceOfEverything lets everything that changes lists go on at once, over
// the same few names, and then checks that the totals are those of the lists.
func testRaceOfEverything(t *testing.T, f fixture) {
	runs := f.spread()
	crowd(8, func(worker int) {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		for step := range 60 {
			run := runs[random.IntN(len(runs))]
			var err error
			switch random.IntN(8) {
			case 0, 1, 2, 3:
				c := metastore.Checkpoint{
					RunID: run.ID, Owner: run.Owner, Kind: []metastore.Kind{training, sampler}[random.IntN(2)],
					Name: fmt.Sprint(random.IntN(12)), Listed: true, CreatedAt: after(step),
				}
				if random.IntN(3) == 0 {
					c.ExpiresAt = ptr(after(step + 10))
				}
				_, err = f.CommitCheckpoint(f.ctx, c, random.IntN(2) == 0, nil)
			case 4, 5:
				var c metastore.Checkpoint
				if c, err = f.Checkpoint(f.ctx, run.ID, training, fmt.Sprint(random.IntN(12))); err == nil {
					err = f.DeleteCheckpoint(f.ctx, c.ID)
				}
			case 6:
				_, err = f.DeleteExpired(f.ctx, after(step), t0, 5)
			case 7:
				if _, err = f.EndLostRuns(f.ctx); err == nil {
					err = f.TouchRun(f.ctx, run.ID, after(step), true)
				}
			}
			if err != nil && !errors.Is(err, metastore.ErrExists) && !errors.Is(err, metastore.ErrNotFound) {
				t.Error(err)
			}
			page, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: run.Owner, Now: t0}, metastore.Page{Limit: 1000})
			if err != nil || n != len(page) {
				t.Errorf("a page of all has %d of %d: %v", len(page), n, err)
			}
		}
	})
	sum := 0
	for _, run := range runs {
		for _, kind := range []metastore.Kind{"", training, sampler, external} {
			filter := metastore.CheckpointFilter{RunID: run.ID, Kind: kind, Now: t0}
			page, n, err := f.Checkpoints(f.ctx, filter, metastore.Page{Limit: 1000})
			f.must(err)
			same(t, fmt.Sprintf("total of %+v", filter), n, len(page))
			if kind == "" {
				sum += n
			}
		}
	}
	_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Now: t0}, metastore.Page{})
	f.must(err)
	same(t, "total", n, sum)
}
