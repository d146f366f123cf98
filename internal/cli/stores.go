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
	blobsDir = "blobs"       // its blobs, there too
	lockFile = "server.lock" // which a running server holds
)

// openStores opens the stores of a server. Unlike a server it makes none: an
// empty one would be found to be in good order, and one of two that do not
// belong together to have lost everything.
func openStores(ctx context.Context, where node.Stores) (*stores, error) {
	for _, part := range []struct {
		elsewhere  bool
		name, flag string
	}{
		{where.DB != "", metaFile, "--db"},
		{where.Blobs != "", blobsDir, "--blobs"},
	} {
		if part.elsewhere {
			continue
		}
		_, err := os.Stat(filepath.Join(where.DataDir, part.name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("--data-dir: there is no %s in %s: expected the directory that tinkex serve keeps its data in, or %s as the server has it",
				part.name, where.DataDir, part.flag)
		}
		if err != nil {
			return nil, err
		}
	}
	meta, err := where.OpenMeta(ctx)
	if err != nil {
		return nil, err
	}
	blobs, err := where.OpenBlobs(ctx)
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return &stores{meta, blobs}, nil
}

func (s *stores) close() error { return errors.Join(s.blobs.Close(), s.meta.Close()) }

// keepServersOut makes sure that no server has the stores, and that none gets
// them before release is called.
func keepServersOut(where node.Stores) (release func(), err error) {
	if where.DB != "" {
		return nil, errors.New("whether a server uses a database cannot be told")
	}
	dataDir := where.DataDir
	l := flock.New(filepath.Join(dataDir, lockFile))
	locked, err := l.TryLock()
	if err == nil && !locked {
		err = fmt.Errorf("a server is using %s", dataDir)
	}
	return func() { _ = l.Unlock() }, err
}
