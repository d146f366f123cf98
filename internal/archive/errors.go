package archive

import (
	"errors"
	"fmt"
)

// ErrUnsafe: the archive was refused. Every refusal wraps it together with one
// of the errors below, which say what kind it is; failures to read the stream
// or to write the files do not.
var ErrUnsafe = errors.New("archive refused")

// The kinds of refusal.
var (
	// ErrPath: a name that leads, or on some system would lead, out of the
	// directory: absolute, with .., a backslash or a drive letter.
	ErrPath = errors.New("path leaves the directory")
	// ErrName: a name that some system cannot store as it is.
	ErrName = errors.New("name is not portable")
	// ErrDuplicate: a second member of the same name, or of one that a file
	// system may take for the same.
	ErrDuplicate = errors.New("name occurs twice")
	// ErrConflict: a file where a directory is needed, or the reverse.
	ErrConflict = errors.New("both a file and a directory")
	// ErrType: a member that is neither a plain file nor a directory: links of
	// both kinds, devices, pipes, sparse files and what else there is.
	ErrType = errors.New("neither a plain file nor a directory")
	// ErrLimit: more members or more bytes than the limits permit.
	ErrLimit = errors.New("over the limit")
	// ErrTruncated: the stream ends before the archive does. Unlike the other
	// kinds, it is worth another attempt to fetch it.
	ErrTruncated = errors.New("archive is cut short")
	// ErrFormat: not a tar archive, a damaged one, or one with something
	// behind its end.
	ErrFormat = errors.New("not a sound tar archive")
)

// MemberError is a refusal. It wraps ErrUnsafe and the kind of refusal.
type MemberError struct {
	// Name is the offending member's, as the archive has it. Where the stream
	// itself is at fault, it is the last member's that was read, or empty.
	Name string
	// Kind is one of the errors of this package.
	Kind error
	// Detail says what exactly is wrong.
	Detail string
}

func (e *MemberError) Error() string {
	name := e.Name
	if name == "" {
		return fmt.Sprintf("%v: %v: %s", ErrUnsafe, e.Kind, e.Detail)
	}
	if len(name) > maxNameLen {
		name = name[:maxNameLen/4] + "..."
	}
	return fmt.Sprintf("%v: member %q: %v: %s", ErrUnsafe, name, e.Kind, e.Detail)
}

func (e *MemberError) Unwrap() []error { return []error{ErrUnsafe, e.Kind} }

func refuse(name string, kind error, format string, args ...any) error {
	return &MemberError{Name: name, Kind: kind, Detail: fmt.Sprintf(format, args...)}
}
