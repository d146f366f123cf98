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
	o := begin(dst, in)
	o.text("checkpoint_id", c.CheckpointID)
	o.text("checkpoint_type", string(c.CheckpointType))
	if err := o.key("time").time(c.Time.AppendText); err != nil {
		return dst, err
	}
	o.text("tinker_path", c.TinkerPath)
	return o.rest(dst, c)
}

// AppendAt is Append for a checkpoint at a path, which need not be in c: neither
// it nor the id and the type that are parts of it.
func AppendAt(dst []byte, p tinkex.TinkerPath, c *tinkex.Checkpoint, in Indent) ([]byte, error) {
	segment := p.Type.Segment()
	if !isPlain(p.RunID) || !isPlain(segment) || !isPlain(p.Name) {
		whole := *c
		whole.CheckpointID, whole.CheckpointType, whole.TinkerPath = p.CheckpointID(), p.Type, p.String()
		return Append(dst, &whole, in)
	}
	o := begin(dst, in)
	o.key("checkpoint_id").parts(segment, "/", p.Name)
	o.text("checkpoint_type", string(p.Type))
	if err := o.key("time").time(c.Time.AppendText); err != nil {
		return dst, err
	}
	o.key("tinker_path").parts(tinkex.Scheme, p.RunID, "/", segment, "/", p.Name)
	return o.rest(dst, c)
}

// rest writes what comes after the path.
func (o *object) rest(dst []byte, c *tinkex.Checkpoint) ([]byte, error) {
	if c.SizeBytes != nil {
		o.key("size_bytes")
		o.dst = strconv.AppendInt(o.dst, *c.SizeBytes, 10)
	}
	o.key("public")
	o.dst = strconv.AppendBool(o.dst, c.Public)
	if len(c.UserMetadata) > 0 {
		o.key("user_metadata")
		m := object{dst: append(o.dst, '{'), in: o.in, level: o.level + 1}
		for _, k := range slices.Sorted(maps.Keys(c.UserMetadata)) {
			m.pair(k, c.UserMetadata[k])
		}
		o.dst = m.close()
	}
	if c.ExpiresAt != nil {
		if err := o.key("expires_at").time(c.ExpiresAt.AppendText); err != nil {
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

func begin(dst []byte, in Indent) *object {
	return &object{dst: append(dst, '{'), in: in, level: 1}
}

// key begins a member whose name needs no escaping.
func (o *object) key(k string) *object {
	o.member()
	o.dst = append(append(append(o.dst, '"'), k...), '"', ':')
	if o.in.Lines {
		o.dst = append(o.dst, ' ')
	}
	return o
}

func (o *object) member() {
	if o.members {
		o.dst = append(o.dst, ',')
	}
	o.members = true
	o.line(o.level)
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

// pair is text for a name that may need escaping.
func (o *object) pair(k, v string) {
	o.member()
	o.dst = append(AppendString(o.dst, k), ':')
	if o.in.Lines {
		o.dst = append(o.dst, ' ')
	}
	o.dst = AppendString(o.dst, v)
}

// parts writes a string that is made of parts with nothing to escape.
func (o *object) parts(all ...string) {
	o.dst = append(o.dst, '"')
	for _, s := range all {
		o.dst = append(o.dst, s...)
	}
	o.dst = append(o.dst, '"')
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
	if !isPlain(s) {
		return appendEscaped(dst, s)
	}
	dst = append(append(dst, '"'), s...)
	return append(dst, '"')
}

// isPlain reports whether nothing in a string needs to be escaped.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func appendEscaped(dst []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // strings can be
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
