package metastore

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits longest is next, which is what database/sql does not promise.
func TestTurnsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiting = 100
		turn := make(turns, 1)
		if err := turn.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		order := make(chan int, waiting)
		for i := range waiting {
			go func() {
				if err := turn.take(t.Context()); err != nil {
					t.Error(err)
				}
				order <- i
				turn.give()
			}()
			synctest.Wait() // it waits now
		}
		turn.give()
		for want := range waiting {
			if got := <-order; got != want {
				t.Fatalf("number %d had turn %d", got, want)
			}
		}
	})
}

// A query gives its connection's turn back, whatever becomes of it.
func TestTurnsAreGivenBack(t *testing.T) {
	opened, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer s.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 * readers {
		for _, ctx := range []context.Context{t.Context(), gone} {
			_, _ = s.Run(ctx, "none")
			_, _, _ = s.Sessions(ctx, "o", Page{Limit: 1})
			_, _ = s.Keys(ctx)
			_, _ = s.query().exec(ctx, `not a query`)
			_, _ = list(ctx, s.query(), `not a query`, nil, scanKey)
		}
	}
	if n := len(s.turns); n != 0 {
		t.Errorf("%d turns are not given back", n)
	}
	// All of them taken, the next one waits no longer than a database may take.
	s.answer = time.Millisecond
	for range readers {
		if err := s.turns.take(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Run(t.Context(), "none"); err == nil {
		t.Error("a query was carried out of turn")
	}
}
