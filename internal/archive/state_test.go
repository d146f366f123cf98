package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// longTar is an archive in which states happen between files and in one.
func longTar(t testing.TB) []byte {
	entries := []Entry{
		bytesEntry("adapter_config.json", []byte("{}")),
		bytesEntry("a/b/exactly-a-block", bytes.Repeat([]byte("x"), blockSize)),
		bytesEntry("weights", bytes.Repeat([]byte("0123456789abcde"), 3<<20)), // 45 MiB
		bytesEntry("a/"+strings.Repeat("long", 50), []byte("a name that needs a PAX record")),
		bytesEntry("checkpoint_complete", nil),
	}
	return whole(t, mustNew(t, entries))
}

// states extracts an archive and returns the states on the way.
func states(t *testing.T, archive []byte) (all []State, want []File) {
	t.Helper()
	want, err := Extract(t.Context(), bytes.NewReader(archive), t.TempDir(), ExtractOptions{OnState: func(s State) error {
		s.Files, s.Dirs = slices.Clone(s.Files), slices.Clone(s.Dirs)
		all = append(all, s)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return all, want
}

var errStop = errors.New("stop here")

// stopAt extracts up to the n-th state, and a little beyond it.
func stopAt(t *testing.T, archive []byte, n int) (dir string, st *State) {
	t.Helper()
	dir = t.TempDir()
	i := 0
	_, err := Extract(t.Context(), bytes.NewReader(archive), dir, ExtractOptions{OnState: func(s State) error {
		if i++; i == n+1 {
			// As it comes back from a file.
			b, err := json.Marshal(s)
			if err != nil {
				return err
			}
			st = &State{}
			return json.Unmarshal(b, st)
		}
		if st != nil {
			return errStop
		}
		return nil
	}})
	if st == nil || err != nil && !errors.Is(err, errStop) {
		t.Fatalf("state %d: %v", n, err)
	}
	return dir, st
}

func TestExtractionGoesOnFromEveryState(t *testing.T) {
	archive := longTar(t)
	all, want := states(t, archive)
	if len(all) < len(want)+2 {
		t.Fatalf("%d states of %d files, one of which has 45 MiB", len(all), len(want))
	}
	partial := 0
	for n, known := range all {
		dir, st := stopAt(t, archive, n)
		if st.Partial != nil {
			partial++
		}
		if st.Offset != known.Offset {
			t.Errorf("state %d is at %d and at %d", n, st.Offset, known.Offset)
		}
		got, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:]), dir, ExtractOptions{Resume: st, Sync: true})
		if err != nil {
			t.Fatalf("from state %d, at %d: %v", n, st.Offset, err)
		}
		if len(got) != len(want) {
			t.Fatalf("from state %d: %d files", n, len(got))
		}
		for i, f := range want {
			if got[i] != f {
				t.Errorf("from state %d: %+v, want %+v", n, got[i], f)
			}
			if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil || info.Size() != f.Size {
				t.Errorf("from state %d: %s: %v", n, f.Name, err)
			}
		}
	}
	if partial < 2 {
		t.Errorf("%d states within a file", partial)
	}
}

// Where a stream breaks in the middle of a file, all that came is in a state.
func TestBrokenStreamLeavesAState(t *testing.T) {
	archive := longTar(t)
	broken := errors.New("connection reset")
	for _, n := range []int{5 << 20, 5<<20 + 1234, 17<<20 - 1} {
		dir := t.TempDir()
		var st State
		_, err := Extract(t.Context(), io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(broken)), dir, ExtractOptions{OnState: func(s State) error {
			st = s
			return nil
		}})
		if !errors.Is(err, broken) || st.Offset != int64(n) || st.Partial == nil || st.Partial.Name != "weights" {
			t.Fatalf("after %d bytes the state is at %d: %v", n, st.Offset, err)
		}
		if _, err := Extract(t.Context(), bytes.NewReader(archive[n:]), dir, ExtractOptions{Resume: &st}); err != nil {
			t.Errorf("from %d: %v", n, err)
		}
	}
}

func TestExtractionDoesNotTrustWhatItFinds(t *testing.T) {
	archive := longTar(t)
	all, _ := states(t, archive)
	last := len(all) - 1
	middle := -1
	for i, s := range all {
		if s.Partial != nil {
			middle = i
		}
	}
	flip := func(name string) func(dir string) error {
		return func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte{'#'}, 1)
			return err
		}
	}
	for name, tc := range map[string]struct {
		state  int
		damage func(dir string) error
		state2 func(*State)
		fails  bool
	}{
		"a byte of a complete file":  {last, flip("adapter_config.json"), nil, true},
		"a byte of the partial file": {middle, flip("weights"), nil, true},
		"a complete file is gone":    {last, func(dir string) error { return os.Remove(filepath.Join(dir, "weights")) }, nil, true},
		"the partial file is short":  {middle, func(dir string) error { return os.Truncate(filepath.Join(dir, "weights"), 10) }, nil, true},
		"a link in a file's place": {last, func(dir string) error {
			p := filepath.Join(dir, "adapter_config.json")
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Symlink(filepath.Join(dir, "weights"), p)
		}, nil, true},
		"something more": {middle, func(dir string) error { return os.WriteFile(filepath.Join(dir, "a", "more"), []byte("x"), 0o600) }, nil, false},
		"more of the partial file": {middle, func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "weights"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write([]byte("what came after the state"))
			return err
		}, nil, false},
		"a name that leads out": {last, nil, func(s *State) { s.Files[0].Name = "../outside" }, true},
		"a size below what is":  {middle, nil, func(s *State) { s.Partial.Size = 1 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, st := stopAt(t, archive, tc.state)
			if tc.damage != nil {
				if err := tc.damage(dir); err != nil {
					t.Fatal(err)
				}
			}
			if tc.state2 != nil {
				tc.state2(st)
			}
			_, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:]), dir, ExtractOptions{Resume: st})
			if tc.fails != errors.Is(err, ErrState) || !tc.fails && err != nil {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "a", "more")); err == nil {
				t.Error("what no state knows is still there")
			}
		})
	}
}

func TestCompressedArchivesHaveNoStates(t *testing.T) {
	archive := longTar(t)
	_, err := Extract(t.Context(), bytes.NewReader(gzipped(t, archive)), t.TempDir(), ExtractOptions{OnState: func(State) error {
		return errors.New("a state of a compressed stream")
	}})
	if err != nil {
		t.Error(err)
	}
}

// Whatever a state and a stream say, nothing outside the directory is touched.
func FuzzResume(f *testing.F) {
	archive := whole(f, mustNew(f, []Entry{bytesEntry("a", []byte("abc")), bytesEntry("d/b", []byte("defg"))}))
	f.Add([]byte(`{"offset":1024,"files":[{"name":"a","size":3}]}`), archive[1024:])
	f.Add([]byte(`{"offset":514,"partial":{"name":"a","size":3,"written":2}}`), archive[514:])
	f.Add([]byte(`{"offset":1024,"files":[],"dirs":["d","../d","a/b"]}`), archive[1024:])
	f.Add([]byte(`{"offset":-5,"files":[{"name":"../x"}],"partial":{"name":"/etc/x","size":9,"written":-1}}`), archive)
	f.Fuzz(func(t *testing.T, state, stream []byte) {
		var st State
		if json.Unmarshal(state, &st) != nil {
			t.Skip()
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("abc"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Extract(t.Context(), bytes.NewReader(stream), dir, ExtractOptions{Resume: &st, MaxBytes: 1 << 20, MaxFiles: 100})
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("beside the directory: %v, %v", entries, err)
		}
	})
}

// TestEmptyDirectoriesSurvive: a directory that an archive mentions once, with
// nothing in it, is there in the end wherever the extraction was taken up again;
// one that came after the state is made anew.
func TestEmptyDirectoriesSurvive(t *testing.T) {
	archive := archiveOf(
		member("empty/", tar.TypeDir, ""), member("deep/er/", tar.TypeDir, ""), file("a", "abc"),
		member("later/", tar.TypeDir, ""), file("b", strings.Repeat("b", blockSize+1)), member("last/", tar.TypeDir, ""),
	)
	whole := t.TempDir()
	if _, err := Extract(t.Context(), bytes.NewReader(archive), whole, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	want := survey(t, whole, "")
	for n := range 2 {
		dir, st := stopAt(t, archive, n)
		// Whatever came after the state is there too.
		for _, later := range []string{"later", "last"} {
			_ = os.Mkdir(filepath.Join(dir, later), 0o700)
		}
		if _, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:]), dir, ExtractOptions{Resume: st}); err != nil {
			t.Fatalf("from state %d: %v", n, err)
		}
		if got := survey(t, dir, ""); !equalMaps(got, want) {
			t.Errorf("from state %d there is %q, want %q", n, got, want)
		}
	}
	for name, dirs := range map[string][]string{"gone": {"empty", "gone"}, "a file": {"a"}, "outside": {"../x"}, "twice in other letters": {"empty", "EMPTY"}} {
		dir, st := stopAt(t, archive, 0)
		st.Dirs = dirs
		if _, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:]), dir, ExtractOptions{Resume: st}); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSizesAroundBlocks: padding is found again wherever a file ends.
func TestSizesAroundBlocks(t *testing.T) {
	var parts [][]byte
	for _, n := range []int{0, 1, 511, 512, 513, 1023, 1024, 1025} {
		parts = append(parts, file(fmt.Sprint("f", n), strings.Repeat("x", n)))
	}
	archive := archiveOf(parts...)
	all, want := states(t, archive)
	for n := range all {
		dir, st := stopAt(t, archive, n)
		got, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:]), dir, ExtractOptions{Resume: st})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("from state %d, at %d: %d files of %d, %v", n, st.Offset, len(got), len(want), err)
		}
		for _, f := range want {
			if b, err := os.ReadFile(filepath.Join(dir, f.Name)); err != nil || sha256.Sum256(b) != f.SHA256 {
				t.Errorf("from state %d: %s has %d bytes, %v", n, f.Name, len(b), err)
			}
		}
	}
	// A stream that is cut short is said to be so from every state.
	for n := range all {
		dir, st := stopAt(t, archive, n)
		if _, err := Extract(t.Context(), bytes.NewReader(archive[st.Offset:len(archive)-1025]), dir, ExtractOptions{Resume: st}); !errors.Is(err, ErrTruncated) {
			t.Errorf("from state %d, cut short: %v", n, err)
		}
	}
}
