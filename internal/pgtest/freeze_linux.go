package pgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Freeze has the server do nothing any more, while its connections stay open.
func (s *Instance) Freeze() error { return s.signal(syscall.SIGSTOP) }

// Thaw has it go on.
func (s *Instance) Thaw() error { return s.signal(syscall.SIGCONT) }

// signal reaches the server and all of its children: each of them leads a
// session of its own.
func (s *Instance) signal(sig syscall.Signal) error {
	// First the one that makes the others.
	errs := []error{syscall.Kill(s.Pid(), sig)}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	errs = append(errs, err)
	for _, path := range stats {
		var pid, parent int
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name in between may hold anything.
		head, tail, _ := strings.Cut(string(b), "(")
		tail = tail[strings.LastIndex(tail, ")")+1:]
		if _, err := fmt.Sscan(head, &pid); err != nil {
			continue
		}
		var state string
		if _, err := fmt.Sscan(tail, &state, &parent); err != nil || parent != s.Pid() {
			continue
		}
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
