package durable

import "golang.org/x/sys/unix"

// Exchange swaps two directories in one step. File systems that cannot do it
// give an error and change nothing.
func Exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
