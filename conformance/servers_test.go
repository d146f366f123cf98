package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/s3test"
)

// together starts servers on one database and one bucket. The lease is longer
// than a busy machine keeps any of them from renewing it.
func together(t *testing.T, n int, lease time.Duration) cluster {
	t.Helper()
	db, bucket := pgtest.Schema(t), s3test.Bucket(t)
	var c cluster
	for range n {
		c.servers = append(c.servers, serveAt(t, t.TempDir(), "127.0.0.1:0", "--db", db, "--blobs", bucket, "--lease", lease.String()))
	}
	var err error
	if c.meta, err = metastore.OpenPostgres(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.meta.Close() })
	return c
}

// inTurn is a proxy as people put in front of their servers: every request goes
// to another one, and to the next if it cannot be reached.
func inTurn(t *testing.T, all []*server) string {
	t.Helper()
	var n atomic.Uint64
	front := &httputil.ReverseProxy{
		Rewrite:   func(*httputil.ProxyRequest) {},
		Transport: turns{all, &n},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	s := httptest.NewServer(front)
	t.Cleanup(s.Close)
	return s.URL
}

type turns struct {
	all []*server
	n   *atomic.Uint64
}

func (p turns) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	var body []byte
	if r.Body != nil {
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	first := p.n.Add(1)
	for i := range p.all {
		u, _ := url.Parse(p.all[(int(first)+i)%len(p.all)].url)
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = u.Scheme, u.Host
		out.Body = io.NopCloser(bytes.NewReader(body))
		resp, err = http.DefaultTransport.RoundTrip(out)
		var dial *net.OpError
		if !errors.As(err, &dial) || dial.Op != "dial" {
			return resp, err
		}
	}
	return nil, err
}

// A training loop of the published SDK whose requests go to three servers in
// turn, of which the one that holds the model is told to stop, is the same to
// the last bit as one on a single server that nobody disturbs.
func TestPythonTrainsOnManyServers(t *testing.T) {
	t.Parallel()
	venv(t) // before the clock of what follows starts
	const steps = 60
	args := func(mark string) map[string]any {
		return map[string]any{"steps": steps, "mark_after": 10, "mark": mark}
	}
	undisturbed := script(t, serve(t, t.TempDir()).url, "tml-survive", "survive", args(filepath.Join(t.TempDir(), "mark")))

	c, mark := together(t, 3, time.Minute), filepath.Join(t.TempDir(), "mark")
	first, failed := -1, make(chan error, 1)
	go func() {
		for _, err := os.Stat(mark); err != nil; _, err = os.Stat(mark) {
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		var err error
		if first, err = c.holderOf(t.Context(), "tml-survive"); err == nil {
			c.servers[first].stop()
		}
		failed <- err
	}()
	disturbed := script(t, inTurn(t, c.servers), "tml-survive", "survive", args(mark))
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	var took []int
	for i, s := range c.servers {
		if strings.Contains(s.log.String(), "brought a parked model back") {
			took = append(took, i)
		}
	}
	if len(took) != 1 || took[0] == first {
		t.Errorf("the model of server %d went on on servers %v", first, took)
	}
	if n := len(disturbed.at("steps").list()); n != steps {
		t.Errorf("%d steps", n)
	}
	disturbed.at("steps").same(undisturbed.at("steps"))
	disturbed.at("end").same(undisturbed.at("end"))
}

// Of three servers one is killed. What it held is found lost within its lease,
// by whichever server is asked; what the others hold goes on undisturbed.
func TestOneOfManyServersIsKilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	seed := int64(7)
	opts := tinkex.LoRAOptions{Rank: 4, Seed: &seed}
	const steps = 12
	undisturbed := func() []float64 {
		alone, err := client(t, serve(t, t.TempDir()).url, "tml-kill").CreateLoRATrainingClient(ctx, "tinkex/tiny", opts)
		ok(err)
		return goSteps(t, alone, steps)
	}()

	const lease = 15 * time.Second
	c := together(t, 3, lease)
	front := inTurn(t, c.servers)
	svc := client(t, front, "tml-kill")
	rest := svc.RestClient()
	train := func() (*tinkex.TrainingClient, int) {
		tc, err := svc.CreateLoRATrainingClient(ctx, "tinkex/tiny", opts)
		ok(err)
		at, err := c.holderOf(ctx, "tml-kill")
		ok(err)
		return tc, at
	}
	doomed, on := train()
	other, at := train()
	for range 20 { // requests of other kinds take turns too
		if at != on {
			break
		}
		other, at = train()
	}
	if at == on {
		t.Fatal("all models are on one server")
	}

	for i := range 2 {
		loss := goStep(t, doomed)
		if loss != undisturbed[i] {
			t.Errorf("step %d through three servers has loss %v, on one alone %v", i, loss, undisturbed[i])
		}
	}
	saved, err := doomed.SaveState(ctx, "kept", tinkex.SaveOptions{}).Await(ctx)
	ok(err)
	sampler, err := doomed.SaveWeightsAndGetSamplingClient(ctx).Await(ctx)
	ok(err)
	unsaved := goStep(t, doomed)
	for range 4 {
		_, err := sampler.ComputeLogprobs(ctx, tinkex.Tokens([]byte("by whichever server")...)).Await(ctx)
		ok(err)
	}
	for i, s := range c.servers {
		run, err := client(t, s.url, "tml-kill").RestClient().GetTrainingRun(ctx, doomed.RunID())
		ok(err)
		if run.Corrupted || run.LastCheckpoint == nil || run.LastCheckpoint.TinkerPath != saved.Path.String() {
			t.Errorf("server %d has the run as %+v", i, run)
		}
	}
	var pending []*tinkex.Future[*tinkex.ForwardBackwardOutput]
	for range 8 {
		pending = append(pending, doomed.ForwardBackward(ctx, mirrorData(), tinkex.CrossEntropy, nil))
	}
	c.servers[on].kill()
	noticed := make(chan time.Duration, 1)
	go func() {
		defer close(noticed)
		for killed := time.Now(); ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			if run, err := c.meta.Run(ctx, doomed.RunID()); err == nil && run.State == metastore.RunCorrupted {
				noticed <- time.Since(killed)
				return
			}
		}
	}()

	for i := range steps {
		loss := goStep(t, other)
		if loss != undisturbed[i] {
			t.Errorf("step %d of the server beside it has loss %v, undisturbed %v", i, loss, undisturbed[i])
		}
	}
	for _, f := range pending {
		// Those whose answers were on their way may have arrived.
		if _, err := f.Await(ctx); err != nil && !errors.Is(err, tinkex.ErrGone) {
			t.Errorf("a request of the lost model: %v", err)
		}
	}
	if _, err := tryStep(ctx, doomed); !errors.Is(err, tinkex.ErrGone) {
		t.Errorf("a step of the lost model: %v", err)
	}
	t.Logf("the model of the killed server was found lost after %v, with a lease of %v", (<-noticed).Round(100*time.Millisecond), lease)
	for i, s := range c.servers {
		if i == on {
			continue
		}
		run, err := client(t, s.url, "tml-kill").RestClient().GetTrainingRun(ctx, doomed.RunID())
		ok(err)
		if !run.Corrupted {
			t.Errorf("server %d has the run as %+v", i, run)
		}
	}
	resumed, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, saved.Path, tinkex.StateOptions{})
	ok(err)
	again := goStep(t, resumed)
	if again != unsaved {
		t.Errorf("the step that was lost has loss %v when taken again, %v the first time", again, unsaved)
	}
	_, err = sampler.ComputeLogprobs(ctx, tinkex.Tokens([]byte("still there")...)).Await(ctx)
	ok(err)

	// What expires is removed by one server, though the one that did so may be
	// the one that is gone.
	_, err = resumed.SaveState(ctx, "short-lived", tinkex.SaveOptions{TTL: time.Second}).Await(ctx)
	ok(err)
	gone := tinkex.TinkerPath{RunID: resumed.RunID(), Type: tinkex.Training, Name: "short-lived"}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := c.meta.Checkpoint(ctx, gone.RunID, metastore.KindTraining, gone.Name)
		if errors.Is(err, metastore.ErrNotFound) {
			break
		}
		ok(err)
		if time.Now().After(deadline) {
			t.Fatal("what has expired is not removed")
		}
	}
	if _, err := rest.GetCheckpoint(ctx, gone); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("an expired checkpoint: %v", err)
	}
	var swept []int
	for began := time.Now(); len(swept) == 0 && time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) { // it is said when it is done
		for i, s := range c.servers {
			if strings.Contains(s.log.String(), "removed expired checkpoints") {
				swept = append(swept, i)
			}
		}
	}
	if len(swept) != 1 || swept[0] == on {
		t.Errorf("servers %v removed what had expired", swept)
	}
}

// cluster is servers on one database and one bucket.
type cluster struct {
	servers []*server
	meta    metastore.Store
}

// holderOf says which server holds the model of an owner's newest run.
func (c cluster) holderOf(ctx context.Context, key string) (int, error) {
	svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: c.servers[0].url, APIKey: key})
	if err != nil {
		return 0, err
	}
	defer svc.Close()
	runs, err := svc.RestClient().ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1})
	if err != nil || len(runs.TrainingRuns) == 0 {
		return 0, fmt.Errorf("training runs %+v, %w", runs, err)
	}
	run, err := c.meta.Run(ctx, runs.TrainingRuns[0].TrainingRunID)
	if err != nil {
		return 0, err
	}
	members, err := c.meta.Servers(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range members {
		for i, s := range c.servers {
			if m.ID == run.Server && m.URL == s.url && run.State == metastore.RunLive {
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("no server holds %s: %+v of %+v", run.ID, run, members)
}

// client is our SDK, pointed at a server.
func client(t *testing.T, url, key string) *tinkex.ServiceClient {
	t.Helper()
	svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	return svc
}
