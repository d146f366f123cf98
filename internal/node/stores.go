package node

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/tinkex/tinkex/internal/blobstore"
	_ "github.com/tinkex/tinkex/internal/blobstore/drivers" // --blobs
	"github.com/tinkex/tinkex/internal/durable"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Stores says where metadata and blobs are. Both are in the data directory
// unless they have a place of their own.
type Stores struct {
	// DataDir is made if it is not there. It is not used if both others are
	// given. If all are empty, everything is kept in memory, for as long as
	// the node lives.
	DataDir string
	// DB is the URL of a PostgreSQL database.
	DB string
	// Blobs is the URL of a bucket, see blobstore.Open.
	Blobs string
}

// Local reports whether anything is kept in the data directory.
func (s Stores) Local() bool { return s.DataDir != "" && (s.DB == "" || s.Blobs == "") }

// Shared reports whether other servers can work on the same metadata.
func (s Stores) Shared() bool { return s.DB != "" }

// errDB does not repeat what was given, which may be a URL with a password.
var errDB = errors.New("not the URL of a PostgreSQL database; expected postgres://USER@HOST/DATABASE")

// Check reports what is wrong with DB as such.
func (s Stores) Check() error {
	if s.DB == "" || strings.HasPrefix(s.DB, "postgres://") || strings.HasPrefix(s.DB, "postgresql://") {
		return nil
	}
	return errDB
}

func (s Stores) sqlite() string {
	if s.DataDir == "" {
		return ":memory:"
	}
	return filepath.Join(s.DataDir, "tinkex.db")
}

// OpenMeta opens the metadata and brings its schema up to date. Commands may
// work beside a running server.
func (s Stores) OpenMeta(ctx context.Context) (metastore.Store, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if s.DB != "" {
		return metastore.OpenPostgres(ctx, s.DB)
	}
	return metastore.OpenSQLite(ctx, s.sqlite())
}

// Schema says how far the metadata's schema is. It changes nothing.
func (s Stores) Schema(ctx context.Context) (metastore.Schema, error) {
	if err := s.Check(); err != nil {
		return metastore.Schema{}, err
	}
	if s.DB != "" {
		return metastore.PostgresSchema(ctx, s.DB)
	}
	return metastore.SQLiteSchema(ctx, s.sqlite())
}

// OpenBlobs opens the blobs.
func (s Stores) OpenBlobs(ctx context.Context) (blobstore.Store, error) {
	switch {
	case s.Blobs != "":
		return blobstore.Open(ctx, s.Blobs)
	case s.DataDir != "":
		return blobstore.OpenFolder(s.DataDir)
	}
	return blobstore.NewMemory(), nil
}

// kinds names the kinds of the stores, for metrics.
func (s Stores) kinds() (meta, blobs string) {
	meta, blobs = "sqlite", "folder"
	if s.DB != "" {
		meta = "postgresql"
	}
	scheme, _, isURL := strings.Cut(s.Blobs, "://")
	switch {
	case s.Blobs == "" && s.DataDir == "" || scheme == "mem":
		blobs = "memory"
	case isURL && scheme != "file":
		blobs = scheme
	}
	return meta, blobs
}

// disk tells the space where it is least, of the directories that something is
// kept in. It is nil if there are none.
func (s Stores) disk() func() (free, size uint64, err error) {
	var dirs []string
	if s.Local() {
		dirs = append(dirs, s.DataDir)
	}
	if scheme, path, isURL := strings.Cut(s.Blobs, "://"); !isURL && s.Blobs != "" {
		dirs = append(dirs, s.Blobs)
	} else if scheme == "file" && filepath.IsAbs(path) {
		dirs = append(dirs, path)
	}
	if len(dirs) == 0 {
		return nil
	}
	return func() (free, size uint64, err error) {
		for i, dir := range dirs {
			f, s, err := durable.Space(dir)
			if err != nil {
				return 0, 0, err
			}
			if i == 0 || f < free {
				free, size = f, s
			}
		}
		return free, size, nil
	}
}

// Describe names the stores without secrets, for logs.
func (s Stores) Describe() (meta, blobs string) {
	meta, blobs = s.sqlite(), s.DataDir
	if s.DB != "" {
		meta = "PostgreSQL"
		if u, err := url.Parse(s.DB); err == nil && s.Check() == nil {
			meta = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
		}
	}
	if s.Blobs != "" {
		blobs = blobstore.Redact(s.Blobs)
	}
	return meta, blobs
}
