//go:build unix

package testproc

import (
	"os/exec"
	"syscall"
)

// kill lets PostgreSQL take its helpers with it, as SIGKILL would not.
func kill(cmd *exec.Cmd) error { return cmd.Process.Signal(syscall.SIGQUIT) }
