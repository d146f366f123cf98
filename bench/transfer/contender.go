//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/pyvenv"
)

// contender is one way to get a checkpoint into a directory.
type contender struct {
	name string
	get  func(ctx context.Context, out string) (harness.Usage, error)
	// needs is a command without which the contender is left out.
	needs string
}

// ours is the command of this project; no jobs is its default.
func (b *bencher) ours(s *seeded, url string, jobs int) contender {
	name := "tinkex checkpoint download"
	if jobs > 0 {
		name += " --jobs " + strconv.Itoa(jobs)
	}
	return contender{name: name, get: func(ctx context.Context, out string) (harness.Usage, error) {
		return harness.Pipe(b.download(ctx, s, url, out, jobs))
	}}
}

func (b *bencher) download(ctx context.Context, s *seeded, url, out string, jobs int) *exec.Cmd {
	args := []string{"checkpoint", "download", s.path.String(), "-o", out}
	if jobs > 0 {
		args = append(args, "--jobs", strconv.Itoa(jobs))
	}
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Env = pyvenv.Environ(url, key)
	return cmd
}

func curlTar(tarURL string) contender {
	return contender{name: "curl | tar -x", needs: "curl", get: func(ctx context.Context, out string) (harness.Usage, error) {
		return harness.Pipe(
			exec.CommandContext(ctx, "curl", "-sfL", tarURL),
			exec.CommandContext(ctx, "tar", "-x", "-C", out))
	}}
}

// curlTarSync ends, as ours does, only when the files are on the disk.
func curlTarSync(tarURL string) contender {
	plain := curlTar(tarURL)
	return contender{name: plain.name + ", then sync", needs: plain.needs, get: func(ctx context.Context, out string) (harness.Usage, error) {
		return inTurn(
			func() (harness.Usage, error) { return plain.get(ctx, out) },
			func() (harness.Usage, error) { return harness.Pipe(exec.CommandContext(ctx, "sync", "-f", out)) })
	}}
}

// inTurn adds up steps that follow each other.
func inTurn(steps ...func() (harness.Usage, error)) (sum harness.Usage, err error) {
	for _, step := range steps {
		u, err := step()
		if err != nil {
			return sum, err
		}
		sum.Wall, sum.Peak = sum.Wall+u.Wall, max(sum.Peak, u.Peak)
	}
	return sum, nil
}

// official is the published command. It gets the external weights: see
// officialNote.
func (b *bencher) official(s *seeded, url string) contender {
	return contender{name: b.version + ": checkpoint download", get: func(ctx context.Context, out string) (harness.Usage, error) {
		cmd := exec.CommandContext(ctx, pyvenv.Command(b.venv, "tinker"), "checkpoint", "download", s.external.String(), "-o", out)
		cmd.Env = pyvenv.Environ(url, key)
		return harness.Pipe(cmd)
	}}
}

// archiveVersion is a version of the published command that still downloads a
// checkpoint's archive, as clients of most servers have to.
const archiveVersion = "0.30.4"

// officialByArchive downloads the tar to a temporary file and extracts that.
func (b *bencher) officialByArchive(s *seeded, url, venv string) contender {
	return contender{name: "tinker " + archiveVersion + ": checkpoint download, by archive", get: func(ctx context.Context, out string) (harness.Usage, error) {
		cmd := exec.CommandContext(ctx, pyvenv.Command(venv, "tinker"), "checkpoint", "download", s.path.String(), "-o", out)
		cmd.Env = pyvenv.Environ(url, key)
		return harness.Pipe(cmd)
	}}
}

const officialNote = "The published command gets an external_weights checkpoint of the same files: a training checkpoint it would first have exported, through a training session, which needs weights that a model can load and not random bytes."

func aria2Tar(tarURL string) contender {
	return contender{name: "aria2c -x8 -s8, then tar -x", needs: "aria2c", get: func(ctx context.Context, out string) (harness.Usage, error) {
		archive := filepath.Join(out, ".archive.tar")
		return inTurn(
			// Smaller pieces than its default let it use all connections, and
			// no preallocation spares it to write everything twice.
			func() (harness.Usage, error) {
				return harness.Pipe(exec.CommandContext(ctx, "aria2c", "-x8", "-s8", "-k1M", "--file-allocation=none", "-q",
					"-d", out, "-o", filepath.Base(archive), tarURL))
			},
			func() (harness.Usage, error) {
				return harness.Pipe(exec.CommandContext(ctx, "tar", "-x", "-C", out, "-f", archive))
			})
	}}
}

func copying(from string) contender {
	return contender{name: "cp -r, for reference", get: func(ctx context.Context, out string) (harness.Usage, error) {
		return harness.Pipe(exec.CommandContext(ctx, "cp", "-r", from+"/.", out))
	}}
}

// measurement is one measured run.
type measurement struct {
	Contender string `json:"contender"`
	Round     int    `json:"round"`
	harness.Usage
	ServerPeak int64 `json:"server_peak_bytes,omitempty"`
}

// compare lets contenders take turns, round by round after one to warm up, and
// checks what each got. The first contender is ours.
func (b *bencher) compare(ctx context.Context, s *seeded, srv *harness.Server, contenders []contender, section *harness.Section) error {
	var taking []contender
	for _, c := range contenders {
		if c.needs != "" {
			if _, err := exec.LookPath(c.needs); err != nil {
				b.say("SKIPPED: %s: %v", c.name, err)
				section.Note("SKIPPED: %s: %v.", c.name, err)
				continue
			}
		}
		taking = append(taking, c)
	}
	var runs []measurement
	for round := 0; round <= b.rounds; round++ {
		for _, c := range taking {
			r, err := b.once(ctx, s, srv, c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			r.Round = round
			b.say("round %d of %d: %-50s %8.2f s  %s", round, b.rounds, c.name, r.Wall.Seconds(), harness.MiB(r.Peak))
			if round > 0 {
				runs = append(runs, r)
			}
		}
	}
	section.Columns = []string{"", "median", "rate", "ours takes", "peak memory", "server's peak"}
	for _, c := range taking {
		var walls []time.Duration
		var ratios []float64
		var peak, serverPeak int64
		for _, r := range runs {
			if r.Contender != c.name {
				continue
			}
			walls = append(walls, r.Wall)
			ratios = append(ratios, float64(oursOf(runs, taking[0].name, r.Round))/float64(r.Wall))
			peak, serverPeak = max(peak, r.Peak), max(serverPeak, r.ServerPeak)
		}
		wall := harness.Median(walls)
		cell := func(n int64) string {
			if n == 0 {
				return ""
			}
			return harness.MiB(n)
		}
		section.Row(c.name, fmt.Sprintf("%.2f s", wall.Seconds()),
			fmt.Sprintf("%s/s", humanize.Bytes(uint64(float64(s.size)/wall.Seconds()))),
			fmt.Sprintf("%.2fx", harness.Median(ratios)), cell(peak), cell(serverPeak))
	}
	section.Note("%d rounds after one to warm up, in turns; \"ours takes\" is the median of the rounds' ratios of our time to the other's. Peaks are of the largest process and of the worst round.", b.rounds)
	section.Note("Every run's files were compared with the checkpoint's digests afterwards. Ours also verifies and syncs to disk what it writes, within its time; the others do not, unless they say so.")
	section.Data = runs
	return nil
}

func oursOf(runs []measurement, name string, round int) time.Duration {
	for _, r := range runs {
		if r.Contender == name && r.Round == round {
			return r.Wall
		}
	}
	return 0
}

func (b *bencher) once(ctx context.Context, s *seeded, srv *harness.Server, c contender) (r measurement, err error) {
	out, err := b.outDir()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	if err := harness.ResetPeak(srv.PID); err != nil {
		return r, err
	}
	usage, err := c.get(ctx, out)
	if err != nil {
		return r, err
	}
	r = measurement{Contender: c.name, Usage: usage}
	if r.ServerPeak, err = harness.PeakMemory(srv.PID); err != nil {
		return r, err
	}
	return r, s.verify(out)
}

// outDir makes an empty directory, with nothing waiting to be written to disk
// that a run would have to wait for.
func (b *bencher) outDir() (string, error) {
	out, err := os.MkdirTemp(b.dir, "out-")
	syscall.Sync()
	return out, err
}
