package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// header makes a header block by hand, also such as no writer would make.
func header(name string, flag byte, size int64) []byte {
	b := make([]byte, blockSize)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], "00000000000\x00")
	b[156] = flag
	copy(b[257:], "ustar\x0000")
	checksum(b)
	return b
}

func checksum(b []byte) {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func padded(data string) []byte {
	return append([]byte(data), make([]byte, padding(int64(len(data))))...)
}

// member is a member of any type, with content.
func member(name string, flag byte, data string) []byte {
	return append(header(name, flag, int64(len(data))), padded(data)...)
}

func file(name, data string) []byte { return member(name, tar.TypeReg, data) }

func link(flag byte, name, target string) []byte {
	b := header(name, flag, 0)
	copy(b[157:], target)
	checksum(b)
	return b
}

// pax is a record of extended attributes for the next member, or all of them.
func pax(flag byte, pairs ...string) []byte {
	var data string
	for i := 0; i < len(pairs); i += 2 {
		rest := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(rest)
		for len(fmt.Sprint(n))+len(rest) != n {
			n = len(fmt.Sprint(n)) + len(rest)
		}
		data += fmt.Sprint(n) + rest
	}
	return member("PaxHeaders.0/x", flag, data)
}

// longName is a member with the name in a record of its own, as GNU tar does.
func longName(name string, m []byte) []byte {
	b := member("././@LongLink", tar.TypeGNULongName, name+"\x00")
	copy(b[257:], "ustar  \x00")
	checksum(b[:blockSize])
	return slices.Concat(b, m)
}

func gnuSparse(name string) []byte {
	b := header(name, tar.TypeGNUSparse, 512)
	copy(b[257:], "ustar  \x00")
	copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", 1<<20, 512)) // 512 bytes behind a hole of 1 MiB
	copy(b[483:], fmt.Sprintf("%011o\x00", 1<<20+512))
	checksum(b)
	return append(b, make([]byte, 512)...)
}

var end = make([]byte, trailerSize)

func archiveOf(parts ...[]byte) []byte { return append(slices.Concat(parts...), end...) }

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hostile is a corpus of archives to be refused.
func hostile() []struct {
	name   string
	data   []byte
	kind   error
	member string // that the error names
} {
	type archive = struct {
		name   string
		data   []byte
		kind   error
		member string
	}
	list := []archive{
		{"absolute path", archiveOf(file("/etc/passwd", "x")), ErrPath, "/etc/passwd"},
		{"absolute path in a PAX record", archiveOf(pax('x', "path", "/etc/passwd"), file("harmless", "x")), ErrPath, "/etc/passwd"},
		{"absolute path in a GNU record", archiveOf(longName("/etc/passwd", file("harmless", "x"))), ErrPath, "/etc/passwd"},
		{"absolute directory", archiveOf(member("/", tar.TypeDir, "")), ErrPath, "/"},
		{"absolute directory, deep", archiveOf(member("/tmp/", tar.TypeDir, "")), ErrPath, "/tmp/"},
		{"parent", archiveOf(file("../evil", "x")), ErrPath, "../evil"},
		{"parent behind a dot", archiveOf(file("./../evil", "x")), ErrPath, "../evil"},
		{"parent in the middle", archiveOf(file("a/../../evil", "x")), ErrPath, "a/../../evil"},
		{"parent that stays inside", archiveOf(file("a/../b", "x")), ErrPath, "a/../b"},
		{"parent as directory", archiveOf(member("../", tar.TypeDir, "")), ErrPath, ".."},
		{"parent in a PAX record", archiveOf(pax('x', "path", "a/../../evil"), file("harmless", "x")), ErrPath, "evil"},
		{"backslash", archiveOf(file(`..\evil`, "x")), ErrPath, `evil`},
		{"backslash in the middle", archiveOf(file(`a\b`, "x")), ErrPath, `b`},
		{"drive letter", archiveOf(file("C:evil", "x")), ErrPath, "C:evil"},
		{"drive letter and slash", archiveOf(file("c:/evil", "x")), ErrPath, "c:/evil"},
		{"second member", archiveOf(file("fine", "x"), file("../evil", "x")), ErrPath, "../evil"},

		{"hard link", archiveOf(file("a", "x"), link(tar.TypeLink, "b", "a")), ErrType, "b"},
		{"hard link out", archiveOf(link(tar.TypeLink, "b", "/etc/passwd")), ErrType, "b"},
		{"symbolic link", archiveOf(link(tar.TypeSymlink, "b", "a")), ErrType, "b"},
		{"symbolic link out, and through it", archiveOf(link(tar.TypeSymlink, "b", "/tmp"), file("b/evil", "x")), ErrType, "b"},
		{"character device", archiveOf(member("null", tar.TypeChar, "")), ErrType, "null"},
		{"block device", archiveOf(member("sda", tar.TypeBlock, "")), ErrType, "sda"},
		{"pipe", archiveOf(member("pipe", tar.TypeFifo, "")), ErrType, "pipe"},
		{"contiguous file", archiveOf(member("cont", tar.TypeCont, "x")), ErrType, "cont"},
		{"unknown type", archiveOf(member("odd", 'Q', "x")), ErrType, "odd"},
		{"sparse file, GNU", archiveOf(gnuSparse("sparse")), ErrType, "sparse"},
		{"sparse file, PAX 0.1", archiveOf(pax('x', "GNU.sparse.size", "1048576", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "0,1"), file("sparse", "x")), ErrType, "sparse"},
		{"sparse file, PAX 1.0", archiveOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "sparse", "GNU.sparse.realsize", "1048576"), file("GNUSparseFile.0/sparse", "1\n0\n1\n"+strings.Repeat("\x00", 506)+"x")), ErrType, "sparse"},
		{"sparse file, unknown version", archiveOf(pax('x', "GNU.sparse.major", "9", "GNU.sparse.name", "sparse"), file("other", "x")), ErrType, "other"},

		{"the same name twice", archiveOf(file("a", "x"), file("a", "y")), ErrDuplicate, "a"},
		{"the same name twice, with a dot", archiveOf(file("a", "x"), file("./a", "y")), ErrDuplicate, "a"},
		{"names that differ in case", archiveOf(file("config.json", "x"), file("Config.JSON", "y")), ErrDuplicate, "Config.JSON"},
		{"names that differ in case beyond ASCII", archiveOf(file("é", "x"), file("É", "y")), ErrDuplicate, "É"},
		{"names that differ in composition", archiveOf(file("\u00e9", "x"), file("e\u0301", "y")), ErrDuplicate, "e\u0301"},
		{"names that fold to several letters", archiveOf(file("straße", "x"), file("STRASSE", "y")), ErrDuplicate, "STRASSE"},
		{"directories that differ in case", archiveOf(file("Dir/a", "x"), file("dir/b", "y")), ErrDuplicate, "dir/b"},
		{"directory members that differ in case", archiveOf(member("Dir/", tar.TypeDir, ""), member("dir/", tar.TypeDir, "")), ErrDuplicate, "dir"},
		{"file as a directory", archiveOf(file("a", "x"), file("a/b", "y")), ErrConflict, "a/b"},
		{"file as a directory, in another case", archiveOf(file("a", "x"), file("A/b", "y")), ErrConflict, "A/b"},
		{"file where a directory is announced", archiveOf(file("a", "x"), member("a/", tar.TypeDir, "")), ErrConflict, "a"},
		{"directory as a file", archiveOf(file("a/b", "x"), file("a", "y")), ErrConflict, "a"},
		{"announced directory as a file", archiveOf(member("a/", tar.TypeDir, ""), file("a", "y")), ErrConflict, "a"},

		{"device on Windows", archiveOf(file("nul.txt", "x")), ErrName, "nul.txt"},
		{"device on Windows as a directory", archiveOf(file("a/COM1/b", "x")), ErrName, "a/COM1/b"},
		{"trailing dot", archiveOf(file("a.", "x")), ErrName, "a."},
		{"trailing space", archiveOf(file("a ", "x")), ErrName, "a "},
		{"stream on Windows", archiveOf(file("file:stream", "x")), ErrName, "file:stream"},
		{"question mark", archiveOf(file("what?", "x")), ErrName, "what?"},
		{"line feed", archiveOf(file("a\nb", "x")), ErrName, `a\nb`},
		{"escape sequence", archiveOf(file("\x1b[31mred", "x")), ErrName, "red"},
		{"right-to-left override", archiveOf(file("a\u202etxt.exe", "x")), ErrName, "txt.exe"},
		{"not UTF-8", archiveOf(file("a\xffb", "x")), ErrName, `a\xffb`},
		{"empty name", archiveOf(file("", "x")), ErrName, ""},
		{"only a dot", archiveOf(file("./", "x")), ErrName, ""},
		{"file that ends in a slash", archiveOf(file("a/", "x")), ErrName, "a/"},
		{"two slashes", archiveOf(file("a//b", "x")), ErrName, "a//b"},
		{"dot in the middle", archiveOf(file("a/./b", "x")), ErrName, "a/./b"},
		{"long part", archiveOf(pax('x', "path", strings.Repeat("x", 256)), file("short", "x")), ErrName, "xxx"},
		{"long name", archiveOf(pax('x', "path", strings.Repeat("xxxxxxxxx/", 103)+"x"), file("short", "x")), ErrName, "xxx"},
		{"long name, GNU", archiveOf(longName(strings.Repeat("x/", 5000)+"x", file("short", "x"))), ErrName, "x/x"},
		{"deep name", archiveOf(file(strings.Repeat("d/", 40)+"x", "x")), ErrName, "d/d"},
		{"directory with content", archiveOf(member("a/", tar.TypeDir, "surprise")), ErrFormat, "a/"},
		{"NUL in a PAX name", archiveOf(pax('x', "path", "a\x00b"), file("c", "x")), ErrFormat, ""},
		{"global name", archiveOf(pax('g', "path", "everybody"), file("c", "x")), ErrFormat, ""},
		{"global size", archiveOf(pax('g', "size", "3"), file("c", "x")), ErrFormat, ""},

		{"declared size over the limit", archiveOf(header("big", tar.TypeReg, 7<<30)), ErrLimit, "big"},
		{"declared size over the limit, PAX", archiveOf(pax('x', "size", "9000000000000000000"), file("big", "x")), ErrLimit, "big"},
		{"negative size", archiveOf(pax('x', "size", "-1"), file("minus", "x")), ErrFormat, ""},
		{"sizes over the limit together", archiveOf(file("a", strings.Repeat("x", 60_000)), file("b", strings.Repeat("x", 60_000))), ErrLimit, "b"},
		{"huge PAX record", archiveOf(pax('x', "comment", strings.Repeat("x", 100_000)), file("a", "x")), ErrLimit, ""},
		{"huge GNU name", archiveOf(longName(strings.Repeat("x", 200_000), file("a", "x"))), ErrLimit, ""},

		{"nothing", nil, ErrTruncated, ""},
		{"one byte", []byte("x"), ErrTruncated, ""},
		{"no end", file("a", "x"), ErrTruncated, "a"},
		{"half an end", append(file("a", "x"), make([]byte, 512)...), ErrTruncated, "a"},
		{"cut in a header", file("a", "x")[:300], ErrTruncated, ""},
		{"cut in a file", file("a", strings.Repeat("x", 1000))[:1000], ErrTruncated, "a"},
		{"cut in the padding", file("a", "x")[:1000], ErrTruncated, "a"},
		{"text", []byte(strings.Repeat("<html>not found</html>\n", 100)), ErrFormat, ""},
		{"zip", append([]byte("PK\x03\x04"), make([]byte, 1000)...), ErrFormat, ""},
		{"zstd", append([]byte("\x28\xb5\x2f\xfd"), make([]byte, 1000)...), ErrFormat, ""},
		{"short zstd", []byte("\x28\xb5\x2f\xfd1234"), ErrFormat, ""},
		{"bad checksum", archiveOf(bytes.Replace(file("a", "x"), []byte("a"), []byte("b"), 1)), ErrFormat, ""},
		{"garbage between members", archiveOf(file("a", "x"), bytes.Repeat([]byte("garbage."), 64), file("b", "x")), ErrFormat, "a"},
		{"zero block between members", archiveOf(file("a", "x"), make([]byte, 512), file("b", "x")), ErrFormat, "a"},
		{"garbage behind the end", append(archiveOf(file("a", "x")), "garbage"...), ErrFormat, "a"},
		{"members behind the end", slices.Concat(archiveOf(file("a", "x")), archiveOf(file("../evil", "x"))), ErrFormat, "a"},
		{"zeros without end", append(archiveOf(file("a", "x")), make([]byte, 2<<20)...), ErrLimit, "a"},
	}
	var many, dirs, deep, globals [][]byte
	for i := range 60 {
		many = append(many, file(fmt.Sprint(i), ""))
		dirs = append(dirs, member("again/", tar.TypeDir, ""))
		globals = append(globals, pax('g', "comment", "again"))
		if i < 6 {
			deep = append(deep, file(fmt.Sprintf("%d/1/2/3/4/5/6/7/8/9/x", i), ""))
		}
	}
	return append(list,
		archive{"many files", archiveOf(many...), ErrLimit, "50"},
		archive{"one directory many times", archiveOf(dirs...), ErrLimit, "again"},
		archive{"many global records", archiveOf(globals...), ErrLimit, ""},
		archive{"many implied directories", archiveOf(deep...), ErrLimit, "4/1/2"},
	)
}

// smallLimits are those that the corpus is meant for.
var smallLimits = ExtractOptions{MaxBytes: 100_000, MaxFiles: 50}

// playground is a directory with something to protect around the target.
func playground(t testing.TB) (parent, target string) {
	t.Helper()
	parent = t.TempDir()
	target = filepath.Join(parent, "target")
	if err := errors.Join(
		os.Mkdir(target, 0o700),
		os.Mkdir(filepath.Join(parent, "a"), 0o700),
		os.WriteFile(filepath.Join(parent, "evil"), []byte("good"), 0o600),
		os.WriteFile(filepath.Join(parent, "a", "b"), []byte("better"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return parent, target
}

// survey describes everything below a directory except, if not empty, one
// subdirectory.
func survey(t testing.TB, dir, except string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == except {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content := ""
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		if rel != "." {
			found[filepath.ToSlash(rel)] = d.Type().String() + " " + content
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func equalMaps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func TestExtractRefuses(t *testing.T) {
	for _, test := range hostile() {
		for _, compressed := range []bool{false, true} {
			data, name := test.data, test.name
			if compressed {
				if errors.Is(test.kind, ErrTruncated) || name == "zip" || strings.Contains(name, "zstd") {
					continue // about the outermost layer
				}
				data, name = gzipped(t, data), name+", compressed"
			}
			t.Run(name, func(t *testing.T) {
				parent, target := playground(t)
				before := survey(t, parent, target)
				files, err := Extract(t.Context(), bytes.NewReader(data), target, smallLimits)
				if files != nil || !errors.Is(err, ErrUnsafe) || !errors.Is(err, test.kind) {
					t.Errorf("%d files, error %v, want %v", len(files), err, test.kind)
				}
				var refusal *MemberError
				if !errors.As(err, &refusal) || !strings.Contains(refusal.Name, strings.ReplaceAll(test.member, `\n`, "\n")) && !strings.Contains(err.Error(), test.member) {
					t.Errorf("%v does not name %q", err, test.member)
				}
				if err != nil && len(err.Error()) > 2000 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				if after := survey(t, parent, target); !equalMaps(before, after) {
					t.Errorf("outside the target there was %q, now there is %q", before, after)
				}
				for path, what := range survey(t, target, "") {
					if !strings.HasPrefix(what, fs.FileMode(0).String()) && !strings.HasPrefix(what, fs.ModeDir.Type().String()) {
						t.Errorf("%s is a %s", path, what)
					}
				}
			})
		}
	}
}

func TestExtract(t *testing.T) {
	entries := checkpointEntries()
	plain := whole(t, mustNew(t, entries))
	for name, data := range map[string][]byte{
		"plain":              plain,
		"gzip":               gzipped(t, plain),
		"gzip in two pieces": slices.Concat(gzipped(t, plain[:5000]), gzipped(t, plain[5000:])),
		"padded":             append(bytes.Clone(plain), make([]byte, 100_000)...),
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r },
			"halves":  iotest.HalfReader,
			"eof":     iotest.DataErrReader,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				dir := t.TempDir()
				var told []File
				var n int64
				files, err := Extract(t.Context(), wrap(bytes.NewReader(data)), dir, ExtractOptions{
					Sync:    true,
					OnFile:  func(f File) { told = append(told, f) },
					OnBytes: func(m int64) { n += m },
				})
				if err != nil {
					t.Fatal(err)
				}
				if len(files) != len(entries) || !slices.Equal(files, told) {
					t.Fatalf("%d files, told about %d", len(files), len(told))
				}
				var total int64
				for i, e := range entries {
					want := contentOf(t, e)
					got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(e.Name)))
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, error %v", e.Name, len(got), err)
					}
					if files[i] != (File{e.Name, e.Size, sha256.Sum256(want)}) {
						t.Errorf("%s: %+v", e.Name, files[i])
					}
					total += e.Size
				}
				if n != total {
					t.Errorf("told about %d bytes of %d", n, total)
				}
			})
		}
	}
}

// TestExtractHarmless: what other writers make and is nothing to worry about.
func TestExtractHarmless(t *testing.T) {
	old := header("old", 0, 1) // the type of files before POSIX
	copy(old[257:], make([]byte, 8))
	checksum(old)
	oldDir := header("olddir/", 0, 0)
	copy(oldDir[257:], make([]byte, 8))
	checksum(oldDir)
	for name, test := range map[string]struct {
		data  []byte
		files []string
	}{
		"no members":             {end, nil},
		"dot and dotted":         {archiveOf(member("./", tar.TypeDir, ""), file("./a", "x"), file("././b", "x"), member(".", tar.TypeDir, "")), []string{"a", "b"}},
		"directories":            {archiveOf(member("d/", tar.TypeDir, ""), member("d/e", tar.TypeDir, ""), file("d/e/f", "x"), member("./d/", tar.TypeDir, "")), []string{"d/e/f"}},
		"directory afterwards":   {archiveOf(file("d/e/f", "x"), member("d/e/", tar.TypeDir, ""), member("d/", tar.TypeDir, "")), []string{"d/e/f"}},
		"global comment":         {archiveOf(pax('g', "comment", "0123456789"), file("a", "x")), []string{"a"}},
		"attributes":             {archiveOf(pax('x', "SCHILY.xattr.user.a", "b", "mtime", "1.5", "LIBARCHIVE.creationtime", "1"), file("a", "x")), []string{"a"}},
		"link name of a file":    {archiveOf(pax('x', "linkpath", "/etc/passwd"), file("a", "x")), []string{"a"}},
		"long GNU name":          {archiveOf(longName(strings.Repeat("x", 200), file("a", "x"))), []string{strings.Repeat("x", 200)}},
		"old headers":            {archiveOf(old, padded("x"), oldDir), []string{"old"}},
		"same name, other place": {archiveOf(file("a/x", "x"), file("b/x", "x"), file("x", "x")), []string{"a/x", "b/x", "x"}},
		"starts like bzip2":      {archiveOf(file("BZh91AY", "x")), []string{"BZh91AY"}},
		"just the limits":        {archiveOf(file("a", strings.Repeat("x", 50_000)), file("b", strings.Repeat("x", 50_000))), []string{"a", "b"}},
		"padding to a record":    {append(archiveOf(file("a", "x")), make([]byte, 10240-2048)...), []string{"a"}},
		"set-uid and executable": {archiveOf(func() []byte {
			b := header("a", tar.TypeReg, 0)
			copy(b[100:], "0006777\x00")
			checksum(b)
			return b
		}()), []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files, err := Extract(t.Context(), bytes.NewReader(test.data), dir, smallLimits)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range files {
				names = append(names, f.Name)
				fi, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f.Name)))
				if err != nil || !fi.Mode().IsRegular() || fi.Size() != f.Size {
					t.Errorf("%s: %v, error %v", f.Name, fi, err)
				} else if runtime.GOOS != "windows" && fi.Mode().Perm()&0o133 != 0 {
					t.Errorf("%s has mode %v", f.Name, fi.Mode())
				}
			}
			if !slices.Equal(names, test.files) {
				t.Errorf("files %q, want %q", names, test.files)
			}
		})
	}
}

// TestExtractTruncated cuts an archive everywhere.
func TestExtractTruncated(t *testing.T) {
	plain := archiveOf(file("a", "some content"), pax('x', "path", "b/c"), file("x", strings.Repeat("y", 600)), file("empty", ""))
	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain)} {
		step := 7
		if name == "gzip" {
			step = 1
		}
		for cut := 0; cut < len(data); cut += step {
			dir := t.TempDir()
			_, err := Extract(t.Context(), bytes.NewReader(data[:cut]), dir, ExtractOptions{})
			if !errors.Is(err, ErrTruncated) || !errors.Is(err, ErrUnsafe) {
				t.Errorf("%s cut after %d of %d bytes: %v", name, cut, len(data), err)
			}
		}
	}
}

func TestExtractDamagedGzip(t *testing.T) {
	plain := archiveOf(file("a", string(random(1, 3000))))
	sound := gzipped(t, plain)
	flip := func(i int) []byte {
		b := bytes.Clone(sound)
		b[(i+len(b))%len(b)] ^= 0x55
		return b
	}
	for name, data := range map[string][]byte{
		"checksum":         flip(-6),
		"length":           flip(-2),
		"method":           flip(2),
		"content":          flip(1500),
		"garbage behind":   append(bytes.Clone(sound), "garbage, garbage"...),
		"another archive":  slices.Concat(sound, gzipped(t, archiveOf(file("b", "x")))),
		"nothing but gzip": gzipped(t, gzipped(t, plain)),
	} {
		_, err := Extract(t.Context(), bytes.NewReader(data), t.TempDir(), ExtractOptions{})
		if !errors.Is(err, ErrFormat) || !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless repeats a piece of a stream for ever.
type endless struct {
	head, piece []byte
	off         int
	read        int64
}

func (r *endless) Read(p []byte) (int, error) {
	n := 0
	if len(r.head) > 0 {
		n = copy(p, r.head)
		r.head = r.head[n:]
	}
	for n < len(p) {
		m := copy(p[n:], r.piece[r.off:])
		r.off = (r.off + m) % len(r.piece)
		n += m
	}
	r.read += int64(n)
	return n, nil
}

// TestExtractEndless: streams without an end are left at once.
func TestExtractEndless(t *testing.T) {
	var bomb bytes.Buffer // a header of a large file, and a lot of zeros
	w := gzip.NewWriter(&bomb)
	w.Write(header("bomb", tar.TypeReg, 90_000))
	w.Write(make([]byte, 50<<20))
	w.Close()
	emptyBlock := []byte{0x00, 0x00, 0x00, 0xff, 0xff} // of deflate: stored, not the last
	gzipHead := gzipped(t, nil)[:10]
	for name, stream := range map[string]struct {
		r    io.Reader
		kind error
	}{
		"zeros":                   {&endless{piece: make([]byte, 512)}, ErrLimit},
		"PAX records":             {&endless{piece: pax('x', "comment", "and on")}, ErrLimit},
		"large PAX records":       {&endless{piece: pax('x', "comment", strings.Repeat("and on", 9000))}, ErrLimit},
		"GNU records":             {&endless{piece: longName("and on", nil)}, ErrLimit},
		"global records":          {&endless{piece: pax('g', "comment", "and on")}, ErrLimit},
		"directories":             {&endless{piece: member("again/", tar.TypeDir, "")}, ErrLimit},
		"the directory itself":    {&endless{piece: member("./", tar.TypeDir, "")}, ErrLimit},
		"zeros behind the end":    {&endless{head: archiveOf(file("a", "x")), piece: make([]byte, 512)}, ErrLimit},
		"garbage behind the end":  {&endless{head: archiveOf(file("a", "x")), piece: []byte("garbage ")}, ErrFormat},
		"a file":                  {&endless{head: header("big", tar.TypeReg, 8<<30-1), piece: []byte("x")}, ErrLimit},
		"a bomb":                  {&bomb, ErrLimit},
		"empty gzip members":      {&endless{piece: gzipped(t, nil)}, ErrLimit},
		"empty blocks":            {&endless{head: gzipHead, piece: emptyBlock}, ErrLimit},
		"empty members behind it": {&endless{head: gzipped(t, archiveOf(file("a", "x"))), piece: gzipped(t, nil)}, ErrLimit},
		"gzip comment":            {&endless{head: []byte{0x1f, 0x8b, 8, 16, 0, 0, 0, 0, 0, 255}, piece: []byte("comment ")}, ErrFormat},
		"compressed zeros":        {&endless{piece: gzipped(t, make([]byte, 1<<20))}, ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			start := time.Now()
			_, err := Extract(t.Context(), stream.r, dir, smallLimits)
			if !errors.Is(err, stream.kind) || !errors.Is(err, ErrUnsafe) {
				t.Errorf("error %v, want %v", err, stream.kind)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("took %v", took)
			}
			if r, ok := stream.r.(*endless); ok && r.read > 8<<20 {
				t.Errorf("read %d bytes", r.read)
			}
		})
	}
}

// TestExtractMemory: a large file goes through a small buffer.
func TestExtractMemory(t *testing.T) {
	const size = 64 << 20
	a := mustNew(t, []Entry{hugeEntry("large.bin", size, nil)})
	r, w := io.Pipe()
	go func() {
		_, err := a.WriteRange(context.Background(), w, 0, -1)
		w.CloseWithError(err)
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	files, err := Extract(t.Context(), r, t.TempDir(), ExtractOptions{})
	runtime.ReadMemStats(&after)
	if err != nil || len(files) != 1 || files[0].Size != size {
		t.Fatalf("%v, error %v", files, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("allocated %d bytes for a file of %d", used, size)
	}
}

func TestExtractStreamFails(t *testing.T) {
	plain := archiveOf(file("a", "some content"), file("b", strings.Repeat("y", 600)))
	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain)} {
		for _, failure := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF, io.ErrClosedPipe} {
			for cut := 0; cut < len(data); cut += 1 + len(data)/50 {
				r := io.MultiReader(bytes.NewReader(data[:cut]), errReader{failure})
				_, err := Extract(t.Context(), r, t.TempDir(), ExtractOptions{})
				if !errors.Is(err, failure) || errors.Is(err, ErrUnsafe) {
					t.Errorf("%s failing after %d bytes with %q: %v", name, cut, failure, err)
				}
			}
		}
	}
}

func TestExtractCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := mustNew(t, []Entry{hugeEntry("huge.bin", 1<<37, nil)})
	r, w := io.Pipe()
	go func() {
		_, err := a.WriteRange(context.Background(), w, 0, -1)
		w.CloseWithError(err)
	}()
	defer r.Close()
	var n int64
	_, err := Extract(ctx, r, t.TempDir(), ExtractOptions{OnBytes: func(m int64) {
		if n += m; n > 1<<20 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnsafe) || n > 4<<20 {
		t.Errorf("after %d bytes: %v", n, err)
	}
	if _, err := Extract(ctx, bytes.NewReader(archiveOf(file("a", "x"))), t.TempDir(), ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before the start: %v", err)
	}
}

func TestExtractTarget(t *testing.T) {
	data := archiveOf(file("a", "x"))
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := errors.Join(os.Mkdir(full, 0o700), os.WriteFile(filepath.Join(full, "precious"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"missing":   filepath.Join(dir, "missing"),
		"a file":    filepath.Join(full, "precious"),
		"not empty": full,
	} {
		files, err := Extract(t.Context(), bytes.NewReader(data), target, ExtractOptions{})
		if err == nil || files != nil || errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), filepath.Base(target)) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if found := survey(t, full, ""); len(found) != 1 {
		t.Errorf("there is %q", found)
	}
}

// TestExtractIntoLinkedTarget: somebody who can write to the target while it
// is being filled cannot lead us out either.
func TestExtractIntoLinkedTarget(t *testing.T) {
	parent, target := playground(t)
	if err := os.Symlink("x", filepath.Join(parent, "probe")); err != nil {
		t.Skipf("no symbolic links to be had: %v", err)
	}
	before := survey(t, parent, target)
	data := archiveOf(file("first", "x"), file("d/evil", "x"))
	_, err := Extract(t.Context(), bytes.NewReader(data), target, ExtractOptions{OnFile: func(File) {
		if err := os.Symlink("..", filepath.Join(target, "d")); err != nil {
			t.Error(err)
		}
	}})
	if err == nil {
		t.Error("no error")
	}
	if after := survey(t, parent, target); !equalMaps(before, after) {
		t.Errorf("outside the target there is now %q", after)
	}
}

// FuzzExtract: whatever the stream, nothing outside the target changes, and
// what is reported is what is there.
func FuzzExtract(f *testing.F) {
	for _, a := range hostile() {
		if len(a.data) < 50_000 {
			f.Add(a.data)
			f.Add(gzipped(f, a.data))
		}
	}
	f.Add(whole(f, mustNew(f, checkpointEntries()[2:])))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent, target := playground(t)
		before := survey(t, parent, target)
		files, err := Extract(t.Context(), bytes.NewReader(data), target, smallLimits)
		if after := survey(t, parent, target); !equalMaps(before, after) {
			t.Fatalf("outside the target there was %q, now there is %q", before, after)
		}
		found := survey(t, target, "")
		var total int64
		for path, what := range found {
			kind, content, _ := strings.Cut(what, " ")
			total += int64(len(content))
			if kind != fs.FileMode(0).String() && kind != fs.ModeDir.String() {
				t.Errorf("%s is a %s", path, kind)
			}
		}
		if total > smallLimits.MaxBytes || len(found) > smallLimits.MaxFiles {
			t.Errorf("%d files and directories with %d bytes", len(found), total)
		}
		if err != nil {
			if files != nil {
				t.Errorf("%d files in spite of %v", len(files), err)
			}
			if !errors.Is(err, ErrUnsafe) {
				t.Errorf("an error that is not a refusal: %v", err)
			}
			return
		}
		keys := make(map[string]bool)
		for _, file := range files {
			content, ok := strings.CutPrefix(found[file.Name], fs.FileMode(0).String()+" ")
			if !ok || int64(len(content)) != file.Size || sha256.Sum256([]byte(content)) != file.SHA256 {
				t.Errorf("%+v is not there", file)
			}
			if key := foldName(file.Name); keys[key] {
				t.Errorf("%s is there twice", file.Name)
			} else {
				keys[key] = true
			}
			delete(found, file.Name)
		}
		for path, what := range found {
			if !strings.HasPrefix(what, fs.ModeDir.String()) {
				t.Errorf("%s is there and was not reported", path)
			}
		}
	})
}
