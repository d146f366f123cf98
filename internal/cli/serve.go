package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// shutdownGrace is how long the requests in hand may take once the server was
// told to stop.
const shutdownGrace = 30 * time.Second

// minLease leaves a second for each renewal.
const minLease = 4 * time.Second

type serveFlags struct {
	storeFlags
	addr        string
	models      []string
	publicURL   string
	advertise   string
	lease       time.Duration
	logFormat   string
	logLevel    string
	metricsAddr string
	pprof       bool
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server of your own",
		Long: `Run a Tinker-compatible server. The tinker Python package, this command and the
Go SDK work against it unchanged: point TINKER_BASE_URL at the URL it prints.

Everything is kept in the data directory: metadata in SQLite, checkpoints as
content-addressed files. --db keeps the metadata in a PostgreSQL database
instead, --blobs the files in a bucket of S3 or a service like it; passwords
and keys belong into the environment (PGPASSWORD, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, ...) or, with the whole URL, into TINKEX_DB.

Any number of servers may share a --db and --blobs, behind any proxy: each one
answers every request, and passes those for a live model on to the server that
holds it, under the URL that this one advertises.

Without --model the server offers tinkex/tiny, a small
model of random weights that trains in milliseconds; --model NAME=DIR offers a
Hugging Face directory (Llama or Qwen3 architecture) and may be repeated.

As long as no key was created (tinkex key create), the server listens on the
loopback interface only and takes any key that starts with tml-; each key is an
owner of its own.

The server's URL is printed to standard output once it accepts connections, with
-f json as {"url", "pid"}.
/healthz says that it lives and /readyz that it can work. Prometheus finds
/metrics on --metrics-addr; without it, on --addr if that is a loopback address,
for requests from this machine. Traces go where OpenTelemetry's environment
variables say (OTEL_EXPORTER_OTLP_ENDPOINT, ...).
` + exitStatusHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.addr, "addr", "127.0.0.1:8484", "address to listen on; port 0 takes a free one")
	f.add(cmd.Flags(), true)
	cmd.Flags().StringArrayVar(&f.models, "model", nil, "offer a base model: NAME=DIR")
	cmd.Flags().StringVar(&f.publicURL, "public-url", "", "URL that clients reach the server under (default: as each request says)")
	cmd.Flags().StringVar(&f.advertise, "advertise", "", "URL under which other servers on the same --db reach this one (default: that of --addr, unless it is every interface)")
	cmd.Flags().DurationVar(&f.lease, "lease", registry.DefaultLease, "how long a server may be out of touch with --db before the others take it for dead")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "text", "log format: text or json")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error; -v is debug")
	cmd.Flags().StringVar(&f.metricsAddr, "metrics-addr", "", `address to serve /metrics on instead, to everybody who reaches it; "off" serves none`)
	cmd.Flags().BoolVar(&f.pprof, "pprof", false, "serve Go profiles (/debug/pprof/) beside /metrics")
	return cmd
}

func (a *app) serve(ctx context.Context, f serveFlags) error {
	log, err := a.serverLogger(f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	models, err := parseModels(f.models)
	if err != nil {
		return err
	}
	for flag, value := range map[string]string{"--public-url": f.publicURL, "--advertise": f.advertise} {
		if u, err := url.Parse(value); value != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return usagef("%s: %q is not an http or https URL", flag, value)
		}
	}
	if f.lease < minLease {
		return usagef("--lease: %v is too short to be renewed in time; expected at least %v", f.lease, minLease)
	}
	host, _, err := net.SplitHostPort(f.addr)
	if err != nil {
		return usagef("--addr: %v; expected HOST:PORT", err)
	}
	if _, _, err := net.SplitHostPort(f.metricsAddr); err != nil && f.metricsAddr != "" && f.metricsAddr != metricsOff {
		return usagef("--metrics-addr: %v; expected HOST:PORT or off", err)
	}
	local := f.metricsAddr == "" && isLoopback(host) && f.publicURL == ""
	if f.pprof && !local && (f.metricsAddr == "" || f.metricsAddr == metricsOff) {
		return usagef("--pprof: profiles are not for strangers; say where to serve them with --metrics-addr 127.0.0.1:PORT")
	}

	stores, err := f.stores()
	if err != nil {
		return err
	}
	if !stores.Shared() && f.advertise != "" {
		return usagef("--advertise: other servers cannot share a data directory; it takes --db")
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", f.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	addr := "http://" + l.Addr().String()
	at, err := netip.ParseAddrPort(l.Addr().String())
	everywhere := err == nil && at.Addr().IsUnspecified()
	if everywhere { // where this machine finds it
		addr = fmt.Sprintf("http://127.0.0.1:%d", at.Port())
	}
	if f.advertise == "" && stores.Shared() {
		if everywhere {
			log.Warn("other servers on this database cannot ask this one for the models it holds: set --advertise")
		} else {
			f.advertise = addr
		}
	}
	watch := telemetry.New(telemetry.Options{Version: tinkex.Version, Revision: revision(), TracerProvider: a.tracing})
	n, err := node.Open(ctx, node.Options{
		Stores: stores, Models: models, PublicURL: f.publicURL, Advertise: f.advertise, Lease: f.lease,
		Version: tinkex.Version, Logger: log, Telemetry: watch,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			log.Error("shutdown", "error", err)
		}
	}()
	keys, err := n.Meta.Keys(ctx)
	if err != nil {
		return err
	}
	if !isLoopback(host) && len(keys) == 0 {
		create := "tinkex key create --data-dir " + f.dataDir
		if stores.DB != "" {
			create = "tinkex key create with the same --db or TINKEX_DB"
		}
		return usagef("--addr: refusing to listen on %s without keys: anybody who reaches it could read and delete every checkpoint.\nCreate a key first (%s), or listen on 127.0.0.1.", f.addr, create)
	}
	var handler http.Handler = n
	switch {
	case local:
		handler = watch.Expose(n, true, f.pprof)
	case f.metricsAddr != "" && f.metricsAddr != metricsOff:
		stop, err := serveMetrics(ctx, f.metricsAddr, watch.Expose(probes(n), false, f.pprof), log)
		if err != nil {
			return err
		}
		defer stop()
	}
	if err := a.announce(addr, len(keys) == 0); err != nil {
		return err
	}
	meta, blobs := stores.Describe()
	log.Info("serving", "url", addr, "metadata", meta, "blobs", blobs)
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		log.Info("stopping: finishing the requests in hand", "at_most", shutdownGrace)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		// Waiting clients are told to come again, or the wait would outlast us.
		n.Drain()
		stopped <- srv.Shutdown(grace)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if err := <-stopped; err != nil {
		log.Warn("some requests were cut off", "error", err)
	}
	return nil
}

// announce says where the server is, on standard output for scripts and on
// standard error for people.
func (a *app) announce(addr string, anyKey bool) error {
	if a.format == "json" {
		return a.printJSON(struct {
			URL string `json:"url"`
			PID int    `json:"pid"`
		}{addr, os.Getpid()})
	}
	if a.StderrTerminal {
		key := "KEY" // one of those that were created
		if anyKey {
			key = "tml-me"
		}
		a.say("In another terminal:\n  export TINKER_BASE_URL=%s TINKER_API_KEY=%s\n  tinkex checkpoint list\n", addr, key)
	}
	return a.print("%s\n", addr)
}

// metricsOff is the --metrics-addr of those who want none.
const metricsOff = "off"

// probes leaves of a node what may be asked on the metrics' address.
func probes(n http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", n)
	mux.Handle("GET /readyz", n)
	return mux
}

// serveMetrics serves metrics on an address of their own until stop is called.
func serveMetrics(ctx context.Context, addr string, h http.Handler, log *slog.Logger) (stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics-addr: %w", err)
	}
	log.Info("serving metrics", "url", "http://"+l.Addr().String()+"/metrics")
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() { _ = srv.Serve(l) }() // ends with Close
	return func() { _ = srv.Close() }, nil
}

func (a *app) serverLogger(format, level string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{}
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil || !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return nil, usagef("--log-level: %q is not a level; use debug, info, warn or error", level)
	}
	if a.verbose {
		least = slog.LevelDebug
	}
	opts.Level = least
	switch format {
	case "text":
		return telemetry.Logger(slog.New(slog.NewTextHandler(a.Stderr, opts))), nil
	case "json":
		return telemetry.Logger(slog.New(slog.NewJSONHandler(a.Stderr, opts))), nil
	}
	return nil, usagef("--log-format: %q is not a format; use text or json", format)
}

func parseModels(specs []string) ([]cpu.ModelDir, error) {
	var models []cpu.ModelDir
	for _, s := range specs {
		name, dir, ok := strings.Cut(s, "=")
		if !ok || name == "" || dir == "" {
			return nil, usagef("--model: %q: expected NAME=DIR, for example Qwen/Qwen3-0.6B=./qwen3", s)
		}
		models = append(models, cpu.ModelDir{Name: name, Dir: dir})
	}
	return models, nil
}

// isLoopback reports whether only this machine can reach a host's listener.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
