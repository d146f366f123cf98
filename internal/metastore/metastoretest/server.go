package metastoretest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// ids of servers, in the order in which they joined.
func serverIDs(f fixture) (ids []string) {
	for _, s := range value(f.Servers(f.ctx))(f) {
		ids = append(ids, s.ID)
	}
	return ids
}

// expired is a lease that has run out when it is given.
const expired = -time.Second

func testServer(t *testing.T, f fixture) {
	f.must(f.Join(f.ctx, "a", "http://a:1", time.Hour, false))
	f.must(f.Join(f.ctx, "b", "", time.Hour, false))
	f.is(f.Join(f.ctx, "a", "http://other", time.Hour, false), metastore.ErrExists, "server", "a")
	all := value(f.Servers(f.ctx))(f)
	if len(all) != 2 || all[0].ID != "a" || all[0].URL != "http://a:1" || all[1].ID != "b" || all[1].URL != "" {
		t.Fatalf("servers %+v", all)
	}
	if lease := all[0].ExpiresAt.Sub(all[0].StartedAt); lease < time.Hour || lease > time.Hour+time.Minute {
		t.Errorf("the lease is for %v", lease)
	}
	f.must(f.RenewLease(f.ctx, "a", 2*time.Hour))
	if later := value(f.Servers(f.ctx))(f)[0].ExpiresAt; !later.After(all[0].ExpiresAt.Add(59 * time.Minute)) {
		t.Errorf("renewed until %v, after %v", later, all[0].ExpiresAt)
	}
	f.is(f.RenewLease(f.ctx, "none", time.Hour), metastore.ErrNotFound, "server", "none")

	// A lease that has run out can be renewed until somebody has noticed.
	f.must(f.RenewLease(f.ctx, "b", expired))
	same(t, "servers", serverIDs(f), []string{"a"})
	f.must(f.RenewLease(f.ctx, "b", time.Hour))
	same(t, "servers", serverIDs(f), []string{"a", "b"})
	f.must(f.RenewLease(f.ctx, "b", expired))
	same(t, "corrupted runs", value(f.EndLostRuns(f.ctx))(f), 0)
	f.is(f.RenewLease(f.ctx, "b", time.Hour), metastore.ErrNotFound, "server", "b")

	f.must(f.Leave(f.ctx, "a"))
	f.must(f.Leave(f.ctx, "a"))
	same(t, "servers", serverIDs(f), []string(nil))
	f.must(f.Join(f.ctx, "c", "", time.Hour, false))
	f.must(f.Join(f.ctx, "d", "", time.Hour, true))
	same(t, "servers beside one that is alone", serverIDs(f), []string{"d"})
}

func testEndLostRuns(t *testing.T, f fixture) {
	for _, id := range []string{"here", "gone", "leaving"} {
		f.must(f.Join(f.ctx, id, "", time.Hour, false))
	}
	f.session("s1", "alice")
	runs := []struct {
		before  metastore.Holding
		unsaved bool
		after   metastore.RunState // once the server gone is
		left    metastore.RunState // once the server leaving has left, too
	}{
		{metastore.Holding{State: metastore.RunLive, Server: "here"}, false, metastore.RunLive, metastore.RunLive},
		{metastore.Holding{State: metastore.RunLive, Server: "here"}, true, metastore.RunLive, metastore.RunLive},
		{metastore.Holding{State: metastore.RunLive, Server: "gone"}, false, metastore.RunEnded, metastore.RunEnded},
		{metastore.Holding{State: metastore.RunLive, Server: "gone"}, true, metastore.RunCorrupted, metastore.RunCorrupted},
		{metastore.Holding{State: metastore.RunLive}, true, metastore.RunCorrupted, metastore.RunCorrupted},
		{metastore.Holding{State: metastore.RunEnded, Server: "gone"}, true, metastore.RunEnded, metastore.RunEnded},
		{metastore.Holding{State: metastore.RunCorrupted, Server: "gone"}, false, metastore.RunCorrupted, metastore.RunCorrupted},
		{metastore.Holding{State: metastore.RunParked, Server: "gone"}, true, metastore.RunParked, metastore.RunParked},
		{metastore.Holding{State: metastore.RunLive, Server: "leaving"}, false, metastore.RunLive, metastore.RunEnded},
		{metastore.Holding{State: metastore.RunLive, Server: "leaving"}, true, metastore.RunLive, metastore.RunCorrupted},
	}
	id := func(i int) string { return fmt.Sprint("s1:train:", i) }
	for i, run := range runs {
		f.must(f.CreateRun(f.ctx, metastore.Run{
			ID: id(i), SessionID: "s1", Seq: int64(i), State: run.before.State, Server: run.before.Server, Unsaved: run.unsaved,
		}))
	}
	f.must(f.RenewLease(f.ctx, "gone", expired))
	same(t, "corrupted runs", value(f.EndLostRuns(f.ctx))(f), 2)
	same(t, "corrupted runs", value(f.EndLostRuns(f.ctx))(f), 0)
	for i, run := range runs {
		same(t, "state of "+id(i), value(f.Run(f.ctx, id(i)))(f).State, run.after)
	}
	f.must(f.Leave(f.ctx, "leaving"))
	for i, run := range runs {
		same(t, "state of "+id(i), value(f.Run(f.ctx, id(i)))(f).State, run.left)
	}
	f.is(f.CreateRun(f.ctx, metastore.Run{ID: "late", SessionID: "s1", State: metastore.RunLive, Server: "gone"}),
		metastore.ErrNoServer, "server", "gone")
	_, err := f.Run(f.ctx, "late")
	f.is(err, metastore.ErrNotFound, "run", "late")
}

func testMoveRun(t *testing.T, f fixture) {
	f.must(f.Join(f.ctx, "a", "", time.Hour, false))
	f.must(f.Join(f.ctx, "b", "", time.Hour, false))
	f.session("s1", "alice")
	live, parked := metastore.Holding{State: metastore.RunLive, Server: "a"}, metastore.Holding{State: metastore.RunParked, Server: "a"}
	f.must(f.CreateRun(f.ctx, metastore.Run{ID: "r", SessionID: "s1", State: live.State, Server: live.Server}))
	for _, step := range []struct {
		from, to metastore.Holding
		want     bool
	}{
		{parked, live, false},
		{metastore.Holding{State: metastore.RunLive, Server: "b"}, parked, false},
		{live, parked, true},
		{live, parked, false},
		{parked, metastore.Holding{State: metastore.RunLive, Server: "b"}, true},
		{metastore.Holding{State: metastore.RunLive, Server: "b"}, metastore.Holding{State: metastore.RunEnded, Server: "b"}, true},
	} {
		before := value(f.Run(f.ctx, "r"))(f)
		same(t, fmt.Sprintf("moved from %v to %v", step.from, step.to), value(f.MoveRun(f.ctx, "r", step.from, step.to))(f), step.want)
		if step.want {
			before.State, before.Server = step.to.State, step.to.Server
		}
		same(t, "run", value(f.Run(f.ctx, "r"))(f), before)
	}
	same(t, "moved a run that is not there", value(f.MoveRun(f.ctx, "none", live, parked))(f), false)
	_, err := f.MoveRun(f.ctx, "r", metastore.Holding{State: metastore.RunEnded, Server: "b"}, metastore.Holding{State: metastore.RunLive, Server: "none"})
	f.is(err, metastore.ErrNoServer, "server", "none")
}

func testDuty(t *testing.T, f fixture) {
	f.must(f.Join(f.ctx, "a", "", time.Hour, false))
	f.must(f.Join(f.ctx, "b", "", time.Hour, false))
	take := func(name, server string, want bool) {
		t.Helper()
		same(t, server+" may "+name, value(f.TakeDuty(f.ctx, name, server))(f), want)
	}
	take("sweep", "a", true)
	take("sweep", "a", true)
	take("sweep", "b", false)
	take("collect", "b", true)
	f.must(f.RenewLease(f.ctx, "a", expired))
	take("sweep", "b", true)
	f.must(f.RenewLease(f.ctx, "a", time.Hour))
	take("sweep", "a", false)
	f.must(f.Leave(f.ctx, "b"))
	take("sweep", "a", true)
	take("collect", "a", true)
}

// A parked run is taken up once.
func testRaceToMove(t *testing.T, f fixture) {
	const servers = 8
	f.session("s1", "alice")
	parked := metastore.Holding{State: metastore.RunParked}
	f.must(f.CreateRun(f.ctx, metastore.Run{ID: "r", SessionID: "s1", State: parked.State}))
	for i := range servers {
		f.must(f.Join(f.ctx, fmt.Sprint(i), "", time.Hour, false))
	}
	var moved atomic.Int64
	var all sync.WaitGroup
	for i := range servers {
		all.Go(func() {
			ok, err := f.MoveRun(f.ctx, "r", parked, metastore.Holding{State: metastore.RunLive, Server: fmt.Sprint(i)})
			if err != nil {
				t.Error(err)
			}
			if ok {
				moved.Add(1)
			}
		})
	}
	all.Wait()
	same(t, "servers that have the run", moved.Load(), int64(1))
}

// A server whose lease has run out either renews it, and keeps its runs, or
// learns that it is too late.
func testRaceOfLeases(t *testing.T, f fixture) {
	f.session("s1", "alice")
	for round := range 20 {
		server, run := fmt.Sprint("server-", round), fmt.Sprint("run-", round)
		f.must(f.Join(f.ctx, server, "", time.Hour, false))
		f.must(f.CreateRun(f.ctx, metastore.Run{ID: run, SessionID: "s1", State: metastore.RunLive, Server: server}))
		f.must(f.RenewLease(f.ctx, server, expired))
		var renewed, created error
		var all sync.WaitGroup
		all.Go(func() { renewed = f.RenewLease(f.ctx, server, time.Hour) })
		all.Go(func() {
			created = f.CreateRun(f.ctx, metastore.Run{ID: run + "-late", SessionID: "s1", State: metastore.RunLive, Server: server})
		})
		all.Go(func() {
			if _, err := f.EndLostRuns(f.ctx); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		want := metastore.RunLive
		if renewed != nil {
			f.is(renewed, metastore.ErrNotFound, "server", server)
			want = metastore.RunEnded
		}
		same(t, "state", value(f.Run(f.ctx, run))(f).State, want)
		if created == nil {
			same(t, "state of the late run", value(f.Run(f.ctx, run+"-late"))(f).State, want)
		} else {
			f.is(created, metastore.ErrNoServer, "server", server)
		}
		f.must(f.Leave(f.ctx, server))
	}
}
