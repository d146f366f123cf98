package tinkex

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/wire"
)

const stretches = "GET /tinkex/v1/checkpoints"

// stretchList serves checkpoints by stretches, as this project's server does:
// the place of a checkpoint is its name, and the list goes on with those whose
// names are greater.
type stretchList struct {
	mu    sync.Mutex
	names []string
	asked []string // queries
}

func (l *stretchList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, r.URL.RawQuery)
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 1000
	}
	w.Header().Set("Content-Type", wire.ContentTypeLines)
	var end wire.ListEnd
	for _, name := range l.names {
		if name <= r.URL.Query().Get("after") {
			continue
		}
		if limit--; limit < 0 {
			break
		}
		line, _ := json.Marshal(Checkpoint{CheckpointID: "weights/" + name, TinkerPath: "tinker://r/weights/" + name})
		fmt.Fprintf(w, "%s\n", line)
		if end.Next = nil; limit == 0 {
			end.Next = new(name)
		}
	}
	_ = json.NewEncoder(w).Encode(end)
}

func (l *stretchList) queries() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

func TestStretchByStretch(t *testing.T) {
	for _, test := range []struct {
		n, size int
		asked   []string
	}{
		{0, 0, []string{"limit=100"}},
		{3, 0, []string{"limit=100"}},
		{3, 10, []string{"limit=10"}},
		{3, 3, []string{"limit=3", "after=c002&limit=6"}},
		{5, 2, []string{"limit=2", "after=c001&limit=4"}},
		{15, 1, []string{"limit=1", "after=c000&limit=2", "after=c002&limit=4", "after=c006&limit=8", "after=c014&limit=16"}},
		{2, 3000, []string{"limit=3000"}},
		{990, 900, []string{"limit=900", "after=c899&limit=1800"}},
	} {
		f := newFakeServer(t)
		list := &stretchList{names: names(test.n)}
		f.handle(stretches, list.ServeHTTP)
		var got []string
		for k, err := range f.rest().AllCheckpoints(t.Context(), PageOptions{PageSize: test.size}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimPrefix(k.CheckpointID, "weights/"))
		}
		if !slices.Equal(got, list.names) || !slices.Equal(list.queries(), test.asked) {
			t.Errorf("%d by %d: got %v by %v", test.n, test.size, got, list.queries())
		}
		if paths := f.seen("GET /checkpoints"); len(paths) != 0 {
			t.Errorf("asked by offset as well: %v", paths)
		}
	}
}

// Who wants only the first few has no more read, and whoever stops later leaves
// nothing behind: the package's tests end without a goroutine.
func TestStretchesStopWhenTold(t *testing.T) {
	for stop, most := range map[int]int{1: 1, 9: 1, 10: 1, 11: 3, 25: 4} {
		f := newFakeServer(t)
		list := &stretchList{names: names(100)}
		f.handle(stretches, list.ServeHTTP)
		n := 0
		for range f.rest().AllCheckpoints(t.Context(), PageOptions{PageSize: 10}) {
			if n++; n == stop {
				time.Sleep(20 * time.Millisecond) // what is fetched ahead arrives
				break
			}
		}
		if got := len(list.queries()); n != stop || got > most {
			t.Errorf("stopped after %d, the server was asked %d times", n, got)
		}
	}
}

// Stretches grow up to a length and no further; while one is gone through, the
// next one does not come into its memory.
func TestLongLists(t *testing.T) {
	f := newFakeServer(t)
	list := new(stretchList)
	for i := range 9000 {
		list.names = append(list.names, fmt.Sprintf("c%05d", i))
	}
	f.handle(stretches, list.ServeHTTP)
	i := 0
	for k, err := range f.rest().AllCheckpoints(t.Context(), PageOptions{PageSize: 1500}) {
		if err != nil {
			t.Fatal(err)
		}
		if k.TinkerPath != "tinker://r/weights/"+list.names[i] {
			t.Fatalf("number %d is %s", i, k.TinkerPath)
		}
		if i++; i%2000 == 1501 { // the first of each stretch but the first
			time.Sleep(50 * time.Millisecond) // the next one arrives
		}
	}
	want := []string{"limit=1500", "after=c01499&limit=2000", "after=c03499&limit=2000", "after=c05499&limit=2000", "after=c07499&limit=2000"}
	if got := list.queries(); i != len(list.names) || !slices.Equal(got, want) {
		t.Errorf("%d of %d, by %v", i, len(list.names), got)
	}
}

// Servers that do not know stretches are asked by offset, and those that say so
// are not asked again.
func TestListsByOffset(t *testing.T) {
	html := answerRaw(200, "text/html", "<html>")
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		asked  int
	}{
		"not found":      {answerDetail(404, "Not Found"), 1},
		"not allowed":    {answerDetail(405, "Method Not Allowed"), 1},
		"no such call":   {answerDetail(501, "Not Implemented"), 1},
		"a gateway's no": {answerDetail(403, "no route"), 2},
		"bad request":    {answerDetail(400, "no route"), 2},
		"a web page":     {html, 2},
	} {
		f := newFakeServer(t)
		f.handle(stretches, test.answer)
		list := &checkpointList{names: names(5)}
		f.handle("GET /checkpoints", list.ServeHTTP)
		c := f.rest()
		for range 2 {
			n := 0
			for _, err := range c.AllCheckpoints(t.Context(), PageOptions{PageSize: 2}) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				n++
			}
			if n != 5 {
				t.Errorf("%s: %d checkpoints", name, n)
			}
		}
		if got := len(f.seen(stretches)); got != test.asked {
			t.Errorf("%s: asked %d times, want %d", name, got, test.asked)
		}
	}
}

func TestStretchesThatFail(t *testing.T) {
	lines := func(s string) http.HandlerFunc { return answerRaw(200, wire.ContentTypeLines, s) }
	item := `{"tinker_path":"tinker://r/weights/x"}` + "\n"
	for name, test := range map[string]struct {
		answers []http.HandlerFunc
		n       int // yielded before
		message string
		is      error
	}{
		"unauthorized":     {[]http.HandlerFunc{answerDetail(401, "who are you")}, 0, "who are you", ErrUnauthorized},
		"later":            {[]http.HandlerFunc{lines(item + `{"next":"p"}`), answerDetail(403, "no longer")}, 1, "no longer", ErrForbidden},
		"gone later":       {[]http.HandlerFunc{lines(item + `{"next":"p"}`), answerDetail(404, "no such call")}, 1, "no such call", ErrNotFound},
		"empty":            {[]http.HandlerFunc{lines("")}, 0, "last line", nil},
		"cut off":          {[]http.HandlerFunc{lines(item + item)}, 0, "last line", nil},
		"cut in the line":  {[]http.HandlerFunc{lines(item + `{"next":"p`)}, 0, "last line", nil},
		"goes on nowhere":  {[]http.HandlerFunc{lines(item + `{"next":""}`)}, 0, "goes on at", nil},
		"goes on at seven": {[]http.HandlerFunc{lines(item + `{"next":7}`)}, 0, "goes on at 7", nil},
		"in circles":       {[]http.HandlerFunc{lines(item + `{"next":"p"}`), lines(item + `{"next":"p"}`)}, 1, "goes on where it was", nil},
		"no checkpoint":    {[]http.HandlerFunc{lines(item + "[]\n" + `{"next":null}`)}, 1, "cannot be read", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			f.sequence(stretches, test.answers...)
			n := 0
			var failure error
			for k, err := range f.rest().AllCheckpoints(t.Context(), PageOptions{}) {
				if failure != nil {
					t.Fatal("the iteration goes on after an error")
				}
				if failure = err; err == nil {
					n++
				} else if k.TinkerPath != "" {
					t.Error("an item comes with the error")
				}
			}
			if n != test.n {
				t.Errorf("%d items, want %d", n, test.n)
			}
			wantError(t, failure, test.is, test.message)
		})
	}
}

func TestStretchesAreRetriedAndCancelled(t *testing.T) {
	f := newFakeServer(t)
	list := &stretchList{names: names(4)}
	f.sequence(stretches, list.ServeHTTP, answerDetail(503, "in a moment"), hangUp, list.ServeHTTP)
	n := 0
	for _, err := range f.rest().AllCheckpoints(t.Context(), PageOptions{PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 4 {
		t.Errorf("%d checkpoints", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	list = &stretchList{names: names(4)}
	f.handle(stretches, list.ServeHTTP)
	var failure error
	for _, err := range f.rest().AllCheckpoints(ctx, PageOptions{PageSize: 2}) {
		cancel()
		failure = err
	}
	if !errors.Is(failure, context.Canceled) {
		t.Errorf("after the end of its context: %v", failure)
	}
}

func FuzzStretch(f *testing.F) {
	f.Add([]byte(compactCheckpoint + "\n" + `{"next":"5-6"}` + "\n"))
	f.Add([]byte(`{"next":null}`))
	f.Add([]byte("\n\n{\"next\":\"\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseStretch(body)
		if err != nil {
			return
		}
		if len(s.lines) > 0 && s.lines[len(s.lines)-1] != '\n' || len(s.lines) >= len(body) {
			t.Fatalf("of %q it takes %q as lines", body, s.lines)
		}
	})
}
