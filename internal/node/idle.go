package node

import (
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// idleAfter is how long nobody must have asked for anything.
const idleAfter = 3 * time.Second

// worthReturning is how many bytes must have been allocated since memory was
// last given back, so that heartbeats alone do not cause collections.
const worthReturning = 16 << 20

// idler gives memory back to the system when a busy time ends. The runtime
// would keep what training needed at its peak for minutes.
type idler struct {
	timer    *time.Timer
	running  atomic.Int64 // requests
	returned atomic.Uint64
}

func newIdler() *idler {
	i := &idler{}
	i.timer = time.AfterFunc(idleAfter, i.giveBack)
	return i
}

func (i *idler) begin() {
	i.running.Add(1)
	i.timer.Stop()
}

func (i *idler) end() {
	if i.running.Add(-1) == 0 {
		i.timer.Reset(idleAfter)
	}
}

func (i *idler) giveBack() {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	if n := sample[0].Value.Uint64(); n-i.returned.Load() >= worthReturning {
		i.returned.Store(n)
		debug.FreeOSMemory()
	}
}

func (i *idler) stop() { i.timer.Stop() }
