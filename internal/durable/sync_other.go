//go:build !windows

package durable

import (
	"errors"
	"os"
	"syscall"
)

// SyncDir makes the entries of a directory survive a power cut. File systems
// that cannot flush a directory say so with EINVAL or ENOTSUP; there is
// nothing more to be done on those, and it is not an error.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}
