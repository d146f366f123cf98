package registry

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/wire"
)

// beside starts another server on a fixture's stores. Leases are so long that
// nothing happens by itself, and sweeps are the test's.
func (f *fixture) beside(url string) *fixture {
	f.t.Helper()
	r, err := New(f.t.Context(), Options{
		Meta: f.meta, Blobs: f.blobs, Engine: f.eng, Now: f.clock.now, GCInterval: -1,
		Shared: true, URL: url, Lease: time.Hour, bySweepOnly: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = r.Close(context.Background()) })
	return &fixture{Registry: r, t: f.t, meta: f.meta, blobs: f.blobs, eng: f.eng, clock: f.clock}
}

// together starts two servers on the same stores.
func together(t *testing.T) (a, b *fixture) {
	t.Helper()
	f := newFixture(t)
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f.beside("http://a"), f.beside("http://b")
}

// wantElsewhere checks that an error leads to a server.
func wantElsewhere(t *testing.T, err error, at *fixture, url string) {
	t.Helper()
	var e *Elsewhere
	if !errors.As(err, &e) || e.Server != at.ServerID() || e.URL != url || CodeOf(err) != Unavailable {
		t.Fatalf("error %v does not lead to %s", err, url)
	}
}

// expire has a server's lease run out, and the others notice.
func (f *fixture) expire() {
	f.t.Helper()
	if err := f.meta.RenewLease(f.t.Context(), f.ServerID(), -time.Second); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.meta.EndLostRuns(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func TestRequestsLeadToTheHolder(t *testing.T) {
	ctx := t.Context()
	a, b := together(t)
	session := a.session(alice)
	id := a.run(alice, session)
	first, err := a.forwardBackward(id, 1)
	loss(t, first, err)

	_, err = b.forwardBackward(id, 2)
	wantElsewhere(t, err, a, "http://a")
	_, err = b.Retrieve(ctx, alice, requestID(id, 1))
	wantElsewhere(t, err, a, "http://a")
	_, err = b.Unload(ctx, alice, id)
	wantElsewhere(t, err, a, "http://a")
	err = b.Reject(ctx, alice, id, ptr(int64(2)), "Load", "hash", errors.New("wrong"))
	wantElsewhere(t, err, a, "http://a")
	_, err = b.CreateRun(ctx, alice, NewRun{SessionID: session, LoRA: tinyLoRA, Seed: ptr(int64(1)), RequestHash: "create"})
	wantElsewhere(t, err, a, "http://a")
	// Another owner is told what it would be told there: that there is none.
	_, err = b.ForwardBackward(ctx, bob, id, ptr(int64(2)), "h", batch("not his"))
	wantCode(t, err, NotFound, "not found")
	_, err = b.Retrieve(ctx, bob, requestID(id, 1))
	wantCode(t, err, NotFound, "not found")
	if run, err := b.Run(ctx, alice, id); err != nil || run.State != metastore.RunLive {
		t.Errorf("the run is %+v, %v", run, err)
	}

	// What a sampling request gave is where it was carried out.
	sampler, err := b.CreateSampler(ctx, alice, NewSampler{SessionID: session, Seq: 0, BaseModel: tinyLoRA.BaseModel, RequestHash: "sampler"})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []SampleTarget{{SamplerID: sampler, Seq: ptr(int64(0))}, {BaseModel: tinyLoRA.BaseModel}} {
		sampled, err := b.Sample(ctx, alice, target, "hash", &engine.SampleRequest{Prompt: []int32{1, 2}, NumSamples: 1, MaxTokens: 2, Temperature: 1, TopP: 1})
		must[*engine.SampleOutput](t, sampled, err)
		_, err = a.Retrieve(ctx, alice, sampled.ID)
		wantElsewhere(t, err, b, "http://b")
		if _, err := b.Retrieve(ctx, alice, sampled.ID); err != nil {
			t.Error(err)
		}
	}

	// After the end of the model its last results are there still.
	gone, err := a.Unload(ctx, alice, id)
	must[wire.UnloadModelResult](t, gone, err)
	_, err = b.Retrieve(ctx, alice, gone.ID)
	wantElsewhere(t, err, a, "http://a")
}

func TestModelsOfServersWithoutURL(t *testing.T) {
	a, _ := together(t)
	c := a.beside("")
	id := c.run(alice, c.session(alice))
	_, err := a.forwardBackward(id, 1)
	wantCode(t, err, Unavailable, "cannot reach", "--advertise")
}

// Whichever server is asked first has a parked model, and the others know.
func TestParkedModelMoves(t *testing.T) {
	ctx := t.Context()
	a, b := together(t)
	c := a.beside("http://c")
	id := a.run(alice, a.session(alice))
	fut, err := a.forwardBackward(id, 1)
	want := loss(t, fut, err)
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	fut, err = b.Retrieve(ctx, alice, requestID(id, 1))
	if got := loss(t, fut, err); got != want {
		t.Errorf("the result is %v on the other server, was %v", got, want)
	}
	_, err = c.forwardBackward(id, 2)
	wantElsewhere(t, err, b, "http://b")

	// Two that bring it back at the same time: one has it, the other is led there.
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	run, err := c.meta.Run(ctx, id)
	if err != nil || run.State != metastore.RunParked {
		t.Fatalf("the run is %+v, %v", run, err)
	}
	d := c.beside("http://d")
	fut, err = d.forwardBackward(id, 2)
	loss(t, fut, err)
	_, err = c.restore(ctx, run) // as it was before d was faster
	wantElsewhere(t, err, d, "http://d")
}

// A server whose lease has run out is dead to the others, and finds out.
func TestLeaseIsLost(t *testing.T) {
	ctx := t.Context()
	a, b := together(t)
	session := a.session(alice)
	id := a.run(alice, session)
	a.step(alice, id, 1)
	before := a.ServerID()
	a.expire()
	if run, err := b.Run(ctx, alice, id); err != nil || run.State != metastore.RunCorrupted {
		t.Errorf("the run is %+v, %v", run, err)
	}
	_, err := b.forwardBackward(id, 3)
	wantCode(t, err, Gone, "no longer loaded")
	_, err = b.Retrieve(ctx, alice, requestID(id, 1))
	wantCode(t, err, Gone, "make the request again")
	// Nothing new is begun under the lost lease.
	_, err = a.CreateRun(ctx, alice, NewRun{SessionID: session, Seq: 1, LoRA: tinyLoRA, RequestHash: "late"})
	wantCode(t, err, Unavailable, "out of touch")

	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	if a.ServerID() == before || !a.IsServer(before) {
		t.Errorf("the server is %s, was %s", a.ServerID(), before)
	}
	for {
		a.mu.Lock()
		n := len(a.models)
		a.mu.Unlock()
		if n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_, err = a.forwardBackward(id, 3)
	wantCode(t, err, Gone, "no longer loaded")
	if run, err := a.Run(ctx, alice, id); err != nil || run.State != metastore.RunCorrupted {
		t.Errorf("the run is %+v, %v", run, err)
	}
	fut, err := a.CreateRun(ctx, alice, NewRun{SessionID: session, Seq: 1, LoRA: tinyLoRA, RequestHash: "late"})
	must[wire.CreateModelResult](t, fut, err)
}

// Between a server's death and its discovery there is nothing to say yet.
func TestDeadServerIsNotGoneYet(t *testing.T) {
	a, b := together(t)
	id := a.run(alice, a.session(alice))
	if err := a.meta.RenewLease(t.Context(), a.ServerID(), -time.Second); err != nil {
		t.Fatal(err)
	}
	_, err := b.forwardBackward(id, 1)
	wantCode(t, err, Unavailable, "ask again")
}

func TestSessionEndsElsewhere(t *testing.T) {
	ctx := t.Context()
	a, b := together(t)
	session := a.session(alice)
	id := a.run(alice, session)
	if err := b.FinishSession(ctx, alice, session, "success", ""); err != nil {
		t.Fatal(err)
	}
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	for {
		run, err := a.meta.Run(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if run.State == metastore.RunEnded {
			break
		}
		time.Sleep(time.Millisecond)
	}

	// And a sign of life that another server got keeps the models here.
	session = a.session(alice)
	id = a.run(alice, session)
	a.clock.advance(50 * time.Minute)
	if err := b.Heartbeat(ctx, alice, session); err != nil {
		t.Fatal(err)
	}
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	a.clock.advance(50 * time.Minute)
	if err := a.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	m := a.models[id]
	a.mu.Unlock()
	if m == nil || m.retired {
		t.Error("the model was unloaded")
	}
}

func TestOneServerSweeps(t *testing.T) {
	ctx := t.Context()
	a, b := together(t)
	id := a.run(alice, a.session(alice))
	save := func(seq int64) {
		fut, err := a.Save(ctx, alice, id, &seq, "save", SaveRequest{Kind: metastore.KindTraining, Name: "short", TTL: ptr(time.Minute)})
		must[wire.SaveWeightsResult](t, fut, err)
		a.clock.advance(2 * time.Minute)
	}
	there := func() bool {
		_, err := a.meta.Checkpoint(ctx, id, metastore.KindTraining, "short")
		return err == nil
	}
	sweep := func(f *fixture) {
		t.Helper()
		if err := f.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sweep(a) // it is a's duty now
	save(1)
	if sweep(b); !there() {
		t.Error("the other one swept, too")
	}
	if sweep(a); there() {
		t.Error("what has expired is still there")
	}
	save(2)
	if err := a.meta.RenewLease(ctx, a.ServerID(), -time.Second); err != nil {
		t.Fatal(err)
	}
	if sweep(b); there() {
		t.Error("nobody took over")
	}
}

func TestContactLasts(t *testing.T) {
	const lease = 15 * time.Second
	type renewal struct {
		at      time.Duration // since the server's start
		reached bool
		want    bool
	}
	for name, renewals := range map[string][]renewal{
		"a server that has just started waits for a lease": {
			{4 * time.Second, true, false}, {14 * time.Second, true, false}, {lease - 1, true, false},
			{lease, true, true}, {19 * time.Second, true, true}, {time.Hour, true, true},
		},
		"so does one that was out of touch": {
			{lease, true, true}, {20 * time.Second, false, false}, {24 * time.Second, true, false},
			{24*time.Second + lease - 1, true, false}, {24*time.Second + lease, true, true},
		},
		"for however long": {
			{lease, true, true}, {time.Minute, false, false}, {time.Hour, false, false},
			{2 * time.Hour, true, false}, {2*time.Hour + lease, true, true},
		},
		"the time counts from the last break": {
			{lease, true, true}, {20 * time.Second, false, false}, {24 * time.Second, true, false}, {30 * time.Second, false, false},
			{35 * time.Second, true, false}, {24*time.Second + lease, true, false}, {35*time.Second + lease, true, true},
		},
		"nobody is ended while out of touch": {
			{lease, false, false}, {2 * lease, false, false}, {3 * lease, false, false},
		},
		"one that never was in touch waits for a lease from when it is": {
			{0, false, false}, {lease, true, false}, {2*lease - 1, true, false}, {2 * lease, true, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			c := contact{since: began}
			for _, r := range renewals {
				if got := c.lasts(began.Add(r.at), r.reached, lease); got != r.want {
					t.Errorf("after %v, reached %v: it lasts is %v", r.at, r.reached, got)
				}
			}
		})
	}
}
