package checkpoint

import (
	"slices"
	"testing"
)

// What is flushed to disk beside the files: every directory, and none before
// those in it.
func TestDirectoriesOf(t *testing.T) {
	got := directoriesOf([]string{"a", "x/y/z/a", "x/y/b", "x/c", "w/d"})
	if want := []string{"x/y/z", "x/y", "x", "w"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := directoriesOf([]string{"a", "b"}); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
