package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tinkex/tinkex/checkpoint"
)

var errNotConfirmed = errors.New("not confirmed; nothing was done")

// confirm asks a question that only "yes" or "y" answers; anything else ends
// the command, and so does an interruption.
func (a *app) confirm(ctx context.Context, question string) error {
	if !a.StdinTerminal {
		return usagef("%s There is no terminal to ask on; use --yes to go ahead.", question)
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.Stdin).ReadString('\n') // what there is of it is the answer
		answer <- line
	}()
	var line string
	select {
	case line = <-answer:
	case <-ctx.Done():
		a.say("")
		return ctx.Err()
	}
	if line == "" {
		a.say("")
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}

// shownPaths is how many paths a question shows before it says how many more
// there are.
const shownPaths = 10

// preview shows some of a list of things.
func preview[T any](a *app, list []T, text func(T) string) {
	for i, item := range list {
		if i == shownPaths && len(list) > shownPaths+1 {
			a.say("  and %d more", len(list)-shownPaths)
			return
		}
		line := a.printable(text(item))
		a.say("%s%s", indentFor(line, a.Width), line)
	}
}

// deletedJSON is what delete -f json says, and a part of what prune does.
type deletedJSON struct {
	Deleted []string     `json:"deleted"`
	Gone    []string     `json:"already_gone"`
	Failed  []failedJSON `json:"failed"`
	// Left is what an interruption kept from being done or from being known to be.
	Left []string `json:"left,omitempty"`
}

type failedJSON struct {
	TinkerPath string `json:"tinker_path"`
	Error      string `json:"error"`
}

func deletedOf(d checkpoint.Deleted) deletedJSON {
	out := deletedJSON{Deleted: []string{}, Gone: []string{}, Failed: []failedJSON{}}
	for _, p := range d.Deleted {
		out.Deleted = append(out.Deleted, p.String())
	}
	for _, p := range d.Gone {
		out.Gone = append(out.Gone, p.String())
	}
	for _, f := range d.Failed {
		out.Failed = append(out.Failed, failedJSON{f.Path.String(), f.Err.Error()})
	}
	for _, p := range d.Left {
		out.Left = append(out.Left, p.String())
	}
	return out
}

// reportDeleted says in words what was deleted, and what was not.
func (a *app) reportDeleted(d checkpoint.Deleted, freed string) {
	errs := make([]error, len(d.Failed))
	for i, f := range d.Failed {
		errs[i] = f.Err
	}
	a.printErrors(errs)
	msg := fmt.Sprintf("Deleted %d of %s", len(d.Deleted), plural(d.Total(), "checkpoint"))
	if len(d.Deleted) > 0 && len(d.Deleted)+len(d.Gone) == d.Total() {
		msg += freed
	}
	if n := len(d.Gone); n > 0 {
		msg += fmt.Sprintf("; %d had gone already", n)
	}
	if n := len(d.Failed); n > 0 {
		msg += fmt.Sprintf("; %d failed", n)
	}
	if n := len(d.Left); n > 0 {
		msg += fmt.Sprintf("; %d not come to, or not known to be done", n)
	}
	a.say("%s.", msg)
	if n := len(d.Gone); n > 1 && n == d.Total() {
		// Of a repeated command, or with the wrong key: others' look the same.
		a.say("None of them is there. If that is unexpected, 'tinkex profile show' says whose key is used.")
	}
	if len(d.Left) > 0 {
		a.say("To go on, run:\n  %s", a.again(d.Deleted...))
	}
}

// deletedError is the exit of a command that deleted several.
func deletedError(d checkpoint.Deleted, err error) error {
	if len(d.Failed) == 0 || len(d.Left) > 0 {
		return err
	}
	errs := make([]error, len(d.Failed))
	for i, f := range d.Failed {
		errs[i] = f.Err
	}
	return failedItems(errs, d.Total())
}
