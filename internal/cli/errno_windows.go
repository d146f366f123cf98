package cli

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// What the system says of connections, disks and pipes.
var (
	errnoRefused     = []error{windows.WSAECONNREFUSED}
	errnoReset       = []error{windows.WSAECONNRESET, windows.WSAECONNABORTED}
	errnoUnreachable = []error{windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH}
	errnoDiskFull    = []error{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL}
	errnoReadOnly    = []error{windows.ERROR_WRITE_PROTECT}
	errnoPipe        = []error{windows.ERROR_BROKEN_PIPE, windows.ERROR_NO_DATA, syscall.EPIPE}
)
