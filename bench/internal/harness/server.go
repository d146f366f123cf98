//go:build linux

package harness

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Build builds the tinkex command into dir and returns its path.
func Build(ctx context.Context, dir string) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	binary := filepath.Join(dir, "tinkex")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/tinkex")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tinkex (run from within its module): %w\n%s", err, out)
	}
	return binary, nil
}

// Server is a running `tinkex serve`.
type Server struct {
	URL string
	PID int
	cmd *exec.Cmd
	log bytes.Buffer
}

// Serve starts a server on a free port of the loopback interface.
func Serve(binary, dataDir string, args ...string) (*Server, error) {
	s := &Server{}
	s.cmd = exec.Command(binary, append([]string{"serve", "--addr", "127.0.0.1:0", "--data-dir", dataDir}, args...)...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s.PID = s.cmd.Process.Pid
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = s.cmd.Wait()
		return nil, fmt.Errorf("the server did not say where it is: %w\n%s", err, &s.log)
	}
	s.URL = strings.TrimSpace(line)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s, nil
}

// Stop ends the server as its operator would, and kills it if that takes long.
func (s *Server) Stop() error {
	kill := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	_ = s.cmd.Process.Signal(os.Interrupt)
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("the server ended with %w\n%s", err, &s.log)
	}
	return nil
}
