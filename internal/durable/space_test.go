package durable

import (
	"path/filepath"
	"testing"
)

func TestSpace(t *testing.T) {
	if free, size, err := Space(t.TempDir()); err != nil || free == 0 || size < free {
		t.Errorf("%d bytes of %d, %v", free, size, err)
	}
	if _, _, err := Space(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that is not there has space")
	}
}
