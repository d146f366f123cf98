package registry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/wire"
)

// brittle is a metastore that breaks down when a test wants it to.
type brittle struct {
	metastore.Store
	touch  func(ctx context.Context, do func() error) error
	commit func(ctx context.Context, do func() error) error
}

func (b *brittle) TouchRun(ctx context.Context, id string, at time.Time, unsaved bool) error {
	do := func() error { return b.Store.TouchRun(ctx, id, at, unsaved) }
	if b.touch != nil {
		return b.touch(ctx, do)
	}
	return do()
}

func (b *brittle) CommitCheckpoint(ctx context.Context, c metastore.Checkpoint, overwrite bool, res *metastore.Result) (metastore.Checkpoint, error) {
	do := func() (err error) {
		c, err = b.Store.CommitCheckpoint(ctx, c, overwrite, res)
		return err
	}
	if b.commit != nil {
		return c, b.commit(ctx, do)
	}
	return c, do()
}

var errDown = &outage.Error{Store: "metadata database", Reason: "cannot be reached", Err: errors.New("dial tcp 10.1.2.3: s3cret")}

// failing lets the first calls fail, before they did what they do or after.
func failing(times int, after bool) func(context.Context, func() error) error {
	return func(_ context.Context, do func() error) error {
		if times--; times < 0 {
			return do()
		}
		if after {
			if err := do(); err != nil {
				return err
			}
		}
		return errDown
	}
}

func brittleFixture(t *testing.T) (*fixture, *brittle) {
	f := newFixture(t)
	b := &brittle{Store: f.meta}
	f.meta = b
	f.start()
	return f, b
}

// A flush of activity times that is overtaken by a save does not make the run
// look as if its steps were lost.
func TestFlushBesideASave(t *testing.T) {
	f, b := brittleFixture(t)
	run := f.run(alice, f.session(alice))
	f.clock.advance(time.Second) // activity that is worth a flush
	f.step(alice, run, 1)
	flushing, saved := make(chan struct{}), make(chan struct{})
	b.touch = func(_ context.Context, do func() error) error {
		select {
		case flushing <- struct{}{}:
			<-saved
		case <-saved: // the sweeper's
		}
		return do()
	}
	swept := make(chan error)
	go func() { swept <- f.models[run].flush(t.Context()) }()
	<-flushing
	f.mustSave(alice, run, 3, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	close(saved)
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	if r, err := b.Run(t.Context(), run); err != nil || r.Unsaved {
		t.Errorf("all steps are saved, but the run has unsaved=%v, error %v", r.Unsaved, err)
	}
}

// A step is not taken unless it is recorded that the model has one, and that
// waits for the database.
func TestStepWaitsForTheDatabase(t *testing.T) {
	f, b := brittleFixture(t)
	run := f.run(alice, f.session(alice))
	b.touch = failing(2, false)
	f.step(alice, run, 1)
	if r, err := b.Run(t.Context(), run); err != nil || !r.Unsaved {
		t.Errorf("unsaved=%v, error %v", r.Unsaved, err)
	}
}

// A commit that happened although the database broke down over it is not in
// the way of its own repetition.
func TestSaveWhoseCommitIsLost(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			f, b := brittleFixture(t)
			run := f.run(alice, f.session(alice))
			if overwrite {
				f.mustSave(alice, run, 1, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
			} else {
				f.mustSave(alice, run, 1, SaveRequest{Kind: metastore.KindSampler, Name: "other"})
			}
			b.commit = failing(1, after)
			f.mustSave(alice, run, 2, SaveRequest{Kind: metastore.KindTraining, Name: "a", Overwrite: overwrite})
			b.commit = failing(1, after)
			fut, err := f.Save(t.Context(), alice, run, ptr(int64(3)), "snapshot", SaveRequest{Kind: metastore.KindSampler, SamplerSeq: 1})
			must[wire.SaveWeightsResult](t, fut, err)
			// Another request for the name is refused as ever.
			_, err = f.save(alice, run, 4, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
			wantCode(t, err, Conflict)
			if got := strings.Join(f.listed(alice), " "); strings.Count(got, "weights/a") != 1 {
				t.Errorf("overwrite=%v after=%v: listed are %s", overwrite, after, got)
			}
		}
	}
}

// Patience ends, and what the client is told then names the store and nothing
// that is nobody's business.
func TestPatienceEnds(t *testing.T) {
	f, b := brittleFixture(t)
	run := f.run(alice, f.session(alice))
	f.patience = 0
	b.commit = failing(1, false)
	_, err := f.save(alice, run, 1, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	wantCode(t, err, Unavailable)
	if msg := err.Error(); !strings.Contains(msg, "metadata database cannot be reached") || strings.Contains(msg, "s3cret") {
		t.Errorf("the client is told %q", msg)
	}
	// The model is none the worse for it.
	f.mustSave(alice, run, 2, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
}

// fullDisk has no room for blobs until it is told.
type fullDisk struct {
	blobstore.Store
	full bool
}

func (d *fullDisk) Create(ctx context.Context) (blobstore.Writer, error) {
	if d.full {
		return nil, &outage.Error{Store: "blob store", Reason: "has no space left on its disk", Err: errors.New("no space left on device")}
	}
	return d.Store.Create(ctx)
}

func TestSaveOntoAFullDisk(t *testing.T) {
	f := newFixture(t)
	disk := &fullDisk{Store: f.blobs}
	f.blobs = disk
	f.start()
	run := f.run(alice, f.session(alice))
	f.patience = 0
	disk.full = true
	_, err := f.save(alice, run, 1, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
	wantCode(t, err, Unavailable)
	if !strings.Contains(err.Error(), "no space left") {
		t.Errorf("the client is told %q", err)
	}
	if l := f.listed(alice); len(l) > 0 {
		t.Errorf("there is %v", l)
	}
	disk.full = false
	f.mustSave(alice, run, 2, SaveRequest{Kind: metastore.KindTraining, Name: "a"})
}
