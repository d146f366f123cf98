package blobstore

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/durable"
)

// lockRetry is how often a lock that somebody else holds is tried again.
const lockRetry = 5 * time.Millisecond

// lock excludes every other holder of the lock file at path, in this process
// and in others. It waits until it has the lock or ctx ends.
//
// On a file system without locks it excludes nobody: the caller must bring its
// own exclusion for this process, and other processes are on their honour.
func lock(ctx context.Context, path string) (release func(), err error) {
	l := flock.New(path, flock.SetFlag(os.O_RDWR|os.O_CREATE))
	if _, err := l.TryLockContext(ctx, lockRetry); err != nil && !durable.NoLocks(err) {
		return nil, err
	}
	return func() { _ = l.Unlock() }, nil
}

// unlock gives back a lock, if there was one to have.
func unlock(l *flock.Flock) error {
	if !l.Locked() {
		return nil
	}
	return l.Unlock()
}

// shardLocks excludes users of the same shard from each other: goroutines by a
// channel each, processes by a lock file each.
type shardLocks struct {
	dir   string
	local [256]chan struct{}
}

func newShardLocks(dir string) *shardLocks {
	l := &shardLocks{dir: dir}
	for i := range l.local {
		l.local[i] = make(chan struct{}, 1)
	}
	return l
}

func (l *shardLocks) lock(ctx context.Context, shard byte) (release func(), err error) {
	select {
	case l.local[shard] <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	releaseFile, err := lock(ctx, filepath.Join(l.dir, shardName(shard)))
	if err != nil {
		<-l.local[shard]
		return nil, err
	}
	return func() {
		releaseFile()
		<-l.local[shard]
	}, nil
}
