package tinkex

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// UnmarshalJSON implements json.Unmarshaler, for times without a time zone,
// which are UTC.
func (c *Checkpoint) UnmarshalJSON(b []byte) error {
	if c.UserMetadata == nil {
		k := *c
		if r := (checkpointReader{rest: b}); r.checkpoint(&k) {
			*c = k
			return nil
		}
	}
	type plain Checkpoint
	in := struct {
		*plain
		Time      jsonTime  `json:"time"`
		ExpiresAt *jsonTime `json:"expires_at"`
	}{plain: (*plain)(c)}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	c.Time = in.Time.Time
	c.ExpiresAt = nil
	if in.ExpiresAt != nil {
		c.ExpiresAt = &in.ExpiresAt.Time
	}
	return nil
}

// checkpointReader reads checkpoints as servers write them: in ASCII, without
// spaces or escapes, and with no field that is new. Lists of them are long, and
// this takes a fifth of the time that encoding/json does. It gives up on all
// else, which may be JSON all the same: that is for encoding/json to say.
type checkpointReader struct {
	rest []byte
	// model is the last base model: in a list there are few.
	model string
}

// line reads a checkpoint that is a line of a list.
func (r *checkpointReader) line(b []byte) (k Checkpoint, err error) {
	if r.rest = b; r.checkpoint(&k) {
		return k, nil
	}
	return decodeCheckpoint(b)
}

// decodeCheckpoint is apart from line, where k would be on the heap because of it.
//
//go:noinline
func decodeCheckpoint(b []byte) (k Checkpoint, err error) {
	err = json.Unmarshal(b, &k)
	return k, err
}

// checkpoint reports whether it read all there was. Fields that are not there
// stay as they are in c.
func (r *checkpointReader) checkpoint(c *Checkpoint) bool {
	var id []byte
	if !r.object(func(key []byte) bool { return r.field(c, key, &id) }) {
		return false
	}
	switch {
	case id == nil:
	case strings.HasSuffix(c.TinkerPath, string(id)):
		c.CheckpointID = c.TinkerPath[len(c.TinkerPath)-len(id):]
	default:
		c.CheckpointID = string(id)
	}
	return len(r.rest) == 0
}

func (r *checkpointReader) field(c *Checkpoint, key []byte, id *[]byte) bool {
	switch string(key) {
	case "size_bytes":
		n, ok := r.number()
		c.SizeBytes = &n
		return ok
	case "public":
		public, ok := r.boolean()
		c.Public = public
		return ok
	case "user_metadata":
		if c.UserMetadata != nil {
			return false // encoding/json adds to it
		}
		c.UserMetadata = map[string]string{}
		return r.object(func(key []byte) bool {
			value, ok := r.text()
			c.UserMetadata[string(key)] = string(value)
			return ok
		})
	}
	text, ok := r.text()
	if !ok {
		return false
	}
	switch string(key) {
	case "checkpoint_id":
		*id = text
	case "checkpoint_type":
		c.CheckpointType = typeNamed(text)
	case "time":
		return c.Time.UnmarshalText(text) == nil
	case "tinker_path":
		c.TinkerPath = string(text)
	case "expires_at":
		c.ExpiresAt = new(time.Time)
		return c.ExpiresAt.UnmarshalText(text) == nil
	case "base_model":
		if string(text) != r.model {
			r.model = string(text)
		}
		c.BaseModel = r.model
	default:
		return false
	}
	return true
}

// object calls member for every member of an object, to read its value.
func (r *checkpointReader) object(member func(key []byte) bool) bool {
	if !r.next('{') {
		return false
	}
	for more := !r.next('}'); more; more = !r.next('}') {
		key, ok := r.text()
		if !ok || !r.next(':') || !member(key) || len(r.rest) == 0 {
			return false
		}
		if r.rest[0] != '}' && (!r.next(',') || !r.at('"')) {
			return false
		}
	}
	return true
}

// typeNamed spares a type that is known its memory.
func typeNamed(b []byte) CheckpointType {
	for _, t := range []CheckpointType{Training, Sampler, External} {
		if string(b) == string(t) {
			return t
		}
	}
	return CheckpointType(b)
}

func (r *checkpointReader) at(c byte) bool { return len(r.rest) > 0 && r.rest[0] == c }

func (r *checkpointReader) next(c byte) bool {
	if !r.at(c) {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

func (r *checkpointReader) text() ([]byte, bool) {
	if !r.next('"') {
		return nil, false
	}
	for n, c := range r.rest {
		switch {
		case c == '"':
			text := r.rest[:n]
			r.rest = r.rest[n+1:]
			return text, true
		case c < ' ' || c >= 0x80 || c == '\\':
			return nil, false
		}
	}
	return nil, false
}

func (r *checkpointReader) number() (n int64, ok bool) {
	digits := 0
	for digits < len(r.rest) && '0' <= r.rest[digits] && r.rest[digits] <= '9' {
		n = 10*n + int64(r.rest[digits]-'0')
		digits++
	}
	if digits == 0 || digits > 18 || digits > 1 && r.at('0') {
		return 0, false
	}
	r.rest = r.rest[digits:]
	return n, true
}

func (r *checkpointReader) boolean() (value, ok bool) {
	if rest, ok := bytes.CutPrefix(r.rest, []byte("true")); ok {
		r.rest = rest
		return true, true
	}
	rest, ok := bytes.CutPrefix(r.rest, []byte("false"))
	r.rest = rest
	return false, ok
}
