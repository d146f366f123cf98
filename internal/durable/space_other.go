//go:build !linux && !darwin && !freebsd && !windows

package durable

import "errors"

// Free is how many bytes a user may still write to the file system of a
// directory, where the system tells.
func Free(string) (uint64, error) { return 0, errors.ErrUnsupported }
