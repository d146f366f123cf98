package blobstoretest

import (
	"errors"
	"syscall"
)

// busy reports that a file could not be removed because somebody reads it,
// which on Windows is to be expected and may be retried.
func busy(err error) bool {
	const sharingViolation = syscall.Errno(32)
	return errors.Is(err, sharingViolation) || errors.Is(err, syscall.ERROR_ACCESS_DENIED)
}
