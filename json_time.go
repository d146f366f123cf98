package tinkex

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// jsonTime reads times as servers write them: RFC 3339, or the same without a
// time zone, which is UTC, as Python does.
type jsonTime struct{ time.Time }

func (t *jsonTime) UnmarshalJSON(b []byte) error {
	s, err := strconv.Unquote(string(b))
	if err != nil {
		if string(b) == "null" {
			return nil
		}
		return fmt.Errorf("%s is not a time", excerpt(string(b)))
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999"} {
		if t.Time, err = time.Parse(layout, s); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%q is not a time", clean(s, 64))
}

// UnmarshalJSON implements json.Unmarshaler, for times without a time zone,
// which are UTC.
func (r *TrainingRun) UnmarshalJSON(b []byte) error {
	type plain TrainingRun
	in := struct {
		*plain
		LastRequestTime jsonTime `json:"last_request_time"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	r.LastRequestTime = in.LastRequestTime.Time
	return nil
}
