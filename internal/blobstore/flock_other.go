//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package blobstore

import "os"

// tryLock reports that locks between processes are not to be had here.
func tryLock(*os.File) error { return errNoLocks }

// unlock has nothing to give back.
func unlock(*os.File) error { return nil }
