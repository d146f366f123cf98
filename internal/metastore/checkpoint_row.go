package metastore

import (
	"fmt"
	"strconv"
	"strings"
)

// What is read of a checkpoint comes as one text: numbers and flags, each with a
// space behind it, and then strings, each with a separator behind it. NULL is
// nothing. Lists are long, and what a row costs is its columns, if they are read
// one by one.
const (
	// listedRow is what scanListed reads.
	listedRow = `concat(` + listedColumns + `)`
	// checkpointRow is what scanCheckpoint reads.
	checkpointRow = `concat(lora_rank, ' ', listed, train_attn, train_mlp, train_unembed, has_optimizer, ' ',
	owner, '` + separator + `', ` + listedColumns + `)`

	listedColumns = `id, ' ', size_bytes, ' ', created_at, ' ', expires_at, ' ', public, ' ',
	run_id, '` + separator + `', kind, '` + separator + `', name, '` + separator + `', base_model, '` + separator + `', user_metadata`
)

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
func scanCheckpoint(row scanner) (Checkpoint, error) { return scanText(row, parseCheckpointRow) }

// scanListed reads a row that begins with listedRow.
func scanListed(row scanner) (ListedCheckpoint, error) { return scanText(row, parseListedRow) }

func scanText[T any](row scanner, parse func(string) (T, error)) (T, error) {
	var text string
	if err := row.Scan(&text); err != nil {
		var none T
		return none, err
	}
	return parse(text)
}

// parseCheckpointRow returns a checkpoint whose strings are parts of the text.
func parseCheckpointRow(text string) (c Checkpoint, err error) {
	r := rowReader{rest: text}
	c.LoRA.Rank = int(r.number())
	c.Listed = r.flag()
	c.LoRA.TrainAttn, c.LoRA.TrainMLP, c.LoRA.TrainUnembed = r.flag(), r.flag(), r.flag()
	c.HasOptimizer = r.flag()
	r.space()
	c.Owner = r.text()
	l, err := r.listed()
	if err != nil {
		return Checkpoint{}, err
	}
	c.ID, c.RunID, c.Kind, c.Name, c.Public, c.SizeBytes = l.ID, l.RunID, l.Kind, l.Name, l.Public, l.SizeBytes
	c.CreatedAt, c.ExpiresAt, c.UserMetadata, c.LoRA.BaseModel = l.CreatedAt, l.ExpiresAt, l.UserMetadata, l.BaseModel
	return c, nil
}

// parseListedRow is parseCheckpointRow for what lists tell.
func parseListedRow(text string) (ListedCheckpoint, error) {
	r := rowReader{rest: text}
	return r.listed()
}

func (r *rowReader) listed() (c ListedCheckpoint, err error) {
	c.ID, c.SizeBytes, c.CreatedAt = r.number(), r.number(), moment(r.number())
	if strings.HasPrefix(r.rest, " ") {
		r.space()
	} else {
		at := moment(r.number())
		c.ExpiresAt = &at
	}
	c.Public = r.flag()
	r.space()
	c.RunID, c.Kind, c.Name, c.BaseModel = r.text(), Kind(r.text()), r.text(), r.text()
	if r.bad {
		return ListedCheckpoint{}, fmt.Errorf("a row of a checkpoint makes no sense from here on: %.200q", r.rest)
	}
	if r.rest != "" {
		if c.UserMetadata, err = parseMetadata(r.rest); err != nil {
			return ListedCheckpoint{}, fmt.Errorf("checkpoint %s: user metadata: %w", checkpointID(c.RunID, c.Kind, c.Name), err)
		}
	}
	return c, nil
}

// parseMetadata is apart from listed, where everything would be on the heap
// because of it.
//
//go:noinline
func parseMetadata(text string) (m map[string]string, err error) {
	err = fromJSON(&text, &m)
	return m, err
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

func (r *rowReader) space() {
	rest, found := strings.CutPrefix(r.rest, " ")
	r.rest, r.bad = rest, r.bad || !found
}

func (r *rowReader) text() string {
	s, rest, found := strings.Cut(r.rest, separator)
	r.rest, r.bad = rest, r.bad || !found
	return s
}
