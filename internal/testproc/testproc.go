// Package testproc runs the servers that tests need as processes beside them.
package testproc

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
)

// CI reports whether what a test needs must be there.
func CI() bool { return os.Getenv("CI") != "" }

// Missing ends a test that cannot run: with a failure where everything must
// be there, with a loud skip elsewhere.
func Missing(t testing.TB, what string, err error) {
	t.Helper()
	if CI() {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("%s IS NOT TESTED: %v", what, err)
}

// Process is a server of a test's.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
}

// Start runs a command. Where the system permits it, the process ends with
// ours, however that ends.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	endWithParent(cmd)
	started := make(chan error)
	go func() {
		// The system takes the thread for the parent.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Ready waits until check succeeds.
func (p *Process) Ready(check func() error) error {
	const limit = 30 * time.Second
	var err error
	for start := time.Now(); time.Since(start) < limit; time.Sleep(30 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, p.out.String())
		default:
		}
	}
	return fmt.Errorf("%s is not ready: %w: %s", p.cmd.Path, err, p.out.String())
}

// Stop kills the process and waits for its end.
func (p *Process) Stop() error {
	if err := kill(p.cmd); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// output is what a process said last.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len()+len(b) > 1<<16 {
		o.buf.Reset()
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// FreePort is a TCP port of the loopback interface that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
