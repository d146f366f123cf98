package metastore

import (
	"fmt"
	"strconv"
	"strings"
)

// checkpointRow selects all that scanCheckpoint reads of a checkpoint, as one
// text: numbers and the lengths of the strings, each followed by a space, and
// then the strings. NULL is nothing. Lists are long, and what a row costs is its
// columns: read one by one, they take three times as long.
const checkpointRow = `concat(id, ' ', size_bytes, ' ', created_at, ' ', expires_at, ' ', lora_rank, ' ',
	listed + 2 * public + 4 * train_attn + 8 * train_mlp + 16 * train_unembed + 32 * has_optimizer, ' ',
	octet_length(run_id), ' ', octet_length(kind), ' ', octet_length(name), ' ',
	octet_length(owner), ' ', octet_length(base_model), ' ',
	run_id, kind, name, owner, base_model, user_metadata)`

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
	flags := r.number()
	c.Listed, c.Public, c.HasOptimizer = flags&1 != 0, flags&2 != 0, flags&32 != 0
	c.LoRA.TrainAttn, c.LoRA.TrainMLP, c.LoRA.TrainUnembed = flags&4 != 0, flags&8 != 0, flags&16 != 0
	var lengths [5]int64
	for i := range lengths {
		lengths[i] = r.number()
	}
	c.RunID = r.text(lengths[0])
	c.Kind = Kind(r.text(lengths[1]))
	c.Name = r.text(lengths[2])
	c.Owner = r.text(lengths[3])
	c.LoRA.BaseModel = r.text(lengths[4])
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

// skip leaves out a number that is not there.
func (r *rowReader) skip() {
	if r.rest == "" {
		r.bad = true
		return
	}
	r.rest = r.rest[1:]
}

func (r *rowReader) text(length int64) string {
	if r.bad || length < 0 || length > int64(len(r.rest)) {
		r.bad = true
		return ""
	}
	s := r.rest[:length]
	r.rest = r.rest[length:]
	return s
}
