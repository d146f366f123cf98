//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package blobstore

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the exclusive advisory lock of an open file without waiting.
// The lock belongs to the open file: closing it, or the death of the process
// however violent, gives it back.
func tryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		case errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.ENOTSUP),
			errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOLCK):
			return errNoLocks
		}
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
}

// unlock gives back what tryLock took.
func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
