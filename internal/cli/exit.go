package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	exitPipe        = 141 // the reader of the output went away, as SIGPIPE has it
)

const exitStatusHelp = `
Exit status: 0 done; 1 failed; 2 wrong usage; 3 some of several items failed;
4 not found or no access; 5 authentication failed; 130 interrupted.`

// errSilent ends a command whose failure was already reported.
var errSilent = errors.New("already reported")

// errReaderGone is the error of writing for somebody who has stopped reading,
// like head. Nothing is to be said about it. Most systems end the process by a
// signal before it comes to this.
var errReaderGone = errors.New("the reader of the output went away")

// dataWriter is standard output, and tells readers that went away from
// connections that broke.
type dataWriter struct{ io.Writer }

func (w dataWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil && isOneOf(err, errnoPipe) {
		err = fmt.Errorf("%w: %w", errReaderGone, err)
	}
	return n, err
}

// screen is standard output as the terminal that it is, for what draws on it.
func (a *app) screen() io.Writer {
	if w, ok := a.Stdout.(dataWriter); ok {
		return w.Writer
	}
	return a.Stdout
}

// usageError is a command line that makes no sense.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{strings.TrimSpace(fmt.Sprintf(format, args...))}
}

// noAccessError is that what a command is about cannot be looked at.
type noAccessError struct{ err error }

func (e *noAccessError) Error() string { return e.err.Error() }
func (e *noAccessError) Unwrap() error { return e.err }

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
	var noAccess *noAccessError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errReaderGone):
		return exitPipe
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &partly):
		return exitPartly
	case errors.Is(err, tinkex.ErrUnauthorized), errors.Is(err, tinkex.ErrMissingAPIKey), errors.Is(err, tinkex.ErrMalformedAPIKey), noHubToken(err):
		return exitAuth
	case errors.Is(err, tinkex.ErrNotFound), errors.Is(err, tinkex.ErrForbidden), errors.Is(err, checkpoint.ErrNoMirror), errors.As(err, &noAccess):
		return exitNotFound
	case errors.Is(err, tinkex.ErrInvalidPath), errors.Is(err, tinkex.ErrMalformedBaseURL):
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

// printErrors reports what failed of several items. What to do next is said
// once, however many it is about.
func (a *app) printErrors(errs []error) {
	var hints []string
	notTried := 0
	for _, err := range errs {
		if errors.Is(err, checkpoint.ErrNotTried) {
			notTried++
			continue
		}
		a.say("tinkex: %s", err)
		if hint := a.hint(err); hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	if notTried > 0 {
		a.say("tinkex: %d more were not tried, because too many others had failed", notTried)
	}
	for _, hint := range hints {
		a.say("%s", hint)
	}
}
