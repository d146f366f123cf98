package checkpoint

import (
	"sync"
	"sync/atomic"
	"time"
)

// tracker adds up what arrives from many goroutines and reports it now and
// then.
type tracker struct {
	report  func(Progress)
	fetched atomic.Int64 // over the network, also what had to be fetched twice

	mu   sync.Mutex
	now  Progress
	last time.Time
}

// reportEvery bounds how often progress is reported.
const reportEvery = 50 * time.Millisecond

// begin says how much there is, -1 for not known, and how much of it is there.
func (t *tracker) begin(total int64) {
	t.update(func() { t.now.Total = total }, true)
}

// resumed adds bytes that were there before.
func (t *tracker) resumed(n int64) {
	t.update(func() { t.now.Bytes += n; t.now.Resumed += n }, false)
}

// arrived adds bytes from the network.
func (t *tracker) arrived(n int) {
	t.fetched.Add(int64(n))
	t.update(func() { t.now.Bytes += int64(n) }, false)
}

// lost takes back bytes that turned out to be of no use.
func (t *tracker) lost(n int64) {
	t.update(func() {
		t.now.Bytes = max(t.now.Bytes-n, 0)
		t.now.Resumed = min(t.now.Resumed, t.now.Bytes)
	}, false)
}

func (t *tracker) restart() { t.update(func() { t.now = Progress{Total: t.now.Total} }, true) }

// end reports that all is there.
func (t *tracker) end() {
	t.update(func() {
		if t.now.Total < 0 {
			t.now.Total = t.now.Bytes
		}
		t.now.Bytes = t.now.Total
	}, true)
}

func (t *tracker) update(change func(), always bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	if t.report == nil || !always && time.Since(t.last) < reportEvery {
		return
	}
	t.last = time.Now()
	t.report(t.now)
}
