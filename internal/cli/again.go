package cli

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/tinkex/tinkex"
)

// resolvedKey is the context key of what words with latest in them stood for.
type resolvedKey struct{}

// noteResolved keeps what a word stood for, for again.
func noteResolved(ctx context.Context, word, became string) {
	if resolved, ok := ctx.Value(resolvedKey{}).(map[string]string); ok {
		resolved[word] = became
	}
}

// again is the command line as it can be run again, with what latest stood for
// when it was run, and without the key and the paths that are done.
func (a *app) again(done ...tinkex.TinkerPath) string {
	words := []string{"tinkex"}
	for i := 0; i < len(a.args); i++ {
		word := a.args[i]
		switch {
		case word == fromKeyFlag:
			i++
			continue
		case strings.HasPrefix(word, fromKeyFlag+"="):
			continue
		case word == latest && (i == 0 || a.args[i-1] != "--run" && a.args[i-1] != "--run-id"):
			// A name, if anything.
		case a.resolved[word] != "":
			word = a.resolved[word]
		case a.resolved[latest] != "" && (word == "--run="+latest || word == "--run-id="+latest):
			word = strings.TrimSuffix(word, latest) + a.resolved[latest]
		}
		if slices.ContainsFunc(done, func(p tinkex.TinkerPath) bool { return p.String() == word }) {
			continue
		}
		words = append(words, quote(word))
	}
	return a.printable(strings.Join(words, " "))
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./\\-]+$`)

// quote makes a word one of a shell's.
func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
