package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/wire"
)

// listing reads a stretch of alice's list, line by line.
func (f *fixture) listing(query string) (all []tinkex.Checkpoint, next *string) {
	f.t.Helper()
	a := f.send(http.MethodGet, wire.ExtensionPrefix+"/checkpoints?"+query, nil, wire.HeaderAPIKey, alice).want(http.StatusOK)
	if ct := a.header.Get("Content-Type"); ct != wire.ContentTypeLines || a.header.Get("Content-Length") != fmt.Sprint(len(a.body)) {
		f.t.Errorf("the list is %q of %s bytes", ct, a.header.Get("Content-Length"))
	}
	lines := strings.SplitAfter(string(a.body), "\n")
	if lines[len(lines)-1] != "" {
		f.t.Fatalf("the last line does not end: %q", a.body)
	}
	for _, line := range lines[:len(lines)-2] {
		var c tinkex.Checkpoint
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			f.t.Fatalf("%q: %v", line, err)
		}
		all = append(all, c)
	}
	var end wire.ListEnd
	decoder := json.NewDecoder(strings.NewReader(lines[len(lines)-2]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&end); err != nil {
		f.t.Fatalf("%q: %v", lines[len(lines)-2], err)
	}
	return all, end.Next
}

// Both lists of checkpoints say the same.
func TestListing(t *testing.T) {
	f := newFixture(t)
	if all, next := f.listing(""); all != nil || next != nil {
		t.Errorf("nobody's list has %v and goes on at %v", all, next)
	}
	f.train()
	for i := range 7 {
		extra := ""
		if i == 3 {
			extra = `,"ttl_seconds":3600`
		}
		f.save(fmt.Sprintf("s%d", i), i+1, extra).want(http.StatusOK, "weights")
		if i%2 == 1 {
			f.clock.advance(time.Minute)
		}
	}
	f.send(http.MethodPost, wire.APIPrefix+"/training_runs/"+f.model+"/checkpoints/weights/s5/publish", nil, wire.HeaderAPIKey, alice).want(http.StatusNoContent)
	same := func(n int) {
		t.Helper()
		var want tinkex.CheckpointList
		if err := json.Unmarshal(f.get("/checkpoints").want(http.StatusOK).body, &want); err != nil {
			t.Fatal(err)
		}
		if len(want.Checkpoints) != n {
			t.Fatalf("%d checkpoints, want %d", len(want.Checkpoints), n)
		}
		for _, limit := range []int{1, 2, 3, 7, 8, 10_000} {
			var all []tinkex.Checkpoint
			requests, place := 0, ""
			for {
				part, next := f.listing(fmt.Sprintf("limit=%d&after=%s", limit, url.QueryEscape(place)))
				if len(part) > limit {
					t.Errorf("%d of at most %d", len(part), limit)
				}
				all = append(all, part...)
				if requests++; next == nil {
					break
				}
				place = *next
			}
			if !reflect.DeepEqual(all, want.Checkpoints) || requests != n/limit+1 {
				t.Errorf("by %d, in %d requests, it is\n%+v\nwant\n%+v", limit, requests, all, want.Checkpoints)
			}
		}
	}
	same(7)
	f.clock.advance(2 * time.Hour)
	same(6) // one has expired
	a := f.send(http.MethodGet, wire.ExtensionPrefix+"/checkpoints", nil, wire.HeaderAPIKey, bob).want(http.StatusOK)
	if !bytes.Equal(a.body, []byte(`{"next":null}`+"\n")) {
		t.Errorf("bob sees %s", a.body)
	}
}

func TestListingOfNoPlace(t *testing.T) {
	f := newFixture(t)
	for _, place := range []string{"x", "-", "5", "5-", "-5", "5-x", "5-6-7", "tinker://r/weights/x", "99999999999999999999-1", "ä", "\x00"} {
		a := f.send(http.MethodGet, wire.ExtensionPrefix+"/checkpoints?after="+url.QueryEscape(place), nil, wire.HeaderAPIKey, alice)
		if detail := a.want(http.StatusBadRequest).detail(); !strings.Contains(detail, "after") || !strings.Contains(detail, "next") {
			t.Errorf("%q: %s", place, detail)
		}
	}
	for _, limit := range []string{"0", "-1", "10001", "x"} {
		f.send(http.MethodGet, wire.ExtensionPrefix+"/checkpoints?limit="+limit, nil, wire.HeaderAPIKey, alice).want(http.StatusUnprocessableEntity, "limit")
	}
	if all, next := f.listing("after=-5-6"); all != nil || next != nil {
		t.Errorf("before 1970 there are %v", all)
	}
}

func FuzzPlace(f *testing.F) {
	f.Add("1767323045678901-12")
	f.Add("-5-6")
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return // the beginning
		}
		p, err := parsePlace(s)
		if err != nil {
			return
		}
		if again, err := parsePlace(formatPlace(p)); err != nil || again != p {
			t.Errorf("%q is %v, written down and read again %v, %v", s, p, again, err)
		}
	})
}
