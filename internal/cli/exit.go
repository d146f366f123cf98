package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

// Exit codes, as documented in every command's help.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartly      = 3
	exitNotFound    = 4
	exitAuth        = 5
	exitInterrupted = 130
)

const exitStatusHelp = `
Exit status: 0 done; 1 failed; 2 wrong usage; 3 some of several items failed;
4 not found or no access; 5 authentication failed; 130 interrupted.`

// errSilent ends a command whose failure was already reported.
var errSilent = errors.New("already reported")

// usageError is a command line that makes no sense.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{strings.TrimSpace(fmt.Sprintf(format, args...))}
}

// partlyError says that some of several items failed; each was reported.
type partlyError struct{ failed, total int }

func (e *partlyError) Error() string { return fmt.Sprintf("%d of %d failed", e.failed, e.total) }

// failedItems is the error of a command that works on several items: nil if
// none failed, the item's own error if there was only one.
func failedItems(errs []error, total int) error {
	switch {
	case len(errs) == 0:
		return nil
	case len(errs) == total:
		return errors.Join(errSilent, errs[0])
	}
	return errors.Join(errSilent, &partlyError{len(errs), total})
}

// exitCode classifies a command's error.
func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	var partly *partlyError
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &partly):
		return exitPartly
	case errors.Is(err, tinkex.ErrUnauthorized), errors.Is(err, tinkex.ErrMissingAPIKey), errors.Is(err, tinkex.ErrMalformedAPIKey), errors.Is(err, checkpoint.ErrNoHubToken):
		return exitAuth
	case errors.Is(err, tinkex.ErrNotFound), errors.Is(err, tinkex.ErrForbidden), errors.Is(err, checkpoint.ErrNoMirror):
		return exitNotFound
	case errors.Is(err, tinkex.ErrInvalidPath):
		return exitUsage
	}
	return exitFailed
}

// printError reports a command's error, with what to do next where that is
// known.
func (a *app) printError(ctx context.Context, err error) {
	if ctx.Err() != nil {
		a.say("tinkex: interrupted")
		return
	}
	a.say("tinkex: %s", err)
	if hint := a.hint(err); hint != "" {
		a.say("%s", hint)
	}
}

func (a *app) hint(err error) string {
	var hub *checkpoint.HubError
	switch {
	case errors.Is(err, checkpoint.ErrNoHubToken):
		return "Set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens), or log in with 'hf auth login'."
	case errors.As(err, &hub) && errors.Is(err, tinkex.ErrUnauthorized):
		return "The Hub does not accept the token: check HF_TOKEN, or log in again with 'hf auth login'."
	case errors.As(err, &hub) && errors.Is(err, tinkex.ErrForbidden):
		return "The Hub's token may not do that: it needs write access to the repository's namespace."
	case errors.As(err, &hub):
		return "The same command goes on from there: what the Hub has is not sent again."
	case errors.Is(err, checkpoint.ErrOccupied):
		return "Use --force to push there all the same, or choose another repository with --repo or another branch with --revision."
	case errors.Is(err, tinkex.ErrMissingAPIKey):
		return "Set TINKER_API_KEY. A server of your own (tinkex serve) takes any key that starts with tml- until you create some."
	case errors.Is(err, tinkex.ErrUnauthorized):
		return "Check TINKER_API_KEY, and that TINKER_BASE_URL is the server the key belongs to."
	case errors.Is(err, tinkex.ErrNotFound):
		return "It does not exist, has expired, or belongs to another key. 'tinkex checkpoint list' shows yours."
	case errors.Is(err, checkpoint.ErrOtherAccount):
		return "Choose another target, or use --rebind to make this one your account's; what is in it stays."
	case errors.Is(err, checkpoint.ErrNoMirror):
		return "'tinkex checkpoint mirror --to TARGET' makes one."
	case errors.Is(err, checkpoint.ErrKeepsNothing):
		return "Use --all to remove them all."
	case errors.Is(err, tinkex.ErrExists):
		return "Use --force to replace it, or choose another directory with -o."
	}
	return ""
}
