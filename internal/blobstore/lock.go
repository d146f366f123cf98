package blobstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/gofrs/flock"
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
	if _, err := l.TryLockContext(ctx, lockRetry); err != nil && !noLocks(err) {
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

// noLocks reports whether err says that the file system or the platform has no
// locks to give.
func noLocks(err error) bool {
	// What Windows says where a file server knows no locks. Elsewhere the
	// number means something else.
	const invalidFunction = syscall.Errno(1)
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK) ||
		runtime.GOOS == "windows" && errors.Is(err, invalidFunction)
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
