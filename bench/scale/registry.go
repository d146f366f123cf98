//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/seed"
)

// What must be reached.
const (
	maxPage   = 5 * time.Millisecond
	maxRatio  = 2
	maxP99    = 100 * time.Millisecond
	maxMemory = 250 << 20
)

// database is where the metadata is.
type database struct {
	name string
	// open returns the database's URL, empty for the data directory's own,
	// what is to be done when it has been filled, and how it is removed.
	open func(ctx context.Context, b *bencher) (url string, filled func() error, remove func() error, err error)
	// p99 is promised of this one.
	p99 bool
}

var (
	sqlite = database{"SQLite", func(context.Context, *bencher) (string, func() error, func() error, error) {
		nothing := func() error { return nil }
		return "", nothing, nothing, nil
	}, true}
	postgres = database{"PostgreSQL", openPostgres, false}
)

// openPostgres makes a schema in the database that was named, or in a server's
// that is started for it.
func openPostgres(ctx context.Context, b *bencher) (_ string, filled, remove func() error, err error) {
	server, stop := b.db, func() {}
	if server == "" {
		if server, stop, err = pgtest.Start(); err != nil {
			return "", nil, nil, err
		}
	}
	do := func(ctx context.Context, dsn, query string) error {
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		_, err = c.Exec(ctx, query)
		return errors.Join(err, c.Close(ctx))
	}
	u, err := url.Parse(server)
	schema := "tinkex_bench_" + strings.ToLower(rand.Text())
	if err == nil {
		err = do(ctx, server, `CREATE SCHEMA `+schema)
	}
	if err != nil {
		stop()
		return "", nil, nil, err
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	// What the database's own housekeeping has done when a store has grown
	// over weeks.
	filled = func() error { return do(ctx, u.String(), `VACUUM ANALYZE`) }
	remove = func() error {
		defer stop()
		return do(context.WithoutCancel(ctx), server, `DROP SCHEMA `+schema+` CASCADE`)
	}
	return u.String(), filled, remove, nil
}

func (b *bencher) registry(ctx context.Context, db database) (_ []*harness.Section, err error) {
	dbURL, filled, remove, err := db.open(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	dataDir := filepath.Join(b.dir, db.name)
	defer func() { err = errors.Join(err, os.RemoveAll(dataDir)) }()

	b.say("seeding %s checkpoints", humanize.Comma(int64(b.shape.checkpoints)))
	began := time.Now()
	w, err := b.seed(ctx, node.Stores{DataDir: dataDir, DB: dbURL})
	if err == nil {
		err = filled()
	}
	if err != nil {
		return nil, err
	}
	b.say("seeded in %v", time.Since(began).Round(time.Second))

	var args []string
	if dbURL != "" {
		args = []string{"--db", dbURL}
	}
	srv, err := harness.Serve(b.binary, dataDir, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	c := newClient(srv, w, b.clients)
	defer c.close()

	alone, err := b.oneByOne(ctx, db, c)
	if err != nil {
		return nil, err
	}
	walks, err := b.walks(ctx, db, c)
	if err != nil {
		return []*harness.Section{alone}, err
	}
	crowd, err := b.crowd(ctx, db, c)
	sections := []*harness.Section{alone, walks, crowd}
	if err != nil {
		return sections[:2], err
	}
	for owner := range min(10, c.w.people) {
		if _, err := c.walk(ctx, owner, walkSize); err != nil {
			return sections, fmt.Errorf("after all that, owner %d: %w", owner, err)
		}
	}
	peak, err := harness.PeakMemory(srv.PID)
	b.target(crowd, peak < maxMemory, "the server's memory never exceeded %s, of %s", harness.MiB(peak), harness.MiB(maxMemory))
	return sections, err
}

func (b *bencher) seed(ctx context.Context, at node.Stores) (w *world, err error) {
	now := time.Now()
	w, sessions := newWorld(b.shape, now)
	stores, err := seed.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	return w, w.fill(ctx, stores, sessions, now)
}

// timing is a measured request.
type timing struct {
	Request string          `json:"request"`
	Took    []time.Duration `json:"took_ns"`
}

func (b *bencher) title(db database, rest string) string {
	return fmt.Sprintf("%s checkpoints in %s, %s", humanize.Comma(int64(b.shape.checkpoints)), db.name, rest)
}

// oneByOne measures every sort of request with nobody else there, in turns.
func (b *bencher) oneByOne(ctx context.Context, db database, c *client) (*harness.Section, error) {
	timings := make([]timing, len(requests))
	random := mrand.New(mrand.NewPCG(3, 4))
	for round := range b.samples + b.samples/10 { // a tenth warms up
		for i, kind := range requests {
			_, took, err := c.send(ctx, kind.make(c, random))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.name, err)
			}
			if timings[i].Request = kind.name; round >= b.samples/10 {
				timings[i].Took = append(timings[i].Took, took)
			}
		}
	}
	s := &harness.Section{
		Name: db.name + "-alone", Title: b.title(db, "one request at a time"),
		Columns: []string{"", "median", "p99"}, Data: timings,
	}
	var worst time.Duration
	for i, t := range timings {
		s.Row(t.Request, millis(harness.Median(t.Took)), millis(percentile(t.Took, 99)))
		if i < 2 {
			worst = max(worst, harness.Median(t.Took))
		}
	}
	s.Note("%d samples of each, in turns, over loopback. %s runs, %s owners, one of whom has %s of the checkpoints. %d CPUs.", b.samples,
		humanize.Comma(int64(b.shape.runs)), humanize.Comma(int64(b.shape.people)), humanize.Comma(int64(len(c.w.first))), runtime.NumCPU())
	b.target(s, worst < maxPage, "with %s, a page up to offset %s takes %s in the median, of %s", db.name,
		humanize.Comma(int64(min(deep, len(c.w.first)/2))), millis(worst), millis(maxPage))
	return s, nil
}

// walks measures walking through the longest list there is.
func (b *bencher) walks(ctx context.Context, db database, c *client) (*harness.Section, error) {
	s := &harness.Section{
		Name: db.name + "-walk", Title: b.title(db, "walking through the longest list by offset"),
		Columns: []string{"", "pages", "first tenth", "last tenth", "ratio", "slowest", "all of it"},
	}
	var data []timing
	for _, size := range []int{walkSize, pageSize} {
		const rounds = 3
		var first, last, ratios []float64
		var whole []time.Duration
		var worst time.Duration
		n := 0
		for round := range rounds + 1 { // one warms up
			took, err := c.walk(ctx, 0, size)
			if err != nil {
				return nil, fmt.Errorf("walk by pages of %d: %w", size, err)
			}
			if n = len(took); n < 2 {
				return nil, fmt.Errorf("the longest list has less than two pages of %d", size)
			}
			if round == 0 {
				continue
			}
			tenth := (n + 9) / 10
			from, to := harness.Median(took[:tenth]), harness.Median(took[n-tenth:])
			first, last, ratios = append(first, float64(from)), append(last, float64(to)), append(ratios, float64(to)/float64(from))
			var sum time.Duration
			for _, d := range took {
				sum += d
			}
			whole, worst = append(whole, sum), max(worst, percentile(took, 100))
			data = append(data, timing{fmt.Sprintf("walk by %d", size), took})
		}
		ratio := harness.Median(ratios)
		s.Row(fmt.Sprintf("by pages of %s", humanize.Comma(int64(size))), humanize.Comma(int64(n)), millis(time.Duration(harness.Median(first))),
			millis(time.Duration(harness.Median(last))), fmt.Sprintf("%.2f", ratio), millis(worst), fmt.Sprintf("%.1f s", harness.Median(whole).Seconds()))
		b.target(s, ratio < maxRatio, "with %s, by pages of %d, the last tenth of the pages costs %.2f times the first, of %d", db.name, size, ratio, maxRatio)
	}
	s.Note("The published client lists everything by pages of 1,000, the Go SDK by pages of 100. Medians of 3 walks, after one to warm up; the ratio is of the tenths of one walk.")
	s.Data = data
	return s, nil
}

// crowd measures many clients at once, each of which sends one request after
// the other.
func (b *bencher) crowd(ctx context.Context, db database, c *client) (*harness.Section, error) {
	b.say("%d clients for %v", b.clients, b.length)
	perClient := make([][]timing, b.clients)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed []error
	)
	began := time.Now()
	until := began.Add(b.length)
	cpu, err := harness.CPUTime(c.pid)
	if err != nil {
		return nil, err
	}
	for i := range b.clients {
		wg.Go(func() {
			mine := make([]timing, len(requests))
			random := mrand.New(mrand.NewPCG(5, uint64(i)))
			for time.Now().Before(until) && ctx.Err() == nil {
				k, kind := choose(random)
				_, took, err := c.send(ctx, kind.make(c, random))
				if err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
					continue
				}
				mine[k].Took = append(mine[k].Took, took)
			}
			perClient[i] = mine
		})
	}
	wg.Wait()
	length := time.Since(began)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	used, err := harness.CPUTime(c.pid)
	if err != nil {
		return nil, err
	}
	s := &harness.Section{
		Name: db.name + "-crowd", Title: b.title(db, fmt.Sprintf("%d clients at once for %v", b.clients, b.length)),
		Columns: []string{"", "requests", "median", "p99", "slowest"},
	}
	var all []time.Duration
	timings := make([]timing, len(requests))
	for i, kind := range requests {
		timings[i].Request = kind.name
		for _, mine := range perClient {
			timings[i].Took = append(timings[i].Took, mine[i].Took...)
		}
		all = append(all, timings[i].Took...)
	}
	for _, t := range append(timings, timing{"all", all}) {
		s.Row(t.Request, humanize.Comma(int64(len(t.Took))), millis(percentile(t.Took, 50)), millis(percentile(t.Took, 99)), millis(percentile(t.Took, 100)))
	}
	s.Data = timings
	s.Note("%.0f requests a second, %s of the server's CPU time for one in the mean; clients and server share %d CPUs.",
		float64(len(all))/length.Seconds(), millis((used-cpu)/time.Duration(max(len(all), 1))), runtime.NumCPU())
	if failed != nil {
		s.Note("The first errors: %v", errors.Join(failed[:min(3, len(failed))]...))
	}
	p99 := percentile(all, 99)
	b.target(s, len(failed) == 0, "with %s, %d clients met %d errors", db.name, b.clients, len(failed))
	if db.p99 {
		b.target(s, p99 < maxP99, "with %s, 99 %% of %d clients' requests take up to %s, of %s", db.name, b.clients, millis(p99), millis(maxP99))
	}
	return s, nil
}

func choose(random *mrand.Rand) (int, kindOfRequest) {
	n := random.IntN(100)
	for i, kind := range requests {
		if n -= kind.share; n < 0 {
			return i, kind
		}
	}
	panic("the shares are less than 100 percent")
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }
