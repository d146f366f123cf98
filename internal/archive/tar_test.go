package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var someTime = time.Date(2026, 8, 1, 12, 34, 56, 789_000_000, time.UTC)

// bytesEntry is an entry with the given content.
func bytesEntry(name string, data []byte) Entry {
	sum := sha256.Sum256(data)
	return Entry{
		Name:    name,
		Size:    int64(len(data)),
		ModTime: someTime,
		Digest:  hex.EncodeToString(sum[:]),
		Open: func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset : offset+length])), nil
		},
	}
}

// patternAt is the content of the huge files: every byte depends on where it
// is.
func patternAt(off int64) byte { return byte(off>>16) ^ byte(off>>32) ^ byte(off) }

// patternReader reads a file that is nowhere.
type patternReader struct{ off, end int64 }

func (r *patternReader) Read(p []byte) (int, error) {
	if r.off == r.end {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.end-r.off))
	for i := range n {
		p[i] = patternAt(r.off)
		r.off++
	}
	return n, nil
}

func (r *patternReader) Close() error { return nil }

// hugeEntry is an entry of any size, and counts the bytes that were asked for.
func hugeEntry(name string, size int64, asked *int64) Entry {
	return Entry{
		Name:    name,
		Size:    size,
		ModTime: someTime,
		Digest:  fmt.Sprint("pattern of ", size),
		Open: func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
			if length <= 0 || offset < 0 || offset+length > size {
				return nil, fmt.Errorf("asked for %d bytes from %d of %d", length, offset, size)
			}
			if asked != nil {
				*asked += length
			}
			return &patternReader{offset, offset + length}, nil
		},
	}
}

func random(seed uint64, n int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	data := make([]byte, n)
	rand.NewChaCha8(key).Read(data)
	return data
}

// checkpointEntries has a bit of everything.
func checkpointEntries() []Entry {
	return []Entry{
		bytesEntry("adapter_config.json", []byte(`{"r": 32}`)),
		bytesEntry("adapter_model.safetensors", random(1, 100_000)),
		bytesEntry("checkpoint_complete", nil),
		bytesEntry("block.bin", random(2, 512)),
		bytesEntry("two-blocks.bin", random(3, 1024)),
		bytesEntry("almost.bin", random(4, 511)),
		bytesEntry("over.bin", random(5, 513)),
		bytesEntry("optimizer/state.bin", random(6, 5000)),
		bytesEntry(strings.Repeat("prefix/", 20)+"split by USTAR.bin", random(7, 100)),
		bytesEntry(strings.Repeat("n", 200), random(8, 10)),
		bytesEntry("Überprüfung/数据.bin", random(9, 10)),
		bytesEntry("empty.bin", nil),
	}
}

func mustNew(t testing.TB, entries []Entry) *Body {
	t.Helper()
	a, err := NewTar(entries)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// whole writes an archive in one go.
func whole(t testing.TB, a *Body) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := a.WriteRange(context.Background(), &b, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if n != a.Size() || int64(b.Len()) != n {
		t.Fatalf("wrote %d bytes (%d arrived) of %d", n, b.Len(), a.Size())
	}
	return b.Bytes()
}

func contentOf(t testing.TB, e Entry) []byte {
	t.Helper()
	if e.Size == 0 {
		return nil
	}
	r, err := e.Open(context.Background(), 0, e.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTarIsWhatTheStandardLibraryWrites(t *testing.T) {
	entries := checkpointEntries()
	var want bytes.Buffer
	w := tar.NewWriter(&want)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.Name, Size: e.Size, Mode: 0o644, ModTime: someTime.Truncate(time.Second)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(contentOf(t, e)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, mustNew(t, entries)); !bytes.Equal(got, want.Bytes()) {
		t.Error("the archives differ")
	}
}

func TestTarReadByTheStandardLibrary(t *testing.T) {
	entries := checkpointEntries()
	r := tar.NewReader(bytes.NewReader(whole(t, mustNew(t, entries))))
	for _, e := range entries {
		hdr, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Name != e.Name || hdr.Size != e.Size || hdr.Mode != 0o644 || hdr.Typeflag != tar.TypeReg ||
			hdr.Uid != 0 || hdr.Gid != 0 || hdr.Uname != "" || hdr.Gname != "" || !hdr.ModTime.Equal(someTime.Truncate(time.Second)) {
			t.Errorf("%s: header %+v", e.Name, hdr)
		}
		wantFormat := tar.FormatUSTAR
		if len(e.Name) >= 200 || e.Name[0] >= 0x80 {
			wantFormat = tar.FormatPAX
		}
		if hdr.Format != wantFormat {
			t.Errorf("%s: format %v, want %v", e.Name, hdr.Format, wantFormat)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, contentOf(t, e)) {
			t.Errorf("%s: read %d bytes, error %v", e.Name, len(got), err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("behind the last member: %v", err)
	}
}

func TestTarEmpty(t *testing.T) {
	a := mustNew(t, nil)
	if got := whole(t, a); !bytes.Equal(got, make([]byte, 1024)) {
		t.Errorf("%d bytes", len(got))
	}
	if a.ETag() == "" {
		t.Error("no ETag")
	}
}

// TestTarSlices: however the archive is cut, the bytes are the same.
func TestTarSlices(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	want := whole(t, a)
	rnd := rand.New(rand.NewPCG(1, 2))
	slice := func(offset, length int64) {
		t.Helper()
		var b bytes.Buffer
		n, err := a.WriteRange(t.Context(), &b, offset, length)
		if err != nil {
			t.Fatalf("%d+%d: %v", offset, length, err)
		}
		end := offset + length
		if length < 0 {
			end = a.Size()
		}
		if n != end-offset || !bytes.Equal(b.Bytes(), want[offset:end]) {
			t.Fatalf("%d+%d: %d wrong bytes", offset, length, n)
		}
	}
	for range 3000 {
		offset := rnd.Int64N(a.Size() + 1)
		slice(offset, rnd.Int64N(a.Size()-offset+1))
		slice(offset, min(rnd.Int64N(1200), a.Size()-offset))
	}
	for _, p := range a.entries { // around every seam
		for _, seam := range []int64{p.start, p.data, p.data + p.Size, p.end} {
			for d := int64(-2); d <= 2; d++ {
				if seam+d >= 0 && seam+d <= a.Size() {
					slice(seam+d, 0)
					slice(seam+d, -1)
					slice(seam+d, min(3, a.Size()-seam-d))
				}
			}
		}
	}
	// Consecutive slices make up the whole.
	for range 20 {
		var b bytes.Buffer
		for off := int64(0); off < a.Size(); {
			n, err := a.WriteRange(t.Context(), &b, off, min(1+rnd.Int64N(9000), a.Size()-off))
			if err != nil {
				t.Fatal(err)
			}
			off += n
		}
		if !bytes.Equal(b.Bytes(), want) {
			t.Fatal("the slices do not make up the archive")
		}
	}
	if again := whole(t, mustNew(t, checkpointEntries())); !bytes.Equal(again, want) {
		t.Error("an archive of the same entries differs")
	}
}

func TestTarRangeErrors(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	size := a.Size()
	for _, r := range [][2]int64{{-1, 1}, {-1, -1}, {size + 1, 0}, {size + 1, -1}, {size, 1}, {0, size + 1}, {1, 1<<63 - 1}, {1<<63 - 1, 1}} {
		var b bytes.Buffer
		if n, err := a.WriteRange(t.Context(), &b, r[0], r[1]); err == nil || n != 0 || b.Len() > 0 {
			t.Errorf("%d+%d: %d bytes, error %v", r[0], r[1], n, err)
		}
	}
}

func TestNewErrors(t *testing.T) {
	ok := func(name string) Entry { return bytesEntry(name, []byte("x")) }
	for name, test := range map[string]struct {
		entries []Entry
		is      error
		says    string
	}{
		"no name":            {[]Entry{ok("")}, ErrName, "empty"},
		"absolute":           {[]Entry{ok("/etc/passwd")}, ErrPath, "/etc/passwd"},
		"dots":               {[]Entry{ok("a/../../b")}, ErrPath, "a/../../b"},
		"twice":              {[]Entry{ok("a"), ok("b"), ok("a")}, ErrDuplicate, `"a"`},
		"twice but for case": {[]Entry{ok("Read.me"), ok("README"), ok("read.ME")}, ErrDuplicate, "Read.me"},
		"file as directory":  {[]Entry{ok("a"), ok("a/b")}, ErrConflict, "a/b"},
		"directory as file":  {[]Entry{ok("a/b"), ok("a")}, ErrConflict, `"a"`},
		"negative size":      {[]Entry{{Name: "minus", Size: -1}}, nil, "minus"},
		"nothing to open":    {[]Entry{{Name: "closed", Size: 1}}, nil, "closed"},
		"too large":          {[]Entry{hugeEntry("a", 1<<62, nil), hugeEntry("b", 1<<62, nil)}, nil, `"b"`},
		"just too large":     {[]Entry{hugeEntry("a", 1<<63-1, nil)}, nil, `"a"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewTar(test.entries)
			if err == nil {
				t.Fatal("no error")
			}
			if test.is != nil && (!errors.Is(err, test.is) || !errors.Is(err, ErrUnsafe)) {
				t.Errorf("%v is not %v", err, test.is)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not mention %s", err, test.says)
			}
		})
	}
	if _, err := NewTar([]Entry{{Name: "empty"}}); err != nil {
		t.Errorf("an empty file without a way to open it: %v", err)
	}
}

func TestTarTimes(t *testing.T) {
	for in, want := range map[time.Time]int64{
		{}:                                    0,
		time.Unix(0, 0):                       0,
		time.Unix(1_800_000_000, 999_999_999): 1_800_000_000,
		time.Unix(-5, 0):                      -5,
		time.Unix(1<<33+1, 0):                 1<<33 + 1, // more than USTAR's octal digits hold
	} {
		a := mustNew(t, []Entry{{Name: "f", ModTime: in}})
		hdr, err := tar.NewReader(bytes.NewReader(whole(t, a))).Next()
		if err != nil || hdr.ModTime.Unix() != want {
			t.Errorf("%v: %v, error %v", in, hdr.ModTime.Unix(), err)
		}
	}
}

func TestTarETag(t *testing.T) {
	entries := checkpointEntries()
	tag := mustNew(t, entries).ETag()
	if len(tag) < 20 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		t.Errorf("ETag %s", tag)
	}
	if again := mustNew(t, checkpointEntries()).ETag(); again != tag {
		t.Error("the ETag of the same entries differs")
	}
	for name, change := range map[string]func([]Entry) []Entry{
		"name":    func(e []Entry) []Entry { e[0].Name = "other"; return e },
		"size":    func(e []Entry) []Entry { e[0].Size++; return e },
		"time":    func(e []Entry) []Entry { e[0].ModTime = e[0].ModTime.Add(time.Second); return e },
		"content": func(e []Entry) []Entry { e[0].Digest = e[1].Digest; return e },
		"order":   func(e []Entry) []Entry { e[0], e[1] = e[1], e[0]; return e },
		"number":  func(e []Entry) []Entry { return e[:len(e)-1] },
	} {
		if other := mustNew(t, change(checkpointEntries())).ETag(); other == tag {
			t.Errorf("the ETag does not depend on the %s", name)
		}
	}
	entries[1].Digest = ""
	if tag := mustNew(t, entries).ETag(); tag != "" {
		t.Errorf("ETag %s without all digests", tag)
	}
}

type readCloser struct {
	io.Reader
	io.Closer
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// TestTarBadReaders: what goes wrong in a file is an error that names it, and
// readers are closed whatever happens.
func TestTarBadReaders(t *testing.T) {
	broken := errors.New("broken disk")
	for name, test := range map[string]struct {
		open func() (io.Reader, error)
		is   error
	}{
		"cannot be opened":    {func() (io.Reader, error) { return nil, broken }, broken},
		"breaks":              {func() (io.Reader, error) { return io.MultiReader(strings.NewReader("123"), errReader{broken}), nil }, broken},
		"too short":           {func() (io.Reader, error) { return strings.NewReader("123"), nil }, io.ErrUnexpectedEOF},
		"too short to read":   {func() (io.Reader, error) { return struct{ io.Reader }{strings.NewReader("123")}, nil }, io.ErrUnexpectedEOF},
		"too long, copies":    {func() (io.Reader, error) { return strings.NewReader("123456"), nil }, errTooMuch},
		"too long, but reads": {func() (io.Reader, error) { return struct{ io.Reader }{strings.NewReader("123456")}, nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			opened, closed := 0, 0
			e := bytesEntry("the file", []byte("12345"))
			e.Open = func(context.Context, int64, int64) (io.ReadCloser, error) {
				r, err := test.open()
				if err != nil {
					return nil, err
				}
				opened++
				closer := closeFunc(func() error { closed++; return nil })
				if wt, ok := r.(io.WriterTo); ok {
					return struct {
						io.Reader
						io.WriterTo
						io.Closer
					}{r, wt, closer}, nil
				}
				return readCloser{r, closer}, nil
			}
			a := mustNew(t, []Entry{bytesEntry("before", []byte("x")), e, bytesEntry("behind", []byte("y"))})
			n, err := a.WriteRange(t.Context(), io.Discard, 0, -1)
			if test.is == nil {
				if err != nil || n != a.Size() {
					t.Errorf("%d bytes, error %v", n, err)
				}
			} else if !errors.Is(err, test.is) || !strings.Contains(err.Error(), "the file") {
				t.Errorf("%d bytes, error %v, want %v", n, err, test.is)
			}
			if opened != closed {
				t.Errorf("opened %d readers, closed %d", opened, closed)
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errDiskFull
	}
	return len(p), nil
}

var errDiskFull = errors.New("disk full")

func TestTarWriterFails(t *testing.T) {
	a := mustNew(t, checkpointEntries())
	for _, room := range []int{0, 511, 513, 50_000} {
		n, err := a.WriteRange(t.Context(), &failingWriter{room}, 0, -1)
		if !errors.Is(err, errDiskFull) || n > int64(room) {
			t.Errorf("room for %d: %d bytes, error %v", room, n, err)
		}
	}
}

func TestTarCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	entries := checkpointEntries()
	open := entries[1].Open
	entries[1].Open = func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		cancel()
		return open(ctx, offset, length)
	}
	a := mustNew(t, entries)
	if n, err := a.WriteRange(ctx, io.Discard, 0, -1); !errors.Is(err, context.Canceled) || n == a.Size() {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

const gib = 1 << 30

// TestTarHuge: an archive of 100 GB costs what one of 100 bytes does.
func TestTarHuge(t *testing.T) {
	const size = 100_000_000_000
	var asked int64
	start := time.Now()
	a := mustNew(t, []Entry{
		bytesEntry("adapter_config.json", []byte("{}")),
		hugeEntry("optimizer.bin", size, &asked),
		bytesEntry("checkpoint_complete", nil),
		bytesEntry("last.bin", random(1, 777)),
	})
	// 512+512, PAX record 1024, header 512, 100 GB (a multiple of 512), empty
	// file 512, last file 512+1024, trailer 1024.
	if want := int64(1024 + 1536 + size + 512 + 1536 + 1024); a.Size() != want {
		t.Errorf("size %d, want %d", a.Size(), want)
	}
	var tail bytes.Buffer
	if _, err := a.WriteRange(t.Context(), &tail, a.Size()-1024-1536-512-1000, -1); err != nil {
		t.Fatal(err)
	}
	if asked != 1000 {
		t.Errorf("a slice with 1000 bytes of the file asked for %d", asked)
	}
	for i, c := range tail.Next(1000) {
		if want := patternAt(size - 1000 + int64(i)); c != want {
			t.Fatalf("byte %d is %d, want %d", i, c, want)
		}
	}
	r := tar.NewReader(&tail)
	for _, want := range []int64{0, 777} {
		hdr, err := r.Next()
		if err != nil || hdr.Size != want {
			t.Fatalf("%+v, error %v", hdr, err)
		}
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, random(1, 777)) {
		t.Errorf("read %d bytes, error %v", len(got), err)
	}
	var middle bytes.Buffer
	asked = 0
	if _, err := a.WriteRange(t.Context(), &middle, 50_000_000_000, 12345); err != nil || middle.Len() != 12345 || asked != 12345 {
		t.Errorf("%d bytes of %d asked for, error %v", middle.Len(), asked, err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// TestTarMemory: what an archive costs is its headers.
func TestTarMemory(t *testing.T) {
	entries := make([]Entry, 10_000)
	for i := range entries {
		entries[i] = hugeEntry(fmt.Sprintf("shard-%05d.bin", i), 1<<30, nil)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	a := mustNew(t, entries)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / int64(len(entries)); each > 2000 {
		t.Errorf("%d bytes of memory for each entry", each)
	}
	allocs := testing.AllocsPerRun(100, func() {
		a.WriteRange(t.Context(), io.Discard, a.Size()/2, 1<<12)
	})
	if allocs > 20 {
		t.Errorf("a slice costs %v allocations", allocs)
	}
	runtime.KeepAlive(entries)
}

// program finds a program that other people unpack archives with. Where these
// tests are in earnest, it has to be there.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed: %v", name, err)
		}
		t.Skipf("NOT CHECKED against %s: %v", name, err)
	}
	return path
}

func TestTarReadByTar(t *testing.T) {
	path := program(t, "tar")
	entries := checkpointEntries()
	if runtime.GOOS == "windows" {
		entries = entries[:8] // its tar and its code pages are another story
	}
	dir := t.TempDir()
	cmd := exec.Command(path, "-xf", "-")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.Stdin = bytes.NewReader(whole(t, mustNew(t, entries)))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, e := range entries {
		path := filepath.Join(dir, filepath.FromSlash(e.Name))
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, contentOf(t, e)) {
			t.Errorf("%s: %d bytes, error %v", e.Name, len(got), err)
			continue
		}
		if fi, err := os.Stat(path); err != nil || !fi.ModTime().Equal(someTime.Truncate(time.Second)) {
			t.Errorf("%s: modified %v, error %v", e.Name, fi.ModTime(), err)
		}
	}
}

type pythonMember struct {
	Name   string
	Size   int64
	Mode   int64
	UID    int64
	GID    int64
	MTime  int64
	IsFile bool
	SHA256 string
}

// readByPython lists an archive with Python's tarfile, from a file or, if path
// is -, from a stream.
func readByPython(t *testing.T, path string, stdin io.Reader) []pythonMember {
	t.Helper()
	const script = `
import hashlib, json, sys, tarfile
path = sys.argv[1]
kw = {"fileobj": sys.stdin.buffer, "mode": "r|"} if path == "-" else {"name": path, "mode": "r:"}
out = []
with tarfile.open(**kw) as t:
    for m in t:
        digest = ""
        if m.size < 1 << 20:
            digest = hashlib.sha256(t.extractfile(m).read()).hexdigest()
        out.append({"name": m.name, "size": m.size, "mode": m.mode, "uid": m.uid, "gid": m.gid,
                    "mtime": int(m.mtime), "isfile": m.isreg(), "sha256": digest})
print(json.dumps(out))
`
	cmd := exec.Command(program(t, "python3"), "-c", script, path)
	cmd.Stdin = stdin
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var members []pythonMember
	if err := json.Unmarshal(out, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func TestTarReadByPython(t *testing.T) {
	entries := checkpointEntries()
	data := whole(t, mustNew(t, entries))
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "-"} {
		members := readByPython(t, path, bytes.NewReader(data))
		if len(members) != len(entries) {
			t.Fatalf("%d members", len(members))
		}
		for i, e := range entries {
			want := pythonMember{e.Name, e.Size, 0o644, 0, 0, someTime.Unix(), true, e.Digest}
			if members[i] != want {
				t.Errorf("%s: %+v, want %+v", e.Name, members[i], want)
			}
		}
	}
}

// TestTarHugeReadByOthers has files of more than 8 GiB, which need a PAX record
// for their size, looked at by other programs. On disk there are only holes
// in place of the files.
func TestTarHugeReadByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files here have no holes by themselves")
	}
	entries := []Entry{
		bytesEntry("first.bin", []byte("first")),
		hugeEntry("huge.bin", 9*gib+1, nil),
		hugeEntry("just-ustar.bin", 8*gib-1, nil),
		hugeEntry("just-pax.bin", 8*gib, nil),
		bytesEntry("last.bin", []byte("last")),
	}
	a := mustNew(t, entries)
	file := filepath.Join(t.TempDir(), "huge.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := func(start, end int64) {
		if _, err := a.WriteRange(t.Context(), io.NewOffsetWriter(f, start), start, end-start); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range a.entries {
		at(p.start, p.data)
		if p.Size < gib {
			at(p.data, p.end)
		}
	}
	at(a.entries[len(a.entries)-1].end, a.Size())

	t.Run("tar", func(t *testing.T) {
		cmd := exec.Command(program(t, "tar"), "-tvf", file)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != len(entries) {
			t.Fatalf("%d members:\n%s", len(lines), out)
		}
		for i, e := range entries {
			if !strings.Contains(lines[i], fmt.Sprintf(" %d ", e.Size)) || !strings.HasSuffix(lines[i], e.Name) {
				t.Errorf("%s of %d bytes is listed as %s", e.Name, e.Size, lines[i])
			}
		}
	})
	t.Run("python", func(t *testing.T) {
		members := readByPython(t, file, nil)
		if len(members) != len(entries) {
			t.Fatalf("%d members", len(members))
		}
		for i, e := range entries {
			if m := members[i]; m.Name != e.Name || m.Size != e.Size || (e.Size < gib && m.SHA256 != e.Digest) {
				t.Errorf("%s of %d bytes is %+v", e.Name, e.Size, m)
			}
		}
	})
	t.Run("go", func(t *testing.T) {
		r := tar.NewReader(f)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			hdr, err := r.Next()
			if err != nil || hdr.Name != e.Name || hdr.Size != e.Size {
				t.Errorf("%s of %d bytes is %+v, error %v", e.Name, e.Size, hdr, err)
			}
			if pax := e.Size >= 8*gib; err == nil && (hdr.Format == tar.FormatPAX) != pax {
				t.Errorf("%s of %d bytes has format %v", e.Name, e.Size, hdr.Format)
			}
		}
	})
}
