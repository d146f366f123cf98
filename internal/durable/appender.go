package durable

import (
	"io"
	"os"
	"unsafe"
)

// blockSize is what direct writes come in multiples of: the largest that disks
// of today ask for.
const blockSize = 4096

// Appender writes a large file from an offset to its end. Where the system
// permits it, the bytes go to the disk past the page cache, which costs a copy
// less and leaves the cache to those who will need it; and flushing the file,
// which a download cannot do without, has next to nothing left to do.
//
// That takes writes of whole blocks, from memory that begins on a block's
// boundary: what large buffers of their own do. Others are written through the
// cache.
type Appender struct {
	f      *os.File
	offset int64
	direct bool
}

// NewAppender writes to f from an offset on, wherever f is positioned.
func NewAppender(f *os.File, offset int64) (*Appender, error) {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return &Appender{f: f, offset: offset, direct: offset%blockSize == 0 && setDirect(f, true) == nil}, nil
}

// Aligned is the largest offset up to n that an Appender can begin at without
// going through the cache.
func Aligned(n int64) int64 { return n &^ (blockSize - 1) }

// Write implements io.Writer.
func (a *Appender) Write(p []byte) (int, error) {
	n := 0
	if whole := int(Aligned(int64(len(p)))); a.direct && whole > 0 && onBoundary(p) {
		var err error
		n, err = a.f.Write(p[:whole])
		a.offset += int64(n)
		if err == nil && n == len(p) || err != nil && n > 0 {
			return n, err
		}
		// The file system may turn out not to want it after all: if the disk is
		// full, say, the write below fails too, and says so.
	}
	if a.direct {
		if err := setDirect(a.f, false); err != nil {
			return n, err
		}
		a.direct = false
	}
	m, err := a.f.Write(p[n:])
	a.offset += int64(m)
	return n + m, err
}

func onBoundary(p []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%blockSize == 0 }
