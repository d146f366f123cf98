package node

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/metastore"
)

// leastDisk is how much room there has to be in the data directory: enough for
// SQLite's log and a small checkpoint.
const leastDisk = 64 << 20

// checks are what the node needs to do its work. disk is nil if it keeps
// nothing on a disk of its own.
func checks(meta metastore.Store, blobs blobstore.Store, eng engine.Engine, disk func() (free, size uint64, err error)) []health.Check {
	all := []health.Check{
		{Name: "metastore", Run: meta.Check},
		{Name: "blobstore", Run: blobs.Check},
		{Name: "engine", Run: func(context.Context) error {
			if len(eng.BaseModels()) == 0 {
				return health.Problem("no base model is loaded")
			}
			return nil
		}},
	}
	if disk != nil {
		all = append(all, health.Check{Name: "disk", Run: func(context.Context) error {
			free, _, err := disk()
			if err == nil && free < leastDisk {
				err = health.Problem(fmt.Sprintf("%s are left on the disk, less than %s", humanize.IBytes(free), humanize.IBytes(leastDisk)))
			}
			return err
		}})
	}
	return all
}
