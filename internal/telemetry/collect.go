package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
)

// Sources are what is asked at a scrape.
type Sources struct {
	Stats func() registry.Stats
	// Meta is asked for what is stored.
	Meta metastore.Store
	Now  func() time.Time
	// Ready is asked whether the server is.
	Ready *health.Checker
	// Disk tells the free and all bytes of where things are stored. Nil if
	// nothing is stored on a disk of this machine.
	Disk   func() (free, size uint64, err error)
	Logger *slog.Logger
}

// Watch adds what is counted elsewhere. It is called once.
func (t *Telemetry) Watch(src Sources) {
	t.stored = newStored(src, t.maxAge)
	register(t, &collector{src: src, stored: t.stored})
}

// What the collector tells.
var (
	futuresDesc  = describe("futures", "Requests whose results are awaited or kept, by state.", "state")
	queueDesc    = describe("training_queue_depth", "Requests that wait for their turn with a live model.")
	modelsDesc   = describe("models_live", "Models that this server holds.")
	sessionsDesc = describe("sessions", "Sessions that this server has heard of lately.")
	samplersDesc = describe("samplers_open", "Samplers that this server holds.")

	runsDesc       = describe("runs", "Training runs by the state of their model, on all servers.", "state")
	checkpointDesc = describe("checkpoints", "Checkpoints that have not expired, on all servers, unlisted snapshots and parked models included.")
	logicalDesc    = describe("checkpoint_logical_bytes", "Sum of the sizes of these checkpoints.")
	physicalDesc   = describe("checkpoint_physical_bytes", "Bytes of their blobs, each counted once.")
	countedDesc    = describe("stored_last_success_timestamp_seconds", "When runs and checkpoints were counted.")

	sweepsDesc       = describe("sweeper_runs_total", "Rounds of the sweeper of what has expired.", "outcome")
	sweptDesc        = describe("sweeper_last_success_timestamp_seconds", "When the sweeper last got through.")
	sweptRemovedDesc = describe("sweeper_removed_checkpoints_total", "Checkpoints that the sweeper removed.")
	gcDesc           = describe("gc_runs_total", "Collections of unreferenced blobs.", "outcome")
	gcLastDesc       = describe("gc_last_success_timestamp_seconds", "When a collection last got through.")
	gcBlobsDesc      = describe("gc_removed_blobs_total", "Blobs that collections removed.")
	gcBytesDesc      = describe("gc_removed_bytes_total", "Bytes that collections freed.")

	readyDesc    = describe("ready", "1 if /readyz says so.")
	checkDesc    = describe("readiness_check", "1 if a check of /readyz passes.", "check")
	diskFreeDesc = describe("disk_free_bytes", "Bytes that can still be written to the data directory.")
	diskSizeDesc = describe("disk_size_bytes", "Size of the file system that holds the data directory.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tinkex_"+name, help, labels, nil)
}

type collector struct {
	src    Sources
	stored *stored
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		futuresDesc, queueDesc, modelsDesc, sessionsDesc, samplersDesc,
		runsDesc, checkpointDesc, logicalDesc, physicalDesc, countedDesc,
		sweepsDesc, sweptDesc, sweptRemovedDesc, gcDesc, gcLastDesc, gcBlobsDesc, gcBytesDesc,
		readyDesc, checkDesc, diskFreeDesc, diskSizeDesc,
	} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, typ prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, typ, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { send(d, prometheus.GaugeValue, v, labels...) }
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		send(d, prometheus.CounterValue, float64(v), labels...)
	}
	at := func(d *prometheus.Desc, t time.Time) {
		if !t.IsZero() {
			gauge(d, float64(t.UnixMilli())/1000)
		}
	}

	s := c.src.Stats()
	gauge(futuresDesc, float64(s.Waiting), "waiting")
	gauge(futuresDesc, float64(s.Running), "running")
	gauge(futuresDesc, float64(s.Ready), "ready")
	gauge(futuresDesc, float64(s.Fetched), "fetched")
	gauge(queueDesc, float64(s.Queued))
	gauge(modelsDesc, float64(s.Models))
	gauge(sessionsDesc, float64(s.Sessions))
	gauge(samplersDesc, float64(s.Samplers))

	counter(sweepsDesc, s.Sweeps.Done, "ok")
	counter(sweepsDesc, s.Sweeps.Failed, "failed")
	at(sweptDesc, s.Sweeps.LastDone)
	counter(sweptRemovedDesc, s.Sweeps.Removed)
	counter(gcDesc, s.Collections.Done, "ok")
	counter(gcDesc, s.Collections.Failed, "failed")
	at(gcLastDesc, s.Collections.LastDone)
	counter(gcBlobsDesc, s.Collections.Removed)
	counter(gcBytesDesc, s.Collections.RemovedBytes)

	if f, ok := c.stored.get(); ok {
		for _, state := range []metastore.RunState{metastore.RunLive, metastore.RunParked, metastore.RunEnded, metastore.RunCorrupted} {
			gauge(runsDesc, float64(f.runs[state]), string(state))
		}
		gauge(checkpointDesc, float64(f.space.Checkpoints))
		gauge(logicalDesc, float64(f.space.Logical))
		gauge(physicalDesc, float64(f.space.Physical))
		at(countedDesc, f.at)
	}
	if c.src.Disk != nil {
		if free, size, err := c.src.Disk(); err == nil {
			gauge(diskFreeDesc, float64(free))
			gauge(diskSizeDesc, float64(size))
		}
	}
	report := c.src.Ready.Report(context.Background())
	truth := map[bool]float64{true: 1}
	gauge(readyDesc, truth[report.Ready()])
	for name, check := range report.Checks {
		gauge(checkDesc, truth[check.Passes()], name)
	}
}

// figures are of what is stored.
type figures struct {
	at    time.Time
	runs  map[metastore.RunState]int
	space metastore.Space
}

// Counting a million checkpoints takes seconds. A scrape waits for it a moment
// at most and has the last figures otherwise, and counting takes no more than
// a hundredth of the time.
const (
	storedPatience = time.Second
	storedShare    = 100
	storedTimeout  = 10 * time.Minute
)

// stored keeps the figures. They are counted only if somebody asks.
type stored struct {
	src    Sources
	maxAge time.Duration
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	last     figures
	ok       bool
	due      time.Time     // of the next counting
	counting chan struct{} // closed when the one in hand ends; nil if there is none
}

func newStored(src Sources, maxAge time.Duration) *stored {
	s := &stored{src: src, maxAge: maxAge}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// get returns the last figures, unless there are none yet.
func (s *stored) get() (figures, bool) {
	s.mu.Lock()
	if s.counting == nil && time.Now().After(s.due) && s.ctx.Err() == nil {
		s.counting = make(chan struct{})
		s.work.Go(s.count)
	}
	counting := s.counting
	s.mu.Unlock()
	if counting != nil {
		select {
		case <-counting:
		case <-time.After(storedPatience):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.ok
}

func (s *stored) count() {
	ctx, cancel := context.WithTimeout(s.ctx, storedTimeout)
	defer cancel()
	began := time.Now()
	f := figures{at: s.src.Now()}
	runs, err := s.src.Meta.RunStates(ctx)
	if err == nil {
		var u metastore.SpaceUsage
		u, err = s.src.Meta.SpaceUsage(ctx, metastore.SpaceQuery{By: metastore.ByKind, Now: f.at.UTC()}, metastore.Page{})
		f.runs, f.space = runs, u.Total
	}
	if err != nil && s.ctx.Err() == nil {
		s.src.Logger.Warn("counting what is stored", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.last, s.ok = f, true
	}
	s.due = time.Now().Add(max(s.maxAge, storedShare*time.Since(began)))
	close(s.counting)
	s.counting = nil
}

func (s *stored) close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.work.Wait()
}
