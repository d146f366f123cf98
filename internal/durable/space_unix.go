//go:build linux || darwin || freebsd

package durable

import "golang.org/x/sys/unix"

// Space is how many bytes a user may still write to the file system of a
// directory, and how many it has.
func Space(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	block := uint64(st.Bsize)
	return uint64(max(st.Bavail, 0)) * block, uint64(st.Blocks) * block, nil //nolint:unconvert // the types differ from system to system
}
