package crash

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// workers is how many clients are at work at the same time, each with an owner
// of its own.
const workers = 5

func number(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// A server that is killed at any instant has everything it acknowledged, and
// nothing of what it did not in parts: after every restart, its answers are
// compared with what its clients know; `tinkex fsck` finds everything in order;
// and what garbage collection leaves is, to the byte, what checkpoints need.
//
// TINKEX_CRASHES says how often, 20 times unless it does, and
// TINKEX_CRASH_SEED chooses the instants and the operations.
func TestKills(t *testing.T) {
	kills := int(number(t, "TINKEX_CRASHES", 20))
	seed := uint64(number(t, "TINKEX_CRASH_SEED", time.Now().UnixNano()))
	t.Logf("TINKEX_CRASH_SEED=%d", seed)
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			first := migrations(t, p, max(2, kills/20), rng)
			newCampaign(t, p.fresh(t), seed, first).run(kills)
		})
	}
}

// migrations kills servers while they make their stores.
func migrations(t *testing.T, p pair, n int, rng *rand.Rand) (killed int) {
	for range n {
		at := p.fresh(t)
		took := 100 * time.Millisecond
		for range 3 {
			hit, out, err := killWithin(at.command("serve", "--addr", "127.0.0.1:0"), time.Duration(rng.Int64N(int64(took))))
			if err != nil {
				t.Errorf("a start on stores that another was killed making: %v\n%s", err, out)
			}
			if hit {
				killed++
			}
			at.settle(t)
		}
		at.serve(t).kill()
		at.settle(t)
		at.fsck(t)
	}
	return killed
}

// campaign is one pair of stores and what happens to it.
type campaign struct {
	t       *testing.T
	at      *place
	rng     *rand.Rand
	workers []*worker
	counts  *tally

	kept *ledger // the reference's
	sum  verdict
	// Kills by when they came, and how many processes were faster than theirs.
	killed map[string]int
	faster int
	// Of garbage collections.
	collections, superseded int
	most                    int64 // bytes after one
	graves                  int   // models that died
}

// The moments of a kill.
const (
	atWork      = "serving clients"
	atStart     = "starting"
	atMigration = "making the stores"
	atFsck      = "tinkex fsck"
	atGC        = "garbage collection"
)

func newCampaign(t *testing.T, at *place, seed uint64, migrations int) *campaign {
	c := &campaign{
		t: t, at: at, rng: rand.New(rand.NewPCG(seed, 1)), counts: newTally(),
		killed: map[string]int{atMigration: migrations},
	}
	s := at.serve(t)
	var ref *reference
	ref, c.kept = train(t, s.url, "tml-crash-reference")
	s.kill()
	at.settle(t)
	for i := range workers {
		c.workers = append(c.workers, &worker{
			ledger: newLedger(), name: fmt.Sprintf("client %d", i), key: fmt.Sprintf("tml-crash-%d", i),
			rng: rand.New(rand.NewPCG(seed, uint64(2+i))), ref: ref, counts: c.counts,
		})
	}
	return c
}

func (c *campaign) run(kills int) {
	t := c.t
	began := time.Now()
	t.Cleanup(func() { c.report(time.Since(began)) })
	s := c.at.serve(t)
	for c.killed[atWork]+c.killed[atStart] < kills && !t.Failed() {
		c.load(s)
		c.at.settle(t)
		c.disturb()
		left := c.collect()
		for c.rng.IntN(6) == 0 && c.killed[atWork]+c.killed[atStart] < kills {
			c.killStart()
		}
		s = c.at.serve(t)
		c.compare(s, left)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, w := range c.workers {
		svc := client(t, s.url, w.key)
		w.checkGraves(ctx, t, svc.RestClient())
		_ = svc.Close()
		c.graves += len(w.graves)
	}
	s.kill()
}

// load has the clients work and kills the server under them.
func (c *campaign) load(s *server) {
	var killed atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var working sync.WaitGroup
	for _, w := range c.workers {
		w.attach(c.t, s.url, &killed)
		working.Go(func() { w.work(ctx, c.t) })
	}
	after := 20*time.Millisecond + time.Duration(c.rng.Int64N(int64(c.at.load)))
	var beside sync.WaitGroup
	if c.rng.IntN(5) == 0 {
		// What looks after the stores works beside the server, and is not
		// disturbed by its end.
		name, args := "fsck", []string(nil)
		if c.rng.IntN(2) == 0 {
			name, args = "gc", []string{"--grace", "1m"}
		}
		beside.Go(func() {
			if out, err := c.at.command(name, args...).CombinedOutput(); err != nil {
				c.t.Errorf("tinkex %s beside a server that is killed: %v\n%s", name, err, out)
			}
		})
	}
	time.Sleep(after)
	killed.Store(true)
	s.kill()
	c.killed[atWork]++
	cancel()
	working.Wait()
	beside.Wait()
	for _, w := range c.workers {
		_ = w.svc.Close() // there is nobody to be told
		w.bury()
	}
}

// disturb kills what looks after the stores.
func (c *campaign) disturb() {
	switch c.rng.IntN(4) {
	case 0:
		args := []string{}
		if c.rng.IntN(2) == 0 {
			args = append(args, "--repair")
		}
		hit, out, err := killWithin(c.at.command("fsck", args...), time.Duration(c.rng.IntN(120))*time.Millisecond)
		c.disturbed(atFsck, hit, out, err)
	case 1:
		hit, out, err := killWithin(c.at.collector(), time.Duration(c.rng.IntN(80))*time.Millisecond)
		c.disturbed(atGC, hit, out, err)
	}
}

func (c *campaign) disturbed(what string, hit bool, out string, err error) {
	if hit {
		c.killed[what]++
		c.at.settle(c.t)
		return
	}
	c.faster++
	if err != nil {
		c.t.Errorf("%s after a kill: %v\n%s", what, err, out)
	}
}

// killStart kills a server before it can have said where it is, or soon after.
func (c *campaign) killStart() {
	hit, out, err := killWithin(c.at.command("serve", "--addr", "127.0.0.1:0"), time.Duration(c.rng.IntN(100))*time.Millisecond)
	if hit {
		c.killed[atStart]++
	} else if err != nil {
		c.t.Errorf("a start after a kill: %v\n%s", err, out)
	}
	c.at.settle(c.t)
}

// collect removes everything that nothing refers to, as if all had been
// unreferenced for long, and returns what is left.
func (c *campaign) collect() map[string]int64 {
	c.at.forget(c.t)
	c.collections++
	if out, err := c.at.collector().CombinedOutput(); err != nil {
		c.t.Errorf("garbage collection: %v\n%s", err, out)
	}
	if staged := c.at.staged(c.t); len(staged) > 0 {
		c.t.Errorf("left staged by dead processes: %v", staged)
	}
	left, superseded := c.at.onDisk(c.t)
	c.superseded += superseded
	return left
}

// compare compares what the server has with what its clients know, and what is
// on the disk with what that takes.
func (c *campaign) compare(s *server, left map[string]int64) {
	t := c.t
	needed, mayBe := map[string]int64{}, map[string]int64{}
	need := func(in map[string]int64, files content) {
		for _, f := range files {
			in[f.SHA256] = f.SizeBytes
		}
	}
	look := func(l *ledger, key, who string, rng *rand.Rand) {
		svc := client(t, s.url, key)
		defer svc.Close()
		v := l.compare(t, svc.RestClient(), who, func() bool { return rng.IntN(8) == 0 })
		c.sum.add(v)
		for _, e := range l.entries {
			for _, m := range e.may {
				need(needed, m.content)
			}
		}
		for _, files := range l.expired {
			need(mayBe, files)
		}
	}
	var checking sync.WaitGroup
	checking.Go(func() { c.at.fsck(t) })
	look(c.kept, "tml-crash-reference", "reference", c.rng)
	for _, w := range c.workers {
		look(w.ledger, w.key, w.name, w.rng)
	}
	checking.Wait()
	if t.Failed() {
		return
	}
	var bytes int64
	for digest, size := range left {
		bytes += size
		want, ok := needed[digest]
		if !ok {
			want, ok = mayBe[digest]
		}
		if !ok {
			t.Errorf("LEAK: %s, %d bytes, survived garbage collection and no checkpoint has it", digest, size)
		} else if size != want {
			t.Errorf("%s has %d bytes, want %d", digest, size, want)
		}
	}
	for digest := range needed {
		if _, ok := left[digest]; !ok {
			t.Errorf("LOST: garbage collection took %s", digest)
		}
	}
	c.most = max(c.most, bytes)
}

func (v *verdict) add(w verdict) {
	v.checked += w.checked
	v.downloaded += w.downloaded
	v.bytes += w.bytes
	v.happened += w.happened
	v.not += w.not
	v.expired += w.expired
}

// report prints what was done.
func (c *campaign) report(took time.Duration) {
	var b strings.Builder
	total := 0
	for _, moment := range slices.Sorted(maps.Keys(c.killed)) {
		total += c.killed[moment]
	}
	fmt.Fprintf(&b, "%s: %d kills in %v\n", c.t.Name(), total, took.Round(time.Second))
	for _, moment := range slices.Sorted(maps.Keys(c.killed)) {
		fmt.Fprintf(&b, "  %5d  %s\n", c.killed[moment], moment)
	}
	fmt.Fprintf(&b, "  %-22s %12s %8s\n", "operations", "acknowledged", "in doubt")
	ops := map[string]bool{}
	acknowledged, doubt := 0, 0
	for op, n := range c.counts.acknowledged {
		ops[op] = true
		acknowledged += n
	}
	for op, n := range c.counts.interrupted {
		ops[op] = true
		doubt += n
	}
	for _, op := range slices.Sorted(maps.Keys(ops)) {
		fmt.Fprintf(&b, "  %-22s %12d %8d\n", op, c.counts.acknowledged[op], c.counts.interrupted[op])
	}
	fmt.Fprintf(&b, "  %-22s %12d %8d\n", "in all", acknowledged, doubt)
	fmt.Fprintf(&b, "  of those in doubt that change checkpoints, %d had happened and %d had not\n", c.sum.happened, c.sum.not)
	fmt.Fprintf(&b, "  %d times a checkpoint was compared with what its client knew, %d times downloaded (%d bytes); %d expired\n",
		c.sum.checked, c.sum.downloaded, c.sum.bytes, c.sum.expired)
	fmt.Fprintf(&b, "  %d runs say whether steps were lost with their models\n", c.graves)
	fmt.Fprintf(&b, "  %d garbage collections left what is needed, at most %d bytes, and nothing else", c.collections, c.most)
	if c.superseded > 0 {
		fmt.Fprintf(&b, " (and %d second objects of a blob, which stay for an hour)", c.superseded)
	}
	fmt.Printf("%s\n", b.String())
}
