package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/tinkex/tinkex/internal/durable"
)

// The limits of [ExtractOptions] unless it says otherwise.
const (
	DefaultMaxBytes = 256 << 30
	DefaultMaxFiles = 10_000
)

// ExtractOptions tunes [Extract]. The zero value is fit for archives of
// strangers.
type ExtractOptions struct {
	// MaxBytes is how many bytes all files together may have, decompressed.
	// If less than or equal to 0, DefaultMaxBytes (256 GiB).
	MaxBytes int64
	// MaxFiles is how many members there may be, and how many files and
	// directories may result, counting directories that are only implied.
	// If less than or equal to 0, DefaultMaxFiles (10,000).
	MaxFiles int
	// Sync has all files and directories survive a power cut once Extract has
	// returned. The entry of dir in its parent is the caller's to flush.
	Sync bool
	// OnFile, if not nil, is called after each file is complete.
	OnFile func(File)
	// OnBytes, if not nil, is called with the number of bytes whenever some
	// have been written.
	OnBytes func(n int64)
	// OnState, if not nil, is called after every file, every 1 MiB of one and
	// where the stream breaks in one, with what a later Extract needs to go on
	// from there. What it is given stays as it is. It is not called for
	// compressed archives. An error ends the extraction.
	OnState func(State) error
	// Resume goes on from a state that OnState was given: the stream starts at
	// its Offset, and the directory holds what was written then. Every byte of
	// that is read again, and what is not as it was is ErrState; what came after
	// the state is removed.
	Resume *State
}

// File is an extracted file.
type File struct {
	Name   string            `json:"name"` // slash-separated, relative to the directory
	Size   int64             `json:"size"` // bytes
	SHA256 [sha256.Size]byte `json:"sha256"`
}

// Extract unpacks a tar stream, plain or compressed with gzip, into dir, which
// must be an empty directory that the caller made for the purpose. It returns
// the files in the order of the archive.
//
// Whatever the stream contains, nothing outside dir is touched, nothing in it
// is overwritten, and memory depends on the number of names only. Modes,
// owners, times and other attributes of members are ignored. Refused, with an
// error that wraps [ErrUnsafe] and names the member, are
//
//   - names that are absolute, contain .., a backslash or a drive letter, are
//     not UTF-8, contain control or invisible characters, cannot exist on
//     Windows, or are longer than 1024 bytes, 255 in one part, 32 parts
//     (a leading ./ is dropped);
//   - a second file of the same name, or of one that differs only in case or
//     in the composition of characters; a file where a directory is needed;
//   - anything but plain files and directories: links, devices, pipes, sparse
//     files;
//   - archives beyond the limits of the options, headers of more than 64 KiB,
//     and compressed streams that go on without yielding anything;
//   - streams that end before the two blocks of zeros that end an archive, and
//     those in which anything but up to 1 MiB of zeros follows them.
//
// After an error dir may contain some files, the last of them incomplete; the
// caller removes it. A Read of r that blocks is not interrupted by ctx.
func Extract(ctx context.Context, r io.Reader, dir string, opts ExtractOptions) ([]File, error) {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	if opts.MaxFiles <= 0 {
		opts.MaxFiles = DefaultMaxFiles
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("extract: %w", err)
	}
	defer root.Close()
	if opts.Resume == nil {
		if err := checkEmpty(root); err != nil {
			return nil, fmt.Errorf("extract into %q: %w", dir, err)
		}
	}
	x := &extractor{
		opts:  opts,
		root:  root,
		names: newNameSet(16),
		buf:   make([]byte, 512<<10),
		left:  opts.MaxBytes,
	}
	if err := x.extract(ctx, r); err != nil {
		return nil, err
	}
	return x.files, nil
}

func checkEmpty(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	switch names, err := d.Readdirnames(1); {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("the directory is not empty: there is %q", names[0])
	}
}

type extractor struct {
	opts    ExtractOptions
	root    *os.Root
	names   *nameSet
	buf     []byte
	left    int64 // bytes that files may still have
	members int
	last    string // the last member's name
	files   []File
	dirs    []string // created, parents first
}

func (x *extractor) extract(ctx context.Context, r io.Reader) error {
	var src *source
	var err error
	if st := x.opts.Resume; st != nil {
		src = resumedSource(ctx, r, st.Offset)
		err = x.resume(ctx, src, st)
	} else {
		src, err = newSource(ctx, r)
	}
	if err != nil {
		return err
	}
	tr := tar.NewReader(src)
	for {
		src.budget = headerBudget
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // we look for ourselves
			return src.explain(x.last, err)
		}
		x.last = hdr.Name
		if x.members++; x.members > x.opts.MaxFiles {
			return refuse(hdr.Name, ErrLimit, "more than %d members", x.opts.MaxFiles)
		}
		src.budget = max(hdr.Size, 0)
		if err := x.member(hdr, tr, src); err != nil {
			if refusal := (*MemberError)(nil); errors.As(err, &refusal) {
				refusal.Name = hdr.Name // as the archive has it
			}
			return err
		}
	}
	if err := src.finish(x.last); err != nil {
		return err
	}
	if x.opts.Sync {
		return x.syncDirs()
	}
	return nil
}

func (x *extractor) member(hdr *tar.Header, tr *tar.Reader, src *source) error {
	for key := range hdr.PAXRecords {
		switch {
		case strings.HasPrefix(key, "GNU.sparse."):
			return refuse(hdr.Name, ErrType, "sparse file")
		case hdr.Typeflag == tar.TypeXGlobalHeader && (key == "path" || key == "size"):
			// Go's reader ignores these; others do not, and would see another
			// archive than we do.
			return refuse(hdr.Name, ErrFormat, "a global record of %q", key)
		}
	}
	name := hdr.Name
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeDir:
		if hdr.Size != 0 {
			return refuse(hdr.Name, ErrFormat, "a directory with content")
		}
		if name != "/" {
			name = strings.TrimSuffix(name, "/")
		}
		if name == "." || name == "" && hdr.Name != "" {
			return nil // ./ is dir itself
		}
		return x.directory(name)
	case tar.TypeReg:
		return x.file(name, hdr.Size, tr, src)
	}
	return refuse(hdr.Name, ErrType, "%s", typeName(hdr.Typeflag))
}

func typeName(flag byte) string {
	switch flag {
	case tar.TypeLink:
		return "hard link"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeChar:
		return "character device"
	case tar.TypeBlock:
		return "block device"
	case tar.TypeFifo:
		return "named pipe"
	case tar.TypeGNUSparse:
		return "sparse file"
	}
	return fmt.Sprintf("type %q", flag)
}

func (x *extractor) directory(name string) error {
	if err := x.names.addDir(name); err != nil {
		return err
	}
	return x.makeDirs(name, name)
}

// makeDirs creates those directories of a path that are not there yet, on
// behalf of the named member. The path is in the set of names, or empty.
func (x *extractor) makeDirs(member, path string) error {
	if x.names.len() > x.opts.MaxFiles {
		return refuse(member, ErrLimit, "more than %d files and directories", x.opts.MaxFiles)
	}
	for i := range len(path) + 1 {
		dir := path[:i]
		if dir == "" || i < len(path) && path[i] != '/' || !x.names.claim(dir) {
			continue
		}
		if err := x.root.Mkdir(filepath.FromSlash(dir), 0o777); err != nil {
			return x.failed(member, err)
		}
		x.dirs = append(x.dirs, dir)
	}
	return nil
}

// failed says why a member could not be created. Everything in the directory
// is ours and has another name, so a name that is taken is one that this file
// system takes for another.
func (x *extractor) failed(member string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return refuse(member, ErrDuplicate, "this file system takes it for another name: %v", err)
	}
	return fmt.Errorf("extract %q: %w", member, err)
}

func (x *extractor) file(name string, size int64, tr *tar.Reader, src *source) error {
	if err := x.names.addFile(name); err != nil {
		return err
	}
	if size > x.left {
		return refuse(name, ErrLimit, "its %d bytes bring the files to more than %d", size, x.opts.MaxBytes)
	}
	x.left -= size
	parent := ""
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		parent = name[:i]
	}
	if err := x.makeDirs(name, parent); err != nil {
		return err
	}
	f, err := x.root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return x.failed(name, err)
	}
	return x.write(f, Partial{Name: name, Size: size}, sha256.New(), tr, src)
}

// write copies the rest of a file from r, closes it and adds it to the files.
func (x *extractor) write(f *os.File, p Partial, h hash.Hash, r io.Reader, src *source) error {
	err := x.copy(f, &p, h, r, src)
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("extract %q: %w", p.Name, cerr)
	}
	if err != nil {
		return err
	}
	file := File{Name: p.Name, Size: p.Size, SHA256: [sha256.Size]byte(h.Sum(nil))}
	x.files = append(x.files, file)
	if x.opts.OnFile != nil {
		x.opts.OnFile(file)
	}
	return x.state(src, nil)
}

// copy writes each piece while it is being hashed.
func (x *extractor) copy(f *os.File, p *Partial, h hash.Hash, r io.Reader, src *source) error {
	told := p.Written
	dst, err := durable.NewAppender(f, p.Written)
	if err != nil {
		return fmt.Errorf("extract %q: %w", p.Name, err)
	}
	for p.Written < p.Size {
		n, rerr := io.ReadFull(r, x.buf[:min(int64(len(x.buf)), p.Size-p.Written)])
		if n > 0 {
			var hashing sync.WaitGroup
			hashing.Go(func() { h.Write(x.buf[:n]) })
			_, err := dst.Write(x.buf[:n])
			hashing.Wait()
			if err != nil {
				return fmt.Errorf("extract %q: %w", p.Name, err)
			}
			p.Written += int64(n)
			if x.opts.OnBytes != nil {
				x.opts.OnBytes(int64(n))
			}
		}
		broken := rerr != nil && p.Written < p.Size
		if p.Written < p.Size && (broken && p.Written > told || p.Written-told >= stateEvery) {
			told = p.Written
			now := *p
			h.Sum(now.SHA256[:0])
			if err := x.state(src, &now); err != nil {
				return err
			}
		}
		if broken {
			return src.explain(p.Name, rerr)
		}
	}
	if x.opts.Sync {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("extract %q: %w", p.Name, err)
		}
	}
	return nil
}

// syncDirs flushes the directories, children first. Windows has no such call
// and needs none; file systems that cannot do it say so with EINVAL or
// ENOTSUP.
func (x *extractor) syncDirs() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	for i := len(x.dirs); i >= 0; i-- {
		name := "."
		if i > 0 {
			name = x.dirs[i-1]
		}
		d, err := x.root.Open(name)
		if err != nil {
			return fmt.Errorf("extract: %w", err)
		}
		err = d.Sync()
		d.Close()
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
			return fmt.Errorf("extract: flush directory %q: %w", name, err)
		}
	}
	return nil
}
