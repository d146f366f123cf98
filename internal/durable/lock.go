package durable

import (
	"errors"
	"runtime"
	"syscall"
)

// NoLocks reports whether err, from taking a lock on a file, says that the
// file system or the platform has no locks to give.
func NoLocks(err error) bool {
	// What Windows says where a file server knows no locks. Elsewhere the
	// number means something else.
	const invalidFunction = syscall.Errno(1)
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK) ||
		runtime.GOOS == "windows" && errors.Is(err, invalidFunction)
}
