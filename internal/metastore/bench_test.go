package metastore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// The benchmarks run over as many checkpoints as TINKEX_BENCH_CHECKPOINTS
// says, 100,000 if it says nothing. Half of them are owner-0's.
func benchSize(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("TINKEX_BENCH_CHECKPOINTS"))
	if err != nil {
		return 100_000
	}
	return n
}

const benchRuns = 1000

// longAgo is when the first checkpoint was saved. The last was, with a
// million of them, eleven days later.
var (
	longAgo = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later   = longAgo.AddDate(0, 1, 0)
)

func seed(b *testing.B, s metastore.Store) int {
	b.Helper()
	n := benchSize(b)
	start := time.Now()
	if err := metastore.Seed(b.Context(), s, n, benchRuns, longAgo.UnixMicro()); err != nil {
		b.Fatal(err)
	}
	b.Logf("seeded %d checkpoints in %v", n, time.Since(start).Round(time.Millisecond))
	return n
}

func BenchmarkSQLite(b *testing.B) {
	path := filepath.Join(b.TempDir(), "meta.db")
	s := openSQLite(b, path)
	n := seed(b, s)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d bytes per checkpoint", info.Size()/int64(n))
	s = openSQLite(b, path)
	defer s.Close()
	bench(b, s, n)
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			openSQLite(b, path).Close()
		}
	})
}

func BenchmarkPostgres(b *testing.B) {
	s := openPostgres(b, postgresSchemas(b).make(b))
	defer s.Close()
	bench(b, s, seed(b, s))
}

func bench(b *testing.B, s metastore.Store, n int) {
	ctx := b.Context()
	page := func(b *testing.B, f metastore.CheckpointFilter, p metastore.Page, want int) {
		b.Helper()
		f.Now = later
		all, _, err := s.Checkpoints(ctx, f, p)
		if err != nil {
			b.Fatal(err)
		}
		if len(all) != want {
			b.Fatalf("page %+v of %+v has %d checkpoints, want %d", p, f, len(all), want)
		}
	}
	alice := metastore.CheckpointFilter{Owner: "owner-0"}
	for _, offset := range []int{0, 1000, 10_000, n/4 - 100, n/2 - 100} {
		b.Run(fmt.Sprintf("PageOf100/offset=%d", offset), func(b *testing.B) {
			for b.Loop() {
				page(b, alice, metastore.Page{Limit: 100, Offset: offset}, 100)
			}
		})
	}
	b.Run("PageOf100/kind/offset=10000", func(b *testing.B) {
		for b.Loop() {
			page(b, metastore.CheckpointFilter{Owner: "owner-0", Kind: metastore.KindTraining}, metastore.Page{Limit: 100, Offset: 10_000}, 100)
		}
	})
	b.Run("PageOf100/run", func(b *testing.B) {
		for b.Loop() {
			page(b, metastore.CheckpointFilter{RunID: "session-0:train:0"}, metastore.Page{Limit: 100}, min(100, n/benchRuns))
		}
	})
	b.Run("Total", func(b *testing.B) {
		for b.Loop() {
			page(b, alice, metastore.Page{}, 0)
		}
	})
	b.Run("Walk", func(b *testing.B) {
		// The first and the last tenth of a walk through all pages.
		var first, last time.Duration
		for b.Loop() {
			for offset := 0; offset < n/2; offset += 100 {
				start := time.Now()
				page(b, alice, metastore.Page{Limit: 100, Offset: offset}, 100)
				switch took := time.Since(start); {
				case offset < n/20:
					first += took
				case offset >= n/2-n/20:
					last += took
				}
			}
		}
		pages := float64(b.N) * float64(n/20/100)
		b.ReportMetric(float64(first.Microseconds())/pages, "first-µs/page")
		b.ReportMetric(float64(last.Microseconds())/pages, "last-µs/page")
	})
	b.Run("RunList", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.AllRunCheckpoints(ctx, "session-0:train:0", later); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Lookup", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Checkpoint(ctx, "session-0:train:0", metastore.KindTraining, "step-0"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Runs/20", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.Runs(ctx, "owner-0", "", metastore.Page{Limit: 20, Offset: 100}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("LatestOf20", func(b *testing.B) {
		var ids []string
		for i := range 20 {
			ids = append(ids, fmt.Sprintf("session-%d:train:0", i))
		}
		for b.Loop() {
			if _, err := s.LatestCheckpoints(ctx, ids, later); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Referenced", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Referenced(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Commit", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			_, err := s.CommitCheckpoint(ctx, metastore.Checkpoint{
				RunID: "session-0:train:0", Kind: metastore.KindTraining, Name: fmt.Sprint(b.N, "-", i, "-", time.Now().UnixNano()), Owner: "owner-0",
				Listed: true, CreatedAt: later, Files: []metastore.File{{Name: "a"}, {Name: "b"}, {Name: "c"}},
			}, false, &metastore.Result{RequestID: fmt.Sprint(b.N, "-", i, "-", time.Now().UnixNano())})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Touch", func(b *testing.B) {
		// The time has to change: writing what is there already costs nothing.
		for at := later; b.Loop(); at = at.Add(time.Second) {
			if err := s.TouchRun(ctx, "session-0:train:0", at, true); err != nil {
				b.Fatal(err)
			}
		}
	})
}
