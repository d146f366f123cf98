package tinkex

import (
	"fmt"
	"runtime"
	"strings"
)

// Scheme starts every tinker path.
const Scheme = "tinker://"

// CheckpointType is what a checkpoint is for.
type CheckpointType string

// The types of checkpoint, as the protocol spells them in answers.
const (
	// Training checkpoints hold weights and optimizer state; training resumes
	// from them. Their paths say "weights".
	Training CheckpointType = "training"
	// Sampler checkpoints hold weights to sample from. Their paths say
	// "sampler_weights".
	Sampler CheckpointType = "sampler"
	// External checkpoints hold weights exported to be downloaded file by
	// file. Their paths say "external_weights".
	External CheckpointType = "external"
)

// Segment is how the type is spelled in a tinker path: "weights",
// "sampler_weights" or "external_weights".
func (t CheckpointType) Segment() string {
	switch t {
	case Training:
		return "weights"
	case Sampler:
		return "sampler_weights"
	case External:
		return "external_weights"
	}
	return ""
}

// ParseCheckpointType accepts a type as answers ("training") or paths
// ("weights") spell it.
func ParseCheckpointType(s string) (CheckpointType, error) {
	for _, t := range []CheckpointType{Training, Sampler, External} {
		if s == string(t) || s == t.Segment() {
			return t, nil
		}
	}
	return "", invalidPath(s, "unknown checkpoint type %q: expected weights, sampler_weights or external_weights", s)
}

// MaxNameLength bounds a checkpoint's name and each segment of a path, in
// bytes, so that a downloaded checkpoint's directory name fits every file
// system.
const MaxNameLength = 128

// TinkerPath addresses a checkpoint:
//
//	tinker://<run-id>/weights/<name>
//	tinker://<run-id>/sampler_weights/<name>
//	tinker://<run-id>/external_weights/<name>
//
// The run id is opaque ("<session-id>:train:<n>" today, "run-abc123" in older
// paths). The zero TinkerPath is not valid.
type TinkerPath struct {
	RunID string
	Type  CheckpointType
	Name  string
}

// ParseTinkerPath parses and validates a path. Its errors wrap
// ErrInvalidPath, are of CategoryUser and name the fault.
func ParseTinkerPath(s string) (TinkerPath, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return TinkerPath{}, invalidPath(s, "it does not start with %q", Scheme)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return TinkerPath{}, invalidPath(s, "it has %d segments after %q instead of 3: expected tinker://<run-id>/weights/<name> or tinker://<run-id>/sampler_weights/<name>", len(parts), Scheme)
	}
	p := TinkerPath{RunID: parts[0], Name: parts[2]}
	for _, t := range []CheckpointType{Training, Sampler, External} {
		if parts[1] == t.Segment() {
			p.Type = t
		}
	}
	if p.Type == "" {
		return TinkerPath{}, invalidPath(s, "unknown kind %q: expected weights or sampler_weights", parts[1])
	}
	if reason := checkSegment(p.RunID, "run id", ":"); reason != "" {
		return TinkerPath{}, invalidPath(s, "%s", reason)
	}
	if reason := checkSegment(p.Name, "checkpoint name", ""); reason != "" {
		return TinkerPath{}, invalidPath(s, "%s", reason)
	}
	return p, nil
}

// NewTinkerPath builds a validated path from its parts.
func NewTinkerPath(runID string, t CheckpointType, name string) (TinkerPath, error) {
	p := TinkerPath{RunID: runID, Type: t, Name: name}
	return p, p.Validate()
}

// Validate reports whether p would survive formatting and parsing.
func (p TinkerPath) Validate() error {
	_, err := ParseTinkerPath(p.String())
	return err
}

// ValidateName reports whether a checkpoint may be called name: letters,
// digits, '.', '_' and '-', at most MaxNameLength of them, not "." or "..".
func ValidateName(name string) error {
	if reason := checkSegment(name, "checkpoint name", ""); reason != "" {
		return invalidPath(name, "%s", reason)
	}
	return nil
}

// String formats the path as it is parsed.
func (p TinkerPath) String() string {
	return Scheme + p.RunID + "/" + p.Type.Segment() + "/" + p.Name
}

// CheckpointID is how REST answers identify the checkpoint within its run:
// "weights/<name>".
func (p TinkerPath) CheckpointID() string { return p.Type.Segment() + "/" + p.Name }

// DirName is the name of the directory a download makes:
// "<run-id>_weights_<name>". On Windows, where a file name cannot hold a
// colon, the run id's colons become underscores.
func (p TinkerPath) DirName() string {
	id := p.RunID
	if runtime.GOOS == "windows" {
		id = strings.ReplaceAll(id, ":", "_")
	}
	return id + "_" + p.Type.Segment() + "_" + p.Name
}

// MarshalText implements encoding.TextMarshaler.
func (p TinkerPath) MarshalText() ([]byte, error) { return []byte(p.String()), p.Validate() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *TinkerPath) UnmarshalText(b []byte) error {
	q, err := ParseTinkerPath(string(b))
	if err == nil {
		*p = q
	}
	return err
}

// checkSegment returns what is wrong with a segment, or "".
func checkSegment(s, what, extra string) string {
	switch {
	case s == "":
		return "the " + what + " is empty"
	case len(s) > MaxNameLength:
		return fmt.Sprintf("the %s has %d bytes; at most %d are allowed", what, len(s), MaxNameLength)
	case s == "." || s == "..":
		return fmt.Sprintf("the %s is %q, which is unsafe", what, s)
	}
	for _, r := range s {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-"+extra, r) {
			continue
		}
		return fmt.Sprintf("the %s contains %q: only letters, digits, '.', '_' and '-' are allowed", what, r)
	}
	return ""
}
