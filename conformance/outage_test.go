package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/pgtest"
)

// A loop that trains and saves while the database is down for five seconds ends
// bit for bit as one that was left alone.
func TestPythonTrainsOverAnOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	venv(t)
	const steps, away = 12, 5 * time.Second
	args := func(mark string) map[string]any {
		return map[string]any{"steps": steps, "mark_after": 4, "mark": mark}
	}
	undisturbed := script(t, serve(t, t.TempDir()).url, "tml-outage", "outage", args(filepath.Join(t.TempDir(), "mark")))

	pg, mark := pgtest.Own(t), filepath.Join(t.TempDir(), "mark")
	s := serveAt(t, t.TempDir(), "127.0.0.1:0", "--db", pg.URL)
	back := make(chan error, 1)
	go func() {
		for _, err := os.Stat(mark); err != nil; _, err = os.Stat(mark) {
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err := pg.Stop(); err != nil {
			back <- err
			return
		}
		time.Sleep(away)
		back <- pg.Start()
	}()
	disturbed := script(t, s.url, "tml-outage", "outage", args(mark))
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.log.String(), "cannot be reached") && !strings.Contains(s.log.String(), "connection refused") {
		t.Errorf("the server noticed nothing of the outage:\n%s", s.log)
	}
	disturbed.at("steps").same(undisturbed.at("steps"))
	disturbed.at("saved").is(steps)
	disturbed.at("listed").is(steps)
}
