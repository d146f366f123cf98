package blobstore

import (
	"strings"
	"testing"
)

func TestLeftOut(t *testing.T) {
	// This test's program has the drivers, of all but Google's.
	for scheme, says := range map[string]string{"gs": "-tags gcs", "other": "checkpoint/buckets"} {
		if err := leftOut(scheme); !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}
