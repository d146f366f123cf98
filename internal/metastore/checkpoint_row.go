package metastore

import (
	"fmt"
	"strconv"
	"strings"
)

// checkpointRow selects all that scanCheckpoint reads of a checkpoint, as one
// text: numbers and flags, each with a space behind it, and then strings, with
// separators between them. NULL is nothing. Lists are long, and what a row costs
// is its columns: read one by one, they take three times as long.
const checkpointRow = `concat(id, ' ', size_bytes, ' ', created_at, ' ', expires_at, ' ', lora_rank, ' ',
	listed, public, train_attn, train_mlp, train_unembed, has_optimizer, ' ',
	run_id, '` + separator + `', kind, '` + separator + `', name, '` + separator + `', owner, '` + separator + `',
	base_model, '` + separator + `', user_metadata)`

// separator is what no string of a checkpoint's may have in it, but user
// metadata, which comes last.
const separator = "\x1f"

// separable reports a checkpoint that could not be read back.
func (c *Checkpoint) separable() error {
	for what, s := range map[string]string{"run id": c.RunID, "name": c.Name, "owner": c.Owner, "base model": c.LoRA.BaseModel} {
		if strings.Contains(s, separator) {
			return fmt.Errorf("checkpoint %q: its %s %q contains the control character U+001F", c.id(), what, s)
		}
	}
	return nil
}

// scanCheckpoint reads a row that begins with checkpointRow.
func scanCheckpoint(row scanner) (Checkpoint, error) {
	var text string
	if err := row.Scan(&text); err != nil {
		return Checkpoint{}, err
	}
	return parseCheckpointRow(text)
}

// parseCheckpointRow returns a checkpoint whose strings are parts of the text.
func parseCheckpointRow(text string) (c Checkpoint, err error) {
	r := rowReader{rest: text}
	c.ID, c.SizeBytes, c.CreatedAt = r.number(), r.number(), moment(r.number())
	if r.rest != "" && r.rest[0] != ' ' {
		at := moment(r.number())
		c.ExpiresAt = &at
	} else {
		r.skip()
	}
	c.LoRA.Rank = int(r.number())
	c.Listed, c.Public = r.flag(), r.flag()
	c.LoRA.TrainAttn, c.LoRA.TrainMLP, c.LoRA.TrainUnembed = r.flag(), r.flag(), r.flag()
	c.HasOptimizer = r.flag()
	r.skip()
	c.RunID, c.Kind, c.Name, c.Owner, c.LoRA.BaseModel = r.text(), Kind(r.text()), r.text(), r.text(), r.text()
	if r.bad {
		return Checkpoint{}, fmt.Errorf("a row of a checkpoint makes no sense: %.200q", text)
	}
	if r.rest != "" {
		if err := fromJSON(&r.rest, &c.UserMetadata); err != nil {
			return Checkpoint{}, fmt.Errorf("checkpoint %s: user metadata: %w", c.id(), err)
		}
	}
	return c, nil
}

// rowReader takes a row apart.
type rowReader struct {
	rest string
	bad  bool // it is not what checkpointRow selects
}

func (r *rowReader) number() int64 {
	digits, rest, found := strings.Cut(r.rest, " ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil {
		r.bad = true
		return 0
	}
	r.rest = rest
	return n
}

func (r *rowReader) flag() bool {
	if r.rest == "" || r.rest[0] != '0' && r.rest[0] != '1' {
		r.bad = true
		return false
	}
	set := r.rest[0] == '1'
	r.rest = r.rest[1:]
	return set
}

// skip leaves out a space.
func (r *rowReader) skip() {
	rest, found := strings.CutPrefix(r.rest, " ")
	r.rest, r.bad = rest, r.bad || !found
}

func (r *rowReader) text() string {
	s, rest, found := strings.Cut(r.rest, separator)
	r.rest, r.bad = rest, r.bad || !found
	return s
}
