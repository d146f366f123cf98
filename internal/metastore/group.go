package metastore

import (
	"context"
	"database/sql"
	"sync"
	"time"
)

// groupSize bounds how many transactions are committed together.
const groupSize = 64

// A group commits the transactions together that come while one is being
// committed. SQLite has one writer at a time and syncs the disk for each, so
// that many who write would wait for as many syncs; this way they wait for two
// at most. PostgreSQL does the same by itself.
//
// Transactions are carried out one after the other, each as if alone: what one
// does that fails is undone without a trace in the others. Nobody is told that
// theirs is done before it is on the disk.
type group struct {
	db      *sql.DB
	dialect dialect
	answer  time.Duration // see store

	mu      sync.Mutex
	waiting []*member
	running bool
}

// A member is one transaction.
type member struct {
	ctx  context.Context
	f    func(queries) error
	err  error
	done chan struct{}
}

// write runs f in a transaction that is durable when write returns.
func (g *group) write(ctx context.Context, f func(queries) error) error {
	m := &member{ctx: ctx, f: f, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	if !g.running {
		g.running = true
		go g.run()
	}
	g.mu.Unlock()
	select {
	case <-m.done:
	case <-ctx.Done():
		if g.withdraw(m) {
			return ctx.Err()
		}
		<-m.done // it is being carried out, and looks at ctx itself
	}
	return m.err
}

// withdraw takes out one that still waits.
func (g *group) withdraw(m *member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == m {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// run carries out what waits until nothing does.
func (g *group) run() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), groupSize)
		if n == 0 {
			g.running = false
			g.mu.Unlock()
			return
		}
		batch := append([]*member(nil), g.waiting[:n]...)
		g.waiting = append(g.waiting[:0], g.waiting[n:]...)
		g.mu.Unlock()

		if n == 1 || !g.together(batch) {
			for _, m := range batch {
				m.err = g.alone(m)
			}
		}
		for _, m := range batch {
			close(m.done)
		}
	}
}

// alone is the transaction of one.
func (g *group) alone(m *member) error {
	return transactOnce(m.ctx, g.db, nil, g.dialect, g.answer, nil, m.f)
}

// together is the transaction of several, each in a savepoint. If it returns
// false, nothing has happened and each has to be tried alone: there are errors,
// such as of a full disk, after which SQLite undoes everything.
func (g *group) together(batch []*member) bool {
	ctx := context.Background()
	tx, err := begin(ctx, g.db, nil, g.answer)
	if err != nil {
		fail(batch, err)
		return true
	}
	q := queries{executor: patient{tx}, dialect: g.dialect, answer: g.answer}
	for _, m := range batch {
		if m.err = m.ctx.Err(); m.err != nil {
			continue
		}
		if _, err := tx.ExecContext(ctx, `SAVEPOINT member`); err != nil {
			_ = tx.Rollback()
			return false
		}
		if m.err = m.f(q); m.err != nil {
			_, err = tx.ExecContext(ctx, `ROLLBACK TO member`)
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `RELEASE member`)
		}
		if err != nil {
			_ = tx.Rollback()
			return false
		}
	}
	if err := tx.Commit(); err != nil {
		fail(batch, err)
	}
	return true
}

// fail tells all of them the same: what one has found out by itself may rest
// on what others did.
func fail(batch []*member, err error) {
	for _, m := range batch {
		m.err = err
	}
}

// patient lets a statement that has begun end: SQLite would undo the whole
// transaction, and the others' part with it, if one were interrupted.
type patient struct{ executor }

func (p patient) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.executor.ExecContext(context.WithoutCancel(ctx), query, args...)
}

func (p patient) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.executor.QueryContext(context.WithoutCancel(ctx), query, args...)
}

func (p patient) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	// A row cannot be made of an error. The next statement, or the end of the
	// transaction, notices.
	return p.executor.QueryRowContext(context.WithoutCancel(ctx), query, args...)
}
