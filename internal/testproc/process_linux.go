package testproc

import (
	"os/exec"
	"syscall"
)

// endWithParent has the system end the process with ours. Both servers that
// tests run take SIGQUIT for an order to end at once.
func endWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
}
