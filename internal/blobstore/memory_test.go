package blobstore_test

import (
	"context"
	"testing"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/blobstore/blobstoretest"
)

func TestMemory(t *testing.T) {
	blobstoretest.Run(t, func(t *testing.T) blobstore.Store {
		s := blobstore.NewMemory()
		t.Cleanup(func() {
			for range 2 {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := s.Check(context.Background()); err == nil {
				t.Error("a closed store is still usable")
			}
		})
		return s
	})
}
