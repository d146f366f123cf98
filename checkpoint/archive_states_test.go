package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/tinkex/tinkex/internal/archive"
)

// However many files an archive has, the states that are saved on the way are
// small beside it, and none is far behind.
func TestStatesAreSmallBesideTheirArchive(t *testing.T) {
	for _, tc := range []struct {
		files int
		size  int64 // of each
	}{{10_000, 2 << 10}, {10_000, 1 << 20}, {4, 200 << 20}, {1, 100}} {
		var written, behind int64
		saves := 0
		states := archiveStates{save: func(s *archive.State) error {
			b, err := json.Marshal(s)
			written += int64(len(b))
			saves++
			return err
		}}
		var s archive.State
		for i := range tc.files {
			for at := int64(1 << 20); at < tc.size; at += 1 << 20 {
				now := s
				now.Offset += at
				now.Partial = &archive.Partial{Name: "part", Size: tc.size, Written: at}
				if err := states.reached(now); err != nil {
					t.Fatal(err)
				}
				behind = max(behind, now.Offset-states.saved-int64(len(s.Files))*stateBytesPerFile)
			}
			s.Offset += tc.size + 512
			s.Files = append(s.Files, archive.File{Name: fmt.Sprintf("model-%05d-of-%05d.safetensors", i, tc.files), Size: tc.size})
			if err := states.reached(s); err != nil {
				t.Fatal(err)
			}
		}
		if written > s.Offset/20+1000 || behind > stateBytes {
			t.Errorf("%d files of %d bytes: %d states of %d bytes together for %d, the last up to %d behind", tc.files, tc.size, saves, written, s.Offset, behind)
		}
		if err := states.flush(); err != nil || states.saved != s.Offset {
			t.Errorf("in the end %d of %d are saved: %v", states.saved, s.Offset, err)
		}
		n := saves
		if _ = states.flush(); saves != n {
			t.Error("a state was saved twice")
		}
	}
	failed := errors.New("disk full")
	states := archiveStates{save: func(*archive.State) error { return failed }}
	if err := states.reached(archive.State{Offset: 2 << 20}); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}
