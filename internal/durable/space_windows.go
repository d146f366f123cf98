package durable

import "golang.org/x/sys/windows"

// Space is how many bytes a user may still write to the file system of a
// directory, and how many it has.
func Space(dir string) (free, size uint64, err error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(path, &free, &size, nil)
	return free, size, err
}
