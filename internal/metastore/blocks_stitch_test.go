package metastore

import "testing"

// What changes between finding the middle of a stretch and reading its parts
// neither ends the list nor loses anything.
func TestStitch(t *testing.T) {
	for name, test := range map[string]struct {
		limit, head, tail int
		goesOn            bool
	}{
		"as planned":                 {8, 4, 4, true},
		"the end":                    {8, 4, 3, false},
		"nothing after the middle":   {8, 4, 0, false},
		"some have gone before it":   {8, 2, 4, true},
		"all have gone before it":    {8, 0, 4, true},
		"some have come before it":   {8, 6, 4, true},
		"some came before its end":   {8, 5, 1, false},
		"more than there is room of": {12, 6, 6, true},
	} {
		half := test.limit / 2
		room := make([]ListedCheckpoint, max(half, min(test.limit, 10)))
		head, tail := room[:0:half], room[half:half]
		for i := range test.head {
			head = append(head, ListedCheckpoint{ID: int64(100 - i)})
		}
		for i := range test.tail {
			tail = append(tail, ListedCheckpoint{ID: int64(50 - i)})
		}
		all, next := stitch(room, head, tail, half, test.limit)
		if (next != nil) != test.goesOn || next != nil && next.ID != int64(51-test.tail) {
			t.Errorf("%s: it goes on at %+v", name, next)
		}
		if len(all) != test.head+test.tail {
			t.Fatalf("%s: %d, want %d", name, len(all), test.head+test.tail)
		}
		for i, c := range all {
			want := int64(100 - i)
			if i >= test.head {
				want = int64(50 - (i - test.head))
			}
			if c.ID != want {
				t.Errorf("%s: number %d is %d, want %d", name, i, c.ID, want)
			}
		}
	}
}
