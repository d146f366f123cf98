//go:build unix

package node

import "golang.org/x/sys/unix"

// diskSpace tells the bytes that may still be written to a directory's file
// system, and its size.
func diskSpace(dir string) (free, size uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	block := uint64(s.Bsize)
	return uint64(s.Bavail) * block, uint64(s.Blocks) * block, nil //nolint:unconvert // their types differ between systems
}
