package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/archive"
	"github.com/tinkex/tinkex/internal/durable"
)

// partial is the hidden directory beside the target in which a download grows:
//
//	lock         held by the process that works in it
//	state.json   what it is a download of, and how far an archive is unpacked
//	files/       what becomes the target
//	replaced/    what was the target, for an instant
type partial struct {
	dir   string
	lock  *flock.Flock
	state partialState
}

// partialState is state.json.
type partialState struct {
	Format int `json:"format"`
	// Digest is the manifest's, or the archive's entity tag.
	Digest  string         `json:"digest"`
	Archive *archive.State `json:"archive,omitempty"`
}

const (
	partialFormat = 1

	lockName     = "lock"
	stateName    = "state.json"
	filesName    = "files"
	replacedName = "replaced"

	// lockRetry is how often a lock that another download holds is tried again.
	lockRetry = 100 * time.Millisecond
)

func (p *partial) path(name string) string { return filepath.Join(p.dir, name) }
func (p *partial) files() string           { return p.path(filesName) }

// partialDirName is the name of a target's partial directory.
func partialDirName(target string) string { return "." + target + ".partial" }

// openPartial makes the target's partial directory, or takes it over from a
// download that ended, and keeps others out until close.
func openPartial(ctx context.Context, target string, notice func(string)) (*partial, error) {
	dir := filepath.Join(filepath.Dir(target), partialDirName(filepath.Base(target)))
	p := &partial{dir: dir}
	if err := p.acquire(ctx, notice); err != nil {
		return nil, err
	}
	if err := p.recover(target); err != nil {
		return nil, errors.Join(err, p.close(false))
	}
	return p, nil
}

func (p *partial) acquire(ctx context.Context, notice func(string)) error {
	told := false
	for {
		if err := os.Mkdir(p.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := os.Lstat(p.dir); err == nil && !info.IsDir() {
			return fmt.Errorf("%s is in the way: it is not a directory", p.dir)
		}
		p.lock = flock.New(p.path(lockName), flock.SetFlag(os.O_RDWR|os.O_CREATE))
		locked, err := p.lock.TryLock()
		switch {
		case err != nil && durable.NoLocks(err):
			return nil // nothing keeps others out here
		case errors.Is(err, fs.ErrNotExist):
			continue // its last holder is removing it
		case err != nil:
			return err
		}
		if !locked {
			if !told {
				notice("another download of it is running here; waiting for that to end")
				told = true
			}
			if locked, err = p.lock.TryLockContext(ctx, lockRetry); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		// A holder that finished has removed the file that we may have locked.
		held, err1 := p.lock.Stat()
		there, err2 := os.Stat(p.path(lockName))
		if locked && err1 == nil && err2 == nil && os.SameFile(held, there) {
			return nil
		}
		_ = p.lock.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// recover reads what an earlier download left.
func (p *partial) recover(target string) error {
	// It was interrupted between taking the old directory away and putting the
	// new one in its place.
	switch _, err := os.Lstat(target); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Rename(p.path(replacedName), target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	case err != nil:
		return err
	default:
		if err := os.RemoveAll(p.path(replacedName)); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(p.path(stateName))
	if err == nil && json.Unmarshal(b, &p.state) == nil && p.state.Format == partialFormat {
		return p.makeFiles()
	}
	return p.clear()
}

// makeFiles makes the directory of the files, unless it is there. A link is not
// followed: what is where it leads is not ours to change.
func (p *partial) makeFiles() error {
	if info, err := os.Lstat(p.files()); err == nil && !info.IsDir() {
		if err := os.Remove(p.files()); err != nil {
			return err
		}
	}
	if err := os.Mkdir(p.files(), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// clear forgets what was downloaded.
func (p *partial) clear() error {
	p.state = partialState{Format: partialFormat}
	if err := os.RemoveAll(p.path(stateName)); err != nil {
		return err
	}
	if err := os.RemoveAll(p.files()); err != nil {
		return err
	}
	return p.makeFiles()
}

// save writes state.json such that there is always one that is whole. It need
// not survive a power cut: whatever it says is checked.
func (p *partial) save() error {
	b, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	next := p.path(stateName + ".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // no link is followed
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(next, p.path(stateName))
}

// hasBytes reports whether there is anything worth continuing.
func (p *partial) hasBytes() bool {
	found := errors.New("found")
	err := filepath.WalkDir(p.files(), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil && info.Size() > 0 {
			return found
		}
		return nil
	})
	return errors.Is(err, found)
}

// finish makes the files the target, for good.
func (p *partial) finish(target string) error {
	if err := durable.SyncDir(p.files()); err != nil {
		return err
	}
	if err := p.moveTo(target); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(target))
}

func (p *partial) moveTo(target string) error {
	if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
		// Of what appears there in this very moment, an empty directory is
		// replaced, and anything else is an error.
		return os.Rename(p.files(), target)
	}
	if durable.Exchange(p.files(), target) == nil {
		return os.RemoveAll(p.files())
	}
	old := p.path(replacedName)
	if err := os.Rename(target, old); err != nil {
		return err
	}
	if err := os.Rename(p.files(), target); err != nil {
		return errors.Join(err, os.Rename(old, target))
	}
	return os.RemoveAll(old)
}

// close gives the directory up, and removes it unless there is something in it
// to continue from.
func (p *partial) close(done bool) error {
	var err error
	if done || p.state.Digest == "" || !p.hasBytes() {
		// What was replaced is not among it: as long as it is there, it may be
		// the only copy.
		for _, name := range []string{filesName, stateName, stateName + ".next"} {
			err = errors.Join(err, os.RemoveAll(p.path(name)))
		}
		// The lock goes last: whoever waits for it finds it gone and begins anew.
		// Windows removes no open file; what stays there is empty and harmless.
		if os.Remove(p.path(lockName)) == nil {
			_ = os.Remove(p.dir)
		}
	}
	if cerr := p.lock.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("unlock %s: %w", p.dir, cerr))
	}
	return err
}
