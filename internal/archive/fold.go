package archive

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// foldName returns the same string for names that some file system takes for
// the same: those that differ in case, by the full folding in which ß is ss,
// in how their characters are composed, or by characters that show nothing.
func foldName(name string) string {
	if isASCII(name) {
		return strings.ToUpper(name)
	}
	name = norm.NFD.String(name)
	name = strings.Map(dropInvisible, name)
	name = cases.Fold().String(name)
	// The full folding above swaps the cases of Cherokee instead of dropping
	// them. This pass leaves nothing of that, and agrees with ToUpper.
	name = strings.Map(leastCase, name)
	return norm.NFC.String(name)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func dropInvisible(r rune) rune {
	if unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
		return -1
	}
	return r
}

// leastCase returns the first of the characters that differ from r in case
// only. Marks do not count: one of them is a case of a letter, the Greek iota.
func leastCase(r rune) rune {
	least := r
	for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
		if c < least && !unicode.IsMark(c) {
			least = c
		}
	}
	return least
}
