package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

func TestSearchSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	names := map[string]string{}
	create := func(owner, name, project string, metadata map[string]any) string {
		t.Helper()
		id, err := f.CreateSession(ctx, owner, NewSession{DisplayName: name, ProjectID: project, UserMetadata: metadata})
		if err != nil {
			t.Fatal(err)
		}
		names[id] = name
		f.clock.advance(time.Second)
		return id
	}
	lost := create(alice, "lost", "", nil)
	f.clock.advance(2 * time.Hour)
	nightly := create(alice, "Nightly run of March", "p", map[string]any{"team": "a", "n": 1.5})
	done := create(alice, "nightly done", "q", map[string]any{"team": "a"})
	failed := create(alice, "", "q", map[string]any{"team": "b"})
	create(bob, "nightly of another owner", "p", map[string]any{"team": "a"})
	names[failed] = "failed"
	for id, reason := range map[string]string{done: "success", failed: "errored"} {
		if err := f.FinishSession(ctx, alice, id, reason, "because"); err != nil {
			t.Fatal(err)
		}
	}
	state := func(states ...SessionState) func(SessionState, string) bool {
		return func(s SessionState, _ string) bool { return slices.Contains(states, s) }
	}
	for name, tc := range map[string]struct {
		q    SessionQuery
		want string
	}{
		"everything":          {SessionQuery{}, "failed|nightly done|Nightly run of March|lost"},
		"id":                  {SessionQuery{ID: lost}, "lost"},
		"another owner's":     {SessionQuery{Words: []string{"another"}}, ""},
		"a word":              {SessionQuery{Words: []string{"NIGHT"}}, "nightly done|Nightly run of March"},
		"words in any order":  {SessionQuery{Words: []string{"march", "nightly"}}, "Nightly run of March"},
		"no such words":       {SessionQuery{Words: []string{"nightly", "april"}}, ""},
		"id or words":         {SessionQuery{ID: lost, Words: []string{"done"}}, "nightly done|lost"},
		"project":             {SessionQuery{Within: []string{"q", "r"}}, "failed|nightly done"},
		"no projects":         {SessionQuery{Within: []string{}}, ""},
		"metadata":            {SessionQuery{Metadata: map[string]string{"team": "a"}}, "nightly done|Nightly run of March"},
		"metadata that lacks": {SessionQuery{Metadata: map[string]string{"team": "a", "x": ""}}, ""},
		"active":              {SessionQuery{State: state(SessionActive)}, "Nightly run of March"},
		"finished":            {SessionQuery{State: state(SessionFinished)}, "failed|nightly done"},
		"lost":                {SessionQuery{State: state(SessionLost)}, "lost"},
		"finished badly":      {SessionQuery{State: func(_ SessionState, r string) bool { return r == "errored" }}, "failed"},
		"all at once":         {SessionQuery{Words: []string{"nightly"}, Within: []string{"p"}, Metadata: map[string]string{"team": "a"}, State: state(SessionActive)}, "Nightly run of March"},
	} {
		tc.q.Limit = 50
		found, next, err := f.SearchSessions(ctx, alice, tc.q)
		if err != nil || next != nil {
			t.Errorf("%s: %v, %v", name, next, err)
		}
		var got []string
		for _, s := range found {
			got = append(got, names[s.ID])
		}
		if strings.Join(got, "|") != tc.want {
			t.Errorf("%s: found %q, want %q", name, strings.Join(got, "|"), tc.want)
		}
	}

	model := f.run(alice, nightly)
	for i, name := range []string{"a", "b"} {
		f.mustSave(alice, model, int64(i+1), SaveRequest{Kind: metastore.KindTraining, Name: name})
	}
	found, _, err := f.SearchSessions(ctx, alice, SessionQuery{Limit: 50})
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := f.Checkpoints(ctx, alice, metastore.Page{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if u := found[2].Usage; u.Checkpoints != 2 || u.Bytes != list[0].SizeBytes+list[1].SizeBytes || found[1].Usage != (metastore.Usage{}) {
		t.Errorf("usage is %+v and %+v", u, found[1].Usage)
	}
}

// Pages are whole however sparse the matches, and end when there is no more.
func TestSearchSessionsPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []string
	for i := range 450 { // more than are read at once
		name := "other"
		if i%75 == 0 {
			name = fmt.Sprintf("wanted %d", i)
			want = append(want, name)
		}
		if _, err := f.CreateSession(t.Context(), alice, NewSession{DisplayName: name}); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(time.Millisecond)
	}
	slices.Reverse(want)
	for limit, pages := range map[int]int{1: 6, 2: 3, 4: 2, 6: 1, 200: 1} {
		var got []string
		q := SessionQuery{Words: []string{"wanted"}, Limit: limit}
		n := 0
		for {
			found, next, err := f.SearchSessions(t.Context(), alice, q)
			if err != nil {
				t.Fatal(err)
			}
			n++
			for _, s := range found {
				got = append(got, s.DisplayName)
			}
			if q.After = next; next == nil {
				break
			}
		}
		if !slices.Equal(got, want) || n != pages {
			t.Errorf("pages of %d: %v on %d pages, want %v on %d", limit, got, n, want, pages)
		}
	}
}
