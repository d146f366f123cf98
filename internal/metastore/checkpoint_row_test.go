package metastore

import (
	"strings"
	"testing"
)

// What is not a row is an error, wherever it stops being one.
func TestNotARow(t *testing.T) {
	const row = `7 12 1000000  8 63 3 7 1 5 5 runweightsnalicemodel{"a":"b"}`
	c, err := parseCheckpointRow(row)
	if err != nil || c.RunID != "run" || c.Kind != KindTraining || c.Name != "n" || c.Owner != "alice" ||
		c.LoRA.BaseModel != "model" || c.UserMetadata["a"] != "b" || c.ExpiresAt != nil || !c.HasOptimizer {
		t.Fatalf("%q is %+v, %v", row, c, err)
	}
	whole := strings.Index(row, "{")
	for n := range row {
		if _, err := parseCheckpointRow(row[:n]); (err == nil) != (n == whole) {
			t.Errorf("%q: %v", row[:n], err)
		}
	}
	for _, bad := range []string{
		`x 12 1000000  8 63 3 7 1 5 5 runweightsnalicemodel`,
		`7 12 1000000 x 8 63 3 7 1 5 5 runweightsnalicemodel`,
		`7 12 1000000  8 63 -3 7 1 5 5 runweightsnalicemodel`,
		`7 12 1000000  8 63 3 7 1 5 99999999999999999999 runweightsnalicemodel`,
		`7 12 1000000  8 63 9223372036854775807 7 1 5 5 runweightsnalicemodel`,
	} {
		if _, err := parseCheckpointRow(bad); err == nil {
			t.Errorf("%q is taken for a row", bad)
		}
	}
}
