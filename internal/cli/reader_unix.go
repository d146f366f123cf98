//go:build unix

package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// readerGone reports whether out is a pipe that nobody reads any more. One who
// has nothing to write does not learn it from writing.
func readerGone(out io.Writer) bool {
	if w, ok := out.(dataWriter); ok {
		out = w.Writer
	}
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}
