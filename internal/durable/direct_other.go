//go:build !linux

package durable

import (
	"errors"
	"os"
)

func setDirect(_ *os.File, on bool) error {
	if on {
		return errors.ErrUnsupported
	}
	return nil
}
