package checkpoint

import (
	"context"
	"errors"
	"fmt"
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
	if r.Ranged() && r.ETag() != "" {
		opts.OnState = func(s archive.State) error {
			part.state.Digest, part.state.Archive = r.ETag(), &s
			return part.save()
		}
	}
	unpacked, err := archive.Extract(ctx, r, part.files(), opts)
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
