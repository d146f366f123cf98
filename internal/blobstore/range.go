package blobstore

import "fmt"

// checkRange resolves a range of a blob of the given size to the number of
// bytes it covers, as OpenRange promises it for every implementation.
func checkRange(d Digest, size, offset, length int64) (int64, error) {
	if offset < 0 || offset > size {
		return 0, fmt.Errorf("read blob %s: offset %d is outside its %d bytes", d, offset, size)
	}
	if length < 0 {
		return size - offset, nil
	}
	if length > size-offset {
		return 0, fmt.Errorf("read blob %s: %d bytes from offset %d are outside its %d bytes", d, length, offset, size)
	}
	return length, nil
}
