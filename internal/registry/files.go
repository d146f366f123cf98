package registry

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
)

// OpenFile reads a part of a checkpoint's file; a negative length is up to the
// end.
func (r *Registry) OpenFile(ctx context.Context, f metastore.File, offset, length int64) (io.ReadCloser, error) {
	return r.blobs.OpenRange(ctx, f.Digest, offset, length)
}

// files presents a manifest as a file system, for engines to load from.
func (r *Registry) files(ctx context.Context, files []metastore.File) fs.FS {
	return manifestFS{ctx, r.blobs, files}
}

type manifestFS struct {
	ctx   context.Context
	blobs blobstore.Store
	files []metastore.File
}

func (m manifestFS) Open(name string) (fs.File, error) {
	for _, f := range m.files {
		if f.Name == name {
			return &manifestFile{fsys: m, file: f}, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// manifestFile reads a blob from its start, or anywhere through ReadAt.
type manifestFile struct {
	fsys manifestFS
	file metastore.File
	r    io.ReadCloser
}

func (f *manifestFile) Stat() (fs.FileInfo, error) { return fileInfo{f.file}, nil }

func (f *manifestFile) Read(p []byte) (int, error) {
	if f.r == nil {
		r, err := f.fsys.blobs.OpenRange(f.fsys.ctx, f.file.Digest, 0, -1)
		if err != nil {
			return 0, err
		}
		f.r = r
	}
	return f.r.Read(p)
}

func (f *manifestFile) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), f.file.Size-off)
	if off < 0 || n < 0 || n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	r, err := f.fsys.blobs.OpenRange(f.fsys.ctx, f.file.Digest, off, n)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	got, err := io.ReadFull(r, p[:n])
	if err == nil && got < len(p) {
		err = io.EOF
	}
	return got, err
}

func (f *manifestFile) Close() error {
	if f.r == nil {
		return nil
	}
	return f.r.Close()
}

type fileInfo struct{ file metastore.File }

func (i fileInfo) Name() string       { return i.file.Name }
func (i fileInfo) Size() int64        { return i.file.Size }
func (i fileInfo) Mode() fs.FileMode  { return 0o444 }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }
