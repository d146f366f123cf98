package archive

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxNameLen   = 1024 // bytes of a whole name: what the tightest of the usual systems takes
	maxPartLen   = 255  // bytes of one part, likewise
	maxNameDepth = 32   // parts
)

// checkName refuses names that could lead out of the directory they are
// unpacked into or that would not be the same everywhere. The rules are those
// of all systems at once, so that whether an archive is accepted does not
// depend on where it is unpacked.
func checkName(name string) error {
	switch {
	case name == "":
		return refuse(name, ErrName, "the name is empty")
	case len(name) > maxNameLen:
		return refuse(name, ErrName, "%d bytes are more than %d", len(name), maxNameLen)
	case !utf8.ValidString(name):
		return refuse(name, ErrName, "not UTF-8")
	case strings.HasPrefix(name, "/"):
		return refuse(name, ErrPath, "absolute")
	case strings.Contains(name, `\`):
		return refuse(name, ErrPath, "backslash")
	case len(name) >= 2 && name[1] == ':' && isLetter(name[0]):
		return refuse(name, ErrPath, "drive letter")
	}
	parts := strings.Split(name, "/")
	if len(parts) > maxNameDepth {
		return refuse(name, ErrName, "more than %d directories deep", maxNameDepth)
	}
	for _, part := range parts {
		if err := checkPart(name, part); err != nil {
			return err
		}
	}
	return nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func checkPart(name, part string) error {
	switch part {
	case "":
		return refuse(name, ErrName, "empty part between slashes")
	case ".":
		return refuse(name, ErrName, "part . in the middle")
	case "..":
		return refuse(name, ErrPath, "part ..")
	}
	if len(part) > maxPartLen {
		return refuse(name, ErrName, "part of %d bytes, more than %d", len(part), maxPartLen)
	}
	for _, r := range part {
		switch {
		case strings.ContainsRune(`<>:"|?*`, r):
			return refuse(name, ErrName, "character %q, which Windows does not permit", r)
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return refuse(name, ErrName, "control or invisible character %U", r)
		}
	}
	if last := part[len(part)-1]; last == '.' || last == ' ' {
		return refuse(name, ErrName, "ends in %q, which Windows drops", last)
	}
	if reservedOnWindows(part) {
		return refuse(name, ErrName, "%q is a device on Windows", part)
	}
	return nil
}

// reservedOnWindows reports whether Windows takes a name for a device. An
// extension does not change that, nor do spaces before it.
func reservedOnWindows(part string) bool {
	base, _, _ := strings.Cut(part, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$":
		return true
	}
	digit, ok := strings.CutPrefix(base, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(base, "LPT")
	}
	if !ok {
		return false
	}
	r, n := utf8.DecodeRuneInString(digit)
	return n == len(digit) && strings.ContainsRune("0123456789\u00b9\u00b2\u00b3", r)
}

// nameSet is the tree of names of one archive.
type nameSet struct {
	seen map[string]seenName // by folded path
}

type seenName struct {
	name string // as first spelt
	dir  bool
	made bool // by the extractor, a directory
}

func newNameSet(n int) *nameSet { return &nameSet{seen: make(map[string]seenName, n)} }

func (s *nameSet) len() int { return len(s.seen) }

// addFile refuses names that are unsafe or collide with an earlier one.
func (s *nameSet) addFile(name string) error {
	if err := s.addParents(name); err != nil {
		return err
	}
	key := foldName(name)
	switch old, ok := s.seen[key]; {
	case ok && old.dir:
		return refuse(name, ErrConflict, "already a directory")
	case ok && old.name == name:
		return refuse(name, ErrDuplicate, "already in the archive")
	case ok:
		return refuse(name, ErrDuplicate, "many file systems take it for %q", old.name)
	}
	s.seen[key] = seenName{name: name}
	return nil
}

// addDir is addFile for a directory, of which there may be several mentions.
func (s *nameSet) addDir(name string) error {
	if err := s.addParents(name); err != nil {
		return err
	}
	return s.addOneDir(name, name)
}

func (s *nameSet) addParents(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	for i := range len(name) {
		if name[i] == '/' {
			if err := s.addOneDir(name, name[:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *nameSet) addOneDir(name, dir string) error {
	key := foldName(dir)
	old, ok := s.seen[key]
	switch {
	case !ok:
		s.seen[key] = seenName{name: dir, dir: true}
	case !old.dir:
		return refuse(name, ErrConflict, "%q is a file", old.name)
	case old.name != dir:
		return refuse(name, ErrDuplicate, "many file systems take %q for %q", dir, old.name)
	}
	return nil
}

// claim reports whether a directory of the set is still to be made, and takes
// it for made from now on.
func (s *nameSet) claim(dir string) bool {
	key := foldName(dir)
	d := s.seen[key]
	if d.made {
		return false
	}
	d.made = true
	s.seen[key] = d
	return true
}

// CheckNames applies the rules for the names of an archive's files to the
// files of something else.
func CheckNames(names []string) error {
	set := newNameSet(len(names))
	for _, name := range names {
		if err := set.addFile(name); err != nil {
			return err
		}
	}
	return nil
}
