package checkpoint_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/tinkex/tinkex/checkpoint"
)

// outcome is how downloads over a disturbed network may end.
type outcome int

const (
	either outcome = iota
	succeeds
	fails
)

// TestDisturbedNetwork disturbs connections instead of answers: whatever
// happens to them, a download is complete and verified, or a clear error with
// nothing to be seen; and the next one over a quiet network succeeds.
func TestDisturbedNetwork(t *testing.T) {
	t.Parallel()
	var ok, failed, continued atomic.Int64
	t.Cleanup(func() {
		t.Logf("disturbed network: %d downloads in spite of it, %d failed with a clear error and succeeded undisturbed, %d of these without fetching everything again",
			ok.Load(), failed.Load(), continued.Load())
	})
	proxies := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	var side sync.WaitGroup // the sources side by side, however few processors there are: they wait most of the time
	defer side.Wait()
	for _, s := range someSources(t) {
		side.Go(func() {
			t.Run(s.name, func(t *testing.T) {
				for name, tc := range map[string]struct {
					toxic          string
					ranged, stream outcome
				}{
					"reset at once":            {`{"type":"reset_peer","attributes":{"timeout":0}}`, fails, fails},
					"reset a little later":     {`{"type":"reset_peer","attributes":{"timeout":50}}`, fails, fails},
					"half are reset":           {`{"type":"reset_peer","toxicity":0.5,"attributes":{"timeout":0}}`, either, either},
					"600 kB a connection":      {`{"type":"limit_data","attributes":{"bytes":600000}}`, succeeds, fails},
					"1 kB a connection":        {`{"type":"limit_data","attributes":{"bytes":1000}}`, fails, fails},
					"nothing arrives":          {`{"type":"timeout","attributes":{"timeout":0}}`, fails, fails},
					"nothing, then closed":     {`{"type":"timeout","attributes":{"timeout":50}}`, fails, fails},
					"requests do not arrive":   {`{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, fails, fails},
					"1 kB a second":            {`{"type":"bandwidth","attributes":{"rate":1}}`, fails, fails},
					"50 MB a second":           {`{"type":"bandwidth","attributes":{"rate":50000}}`, succeeds, succeeds},
					"slow to close":            {`{"type":"slow_close","attributes":{"delay":200}}`, succeeds, succeeds},
					"far away":                 {`{"type":"latency","attributes":{"latency":20,"jitter":10}}`, succeeds, succeeds},
					"in pieces of a few bytes": {`{"type":"slicer","attributes":{"average_size":5000,"size_variation":3000,"delay":10}}`, succeeds, succeeds},
				} {
					t.Run(name, func(t *testing.T) {
						p := toxiproxy.NewProxy(proxies, strings.ReplaceAll(t.Name(), "/", " "), "127.0.0.1:0", s.server.host)
						if err := p.Start(); err != nil {
							t.Fatal(err)
						}
						defer p.Stop()
						if _, err := p.Toxics.AddToxicJson(strings.NewReader(tc.toxic)); err != nil {
							t.Fatal(err)
						}
						// Only the bytes take this way, so that it is the download that
						// has to cope.
						through := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
							return new(net.Dialer).DialContext(ctx, network, p.Listen)
						}}
						defer through.CloseIdleConnections()
						dir := t.TempDir()
						opts := hasty(dir)
						opts.Jobs = 8
						opts.HTTPClient = &http.Client{Transport: through}
						switch name {
						case "nothing arrives", "requests do not arrive", "1 kB a second":
							opts.StallTimeout = impatient
						}
						d, err := checkpoint.Download(t.Context(), s.client, s.path, opts)
						target := filepath.Join(dir, s.path.DirName())
						want := tc.ranged
						if !s.ranges {
							want = tc.stream
						}
						if err == nil {
							if ok.Add(1); want == fails {
								t.Error("it succeeded, so it was not disturbed")
							}
							intact(t, target, d.Files)
							onlyEntry(t, dir, s.path.DirName())
							return
						}
						if failed.Add(1); want == succeeds {
							t.Errorf("it was too much: %v", err)
						}
						if !strings.Contains(err.Error(), "download "+s.path.String()) {
							t.Errorf("the error does not say of what: %v", err)
						}
						if v := visible(t, dir); v != nil {
							t.Errorf("after %v there is %v", err, v)
						}
						opts.HTTPClient, opts.StallTimeout = nil, hasty(dir).StallTimeout
						if d, err = checkpoint.Download(t.Context(), s.client, s.path, opts); err != nil {
							t.Fatalf("undisturbed: %v", err)
						}
						intact(t, target, d.Files)
						onlyEntry(t, dir, s.path.DirName())
						if d.Fetched < s.size {
							continued.Add(1)
						}
					})
				}
			})
		})
	}
}
