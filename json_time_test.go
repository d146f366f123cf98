package tinkex

import (
	"encoding/json"
	"testing"
	"time"
)

func TestTimesAsServersWriteThem(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for text, want := range map[string]time.Time{
		`"2026-01-02T03:04:05.678Z"`:         at,
		`"2026-01-02T04:04:05.678000+01:00"`: at,
		`"2026-01-02T03:04:05.678"`:          at,
		`"2026-01-02 03:04:05.678000+00:00"`: at,
		`"2026-01-02 03:04:05.678"`:          at,
		`"2026-01-02T03:04:05"`:              at.Truncate(time.Second),
		`null`:                               {},
	} {
		var c Checkpoint
		if err := json.Unmarshal([]byte(`{"checkpoint_id":"weights/a","time":`+text+`,"expires_at":`+text+`}`), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !c.Time.Equal(want) || c.CheckpointID != "weights/a" {
			t.Errorf("%s was read as %v of %q", text, c.Time, c.CheckpointID)
		}
		if c.ExpiresAt == nil != want.IsZero() || c.ExpiresAt != nil && !c.ExpiresAt.Equal(want) {
			t.Errorf("%s: it expires at %v", text, c.ExpiresAt)
		}
		var r TrainingRun
		if err := json.Unmarshal([]byte(`{"training_run_id":"r","last_request_time":`+text+`}`), &r); err != nil || !r.LastRequestTime.Equal(want) || r.TrainingRunID != "r" {
			t.Errorf("%s: run %q of %v, %v", text, r.TrainingRunID, r.LastRequestTime, err)
		}
	}
	for _, text := range []string{`"yesterday"`, `12`, `""`, `"2026-13-01T00:00:00Z"`, `{}`} {
		var c Checkpoint
		if err := json.Unmarshal([]byte(`{"time":`+text+`}`), &c); err == nil {
			t.Errorf("%s was read as %v", text, c.Time)
		}
		var r TrainingRun
		if err := json.Unmarshal([]byte(`{"last_request_time":`+text+`}`), &r); err == nil {
			t.Errorf("%s was read as %v", text, r.LastRequestTime)
		}
	}
}
