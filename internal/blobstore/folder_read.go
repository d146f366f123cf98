package blobstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// readFolder is a folder's store of which nothing is changed.
type readFolder struct{ *folder }

// errReading: the store was opened to be read.
var errReading = errors.New("the store was opened for reading only")

// ReadFolder opens the store in a directory to read it: nothing is written
// there, so it may be one that cannot be written to. What would change it
// fails.
func ReadFolder(dir string) (Store, error) {
	s := &folder{dir: dir, blobs: filepath.Join(dir, blobsName, hashName)}
	if fi, err := os.Stat(s.blobs); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("open blob store in %q: there is none: it has no directory %s", dir, filepath.Join(blobsName, hashName))
	}
	return readFolder{s}, nil
}

func (readFolder) Create(context.Context) (Writer, error) { return nil, errReading }

func (readFolder) AdoptFile(context.Context, string, Digest, int64) (Info, error) {
	return Info{}, errReading
}

func (readFolder) Delete(context.Context, Digest, time.Time) (bool, error) { return false, errReading }

func (readFolder) Quarantine(context.Context, Info) (string, error) { return "", errReading }

func (readFolder) PutAside(context.Context, Stray) (string, error) { return "", errReading }

func (readFolder) Check(context.Context) error { return errReading }

func (s readFolder) Close() error {
	s.closed.Store(true)
	return nil
}
