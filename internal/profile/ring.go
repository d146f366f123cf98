package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/zalando/go-keyring"
)

// Ring is a keyring. Get and Delete of what is not there are ErrNoKey.
type Ring interface {
	Set(ctx context.Context, account, key string) error
	Get(ctx context.Context, account string) (string, error)
	Delete(ctx context.Context, account string) error
}

// ErrNoKeyring: there is no keyring, or it cannot be reached.
var ErrNoKeyring = errors.New("no keyring")

// NoRing is no keyring.
type NoRing struct{}

// Set implements Ring.
func (NoRing) Set(context.Context, string, string) error { return ErrNoKeyring }

// Get implements Ring.
func (NoRing) Get(context.Context, string) (string, error) { return "", ErrNoKeyring }

// Delete implements Ring.
func (NoRing) Delete(context.Context, string) error { return ErrNoKeyring }

// SystemRing is the operating system's keyring: the Keychain on macOS, the
// Credential Manager on Windows, the Secret Service elsewhere.
type SystemRing struct{}

// service is what the keyring's own programs show keys under.
const service = "tinkex"

// Set implements Ring.
func (SystemRing) Set(ctx context.Context, account, key string) error {
	_, err := ask(ctx, func() (string, error) { return "", keyring.Set(service, account, key) })
	return err
}

// Get implements Ring.
func (SystemRing) Get(ctx context.Context, account string) (string, error) {
	return ask(ctx, func() (string, error) { return keyring.Get(service, account) })
}

// Delete implements Ring.
func (SystemRing) Delete(ctx context.Context, account string) error {
	_, err := ask(ctx, func() (string, error) { return "", keyring.Delete(service, account) })
	return err
}

// unlockWait is how long the user has to unlock the keyring.
const unlockWait = time.Minute

// ask asks the keyring, which may ask the user to unlock it, until the context
// ends: the library knows no contexts.
func ask(ctx context.Context, f func() (string, error)) (string, error) {
	if err := reachable(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, unlockWait)
	defer cancel()
	type answer struct {
		key string
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil { // the library trusts what services answer
				a.err = fmt.Errorf("the keyring's answer makes no sense: %v", r)
			}
			answers <- a
		}()
		a.key, a.err = f()
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("%w: it did not answer: %w", ErrNoKeyring, ctx.Err())
	case a := <-answers:
		switch {
		case errors.Is(a.err, keyring.ErrNotFound):
			return "", ErrNoKey
		case a.err != nil:
			return "", fmt.Errorf("%w: %w", ErrNoKeyring, a.err)
		}
		return a.key, nil
	}
}

// reachable keeps the library from starting a message bus of its own where the
// user has none, as over ssh or in a container.
func reachable() error {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		return nil
	}
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" {
		return nil
	}
	if _, err := os.Stat(filepath.Join("/run/user", strconv.Itoa(os.Getuid()), "bus")); err != nil {
		return fmt.Errorf("%w: there is no session bus to reach one over", ErrNoKeyring)
	}
	return nil
}
