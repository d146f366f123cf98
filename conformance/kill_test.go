package conformance

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/seed"
)

// counter passes connections on and counts what comes back.
type counter struct {
	net.Listener
	bytes atomic.Int64
}

func countTo(t *testing.T, addr func() string) *counter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr())
				if err != nil {
					return
				}
				defer server.Close()
				go func() { _, _ = io.Copy(server, client) }()
				buf := make([]byte, 64<<10)
				for {
					n, err := server.Read(buf)
					c.bytes.Add(int64(n))
					if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return c
}

// A download that is killed at any moment, however often, leaves nothing half
// done to be seen, goes on from where it was, and ends intact.
//
// TINKEX_KILLS says how often: 10 times unless it does.
func TestDownloadSurvivesKills(t *testing.T) {
	t.Parallel()
	kills := 10
	if s := os.Getenv("TINKEX_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("TINKEX_KILLS: %v", err)
		}
	}
	const (
		key    = "tml-kills"
		size   = 200 << 20
		window = 36 << 20 // what is in memory and on the way
	)
	data := t.TempDir()
	stores, err := seed.OpenDir(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := stores.Key(t.Context(), key, "killer"); err != nil {
		t.Fatal(err)
	}
	if _, err := stores.Checkpoint(t.Context(), metastore.Checkpoint{
		RunID: "kills:train:0", Kind: metastore.KindTraining, Name: "big", Owner: "killer",
	}, seed.TrainingFiles(size/3, size-size/3, 7)...); err != nil {
		t.Fatal(err)
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	var s *server
	proxy := countTo(t, func() string { return strings.TrimPrefix(s.url, "http://") })
	url := "http://" + proxy.Addr().String()
	s = serveAt(t, data, "127.0.0.1:0", "--public-url", url)

	out := t.TempDir()
	target := filepath.Join(out, "kills:train:0_weights_big")
	download := func() *exec.Cmd {
		cmd := exec.Command(tinkexBinary, "checkpoint", "download", "tinker://kills:train:0/weights/big", "-o", out)
		cmd.Env = environ(url, key)
		return cmd
	}
	landed, finished, cycles, inCycle := 0, 0, 0, 0
	check := func() {
		t.Helper()
		if _, err := os.Stat(target); err != nil {
			return // nothing to be seen: fine
		}
		v, err := checkpoint.Verify(t.Context(), target)
		if err != nil || !v.Intact() || v.Checked != 4 {
			t.Fatalf("what appeared is %+v, %v", v, err)
		}
	}
	again := func() {
		cycles++
		if got, most := proxy.bytes.Load(), int64(size+(inCycle+1)*window); got > most {
			t.Errorf("%d bytes were sent for a checkpoint of %d that was killed %d times", got, size, inCycle)
		}
		proxy.bytes.Store(0)
		inCycle = 0
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	}
	for landed < kills {
		cmd := download()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-time.After(time.Duration(5+rand.IntN(250)) * time.Millisecond):
			_ = cmd.Process.Kill()
			<-done
			if cmd.ProcessState.Exited() {
				finished++ // it was faster
				break
			}
			landed++
			inCycle++
		case err := <-done:
			if err != nil {
				t.Fatalf("an undisturbed run: %v", err)
			}
			finished++
		}
		check()
		if _, err := os.Stat(target); err == nil {
			again()
		}
	}
	cmd := download()
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("after the last kill: %v\n%s", err, text)
	}
	check()
	again()
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	t.Logf("%d kills in %d downloads, %d of which ended before they were killed", landed, cycles, finished)
}
