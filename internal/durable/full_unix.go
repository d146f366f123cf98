//go:build !windows

package durable

import (
	"errors"
	"syscall"
)

// NoSpace reports whether err says that a disk, or a user's share of it, is full.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ReadOnly reports whether err says that a disk does not take writes.
func ReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
