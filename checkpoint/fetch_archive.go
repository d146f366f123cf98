package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/safetensors"
	"github.com/tinkex/tinkex/internal/transfer"
)

// completeFile is the empty file that ends every complete checkpoint.
const completeFile = "checkpoint_complete"

// fetchArchive unpacks a checkpoint's archive as it arrives.
func (d *download) fetchArchive(ctx context.Context, part *partial) ([]File, error) {
	files, err := d.unpack(ctx, part)
	switch {
	case errors.Is(err, transfer.ErrNoRanges), errors.Is(err, archive.ErrState):
		err = fmt.Errorf("%w: %w", errStartOver, err)
	case errors.Is(err, archive.ErrUnsafe) && !errors.Is(err, archive.ErrTruncated):
		// Going on from it would end the same way.
		err = errors.Join(err, part.clear())
	}
	return files, err
}

func (d *download) unpack(ctx context.Context, part *partial) ([]File, error) {
	resume := part.state.Archive
	if resume == nil || part.state.Digest == "" {
		// Without an entity tag there is no telling whether it is the same archive.
		if err := part.clear(); err != nil {
			return nil, err
		}
		resume = nil
	}
	o := transfer.Object{
		Name: d.path.String(), Size: -1, ETag: part.state.Digest,
		Locate: func(ctx context.Context, _ string) (string, error) {
			u, err := d.client.ArchiveURL(ctx, d.path)
			return u.URL, err
		},
	}
	var offset int64
	if resume != nil {
		offset = resume.Offset
	}
	r, err := d.remote.Open(ctx, o, offset, d.progress.arrived)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d.progress.begin(r.Size())
	if offset > 0 {
		d.progress.resumed(offset)
	}
	opts := archive.ExtractOptions{Sync: true, Resume: resume}
	states := archiveStates{saved: offset, save: func(s *archive.State) error {
		part.state.Digest, part.state.Archive = r.ETag(), s
		return part.save()
	}}
	if r.Ranged() && r.ETag() != "" {
		opts.OnState = states.reached
	}
	stream := &countedStream{r: r}
	unpacked, err := archive.Extract(ctx, stream, part.files(), opts)
	_ = states.flush() // if it cannot be saved, an earlier one is there
	if errors.Is(err, archive.ErrTruncated) && r.Size() < 0 && d.patient && stream.n != d.cutAt {
		// The server did not say how long it is, so this may be how a connection
		// looks that was cut. What ends there twice is what the server has.
		d.cutAt = stream.n
		return nil, fmt.Errorf("%w: %w", errStartOver, err)
	}
	if err != nil {
		return nil, err
	}
	files := make([]File, len(unpacked))
	names := make([]string, len(unpacked))
	for i, f := range unpacked {
		files[i] = File{Name: f.Name, Size: f.Size, SHA256: fmt.Sprintf("%x", f.SHA256)}
		names[i] = f.Name
	}
	if err := checkNames(names); err != nil {
		return nil, errors.Join(err, part.clear())
	}
	return files, d.checkContents(part, files)
}

// countedStream counts what is read from it.
type countedStream struct {
	r io.Reader
	n int64
}

func (c *countedStream) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// archiveStates saves how far an archive is unpacked: often enough for little to
// be fetched again after a crash, and seldom enough for the states of an archive
// of many files, each of which names all before it, to stay small beside it.
type archiveStates struct {
	save  func(*archive.State) error
	saved int64 // the offset of the last one saved
	last  *archive.State
}

const (
	// stateBytes is how much of an archive is unpacked between two states that
	// are saved, at least.
	stateBytes = 1 << 20
	// stateBytesPerFile is how much more for every file before it, of which a
	// state has some 200 bytes.
	stateBytesPerFile = 8 << 10
)

// reached takes a state, and saves it if it is time to.
func (a *archiveStates) reached(s archive.State) error {
	a.last = &s
	if s.Offset-a.saved < max(stateBytes, int64(len(s.Files))*stateBytesPerFile) {
		return nil
	}
	return a.flush()
}

// flush saves the last state, if it has not been.
func (a *archiveStates) flush() error {
	s := a.last
	if s == nil {
		return nil
	}
	a.last, a.saved = nil, s.Offset
	return a.save(s)
}

// checkContents checks what can be checked without digests.
func (d *download) checkContents(part *partial, files []File) error {
	complete := false
	for _, f := range files {
		complete = complete || f.Name == completeFile
		if err := checkSafetensors(part.files(), f.Name); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", f.Name, err), part.clear())
		}
	}
	if !complete {
		d.notice("the archive has no " + completeFile + ", which complete checkpoints end with")
	}
	return nil
}

// checkSafetensors checks that a safetensors file is as long as its header
// says; other files pass.
func checkSafetensors(dir, name string) error {
	if !strings.HasSuffix(name, ".safetensors") {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = safetensors.Open(f, info.Size())
	return err
}
