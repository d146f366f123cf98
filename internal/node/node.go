// Package node puts a whole server together: the stores in a data directory,
// the engine, the registry and the protocol over HTTP. It is what
// `tinkex serve` runs and what an embedded server is.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/health"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/server"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// Options configures a Node.
type Options struct {
	Stores
	// Models are the base models to offer. None offers the built-in one.
	Models []cpu.ModelDir
	// PublicURL is how clients reach the server. Empty takes each request's
	// Host header.
	PublicURL string
	Version   string
	// Logger is nil to discard.
	Logger *slog.Logger
	// Telemetry measures and traces the node. Nil does neither.
	Telemetry *telemetry.Telemetry
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
	// PollTimeout and URLTTL are the server's.
	PollTimeout time.Duration
	URLTTL      time.Duration
	// Advertise is the URL under which other servers on the same database reach
	// this one. Without a database that others can use, it means nothing.
	Advertise string
	// Lease is the registry's.
	Lease time.Duration
	// GCGrace and SessionTimeout are the registry's.
	GCGrace        time.Duration
	SessionTimeout time.Duration
}

// Node is a running server without a listener.
type Node struct {
	Meta     metastore.Store
	Blobs    blobstore.Store
	Registry *registry.Registry
	server   *server.Server
	handler  http.Handler
	idle     *idler
	// closers in the order of opening.
	closers []func(context.Context) error
}

// lockFile keeps two servers out of one data directory: each would take the
// other's live runs for lost.
const lockFile = "server.lock"

// Open puts a node together. Errors name what could not be opened.
func Open(ctx context.Context, opts Options) (_ *Node, err error) {
	n := &Node{idle: newIdler()}
	n.onClose(func(context.Context) error { n.idle.stop(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close(ctx))
		}
	}()
	if err := opts.Check(); err != nil {
		return nil, err
	}
	opts.Logger = telemetry.Logger(opts.Logger)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	disk := opts.disk()
	if opts.Local() {
		if err := n.lock(opts.DataDir); err != nil {
			return nil, err
		}
	}
	blobs, err := opts.OpenBlobs(ctx)
	if err != nil {
		return nil, err
	}
	n.Blobs = blobs
	n.onClose(func(context.Context) error { return blobs.Close() })
	meta, err := opts.OpenMeta(ctx)
	if err != nil {
		return nil, err
	}
	n.Meta = meta
	n.onClose(func(context.Context) error { return meta.Close() })
	eng, err := cpu.New(cpu.Options{Models: opts.Models, Logger: opts.Logger})
	if err != nil {
		return nil, err
	}
	n.onClose(func(context.Context) error { return eng.Close() })
	return n, n.assemble(ctx, opts, meta, blobs, eng, disk)
}

// assemble puts the domain and the protocol on what is open.
func (n *Node) assemble(ctx context.Context, opts Options, meta metastore.Store, blobs blobstore.Store, eng engine.Engine,
	disk func() (free, size uint64, err error),
) (err error) {
	ready := health.New(checks(meta, blobs, eng, disk), health.Options{Logger: opts.Logger})
	var observe registry.Observe
	if t := opts.Telemetry; t != nil {
		metaKind, blobKind := opts.kinds()
		meta, blobs, eng = t.Metastore(meta, metaKind), t.Blobstore(blobs, blobKind), t.Engine(eng)
		observe = t.Future
	}
	n.Registry, err = registry.New(ctx, registry.Options{
		Meta: meta, Blobs: blobs, Engine: eng, Logger: opts.Logger, Now: opts.Now,
		GCGrace: opts.GCGrace, SessionTimeout: opts.SessionTimeout, Observe: observe,
		Shared: opts.Shared(), URL: opts.Advertise, Lease: opts.Lease,
	})
	if err != nil {
		return err
	}
	n.onClose(n.Registry.Close)
	n.server, err = server.New(ctx, server.Options{
		Registry: n.Registry, Meta: meta, Health: ready, PublicURL: opts.PublicURL, Version: opts.Version,
		Logger: opts.Logger, Now: opts.Now, PollTimeout: opts.PollTimeout, URLTTL: opts.URLTTL,
	})
	if err != nil {
		return err
	}
	n.handler = n.server
	if t := opts.Telemetry; t != nil {
		n.handler = t.Handler(n.server, n.server.Route)
		t.Watch(telemetry.Sources{
			Stats: n.Registry.Stats, Meta: meta, Now: opts.Now, Ready: ready, Disk: disk, Logger: opts.Logger,
		})
		n.onClose(func(context.Context) error { t.Close(); return nil })
	}
	return nil
}

// lock makes the data directory this node's own.
func (n *Node) lock(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, lockFile))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return fmt.Errorf("data directory %s cannot be written to: %w", dir, err)
	case !locked:
		return fmt.Errorf("data directory %s is in use by another server; stop it or choose another --data-dir", dir)
	}
	n.onClose(func(context.Context) error { return lock.Unlock() })
	return nil
}

func (n *Node) onClose(f func(context.Context) error) { n.closers = append(n.closers, f) }

// ServeHTTP implements http.Handler.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Probes come forever; they do not make a server busy.
	if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" {
		n.idle.begin()
		defer n.idle.end()
	}
	n.handler.ServeHTTP(w, r)
}

// Owner returns the owner that an API key stands for, or why it is refused.
func (n *Node) Owner(ctx context.Context, key string) (string, error) {
	return n.server.Owner(ctx, key)
}

// Drain ends the waits of clients for results that are not there yet: they are
// told to ask again. It is called once, before Close.
func (n *Node) Drain() { n.server.Drain() }

// Close finishes the requests in hand, up to ctx's end, and releases
// everything. What was acknowledged is kept.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i](ctx))
	}
	n.closers = nil
	return errors.Join(errs...)
}
