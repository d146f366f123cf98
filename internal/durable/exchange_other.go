//go:build !linux

package durable

import "errors"

// Exchange swaps two directories in one step, where the system can do it.
func Exchange(string, string) error { return errors.ErrUnsupported }
