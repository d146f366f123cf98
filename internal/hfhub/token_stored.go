package hfhub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/durable"
)

const (
	// renewBefore is how long before its end a token is renewed.
	renewBefore = 24 * time.Hour
	// renewAgain is how long a token is used before it is tried again to renew
	// it.
	renewAgain = 5 * time.Minute
	// renewWait is how long another process may take to renew it.
	renewWait = 30 * time.Second

	maxStored = 4 << 20
)

// oauthClient names the huggingface_hub package to the Hub, which gave it the
// tokens that are renewed here. Other Hubs may know it by another name.
func oauthClient() string {
	if id, ok := os.LookupEnv("HF_DEVICE_CODE_OAUTH_CLIENT_ID"); ok {
		return id
	}
	return "26be6b09-91c5-47da-9861-d2d2bb7a7e36"
}

// keptTokens are those that hf auth login keeps: the one in use in a file of its
// own, and all of them, by name, in stored_tokens beside it.
type keptTokens struct {
	hub    *Client
	warned bool
}

// find returns the token in use, renewed if its end is near.
func (k *keptTokens) find(ctx context.Context) (found, error) {
	path, err := tokenPath()
	if err != nil {
		return found{}, err
	}
	token, err := fileToken(path)
	if err != nil {
		return found{}, err
	}
	for n := 0; ; n++ {
		s := k.section(path, func(s Section) bool { return s.get(keyToken) == token })
		expires, ok := s.expires()
		if !ok || !s.has(keyRefresh) {
			// Somebody may have renewed it between the reading of the two files.
			if now, err := fileToken(path); err == nil && now != token && n < 3 {
				token = now
				continue
			}
			return found{token: token}, nil // not of the browser's login
		}
		if due := expires.Add(-renewBefore); time.Now().Before(due) {
			return found{token, due}, nil
		}
		return k.renew(ctx, path, s.Name, token)
	}
}

// section is the first stored token of which is says that it is the one. None
// has an empty name.
func (k *keptTokens) section(path string, is func(Section) bool) Section {
	stored, err := readStored(storedPath(path))
	if err != nil {
		k.warn("the Hugging Face token is not renewed: %v", err)
		return Section{}
	}
	for _, s := range stored.Sections {
		if is(s) {
			return s
		}
	}
	return Section{}
}

// warn says something once: the token is asked for again and again.
func (k *keptTokens) warn(format string, args ...any) {
	if k.warned {
		return
	}
	k.warned = true
	k.hub.notice(fmt.Sprintf(format, args...))
}

// renew returns a later token than the one that is about to end, or that one if
// there is none to be had.
func (k *keptTokens) renew(ctx context.Context, path, name, token string) (found, error) {
	f, err := k.renewLocked(ctx, path, name, token)
	switch {
	case err == nil:
		return f, nil
	case ctx.Err() != nil:
		return found{}, ctx.Err()
	case errors.Is(err, errInvalidGrant):
		// It would fail the next time too. This is said whatever was before, for
		// it needs somebody to act.
		k.hub.notice(fmt.Sprintf("the Hugging Face token could not be renewed, as its login has ended or was revoked: log in again with 'hf auth login' (%v)", err))
		return found{token: token}, nil
	default:
		k.warn("the Hugging Face token could not be renewed, and is used as it is: %v", err)
		return found{token, time.Now().Add(renewAgain)}, nil
	}
}

func (k *keptTokens) renewLocked(ctx context.Context, path, name, token string) (found, error) {
	all := storedPath(path)
	// A refresh token may be good for one use, and then the second of two who use
	// it would be logged out.
	release, err := lockStored(ctx, all+".lock")
	if err != nil {
		return found{}, err
	}
	defer release()
	stored, err := readStored(all)
	if err != nil {
		return found{}, err
	}
	s := stored.section(name)
	if s.get(keyToken) != token {
		// Another process has renewed it.
		if t := cleanToken(s.get(keyToken)); t != "" && sendable(t) {
			token = t
		}
		expires, _ := s.expires()
		return found{token, lookAgain(expires)}, nil
	}
	refresh := s.get(keyRefresh)
	if refresh == "" {
		return found{}, errors.New("its refresh token is gone")
	}
	if !stored.replaceable(name) {
		return found{}, fmt.Errorf("%s has its fields among the defaults", all)
	}
	// From here on it is not interrupted: an answer that nobody keeps may be the
	// only one that there is. It is bounded by its own timeout.
	const op = "renew the token"
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {oauthClient()}}
	var answer tokenAnswer
	start := time.Now()
	err = k.hub.askToken(context.WithoutCancel(ctx), op, k.hub.tokenRequest("application/x-www-form-urlencoded"), []byte(form.Encode()), []string{token, refresh}, &answer)
	if err != nil {
		return found{}, err
	}
	renewed, err := answer.token(op)
	if err != nil {
		return found{}, err
	}
	fields := []Field{{keyToken, renewed}, {keyRefresh, refresh}}
	if next := cleanToken(answer.RefreshToken); next != "" && sendable(next) {
		fields[1].Value = next
	}
	var expires time.Time
	if lifetime, ok := answer.lifetime(); ok {
		expires = start.Add(lifetime)
		fields = append(fields, Field{keyExpires, strconv.FormatInt(expires.Unix(), 10)})
	}
	if err := keep(path, token, renewed, stored.replace(name, fields)); err != nil {
		k.hub.notice(fmt.Sprintf("the Hugging Face token was renewed, but could not be kept: %v; when it is refused the next time, log in again with 'hf auth login'", err))
	} else {
		k.hub.log.InfoContext(ctx, "the Hugging Face token was renewed", "name", name, "expires", expires)
	}
	return found{renewed, lookAgain(expires)}, nil
}

// lookAgain is when to see to a token that is new. The shortest-lived ones are
// not renewed at every request.
func lookAgain(expires time.Time) time.Time {
	at := time.Now().Add(renewAgain)
	if due := expires.Add(-renewBefore); due.After(at) {
		return due
	}
	return at
}

// keep writes what all tokens are now, and the one in use unless that is another
// one meanwhile.
func keep(path, old, renewed string, stored []byte) error {
	if err := replaceSecret(storedPath(path), stored); err != nil {
		return err
	}
	if now, err := fileToken(path); err != nil || now != old {
		return nil //nolint:nilerr // it was switched, or logged out
	}
	return replaceSecret(path, []byte(renewed))
}

func replaceSecret(path string, content []byte) error {
	// What is a link stays one.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return durable.WriteFile(path, content, 0o600)
}

// storedPath is the file of all tokens, beside that of the one in use.
func storedPath(tokenPath string) string {
	return filepath.Join(filepath.Dir(tokenPath), "stored_tokens")
}

// readStored reads all tokens. That there are none is not an error.
func readStored(path string) (*Stored, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Stored{}, nil
	}
	if err == nil && info.Size() > maxStored {
		err = errors.New("it is too large")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	s, err := ParseStored(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// The fields of a stored token.
const (
	keyToken   = "hf_token"
	keyRefresh = "refresh_token"
	keyExpires = "expires_at" // in seconds since 1970
)

// expires is when the token ends, if that is known.
func (s Section) expires() (time.Time, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(s.get(keyExpires)), 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(min(n, 1<<40), 0), true
}

// lockStored takes the lock that the huggingface_hub package takes to renew a
// token, by the same call (flock, or LockFileEx of the first byte), so that each
// waits for the other.
func lockStored(ctx context.Context, path string) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, renewWait)
	defer cancel()
	_, err = os.Lstat(path)
	ours := errors.Is(err, fs.ErrNotExist)
	// Writable, as NFS wants a file to be that is locked, and as theirs is.
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o664))
	for {
		ok, err := lock.TryLock()
		switch {
		case ok && sameFile(lock, path):
			return func() { _ = lock.Close() }, nil
		case ok: // theirs may be removed while it is waited for
			_ = lock.Close()
		case err == nil, beingRemoved(err):
		case durable.NoLocks(err):
			// Where there are no locks, theirs is that the file is there.
			if ours {
				_ = os.Remove(path)
			}
			return nil, fmt.Errorf("lock %s: the file system has no locks: %w", path, err)
		default:
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("another process has held %s for %v", path, renewWait)
		}
	}
}

func sameFile(lock *flock.Flock, path string) bool {
	held, err1 := lock.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(held, there)
}

// beingRemoved reports what Windows says of a file that is on its way out.
func beingRemoved(err error) bool {
	const sharingViolation = syscall.Errno(32)
	return runtime.GOOS == "windows" && (errors.Is(err, fs.ErrPermission) || errors.Is(err, sharingViolation))
}
