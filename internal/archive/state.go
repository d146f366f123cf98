package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// ErrState: what is in the directory is not what the state says, so the
// extraction cannot go on from there and has to begin anew.
var ErrState = errors.New("the files are not as they were left")

// stateEvery is how many bytes of a file are written between two states.
const stateEvery = 1 << 20

// State is how far an extraction has come: enough to go on from, in another
// process too, with the stream from Offset. It is plain data for JSON.
type State struct {
	// Offset is where in the stream to go on, in bytes.
	Offset int64 `json:"offset"`
	// Files are complete.
	Files []File `json:"files"`
	// Dirs are the directories that have been made, parents first: the archive
	// will not mention the empty ones again.
	Dirs []string `json:"dirs,omitempty"`
	// Partial is the file in the middle of which Offset is, if it is.
	Partial *Partial `json:"partial,omitempty"`
}

// Partial is a file of which a beginning has been written.
type Partial struct {
	Name    string            `json:"name"`
	Size    int64             `json:"size"`    // bytes it will have
	Written int64             `json:"written"` // bytes it has
	SHA256  [sha256.Size]byte `json:"sha256"`  // of those
}

// resume takes over what is in the directory, having read every byte of it,
// and finishes the file that was being written.
func (x *extractor) resume(ctx context.Context, src *source, st *State) error {
	keep := map[string]bool{}
	for _, dir := range st.Dirs {
		if err := x.takeOver(dir, keep); err != nil {
			return fmt.Errorf("%w: %q: %w", ErrState, dir, err)
		}
	}
	known := append([]File(nil), st.Files...)
	if p := st.Partial; p != nil {
		known = append(known, File{Name: p.Name, Size: p.Written, SHA256: p.SHA256})
	}
	for i, f := range known {
		if err := x.names.addFile(f.Name); err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			keep[dir] = true
			if x.names.claim(dir) {
				x.dirs = append(x.dirs, dir)
			}
		}
		keep[f.Name] = true
		partial := i == len(st.Files)
		h, err := x.rehash(ctx, f, partial)
		if err != nil {
			return fmt.Errorf("%w: %q: %w", ErrState, f.Name, err)
		}
		if !partial {
			x.files = append(x.files, f)
			x.left -= f.Size
			x.members++
			continue
		}
		if err := x.dropOthers(keep); err != nil {
			return err
		}
		return x.goOn(*st.Partial, h, src)
	}
	if err := x.dropOthers(keep); err != nil {
		return err
	}
	return src.skipPadding()
}

// takeOver takes a directory that was left for one that has been made.
func (x *extractor) takeOver(dir string, keep map[string]bool) error {
	if err := x.names.addDir(dir); err != nil {
		return err
	}
	info, err := x.root.Lstat(filepath.FromSlash(dir))
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("it is not a directory")
	}
	keep[dir] = true
	if x.names.claim(dir) {
		x.dirs = append(x.dirs, dir)
	}
	return nil
}

// rehash reads a file that was left and compares it.
func (x *extractor) rehash(ctx context.Context, want File, partial bool) (hash.Hash, error) {
	f, err := x.root.Open(filepath.FromSlash(want.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() < want.Size || info.Size() > want.Size && !partial:
		return nil, fmt.Errorf("it has %d bytes instead of %d", info.Size(), want.Size)
	}
	h := sha256.New()
	for left := want.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := io.ReadFull(f, x.buf[:min(left, int64(len(x.buf)))])
		if err != nil {
			return nil, err
		}
		h.Write(x.buf[:n])
		left -= int64(n)
	}
	if !bytes.Equal(h.Sum(nil), want.SHA256[:]) {
		return nil, errors.New("its bytes differ")
	}
	return h, nil
}

// dropOthers removes what was created after the state was taken.
func (x *extractor) dropOthers(keep map[string]bool) error {
	var others []string
	err := fs.WalkDir(x.root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && name != "." && !keep[name] {
			others = append(others, name)
		}
		return err
	})
	for i := len(others) - 1; i >= 0 && err == nil; i-- { // children first
		err = x.root.Remove(filepath.FromSlash(others[i]))
	}
	if err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	return nil
}

// goOn writes the rest of a file.
func (x *extractor) goOn(p Partial, h hash.Hash, src *source) error {
	if p.Size < p.Written || p.Size > x.left {
		return fmt.Errorf("%w: %q: %d bytes of %d", ErrState, p.Name, p.Written, p.Size)
	}
	x.left -= p.Size
	x.members++
	x.last = p.Name
	f, err := x.root.OpenFile(filepath.FromSlash(p.Name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("extract %q: %w", p.Name, err)
	}
	if err := f.Truncate(p.Written); err != nil {
		f.Close()
		return fmt.Errorf("extract %q: %w", p.Name, err)
	}
	src.budget = p.Size - p.Written
	if err := x.write(f, p, h, src, src); err != nil {
		return err
	}
	return src.skipPadding()
}

// state reports how far the extraction is, if anybody wants to know and could
// use it: a compressed stream cannot be entered in its middle.
func (x *extractor) state(src *source, partial *Partial) error {
	if x.opts.OnState == nil || src.compressed {
		return nil
	}
	return x.opts.OnState(State{Offset: src.offset, Files: x.files, Dirs: x.dirs, Partial: partial})
}

// skipPadding reads up to the next header.
func (s *source) skipPadding() error {
	s.budget = padding(s.offset)
	_, err := io.CopyN(io.Discard, s, s.budget)
	if err != nil {
		return s.explain("", err)
	}
	return nil
}
