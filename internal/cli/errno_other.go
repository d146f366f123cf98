//go:build !windows

package cli

import "syscall"

// What the system says of connections, disks and pipes.
var (
	errnoRefused     = []error{syscall.ECONNREFUSED}
	errnoReset       = []error{syscall.ECONNRESET, syscall.EPIPE}
	errnoUnreachable = []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH}
	errnoDiskFull    = []error{syscall.ENOSPC, syscall.EDQUOT}
	errnoReadOnly    = []error{syscall.EROFS}
	errnoPipe        = []error{syscall.EPIPE}
)
