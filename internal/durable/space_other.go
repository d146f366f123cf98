//go:build !linux && !darwin && !freebsd && !windows

package durable

import "errors"

// Space is how many bytes a user may still write to the file system of a
// directory, and how many it has, where the system tells.
func Space(string) (free, size uint64, err error) { return 0, 0, errors.ErrUnsupported }
