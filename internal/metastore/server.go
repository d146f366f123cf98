package metastore

import (
	"context"
	"fmt"
	"time"
)

func scanServer(row scanner) (s Server, err error) {
	var started, expires int64
	err = row.Scan(&s.ID, &s.URL, &started, &expires)
	s.StartedAt, s.ExpiresAt = moment(started), moment(expires)
	return s, err
}

// Leases are compared by the database's clock, the only one that all servers
// share.

func (s *store) Join(ctx context.Context, id, url string, lease time.Duration, alone bool) error {
	return s.write(ctx, func(q queries) error {
		if alone {
			if _, err := q.exec(ctx, `DELETE FROM servers`); err != nil {
				return err
			}
		}
		n, err := q.exec(ctx, `
			INSERT INTO servers (id, url, started_at, expires_at) VALUES (?, ?, `+q.dialect.now+`, `+q.dialect.now+` + ?)
			ON CONFLICT DO NOTHING`,
			id, url, lease.Microseconds())
		if err == nil && n == 0 {
			err = exists("server", id)
		}
		return err
	})
}

func (s *store) RenewLease(ctx context.Context, id string, lease time.Duration) error {
	return s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `UPDATE servers SET expires_at = `+q.dialect.now+` + ? WHERE id = ?`, lease.Microseconds(), id)
		return changed(n, err, "server", id)
	})
}

func (s *store) Leave(ctx context.Context, id string) error {
	return s.write(ctx, func(q queries) error {
		if _, err := q.exec(ctx, `DELETE FROM servers WHERE id = ?`, id); err != nil {
			return err
		}
		_, err := endLostRuns(ctx, q)
		return err
	})
}

func (s *store) Servers(ctx context.Context) ([]Server, error) {
	servers, err := list(ctx, s.query(), `
		SELECT id, url, started_at, expires_at FROM servers WHERE expires_at > `+s.dialect.now+` ORDER BY started_at, id`,
		nil, scanServer)
	return servers, s.explain(err)
}

func (s *store) EndLostRuns(ctx context.Context) (corrupted int, err error) {
	ctx = unhurried(ctx)
	err = s.write(ctx, func(q queries) error {
		if _, err := q.exec(ctx, `DELETE FROM servers WHERE expires_at <= `+q.dialect.now); err != nil {
			return err
		}
		corrupted, err = endLostRuns(ctx, q)
		return err
	})
	return corrupted, err
}

// endLostRuns ends the live runs that no server holds. A run becomes live only
// while its server's row is locked, so none is missed of a row just deleted.
func endLostRuns(ctx context.Context, q queries) (int, error) {
	const lost = ` WHERE state = 'live' AND server_id NOT IN (SELECT id FROM servers)`
	corrupted, err := q.exec(ctx, `UPDATE runs SET state = 'corrupted'`+lost+` AND unsaved = 1`)
	if err != nil {
		return 0, err
	}
	_, err = q.exec(ctx, `UPDATE runs SET state = 'ended'`+lost)
	return int(corrupted), err
}

// lockServer keeps a server from being declared gone before the transaction
// ends. No server is one that is gone.
func lockServer(ctx context.Context, q queries, id string) error {
	if id == "" {
		return nil
	}
	n, err := q.exec(ctx, `UPDATE servers SET expires_at = expires_at WHERE id = ?`, id)
	if err == nil && n == 0 {
		err = fmt.Errorf("server %s: %w", id, ErrNoServer)
	}
	return err
}

func (s *store) TakeDuty(ctx context.Context, name, server string) (taken bool, err error) {
	err = s.write(ctx, func(q queries) error {
		n, err := q.exec(ctx, `
			INSERT INTO duties (name, server_id) VALUES (?, ?)
			ON CONFLICT (name) DO UPDATE SET server_id = excluded.server_id
			WHERE duties.server_id = excluded.server_id
				OR duties.server_id NOT IN (SELECT id FROM servers WHERE expires_at > `+q.dialect.now+`)`,
			name, server)
		taken = n > 0
		return err
	})
	return taken, err
}

func (s *store) MoveRun(ctx context.Context, id string, from, to Holding) (moved bool, err error) {
	err = s.write(ctx, func(q queries) error {
		if to.State == RunLive {
			if err := lockServer(ctx, q, to.Server); err != nil {
				return err
			}
		}
		n, err := q.exec(ctx, `UPDATE runs SET state = ?, server_id = ? WHERE id = ? AND state = ? AND server_id = ?`,
			string(to.State), to.Server, id, string(from.State), from.Server)
		moved = n > 0
		return err
	})
	return moved, err
}
