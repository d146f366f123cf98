// Package checkpointjson writes checkpoints as JSON, in a fraction of the time
// that encoding/json takes: lists of them are long.
package checkpointjson

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/tinkex/tinkex"
)

// Indent is how an object is laid out: members come after Prefix on a line
// each, as encoding/json would with it, and two spaces more for every level.
// The zero value puts everything on one line, without spaces.
type Indent struct {
	Prefix string
	Lines  bool
}

// Append appends what an encoding/json.Encoder writes that does not escape
// HTML. It fails for a time that has no form in RFC 3339.
func Append(dst []byte, c *tinkex.Checkpoint, in Indent) ([]byte, error) {
	o := object{dst: dst, in: in, level: 1}
	o.open()
	o.text("checkpoint_id", c.CheckpointID)
	o.text("checkpoint_type", string(c.CheckpointType))
	o.key("time")
	if err := o.time(c.Time.AppendText); err != nil {
		return dst, err
	}
	o.text("tinker_path", c.TinkerPath)
	if c.SizeBytes != nil {
		o.key("size_bytes")
		o.dst = strconv.AppendInt(o.dst, *c.SizeBytes, 10)
	}
	o.key("public")
	o.dst = strconv.AppendBool(o.dst, c.Public)
	if len(c.UserMetadata) > 0 {
		o.key("user_metadata")
		m := object{dst: o.dst, in: in, level: 2}
		m.open()
		for _, k := range slices.Sorted(maps.Keys(c.UserMetadata)) {
			m.text(k, c.UserMetadata[k])
		}
		o.dst = m.close()
	}
	if c.ExpiresAt != nil {
		o.key("expires_at")
		if err := o.time(c.ExpiresAt.AppendText); err != nil {
			return dst, err
		}
	}
	if c.BaseModel != "" {
		o.text("base_model", c.BaseModel)
	}
	return o.close(), nil
}

// object is one that is being written.
type object struct {
	dst     []byte
	in      Indent
	level   int
	members bool
}

func (o *object) open() { o.dst = append(o.dst, '{') }

func (o *object) key(k string) {
	if o.members {
		o.dst = append(o.dst, ',')
	}
	o.members = true
	o.line(o.level)
	o.dst = append(AppendString(o.dst, k), ':')
	if o.in.Lines {
		o.dst = append(o.dst, ' ')
	}
}

func (o *object) line(level int) {
	if !o.in.Lines {
		return
	}
	o.dst = append(append(o.dst, '\n'), o.in.Prefix...)
	for range level {
		o.dst = append(o.dst, "  "...)
	}
}

func (o *object) text(k, v string) {
	o.key(k)
	o.dst = AppendString(o.dst, v)
}

func (o *object) time(appendText func([]byte) ([]byte, error)) (err error) {
	o.dst = append(o.dst, '"')
	if o.dst, err = appendText(o.dst); err == nil {
		o.dst = append(o.dst, '"')
	}
	return err
}

func (o *object) close() []byte {
	if o.members {
		o.line(o.level - 1)
	}
	return append(o.dst, '}')
}

// AppendString appends a string as JSON.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return appendEscaped(dst, s)
		}
	}
	dst = append(append(dst, '"'), s...)
	return append(dst, '"')
}

func appendEscaped(dst []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // strings can be
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
