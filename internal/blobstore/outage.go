package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/tinkex/tinkex/internal/durable"
	"github.com/tinkex/tinkex/internal/outage"
)

// onDisk finds out whether an error is one of the disk's that its operator can
// do something about.
func onDisk(err error) error {
	var reason string
	switch {
	case err == nil:
		return nil
	case durable.NoSpace(err):
		reason = "has no space left on its disk"
	case durable.ReadOnly(err):
		reason = "is on a read-only disk"
	case errors.Is(err, fs.ErrPermission):
		reason = "may not be used by the server"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		reason = "has too many files open"
	case errors.Is(err, syscall.EIO):
		reason = "cannot be read or written"
	default:
		return err
	}
	return &outage.Error{Store: storeName, Reason: reason, Err: err}
}

// staging is the error of writing bytes that are not committed yet.
func staging(err error) error { return onDisk(fmt.Errorf("stage blob: %w", err)) }

// gone is the error of what was done in a folder if the whole of it is not
// there: a volume that is not mounted, a directory that was removed.
func (s *folder) gone() error {
	_, err := os.Stat(s.blobs)
	if errors.Is(err, fs.ErrNotExist) {
		return &outage.Error{Store: storeName, Reason: "is not there", Err: err}
	}
	return err
}
