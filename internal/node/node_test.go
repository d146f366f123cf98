package node_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/s3test"
	"github.com/tinkex/tinkex/internal/testproc"
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		defer pgtest.Stop()
		return s3test.Run(m)
	}())
}

// The life of checkpoints on PostgreSQL and S3, over HTTP, across servers.
func TestPostgresAndS3(t *testing.T) {
	const password = "pa55word-in-the-url"
	ctx := t.Context()
	db, err := url.Parse(pgtest.Schema(t))
	if err != nil {
		t.Fatal(err)
	}
	db.User = url.UserPassword(db.User.Username(), password) // which a throwaway server does not ask for
	stores := node.Stores{
		// Must not be made: nothing is kept in it.
		DataDir: filepath.Join(t.TempDir(), "not", "used"),
		DB:      db.String(), Blobs: s3test.Bucket(t),
	}
	var out testproc.Output
	var later atomic.Int64 // how far the servers' clock is ahead
	serve := func() (*node.Node, *tinkex.ServiceClient) {
		t.Helper()
		n, err := node.Open(ctx, node.Options{
			Stores: stores, Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close(context.Background()) })
		srv := httptest.NewServer(n)
		t.Cleanup(srv.Close)
		svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: srv.URL, APIKey: "tml-test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = svc.Close() })
		return n, svc
	}
	blobs := func() map[string]int64 {
		t.Helper()
		s, err := blobstore.Open(ctx, stores.Blobs)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		all := map[string]int64{}
		for info, err := range s.All(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			all[info.Digest.String()] = info.Size
		}
		return all
	}

	n, svc := serve()
	tc, err := svc.CreateLoRATrainingClient(ctx, "tinkex/tiny", tinkex.LoRAOptions{Rank: 4})
	if err != nil {
		t.Fatal(err)
	}
	first := step(t, tc)
	state, err := tc.SaveState(ctx, "state", tinkex.SaveOptions{}).Await(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := blobs()
	sampler, err := tc.SaveWeightsForSampler(ctx, "sampler", tinkex.SaveOptions{}).Await(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after := blobs(); len(after) != len(before) {
		t.Errorf("a sampler checkpoint of weights that were saved adds %d blobs", len(after)-len(before))
	}
	second := step(t, tc)
	if first == second {
		t.Fatalf("training changes nothing: both losses are %v", first)
	}
	if err := svc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}

	// Another server on the same stores.
	n, svc = serve()
	rest := svc.RestClient()
	list, err := rest.ListCheckpoints(ctx, tinkex.ListOptions{Limit: 10})
	if err != nil || len(list.Checkpoints) != 2 {
		t.Fatalf("the list has %d checkpoints, want 2; error %v", len(list.Checkpoints), err)
	}
	for _, path := range []tinkex.TinkerPath{state.Path, sampler.Path} {
		got, err := checkpoint.Download(ctx, rest, path, checkpoint.DownloadOptions{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := checkpoint.Verify(ctx, got.Dir); err != nil {
			t.Errorf("%s: %v, error %v", path, v, err)
		}
	}
	resumed, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, state.Path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := step(t, resumed); got != second {
		t.Errorf("resumed, the next loss is %v; uninterrupted it is %v", got, second)
	}

	// What is deleted stays until it has been unreferenced for long enough.
	collect := func() int {
		t.Helper()
		g, err := n.Registry.CollectGarbage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return g.Blobs
	}
	// left collects until so many blobs are left: a collection of the server's own
	// may be on its way.
	left := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			collect()
			all := blobs()
			if len(all) == want {
				return
			}
			if len(all) < want || time.Now().After(deadline) {
				t.Fatalf("%d blobs are left, want %d: %v", len(all), want, all)
			}
		}
	}
	there := len(blobs())
	if err := rest.DeleteCheckpoint(ctx, state.Path); err != nil {
		t.Fatal(err)
	}
	if got := collect(); got != 0 {
		t.Errorf("%d blobs collected within the grace period", got)
	}
	later.Store(int64(2 * time.Hour))
	left(there - 1) // without the optimizer's state, which the sampler has not
	if _, err := checkpoint.Download(ctx, rest, sampler.Path, checkpoint.DownloadOptions{Dir: t.TempDir()}); err != nil {
		t.Errorf("what shared its files with the deleted one: %v", err)
	}
	if err := rest.DeleteCheckpoint(ctx, sampler.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := rest.GetCheckpoint(ctx, sampler.Path); !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("a deleted checkpoint: %v", err)
	}
	left(0)

	if _, err := os.Stat(stores.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory that nothing is kept in: %v", err)
	}
	for _, secret := range []string{password, os.Getenv("AWS_SECRET_ACCESS_KEY")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the log tells %q", secret)
		}
	}
}

// step trains on a few bytes and returns the loss before it.
func step(t *testing.T, tc *tinkex.TrainingClient) float64 {
	t.Helper()
	text := []byte("Hello, world")
	weights := make([]float32, len(text)-1)
	for i := range weights {
		weights[i] = 1
	}
	data := []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(text[:len(text)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints(text[1:]), "weights": tinkex.Floats(weights)},
	}}
	pass := tc.ForwardBackward(t.Context(), data, tinkex.CrossEntropy, nil)
	optim := tc.OptimStep(t.Context(), tinkex.AdamParams{LearningRate: 1e-3})
	out, err := pass.Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := optim.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.Metrics["loss:sum"]
}

func TestStores(t *testing.T) {
	for _, test := range []struct {
		stores      node.Stores
		local       bool
		meta, blobs string
		invalid     bool
	}{
		{node.Stores{}, false, ":memory:", "", false},
		{node.Stores{DataDir: "d"}, true, filepath.Join("d", "tinkex.db"), "d", false},
		{node.Stores{DataDir: "d", DB: "postgres://me:s3cret@host:1/meta?sslpassword=s3cret"}, true, "postgres://host:1/meta", "d", false},
		{node.Stores{DataDir: "d", Blobs: "s3://b?region=r&x=s3cret"}, true, filepath.Join("d", "tinkex.db"), "s3://b?region=r&x=...", false},
		{node.Stores{DataDir: "d", DB: "postgresql://host/meta", Blobs: "s3://b"}, false, "postgresql://host/meta", "s3://b", false},
		{node.Stores{DB: "mysql://me:s3cret@host/meta"}, false, "mysql://host/meta", "", true},
		{node.Stores{DB: "host=h password=s3cret"}, false, "", "", true},
	} {
		err := test.stores.Check()
		if (err != nil) != test.invalid {
			t.Errorf("%+v: Check: %v", test.stores, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Check tells the secret: %v", err)
		}
		if got := test.stores.Local(); got != test.local {
			t.Errorf("%+v: Local is %v", test.stores, got)
		}
		meta, blobs := test.stores.Describe()
		if strings.Contains(meta, "s3cret") || !test.invalid && (meta != test.meta || blobs != test.blobs) {
			t.Errorf("%+v: described as %q and %q", test.stores, meta, blobs)
		}
	}
}
