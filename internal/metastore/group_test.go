package metastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grouped is a store with a table to write into.
func grouped(t *testing.T) *store {
	t.Helper()
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	st := s.(*store)
	if _, err := st.w.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT`); err != nil {
		t.Fatal(err)
	}
	return st
}

func put(ctx context.Context, n int) func(queries) error {
	return func(q queries) error {
		_, err := q.exec(ctx, `INSERT INTO numbers (n) VALUES (?)`, n)
		return err
	}
}

// together lets several transactions come while another is at work, and
// returns what became of each.
func together(t *testing.T, s *store, all ...func(queries) error) []error {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		first <- s.write(context.Background(), func(queries) error {
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	errs := make([]chan error, len(all))
	for i, f := range all {
		errs[i] = make(chan error, 1)
		go func() { errs[i] <- s.write(context.Background(), f) }()
		for waiting := 0; waiting <= i; runtime.Gosched() {
			s.group.mu.Lock()
			waiting = len(s.group.waiting)
			s.group.mu.Unlock()
		}
	}
	close(end)
	if err := <-first; err != nil {
		t.Error(err)
	}
	out := make([]error, len(all))
	for i := range errs {
		out[i] = <-errs[i]
	}
	return out
}

func numbers(t *testing.T, s *store) string {
	t.Helper()
	all, err := list(t.Context(), s.query(), `SELECT n FROM numbers ORDER BY n`, nil, func(row scanner) (n int, err error) {
		return n, row.Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(fmt.Sprint(all), "[]")
}

func TestGroup(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	refused := errors.New("refused")
	s := grouped(t)
	errs := together(t, s,
		put(ctx, 1),
		func(q queries) error { // undone without a trace in the others
			if err := put(ctx, 2)(q); err != nil {
				return err
			}
			return refused
		},
		put(ctx, 1), // what the first did is there to be seen
		func(q queries) error {
			var n int
			if err := q.row(ctx, `SELECT COUNT(*) FROM numbers`).Scan(&n); err != nil {
				return err
			}
			return put(ctx, 10*n)(q)
		},
	)
	if errs[0] != nil || !errors.Is(errs[1], refused) || errs[2] == nil || errs[3] != nil {
		t.Errorf("the errors are %v", errs)
	}
	if got := numbers(t, s); got != "1 10" {
		t.Errorf("there are %s, want 1 and 10", got)
	}
}

// Whatever undoes the whole transaction costs nobody else theirs.
func TestGroupThatIsUndone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := grouped(t)
	runs := 0
	errs := together(t, s,
		put(ctx, 1),
		func(q queries) error {
			runs++
			_, err := q.exec(ctx, `ROLLBACK`) // as SQLite does when the disk is full
			return errors.Join(err, errors.New("full"))
		},
		put(ctx, 3),
	)
	if errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("the errors are %v", errs)
	}
	if got := numbers(t, s); got != "1 3" || runs != 2 {
		t.Errorf("there are %s after %d attempts, want 1 and 3 after 2", got, runs)
	}
	if err := s.write(ctx, put(ctx, 4)); err != nil {
		t.Error(err)
	}
}

func TestGroupWithoutDatabase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := grouped(t)
	errs := together(t, s, func(q queries) error {
		_, err := q.exec(ctx, `PRAGMA defer_foreign_keys = 1`)
		if err == nil {
			_, err = q.exec(ctx, `INSERT INTO runs (id, session_id, seq, owner, project_id, base_model, lora_rank, train_attn,
				train_mlp, train_unembed, resumed_from, request_hash, created_at, last_request_at, state, unsaved)
				VALUES ('r', 'none', 0, '', '', '', 0, 0, 0, 0, '', '', 0, 0, '', 0)`)
		}
		return err
	}, put(ctx, 1), put(ctx, 2))
	// Nobody is told that something is done whose commit failed.
	for i, err := range errs {
		if err == nil {
			t.Errorf("%d is said to be done", i)
		}
	}
	if got := numbers(t, s); got != "" {
		t.Errorf("there are %s", got)
	}
	if err := s.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.write(ctx, put(ctx, 3)); err == nil || !strings.Contains(err.Error(), s.where) {
		t.Errorf("a store that is closed says %v", err)
	}
}

func TestGroupCanceled(t *testing.T) {
	t.Parallel()
	s := grouped(t)
	waits, cancelWaits := context.WithCancel(t.Context())
	works, cancelWorks := context.WithCancel(t.Context())
	errs := together(t, s,
		func(q queries) error {
			// One that waits no longer is not carried out; it does not wait either.
			cancelWaits()
			return put(context.Background(), 1)(q)
		},
		func(q queries) error {
			err := put(works, 2)(q)
			cancelWorks()
			if err == nil {
				err = put(works, 3)(q)
			}
			return err
		},
		put(context.Background(), 4),
	)
	if errs[0] != nil || !errors.Is(errs[1], context.Canceled) || errs[2] != nil {
		t.Errorf("the errors are %v", errs)
	}
	if err := s.write(waits, put(waits, 5)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: %v", err)
	}
	if got := numbers(t, s); got != "1 4" {
		t.Errorf("there are %s, want 1 and 4", got)
	}
	// One that is canceled while it waits for another returns at once.
	begun, end := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.write(context.Background(), func(queries) error { close(begun); <-end; return nil })
	}()
	<-begun
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.write(soon, put(soon, 6)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("canceled while waiting: %v", err)
	}
	close(end)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := numbers(t, s); got != "1 4" {
		t.Errorf("there are %s, want 1 and 4", got)
	}
}

func TestPreparedStatements(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := grouped(t)
	conn, err := s.w.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	idle := func() (n int) {
		err := conn.Raw(func(c any) error { n = len(c.(*preparedConn).idle); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := idle()
	q := queries{executor: conn, dialect: s.dialect}
	for i := range 3 {
		if err := put(ctx, i)(q); err != nil {
			t.Fatal(err)
		}
	}
	if n := idle(); n != before+1 {
		t.Errorf("%d statements are kept, want one more than %d", n, before)
	}
	if err := put(ctx, 1)(q); err == nil {
		t.Error("a number is there twice")
	}
	if err := put(ctx, 3)(q); err != nil {
		t.Errorf("after an error: %v", err)
	}
	// The same query within itself is another statement.
	const query = `SELECT n FROM numbers WHERE n >= ? ORDER BY n`
	var got []int
	err = q.each(ctx, query, []any{1}, func(row scanner) error {
		var outer int
		if err := row.Scan(&outer); err != nil {
			return err
		}
		return q.each(ctx, query, []any{outer}, func(row scanner) error {
			var inner int
			err := row.Scan(&inner)
			got = append(got, inner)
			return err
		})
	})
	if want := []int{1, 2, 3, 2, 3, 3}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	// One that is left early starts anew.
	for range 2 {
		var n int
		if err := q.row(ctx, query, 0).Scan(&n); err != nil || n != 0 {
			t.Errorf("the first is %d: %v", n, err)
		}
	}
	if err := q.row(ctx, query, 99).Scan(new(int)); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("none: %v", err)
	}
	// A table that changes is no obstacle.
	if _, err := q.exec(ctx, `ALTER TABLE numbers ADD COLUMN word TEXT`); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, 7)(q); err != nil {
		t.Error(err)
	}
	for i := range maxStatements + 10 {
		if _, err := q.exec(ctx, fmt.Sprintf(`DELETE FROM numbers WHERE n = %d`, -i-1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := idle(); n > maxStatements {
		t.Errorf("%d statements are kept", n)
	}
	n := idle()
	if _, err := q.exec(ctx, `DELETE FROM numbers WHERE n IN (`+repeat("-1", longQuery)+`)`); err != nil || idle() != n {
		t.Errorf("a very long query is kept: %v", err)
	}
}
