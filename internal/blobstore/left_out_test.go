package blobstore

import (
	"strings"
	"testing"
)

func TestLeftOut(t *testing.T) {
	// This test's program has the drivers, of all but Google's.
	for scheme, says := range map[string]string{"gs": "-tags gcs", "ftp": "ftp:// is not known here; use a directory, s3://"} {
		if err := leftOut(scheme); !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}
