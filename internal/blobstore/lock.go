package blobstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

var (
	// errLocked: another open file, of this process or another, has the lock.
	errLocked = errors.New("locked by another process")
	// errNoLocks: the file system or the platform has no locks to give.
	errNoLocks = errors.New("no file locks here")
)

// lock excludes every other holder of the lock file at path, in this process
// and in others. It waits until it has the lock or ctx ends.
//
// On a file system without locks it excludes nobody: the caller must bring its
// own exclusion for this process, and other processes are on their honour.
func lock(ctx context.Context, path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// Polling rather than blocking in the kernel, so that ctx can end the wait.
	wait := time.Millisecond
	for {
		switch err := tryLock(f); {
		case err == nil, errors.Is(err, errNoLocks):
			return func() { unlock(f); f.Close() }, nil
		case !errors.Is(err, errLocked):
			f.Close()
			return nil, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			f.Close()
			return nil, ctx.Err()
		case <-timer.C:
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
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
