package blobstore_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
	"github.com/tinkex/tinkex/internal/s3test"
)

// TestMain lets the test binary be a second process that uses a store.
func TestMain(m *testing.M) {
	switch dir := os.Getenv("BLOBSTORE_TEST_DIR"); os.Getenv("BLOBSTORE_TEST_ROLE") {
	case "":
		os.Exit(s3test.Run(m))
	case "commit":
		commitForEver(dir)
	case "recommit":
		recommit(dir)
	}
}

func open(t *testing.T, dir string) blobstore.Store {
	t.Helper()
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestFolder(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		dir := filepath.Join(t.TempDir(), "deep", "down")
		s := open(t, dir)
		t.Cleanup(func() {
			if t.Failed() {
				return
			}
			if left := staged(t, dir); len(left) > 0 {
				t.Errorf("staged bytes are left behind: %q", left)
			}
		})
		return s
	})
}

// TestFolderShared runs the suite with two stores that share a directory, as
// those of two processes do, and take turns.
func TestFolderShared(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		dir := t.TempDir()
		return &shared{Store: open(t, dir), other: open(t, dir)}
	})
}

type shared struct {
	blobstore.Store
	other blobstore.Store
}

func (s *shared) Delete(ctx context.Context, d blobstore.Digest, before time.Time) (bool, error) {
	return s.other.Delete(ctx, d, before)
}

func (s *shared) Stat(ctx context.Context, d blobstore.Digest) (blobstore.Info, error) {
	return s.other.Stat(ctx, d)
}

func staged(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "staging", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func openers(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "staging", "*.lock"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func blobPath(dir string, d blobstore.Digest) string {
	return filepath.Join(dir, "blobs", "sha256", d.String()[:2], d.String())
}

func TestFolderOpenErrors(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T) (dir, named string){
		"no name": func(t *testing.T) (string, string) { return "", "" },
		"a file in the way": func(t *testing.T) (string, string) {
			file := filepath.Join(t.TempDir(), "file")
			write(t, file, nil)
			return file, file
		},
		"a file above": func(t *testing.T) (string, string) {
			file := filepath.Join(t.TempDir(), "file")
			write(t, file, nil)
			return filepath.Join(file, "store"), file
		},
		"a file inside": func(t *testing.T) (string, string) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "staging"), nil)
			return dir, filepath.Join(dir, "staging")
		},
		"not to be created": func(t *testing.T) (string, string) {
			dir := readOnlyDir(t)
			return filepath.Join(dir, "store"), filepath.Join(dir, "store")
		},
		"not to be written to": func(t *testing.T) (string, string) {
			dir := filepath.Join(t.TempDir(), "store")
			s, err := blobstore.OpenFolder(dir)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			makeReadOnly(t, filepath.Join(dir, "staging"))
			return dir, filepath.Join(dir, "staging")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, named := prepare(t)
			s, err := blobstore.OpenFolder(dir)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), strings.Trim(fmt.Sprintf("%q", named), `"`)) {
				t.Errorf("the error does not name %s: %v", named, err)
			}
		})
	}
}

func readOnlyDir(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "fixed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	makeReadOnly(t, dir)
	return dir
}

func makeReadOnly(t *testing.T, dir string) {
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("directories cannot be made read-only for this user")
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFolderPersists(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	info := blobstoretest.Put(t, s, []byte("lasting"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), info.Digest); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Stat on a closed store: %v", err)
	}
	if _, err := s.Create(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Create on a closed store: %v", err)
	}
	s = open(t, dir)
	stat, err := s.Stat(t.Context(), info.Digest)
	if err != nil || !stat.ModTime.Equal(info.ModTime) {
		t.Errorf("Stat: %+v, %v, want %+v", stat, err, info)
	}
	if got := blobstoretest.Get(t, s, info.Digest); string(got) != "lasting" {
		t.Errorf("read %q", got)
	}
}

// TestFolderSweep leaves staged bytes as a dead process would, next to those
// of a store that is open.
func TestFolderSweep(t *testing.T) {
	dir := t.TempDir()
	live := open(t, dir)
	w, err := live.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write([]byte("not yet")); err != nil {
		t.Fatal(err)
	}

	staging := filepath.Join(dir, "staging")
	for _, name := range []string{"1-dead", "2-without-a-lock", "3-old-without-a-lock"} {
		if err := os.Mkdir(filepath.Join(staging, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(staging, name, "blob-1"), []byte("half a bl"))
	}
	write(t, filepath.Join(staging, "1-dead.lock"), nil)
	write(t, filepath.Join(staging, "4-without-a-directory.lock"), nil)
	old := time.Now().Add(-25 * time.Hour)
	for _, name := range []string{"3-old-without-a-lock/blob-1", "3-old-without-a-lock"} {
		if err := os.Chtimes(filepath.Join(staging, filepath.FromSlash(name)), old, old); err != nil {
			t.Fatal(err)
		}
	}

	other := open(t, dir)
	left := staged(t, dir)
	if len(left) != 2 || !strings.Contains(strings.Join(left, " "), "2-without-a-lock") {
		t.Errorf("after the sweep there is %q", left)
	}
	if locks := openers(t, dir); len(locks) != 2 {
		t.Errorf("after the sweep there are the locks %q", locks)
	}
	info, err := w.Commit(t.Context())
	if err != nil {
		t.Fatalf("the store that was open cannot commit: %v", err)
	}
	if got := blobstoretest.Get(t, other, info.Digest); string(got) != "not yet" {
		t.Errorf("read %q", got)
	}
}

func TestFolderCloseDropsStaged(t *testing.T) {
	dir := t.TempDir()
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("never"))
	if runtime.GOOS != "windows" { // where open files stay
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left := append(staged(t, dir), openers(t, dir)...); len(left) > 0 {
			t.Errorf("Close left %q", left)
		}
	} else {
		s.Close()
	}
	if _, err := w.Commit(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Commit to a closed store: %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("Abort: %v", err)
	}
}

func TestFolderIgnoresStrangers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := blobstoretest.Put(t, s, []byte("mine")).Digest
	shard := filepath.Dir(blobPath(dir, d))
	write(t, filepath.Join(shard, ".DS_Store"), []byte("x"))
	write(t, filepath.Join(shard, strings.Repeat("0", 63)), []byte("x"))
	write(t, filepath.Join(shard, strings.ToUpper(d.String())+"~"), []byte("x"))
	odd := blobstore.Digest{0: d[0], 1: 0xff}
	if err := os.Mkdir(blobPath(dir, odd), 0o700); err != nil {
		t.Fatal(err)
	}
	misplaced := blobstore.Digest{0: d[0] + 1}
	write(t, filepath.Join(shard, misplaced.String()), []byte("x"))
	n := 0
	for info, err := range s.All(t.Context()) {
		if err != nil || info.Digest != d {
			t.Errorf("All yields %v, %v", info, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("All yields %d blobs", n)
	}
	if _, err := s.Stat(t.Context(), odd); err == nil || errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat of a directory: %v", err)
	}
	if _, err := s.OpenRange(t.Context(), odd, 0, -1); err == nil || errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("OpenRange of a directory: %v", err)
	}
}

// TestFolderCuresTruncatedBlob: committing the bytes again replaces a file
// that is visibly not theirs.
func TestFolderCuresTruncatedBlob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := []byte("all of these bytes")
	d := blobstoretest.Put(t, s, data).Digest
	for _, damage := range [][]byte{nil, data[:5], append(bytes.Clone(data), 'x')} {
		write(t, blobPath(dir, d), damage)
		blobstoretest.Put(t, s, data)
		if got := blobstoretest.Get(t, s, d); !bytes.Equal(got, data) {
			t.Errorf("read %q", got)
		}
	}
}

// TestFolderGone: a store whose directory is not there any more (a volume that
// is not mounted) knows nothing about any blob, and does not start anew.
func TestFolderGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows keeps directories with open files")
	}
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	d := blobstoretest.Put(t, s, []byte("data")).Digest
	if err := os.Rename(dir, dir+"-elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	walk := func() error {
		for _, err := range s.All(t.Context()) {
			return err
		}
		return nil
	}
	for name, call := range map[string]func() error{
		"Create":    func() error { _, err := s.Create(t.Context()); return err },
		"Stat":      func() error { _, err := s.Stat(t.Context(), d); return err },
		"OpenRange": func() error { _, err := s.OpenRange(t.Context(), d, 0, -1); return err },
		"Delete":    func() error { _, err := s.Delete(t.Context(), d, time.Now()); return err },
		"Check":     func() error { return s.Check(t.Context()) },
		"All":       walk,
	} {
		if err := call(); err == nil || errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the store has come back: %v, %v", entries, err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+"-elsewhere", dir)); err != nil {
		t.Fatal(err)
	}
	if got := blobstoretest.Get(t, s, d); string(got) != "data" {
		t.Errorf("afterwards read %q", got)
	}
}

// TestFolderRecoversDirectories: directories that somebody tidied away because
// they were empty are made again.
func TestFolderRecoversDirectories(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := []byte("data")
	info := blobstoretest.Put(t, s, data)
	if ok, err := s.Delete(t.Context(), info.Digest, time.Now().Add(time.Hour)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	lock := openers(t, dir)[0]
	for _, empty := range []string{filepath.Dir(blobPath(dir, info.Digest)), strings.TrimSuffix(lock, ".lock")} {
		if err := os.Remove(empty); err != nil {
			t.Fatal(err)
		}
	}
	blobstoretest.Put(t, s, data)
	if got := blobstoretest.Get(t, s, info.Digest); !bytes.Equal(got, data) {
		t.Errorf("read %q", got)
	}
}

// sink records what a reader hands to an io.ReaderFrom.
type sink struct {
	bytes.Buffer
	files, others int
}

func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			s.files++
			return s.Buffer.ReadFrom(r)
		}
	}
	s.others++
	return s.Buffer.ReadFrom(r)
}

// TestFolderSendfile: what package net needs to see for the kernel to copy.
func TestFolderSendfile(t *testing.T) {
	s := open(t, t.TempDir())
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	d := blobstoretest.Put(t, s, data).Digest
	for _, length := range []int64{-1, 4321} {
		r, err := s.OpenRange(t.Context(), d, 1234, length)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		want := data[1234:]
		if length >= 0 {
			want = want[:length]
		}
		var w sink
		n, err := io.Copy(&w, r)
		if err != nil || n != int64(len(want)) || !bytes.Equal(w.Bytes(), want) {
			t.Errorf("copied %d bytes, error %v", n, err)
		}
		if w.files == 0 || w.others > 0 {
			t.Errorf("the writer saw a file %d times, something else %d times", w.files, w.others)
		}
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := s.OpenRange(r.Context(), d, 0, -1)
		if err != nil {
			t.Error(err)
			return
		}
		defer body.Close()
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if _, err := io.Copy(w, body); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("received %d bytes, error %v", len(got), err)
	}
}

// TestFolderBlobCutWhileReading: a reader never passes a shortened file off as
// the whole.
func TestFolderBlobCutWhileReading(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not cut files that are open")
	}
	dir := t.TempDir()
	s := open(t, dir)
	data := make([]byte, 10_000)
	d := blobstoretest.Put(t, s, data).Digest
	for _, copyTo := range []io.Writer{struct{ io.Writer }{io.Discard}, &sink{}} {
		for _, plain := range []bool{false, true} {
			blobstoretest.Put(t, s, data)
			r, err := s.OpenRange(t.Context(), d, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := os.Truncate(blobPath(dir, d), 5000); err != nil {
				t.Fatal(err)
			}
			var src io.Reader = r
			if plain {
				src = struct{ io.Reader }{r}
			}
			if n, err := io.Copy(copyTo, src); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%T, plain %v: %d bytes, error %v", copyTo, plain, n, err)
			}
		}
	}
}

// child starts this test binary in another role. Its output is what the
// process reports.
func child(t *testing.T, role, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "BLOBSTORE_TEST_ROLE="+role, "BLOBSTORE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// commitForEver commits random blobs from several goroutines, and reports each
// digest once Commit has returned.
func commitForEver(dir string) {
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var report sync.Mutex
	fmt.Println("ready")
	for range 4 {
		go func() {
			for {
				data := make([]byte, rand.IntN(200_000))
				for i := range len(data) / 8 {
					binary.LittleEndian.PutUint64(data[8*i:], rand.Uint64())
				}
				w, err := s.Create(context.Background())
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				w.Write(data[:len(data)/2])
				w.Write(data[len(data)/2:])
				info, err := w.Commit(context.Background())
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				report.Lock()
				fmt.Println(info.Digest)
				report.Unlock()
			}
		}()
	}
	select {}
}

// TestFolderKilled kills a process at any instant of its commits: what it had
// reported is there, what is there is whole, and what was staged goes away.
func TestFolderKilled(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	reported := make(map[blobstore.Digest]bool)
	sawStaged := false
	for range rounds {
		cmd, out := child(t, "commit", dir)
		if !out.Scan() {
			t.Fatal("the other process does not start")
		}
		// While it lives, its staged bytes are left alone.
		s := open(t, dir)
		go func() {
			time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
			cmd.Process.Kill()
		}()
		for out.Scan() {
			d, err := blobstore.ParseDigest(out.Text())
			if err != nil {
				break // a line cut short
			}
			reported[d] = true
		}
		cmd.Wait()
		sawStaged = sawStaged || len(staged(t, dir)) > 0
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !sawStaged {
		t.Log("no kill left anything staged")
	}
	s := open(t, dir)
	if left := staged(t, dir); len(left) > 0 {
		t.Errorf("the sweep left %q", left)
	}
	if locks := openers(t, dir); len(locks) != 1 {
		t.Errorf("the sweep left the locks %q", locks)
	}
	for info, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got := blobstoretest.Get(t, s, info.Digest); blobstore.Digest(sha256.Sum256(got)) != info.Digest {
			t.Errorf("blob %s of %d bytes is damaged", info.Digest, info.Size)
		}
		delete(reported, info.Digest)
	}
	for d := range reported {
		t.Errorf("blob %s was committed and is gone", d)
	}
}

// recommit commits, for every number it reads, the blob that says so and
// answers with the number.
func recommit(dir string) {
	s, err := blobstore.OpenFolder(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		w, err := s.Create(context.Background())
		if err == nil {
			fmt.Fprintf(w, "blob %s", in.Text())
			_, err = w.Commit(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(in.Text())
	}
	s.Close()
	os.Exit(0)
}

// TestFolderDeleteAgainstOtherProcess is DeleteAgainstCommit between processes.
func TestFolderDeleteAgainstOtherProcess(t *testing.T) {
	const rounds, blobs = 15, 16
	dir := t.TempDir()
	s := open(t, dir)

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "BLOBSTORE_TEST_ROLE=recommit", "BLOBSTORE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	out := bufio.NewScanner(stdout)
	if !out.Scan() {
		t.Fatal("the other process does not start")
	}

	deleted := 0
	for round := range rounds {
		name := func(i int) []byte { return fmt.Appendf(nil, "blob %d", 1000*round+i) }
		for i := range blobs {
			blobstoretest.Put(t, s, name(i))
		}
		time.Sleep(20 * time.Millisecond)
		before := time.Now()
		for i := range blobs {
			d := blobstore.Digest(sha256.Sum256(name(i)))
			fmt.Fprintf(in, "%d\n", 1000*round+i)
			// Somewhere in the course of the Commit, which takes about as long.
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			ok, err := s.Delete(t.Context(), d, before)
			if err != nil {
				t.Error(err)
			}
			if ok {
				deleted++
			}
			if !out.Scan() {
				t.Fatal("the other process is gone")
			}
			if _, err := s.Stat(t.Context(), d); err != nil {
				t.Errorf("after a Commit of another process in the face of a Delete: %v", err)
			}
		}
	}
	t.Logf("%d of %d blobs were deleted before they were committed again", deleted, rounds*blobs)
}

func TestParseDigest(t *testing.T) {
	d := blobstore.Digest(sha256.Sum256(nil))
	got, err := blobstore.ParseDigest(d.String())
	if err != nil || got != d {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "00", d.String() + "0", d.String()[1:], strings.Replace(d.String(), "e", "g", 1)} {
		if _, err := blobstore.ParseDigest(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
