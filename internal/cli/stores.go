package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/node"
)

// stores are those of a server of one's own, for commands that look after them
// beside the server.
type stores struct {
	meta  metastore.Store
	blobs blobstore.Store
}

const (
	metaFile = "tinkex.db"   // a server's metadata, in its data directory
	lockFile = "server.lock" // which a running server holds
)

// openStores opens the stores in a data directory. Unlike a server it makes
// none: an empty one would be found to be in good order.
func openStores(ctx context.Context, dataDir string) (*stores, error) {
	if _, err := os.Stat(filepath.Join(dataDir, metaFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("--data-dir: there is no %s in %s: expected the directory that tinkex serve keeps its data in", metaFile, dataDir)
		}
		return nil, err
	}
	meta, err := node.OpenMeta(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	blobs, err := blobstore.OpenFolder(dataDir)
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return &stores{meta, blobs}, nil
}

func (s *stores) close() error { return errors.Join(s.blobs.Close(), s.meta.Close()) }

// keepServersOut makes sure that no server has the data directory, and that
// none gets it before release is called.
func keepServersOut(dataDir string) (release func(), err error) {
	l := flock.New(filepath.Join(dataDir, lockFile))
	locked, err := l.TryLock()
	if err == nil && !locked {
		err = fmt.Errorf("a server is using %s", dataDir)
	}
	return func() { _ = l.Unlock() }, err
}
