package tinkextest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// t stands for the *testing.T of a test; examples have none.
var t exampleT

type exampleT struct{}

func (exampleT) Helper()                        {}
func (exampleT) Cleanup(func())                 {}
func (exampleT) Errorf(format string, a ...any) { log.Printf(format, a...) }
func (exampleT) Fatalf(format string, a ...any) { log.Panicf(format, a...) }

// cleanUp is a function that somebody wants to test: it deletes all but the
// newest checkpoint of each run.
func cleanUp(ctx context.Context, rest *tinkex.RestClient) error {
	_, err := checkpoint.Prune(ctx, rest, checkpoint.Policy{KeepLast: 1}, checkpoint.PruneOptions{})
	return err
}

func ExampleNewServer() {
	srv := tinkextest.NewServer(t)
	rest := srv.RestClient(t)
	ctx := context.Background() // t.Context() in a test

	run := srv.SeedRun(t, tinkextest.Run{})
	yesterday := time.Now().Add(-24 * time.Hour)
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "0001", Created: yesterday})
	srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "0002"})

	if err := cleanUp(ctx, rest); err != nil {
		t.Fatalf("clean up: %v", err)
	}
	for c, err := range rest.AllCheckpoints(ctx, tinkex.PageOptions{}) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		fmt.Println("left:", c.CheckpointID)
	}
	// Output: left: weights/0002
}

func ExampleServer_SeedCheckpoint() {
	srv := tinkextest.NewServer(t)
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{
		Type:         tinkex.Sampler,
		Name:         "best",
		Files:        map[string][]byte{"adapter_config.json": []byte("{}")},
		Public:       true,
		UserMetadata: map[string]string{"loss": "0.12"},
	})
	c, err := srv.RestClient(t).GetCheckpoint(context.Background(), path)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	fmt.Println(c.CheckpointID, *c.SizeBytes, c.Public, c.UserMetadata["loss"])
	// Output: sampler_weights/best 2 true 0.12
}

func ExampleServer_SeedRun() {
	srv := tinkextest.NewServer(t)
	// A run of somebody else's.
	theirs := srv.SeedRun(t, tinkextest.Run{Key: "tml-them", BaseModel: "Qwen/Qwen3-8B", Rank: 16})
	ctx := context.Background()
	run, err := srv.RestClientFor(t, "tml-them").GetTrainingRun(ctx, theirs)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	fmt.Println(run.BaseModel, *run.LoRARank)
	_, err = srv.RestClient(t).GetTrainingRun(ctx, theirs)
	fmt.Println(errors.Is(err, tinkex.ErrNotFound))
	// Output:
	// Qwen/Qwen3-8B 16
	// true
}

func ExampleServer_TrainCheckpoint() {
	srv := tinkextest.NewServer(t)
	path := srv.TrainCheckpoint(t, tinkextest.Training{Steps: 3, Name: "step-3"})
	svc := srv.ServiceClient(t)
	tc, err := svc.CreateTrainingClientFromStateWithOptimizer(context.Background(), path, tinkex.StateOptions{})
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	fmt.Println("resumed from", path.CheckpointID(), "in another run:", tc.RunID() != path.RunID)
	// Output: resumed from weights/step-3 in another run: true
}

func ExampleClock() {
	clock := tinkextest.NewClock(time.Time{})
	srv := tinkextest.NewServerWith(t, tinkextest.Options{Now: clock.Now})
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{TTL: 24 * time.Hour})
	rest := srv.RestClient(t)

	_, err := rest.GetCheckpoint(context.Background(), path)
	fmt.Println("at first:", err)
	clock.Advance(24 * time.Hour)
	_, err = rest.GetCheckpoint(context.Background(), path)
	fmt.Println("a day later, not found:", errors.Is(err, tinkex.ErrNotFound))
	// Output:
	// at first: <nil>
	// a day later, not found: true
}

func ExampleServer_FailNext() {
	srv := tinkextest.NewServer(t)
	path := srv.SeedCheckpoint(t, tinkextest.Checkpoint{})
	rest := srv.RestClient(t)

	// The client repeats what is transient.
	failed := srv.FailNext(1, tinkextest.Fault{Path: "/weights_info", Status: 503})
	info, err := rest.WeightsInfo(context.Background(), path)
	fmt.Println(info.BaseModel, err, "after", failed(), "failure")

	// What is not, the program has to deal with.
	srv.FailNext(1, tinkextest.Fault{Path: "/weights_info", Status: 400, Detail: "not today"})
	_, err = rest.WeightsInfo(context.Background(), path)
	fmt.Println(errors.Is(err, tinkex.ErrInvalid), err)
	// Output:
	// tinkex/tiny <nil> after 1 failure
	// true read weights info of tinker://00000000-0000-4000-8000-000000000002:train:0/weights/seeded-0001: not today (HTTP 400)
}

// A TestMain has no TB; its tests can share a server.
func ExampleStart() {
	srv, err := tinkextest.Start(tinkextest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	rest, err := tinkex.NewRestClient(srv.Options())
	if err != nil {
		log.Panic(err)
	}
	// code := m.Run()
	fmt.Println(rest.Close(), srv.Close())
	// Output: <nil> <nil>
}
