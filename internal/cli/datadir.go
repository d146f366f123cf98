package cli

import (
	"os"
	"path/filepath"
	"runtime"
)

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
