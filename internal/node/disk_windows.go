package node

import "golang.org/x/sys/windows"

// diskSpace tells the bytes that may still be written to a directory's volume,
// and its size.
func diskSpace(dir string) (free, size uint64, err error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(path, &free, &size, nil)
	return free, size, err
}
