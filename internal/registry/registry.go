// Package registry is the domain: sessions, training runs, samplers and
// checkpoints, who may see them, how long they live, and the order in which a
// model's requests are carried out.
//
// It stands on the stores and on an engine, knows nothing of HTTP, and is,
// repairs by package fsck apart, the only package that changes any of the three. Bytes are always written before
// the row that refers to them, and rows are removed before their bytes, so a
// crash at any instant leaves at worst unreferenced blobs.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
)

// Options configures a Registry. Meta, Blobs and Engine are required; every
// other field's zero value works.
type Options struct {
	Meta   metastore.Store
	Blobs  blobstore.Store
	Engine engine.Engine

	// Logger receives what an operator should know. Nil discards it.
	Logger *slog.Logger
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
	// SessionTimeout is how long a session's models are kept after its last
	// sign of life. Zero is one hour.
	SessionTimeout time.Duration
	// GCGrace is how old an unreferenced blob must be to be removed; it must
	// exceed the time a save takes. Zero is DefaultGCGrace.
	GCGrace time.Duration
	// GCInterval is how often unreferenced blobs are looked for. Zero is one
	// hour, negative is never.
	GCInterval time.Duration
	// Observe is told of every request that becomes a future. Nil is not.
	Observe Observe

	// Shared says that other servers may work on the same stores; without it
	// this registry is alone, and takes every live run for lost.
	Shared bool
	// URL is where the other ones reach this server. Empty is nowhere: what
	// it holds cannot be asked for through them.
	URL string
	// Lease is how long a server may be out of touch with the metadata before
	// the others take it for dead. Zero is DefaultLease.
	Lease time.Duration

	// bySweepOnly leaves the sweeping to who calls Sweep, for tests.
	bySweepOnly bool
}

// Registry is the domain's state. It is safe for concurrent use.
type Registry struct {
	meta   metastore.Store
	blobs  blobstore.Store
	engine engine.Engine
	log    *slog.Logger
	now    func() time.Time

	sessionTimeout time.Duration
	gcGrace        time.Duration
	gcInterval     time.Duration
	observe        Observe
	patience       time.Duration // storePatience, except in tests

	servers   *servers
	rounds    rounds
	futures   *futures
	samplers  *samplers
	manifests manifests
	imports   chan struct{} // places for imports in hand

	mu     sync.Mutex
	models map[string]*model // live ones, by run id
	// unparking are those that are being brought back, by run id.
	unparking map[string]*unparking
	sessions  map[string]*liveSession
	closed    bool

	// stop ends background work; work counts it.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
	// wake makes the sweeper look again at once.
	wake chan struct{}
}

// New starts a registry. Runs that a server that is gone held live are ended:
// their models are lost, and with them any steps since the last checkpoint.
func New(ctx context.Context, opts Options) (*Registry, error) {
	if opts.Meta == nil || opts.Blobs == nil || opts.Engine == nil {
		return nil, errors.New("registry: Meta, Blobs and Engine are required")
	}
	r := &Registry{
		meta:           opts.Meta,
		blobs:          opts.Blobs,
		engine:         opts.Engine,
		log:            opts.Logger,
		now:            opts.Now,
		sessionTimeout: opts.SessionTimeout,
		gcGrace:        opts.GCGrace,
		gcInterval:     opts.GCInterval,
		observe:        opts.Observe,
		patience:       storePatience,
		models:         map[string]*model{},
		unparking:      map[string]*unparking{},
		sessions:       map[string]*liveSession{},
		wake:           make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.sessionTimeout == 0 {
		r.sessionTimeout = time.Hour
	}
	if r.gcGrace == 0 {
		r.gcGrace = DefaultGCGrace
	}
	if r.gcInterval == 0 {
		r.gcInterval = time.Hour
	}
	if err := r.join(ctx, opts); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.futures = newFutures(r.now)
	r.samplers = newSamplers(r)
	r.imports = make(chan struct{}, importsAtOnce)
	if !opts.bySweepOnly {
		r.work.Go(r.sweepLoop)
	}
	if opts.Shared {
		r.work.Go(r.keepLease)
	}
	return r, nil
}

// Close waits for the requests in hand, up to ctx's end, and parks every live
// model for a later Registry. The stores and the engine stay open; they are the
// caller's.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	models := make([]*model, 0, len(r.models))
	for _, m := range r.models {
		models = append(models, m)
	}
	r.mu.Unlock()

	errs := make([]error, len(models))
	var parking sync.WaitGroup
	for i, m := range models {
		parking.Go(func() { errs[i] = m.park(ctx) })
	}
	parking.Wait()
	r.stop()
	r.work.Wait()
	r.samplers.close()
	r.futures.close()
	if err := r.meta.Leave(context.WithoutCancel(ctx), r.servers.self()); err != nil {
		errs = append(errs, classify(err))
	}
	return errors.Join(errs...)
}

// Check reports whether the stores can be reached and written to.
func (r *Registry) Check(ctx context.Context) error {
	return errors.Join(r.meta.Check(ctx), r.blobs.Check(ctx))
}

// BaseModels lists the models on offer.
func (r *Registry) BaseModels() []engine.BaseModel { return r.engine.BaseModels() }

// baseModel finds a model on offer.
func (r *Registry) baseModel(name string) (engine.BaseModel, error) {
	for _, b := range r.engine.BaseModels() {
		if b.Name == name {
			return b, nil
		}
	}
	return engine.BaseModel{}, newError(Invalid, "base_model: %q is not offered by this server", name)
}
