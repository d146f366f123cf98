// Package testproc runs the servers that tests need as processes beside them.
package testproc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
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
	out  Output
	done chan struct{}
}

// Start runs a command. Where the system permits it, the process ends with
// ours, however that ends.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, out: Output{Keep: 64 << 10}, done: make(chan struct{})}
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
	const limit = 2 * time.Minute
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

// Output is what is read while it is written: a log, or what a process says.
type Output struct {
	// Keep is how many of the last bytes are kept, or fewer; all if zero.
	Keep int

	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Keep > 0 && o.buf.Len()+len(b) > o.Keep {
		o.buf.Reset()
	}
	return o.buf.Write(b)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// FreePort is a TCP port of the loopback interface that nobody uses, and that no
// system gives to whoever asks for just any: it is still free when a server
// starts on it later, or again.
func FreePort() (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.IntN(15_000)))
		if err == nil {
			return l.Addr().(*net.TCPAddr).Port, l.Close()
		}
	}
	return 0, errors.New("no port of 15000 to 29999 is free")
}
