package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// suggestFlag names the flag that was probably meant, if err is about an
// unknown one.
func suggestFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if best := nearest(unknown.GetSpecifiedName(), names); best != "" {
		return fmt.Sprintf("; did you mean --%s?", best)
	}
	return ""
}

// flagProblem says in words what is wrong with a flag.
func flagProblem(err error) string {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err.Error()
	}
	kinds := map[string]string{"int": "a whole number", "duration": "a duration; write 30s or 5m", "bool": "true or false"}
	kind, known := kinds[bad.GetFlag().Value.Type()]
	if !known {
		return err.Error()
	}
	return fmt.Sprintf("--%s: %q is not %s", bad.GetFlag().Name, bad.GetValue(), kind)
}

var (
	numberOfArgs = regexp.MustCompile(`^(accepts|requires at least) (\d+) arg\(s\), (?:only )?received (\d+)$`)
	noArgs       = regexp.MustCompile(`^unknown command (".*") for ".*"$`)
)

// argsProblem says in words what is wrong with a command's arguments.
func argsProblem(cmd *cobra.Command, err error) string {
	if m := numberOfArgs.FindStringSubmatch(err.Error()); m != nil {
		least := ""
		if m[1] != "accepts" {
			least = "at least "
		}
		noun := "arguments"
		if m[2] == "1" {
			noun = "argument"
		}
		return fmt.Sprintf("expected %s%s %s, got %s", least, m[2], noun, m[3])
	}
	if m := noArgs.FindStringSubmatch(err.Error()); m != nil {
		problem := "unexpected argument " + m[1]
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		if best := nearest(strings.Trim(m[1], `"`), names); best != "" {
			problem += fmt.Sprintf("; did you mean %q?", best)
		}
		return problem
	}
	return err.Error()
}

// nearest returns the candidate that word was probably meant to be, or "".
func nearest(word string, candidates []string) string {
	best, distance := "", len(word)/3+1
	for _, c := range candidates {
		d := editDistance(word, c)
		if d > distance && (strings.HasPrefix(c, word) || strings.HasPrefix(word, c)) {
			d = distance // cut short, or with something added
		}
		if d < distance || d == distance && best == "" {
			best, distance = c, d
		}
	}
	return best
}

// editDistance counts the letters to insert, remove, change or swap with their
// neighbours to make one word of the other.
func editDistance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, now := rows[0], rows[1], rows[2]
		now[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			now[j] = min(change, last[j]+1, now[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		rows[0], rows[1], rows[2] = last, now, before
	}
	return rows[1][len(b)]
}
