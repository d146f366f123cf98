package cli

import (
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/pflag"

	"github.com/tinkex/tinkex/internal/node"
)

// storeFlags say where a server's stores are. The environment's URLs are no
// defaults of the flags: help texts show those, and a URL may hold a password.
type storeFlags struct{ dataDir, db, blobs string }

func (f *storeFlags) add(flags *pflag.FlagSet, blobs bool) {
	flags.StringVar(&f.dataDir, "data-dir", defaultDataDir(), "where everything is kept that has no place of its own")
	flags.StringVar(&f.db, "db", "", "keep metadata in this PostgreSQL database: postgres://USER@HOST/DATABASE (default TINKEX_DB, then SQLite in the data directory)")
	if blobs {
		flags.StringVar(&f.blobs, "blobs", "", "keep checkpoints' bytes in this bucket: s3://BUCKET?region=REGION, azblob://CONTAINER, gs://BUCKET (default TINKEX_BLOBS, then the data directory)")
	}
}

func (f *storeFlags) stores() (node.Stores, error) {
	s := node.Stores{DataDir: f.dataDir, DB: f.db, Blobs: f.blobs}
	from := "--db"
	if s.DB == "" {
		s.DB, from = os.Getenv("TINKEX_DB"), "TINKEX_DB"
	}
	if s.Blobs == "" {
		s.Blobs = os.Getenv("TINKEX_BLOBS")
	}
	if err := s.Check(); err != nil {
		return s, usagef("%s: %v", from, err)
	}
	return s, nil
}

// defaultDataDir is where a server of one's own keeps its data unless told
// otherwise: the platform's place for an application's data.
func defaultDataDir() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return "tinkex-data"
	}
	switch runtime.GOOS {
	case "darwin":
		return filepath.Join(home, "Library", "Application Support", "tinkex")
	case "windows":
		if dir := os.Getenv("LOCALAPPDATA"); dir != "" {
			return filepath.Join(dir, "tinkex")
		}
		return filepath.Join(home, "AppData", "Local", "tinkex")
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tinkex")
	}
	return filepath.Join(home, ".local", "share", "tinkex")
}
