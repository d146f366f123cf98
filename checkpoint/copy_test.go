package checkpoint_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

func physical(t *testing.T, c *tinkex.RestClient) int64 {
	t.Helper()
	u, err := c.Usage(t.Context(), tinkex.UsageByRun, tinkex.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u.Total.PhysicalBytes
}

func TestCopy(t *testing.T) {
	t.Parallel()
	clk := new(clock)
	m := toBeMirrored(t, tinkextest.Options{Now: clk.now})
	a := m.path(tinkex.Training, "a")
	other := client(t, m.srv, "tml-other")
	limited := onlyProtocol(t, m.srv)
	before := physical(t, m.rest)
	ctx := t.Context()

	// Wherever the protocol's own copy is.
	for name, c := range map[string]*tinkex.RestClient{"an extended server": m.rest, "another": limited} {
		for _, opts := range []checkpoint.CopyOptions{{}, {ProjectID: "p"}, {TTL: time.Hour}} {
			to, err := checkpoint.Copy(ctx, c, a, opts)
			if err != nil || to.RunID == a.RunID || to.CheckpointID() != a.CheckpointID() {
				t.Fatalf("%s, %+v: %v, %v", name, opts, to, err)
			}
			got, err := c.GetCheckpoint(ctx, to)
			if err != nil || got.Public || (got.ExpiresAt != nil) != (opts.TTL > 0) {
				t.Errorf("%s, %+v: %+v, %v", name, opts, got, err)
			}
		}
	}
	named, err := checkpoint.Copy(ctx, m.rest, a, checkpoint.CopyOptions{Name: "best", RunID: a.RunID})
	if err != nil || named != m.path(tinkex.Training, "best") {
		t.Errorf("named: %v, %v", named, err)
	}
	if after := physical(t, m.rest); after != before {
		t.Errorf("copies take %d bytes", after-before)
	}
	if losses := resume(t, m.svc, named, true); !equal(losses, resume(t, m.svc, a, true)) {
		t.Errorf("the copy is not the same: %v", losses)
	}

	for name, tc := range map[string]struct {
		c    *tinkex.RestClient
		from tinkex.TinkerPath
		opts checkpoint.CopyOptions
		is   error
		says string
	}{
		"a name that is taken":                 {m.rest, a, checkpoint.CopyOptions{Name: "b", RunID: a.RunID}, tinkex.ErrConflict, "already exists"},
		"onto itself":                          {m.rest, a, checkpoint.CopyOptions{RunID: a.RunID}, tinkex.ErrInvalid, "onto itself"},
		"what is not there":                    {m.rest, m.path(tinkex.Training, "z"), checkpoint.CopyOptions{}, tinkex.ErrNotFound, "no such checkpoint"},
		"somebody else's":                      {other.RestClient(), a, checkpoint.CopyOptions{Name: "x"}, tinkex.ErrNotFound, "somebody else's"},
		"into somebody else's run":             {other.RestClient(), a, checkpoint.CopyOptions{RunID: a.RunID}, tinkex.ErrNotFound, ""},
		"into no run":                          {m.rest, a, checkpoint.CopyOptions{RunID: "none"}, tinkex.ErrNotFound, "no training run none"},
		"a run that is a path":                 {m.rest, a, checkpoint.CopyOptions{RunID: "a/b"}, tinkex.ErrInvalidPath, "run id"},
		"a run and a project":                  {m.rest, a, checkpoint.CopyOptions{RunID: a.RunID, ProjectID: "p"}, tinkex.ErrInvalid, "a run or a project"},
		"a bad name":                           {m.rest, a, checkpoint.CopyOptions{Name: "a b"}, tinkex.ErrInvalidPath, "only letters"},
		"a negative TTL":                       {m.rest, a, checkpoint.CopyOptions{TTL: -1}, tinkex.ErrInvalid, ""},
		"a name, where there is no such thing": {limited, a, checkpoint.CopyOptions{Name: "x"}, tinkex.ErrNotFound, "extension of tinkex serve"},
		"what is not there, there":             {limited, m.path(tinkex.Training, "z"), checkpoint.CopyOptions{}, tinkex.ErrNotFound, "no such checkpoint"},
	} {
		if to, err := checkpoint.Copy(ctx, tc.c, tc.from, tc.opts); !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, %v", name, to, err)
		}
	}
	if over, err := checkpoint.Copy(ctx, m.rest, a, checkpoint.CopyOptions{Name: "b", RunID: a.RunID, Overwrite: true}); err != nil || over != m.path(tinkex.Training, "b") {
		t.Errorf("overwritten: %v, %v", over, err)
	}

	// A public one is everybody's to copy, and the copy outlives it.
	if err := m.rest.Publish(ctx, a); err != nil {
		t.Fatal(err)
	}
	mine, err := checkpoint.Copy(ctx, other.RestClient(), a, checkpoint.CopyOptions{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.rest.SetTTL(ctx, a, time.Minute); err != nil {
		t.Fatal(err)
	}
	clk.ahead.Store(int64(2 * time.Minute))
	if _, err := checkpoint.Copy(ctx, m.rest, a, checkpoint.CopyOptions{Name: "late"}); !errors.Is(err, tinkex.ErrNotFound) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("of one that has expired: %v", err)
	}
	if losses := resume(t, other, mine, true); len(losses) != 3 {
		t.Error(losses)
	}
}
