package registry

import (
	"sync"

	"github.com/tinkex/tinkex/internal/metastore"
)

// cachedFiles bounds how many files the manifests kept in memory have
// altogether: about 2 MB.
const cachedFiles = 20_000

// manifests keeps the files of checkpoints that are being downloaded, which is
// done in many requests for a part of one. What it holds stays true: a
// checkpoint's files never change, and ids are not used again. Whether the
// checkpoint is still there is not its business.
type manifests struct {
	mu  sync.Mutex
	all map[manifestKey][]metastore.File
	n   int // files
}

// manifestKey has the size because repairs correct the sizes of files.
type manifestKey struct{ id, size int64 }

func keyOf(c metastore.Checkpoint) manifestKey { return manifestKey{c.ID, c.SizeBytes} }

// get returns the files of a checkpoint, not to be changed.
func (m *manifests) get(c metastore.Checkpoint) ([]metastore.File, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	files, ok := m.all[keyOf(c)]
	return files, ok
}

// put keeps c's files, instead of others if there is no room.
func (m *manifests) put(c metastore.Checkpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.all[keyOf(c)]; ok || len(c.Files) > cachedFiles {
		return
	}
	for key, files := range m.all { // in no order
		if m.n+len(c.Files) <= cachedFiles {
			break
		}
		m.n -= len(files)
		delete(m.all, key)
	}
	if m.all == nil {
		m.all = make(map[manifestKey][]metastore.File)
	}
	m.all[keyOf(c)] = c.Files
	m.n += len(c.Files)
}
