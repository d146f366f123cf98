// Command lifecycle trains, saves, resumes, lists, downloads and deletes: the
// life of a checkpoint in one page.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

func main() {
	dir, err := os.MkdirTemp("", "lifecycle-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := run(context.Background(), os.Stdout, tinkex.Options{}, dir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, opts tinkex.Options, dir string) error {
	svc, err := tinkex.NewServiceClient(opts) // empty options: TINKER_API_KEY and TINKER_BASE_URL
	if err != nil {
		return err
	}
	defer svc.Close()

	// Train. Both requests of a step are on their way before one is awaited.
	tc, err := svc.CreateLoRATrainingClient(ctx, "tinkex/tiny", tinkex.LoRAOptions{Rank: 8})
	if err != nil {
		return err
	}
	text := []byte("hello, hello, hello")
	data := []tinkex.Datum{{
		ModelInput: tinkex.Tokens(text[:len(text)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints(text[1:]),
			"weights":       tinkex.Floats(ones(len(text) - 1)),
		},
	}}
	for range 5 {
		pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
		step := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-3})
		if _, err := pass.Await(ctx); err != nil {
			return err
		}
		if _, err := step.Await(ctx); err != nil {
			return err
		}
	}

	// Save, for a day.
	saved, err := tc.SaveState(ctx, "step-0005", tinkex.SaveOptions{TTL: 24 * time.Hour}).Await(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "saved", saved.Path.CheckpointID())

	// Check that it fits, then resume exactly where it was saved.
	rest := svc.RestClient()
	if _, err := checkpoint.ValidateCompatibility(ctx, rest, saved.Path, checkpoint.Requirements{Rank: 8}); err != nil {
		return err
	}
	if _, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, saved.Path, tinkex.StateOptions{}); err != nil {
		return err
	}
	fmt.Fprintln(out, "resumed")

	// List everything, page after page.
	for c, err := range rest.AllCheckpoints(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "listed", c.CheckpointID)
	}

	// Download into a directory that appears only once it is complete.
	d, err := checkpoint.Download(ctx, rest, saved.Path, checkpoint.DownloadOptions{Dir: dir})
	if err != nil {
		return err
	}
	for _, f := range d.Files {
		fmt.Fprintln(out, "downloaded", f.Name)
	}
	return rest.DeleteCheckpoint(ctx, saved.Path)
}

func ones(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}
