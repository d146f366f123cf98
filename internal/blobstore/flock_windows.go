package blobstore

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

var (
	kernel32         = syscall.NewLazyDLL("kernel32.dll")
	procLockFileEx   = kernel32.NewProc("LockFileEx")
	procUnlockFileEx = kernel32.NewProc("UnlockFileEx")
)

const (
	lockfileFailImmediately = 0x1
	lockfileExclusiveLock   = 0x2

	errorInvalidFunction = syscall.Errno(1)
	errorLockViolation   = syscall.Errno(33)
	errorNotSupported    = syscall.Errno(50)
)

// tryLock takes the exclusive lock of an open file without waiting. The lock
// belongs to the open handle: closing it, or the death of the process however
// violent, gives it back.
func tryLock(f *os.File) error {
	var at syscall.Overlapped
	ok, _, err := procLockFileEx.Call(f.Fd(), lockfileExclusiveLock|lockfileFailImmediately,
		0, 1, 0, uintptr(unsafe.Pointer(&at)))
	switch {
	case ok != 0:
		return nil
	case errors.Is(err, errorLockViolation), errors.Is(err, syscall.ERROR_IO_PENDING):
		return errLocked
	case errors.Is(err, errorInvalidFunction), errors.Is(err, errorNotSupported):
		return errNoLocks
	}
	return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

// unlock gives back what tryLock took, at once: Windows promises no moment at
// which it releases the locks of a handle that is merely closed.
func unlock(f *os.File) error {
	var at syscall.Overlapped
	if ok, _, err := procUnlockFileEx.Call(f.Fd(), 0, 1, 0, uintptr(unsafe.Pointer(&at))); ok == 0 {
		return &os.PathError{Op: "unlock", Path: f.Name(), Err: err}
	}
	return nil
}
