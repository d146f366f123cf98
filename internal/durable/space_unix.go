//go:build linux || darwin || freebsd

package durable

import "golang.org/x/sys/unix"

// Free is how many bytes a user may still write to the file system of a
// directory.
func Free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return uint64(max(st.Bavail, 0)) * uint64(st.Bsize), nil //nolint:unconvert // the types differ from system to system
}
