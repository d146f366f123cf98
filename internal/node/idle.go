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
// last given back: what hundreds of heartbeats take, at 6 to 8 KiB each. A session
// that is only kept alive, by one every ten seconds, must not cause a collection
// with each.
const worthReturning = 2 << 20

// idler gives memory back to the system when a busy time ends. The runtime
// would keep what training needed at its peak for minutes.
type idler struct {
	timer    *time.Timer
	running  atomic.Int64  // requests
	returned atomic.Uint64 // what was allocated when memory was last given back
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
	if allocated()-i.returned.Load() < worthReturning {
		return
	}
	debug.FreeOSMemory()
	i.returned.Store(allocated()) // a collection counts what was not counted yet
}

// allocated is how many bytes the runtime has ever allocated.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func (i *idler) stop() { i.timer.Stop() }
