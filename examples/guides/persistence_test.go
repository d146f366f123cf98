package guides

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

// What follows is docs/guides/training_persistence.md's.

// steps trains for n steps and returns the loss before each.
func steps(ctx context.Context, tc *tinkex.TrainingClient, data []tinkex.Datum, n int) ([]float64, error) {
	var losses []float64
	for range n {
		pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
		step := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 4e-3})
		out, err := pass.Await(ctx)
		if err != nil {
			return losses, err
		}
		if _, err := step.Await(ctx); err != nil {
			return losses, err
		}
		losses = append(losses, out.Metrics["loss:sum"])
	}
	return losses, nil
}

func saveState(ctx context.Context, out io.Writer, tc *tinkex.TrainingClient) (tinkex.TinkerPath, error) {
	saved, err := tc.SaveState(ctx, "step-0010", tinkex.SaveOptions{}).Await(ctx)
	if err != nil {
		return tinkex.TinkerPath{}, err
	}
	fmt.Fprintln(out, saved.Path) // tinker://<run-id>/weights/step-0010
	return saved.Path, nil
}

func resumeExactly(ctx context.Context, svc *tinkex.ServiceClient, path tinkex.TinkerPath) (*tinkex.TrainingClient, error) {
	tc, err := svc.CreateTrainingClientFromStateWithOptimizer(ctx, path, tinkex.StateOptions{})
	if err != nil {
		return nil, err
	}
	return tc, nil
}

func resumeWeights(ctx context.Context, svc *tinkex.ServiceClient, path tinkex.TinkerPath) (*tinkex.TrainingClient, error) {
	tc, err := svc.CreateTrainingClientFromState(ctx, path, tinkex.StateOptions{})
	if err != nil {
		return nil, err
	}
	return tc, nil
}

func loadState(ctx context.Context, svc *tinkex.ServiceClient, path tinkex.TinkerPath) (*tinkex.TrainingClient, error) {
	info, err := svc.RestClient().WeightsInfo(ctx, path)
	if err != nil {
		return nil, err
	}
	tc, err := svc.CreateLoRATrainingClient(ctx, info.BaseModel, tinkex.LoRAOptions{Rank: *info.LoRARank})
	if err != nil {
		return nil, err
	}
	if _, err := tc.LoadStateWithOptimizer(ctx, path).Await(ctx); err != nil { // or LoadState
		return nil, err
	}
	return tc, nil
}

func keepLatest(ctx context.Context, tc *tinkex.TrainingClient, step int) error {
	save := tinkex.SaveOptions{Overwrite: true, TTL: 30 * 24 * time.Hour}
	if _, err := tc.SaveState(ctx, "latest", save).Await(ctx); err != nil {
		return err
	}
	if step%1000 != 0 {
		return nil
	}
	_, err := tc.SaveState(ctx, fmt.Sprintf("step-%06d", step), tinkex.SaveOptions{}).Await(ctx)
	return err
}

func goOn(ctx context.Context, svc *tinkex.ServiceClient, runID string) (*tinkex.TrainingClient, error) {
	run, err := svc.RestClient().GetTrainingRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	if run.LastCheckpoint == nil {
		return svc.CreateLoRATrainingClient(ctx, run.BaseModel, tinkex.LoRAOptions{Rank: *run.LoRARank})
	}
	path, err := run.LastCheckpoint.Path()
	if err != nil {
		return nil, err
	}
	return svc.CreateTrainingClientFromStateWithOptimizer(ctx, path, tinkex.StateOptions{})
}

func TestTrainingPersistence(t *testing.T) {
	srv := tinkextest.NewServer(t)
	ctx := t.Context()
	svc := srv.ServiceClient(t)
	seed := int64(3)
	tc, err := svc.CreateLoRATrainingClient(ctx, tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4, Seed: &seed})
	if err != nil {
		t.Fatal(err)
	}
	data := []tinkex.Datum{{
		ModelInput: tinkex.Tokens([]byte("to be saved")...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints([]byte("o be saved.")),
			"weights":       tinkex.Floats(slices.Repeat([]float32{1}, 11)),
		},
	}}
	if _, err := steps(ctx, tc, data, 3); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	path, err := saveState(ctx, &out, tc)
	if err != nil || !strings.HasSuffix(out.String(), "/weights/step-0010\n") {
		t.Fatalf("%q, %v", &out, err)
	}
	uninterrupted, err := steps(ctx, tc, data, 2)
	if err != nil {
		t.Fatal(err)
	}
	for name, resumed := range map[string]struct {
		make  func(context.Context, *tinkex.ServiceClient, tinkex.TinkerPath) (*tinkex.TrainingClient, error)
		exact bool
	}{"with the optimizer": {resumeExactly, true}, "loaded": {loadState, true}, "without": {resumeWeights, false}} {
		again, err := resumed.make(ctx, svc, path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		losses, err := steps(ctx, again, data, 2)
		if err != nil || losses[0] != uninterrupted[0] || (losses[1] == uninterrupted[1]) != resumed.exact {
			t.Errorf("%s: losses %v, uninterrupted %v (%v)", name, losses, uninterrupted, err)
		}
	}

	// A load is a model's first request.
	if _, err := tc.LoadState(ctx, path).Await(ctx); !errors.Is(err, tinkex.ErrInvalid) {
		t.Errorf("a load in the middle: %v", err)
	}
	// A name is taken, unless it may be overwritten.
	if _, err := tc.SaveState(ctx, "step-0010", tinkex.SaveOptions{}).Await(ctx); !errors.Is(err, tinkex.ErrConflict) {
		t.Errorf("a name that is taken: %v", err)
	}
	for _, step := range []int{999, 1000} {
		if err := keepLatest(ctx, tc, step); err != nil {
			t.Fatal(err)
		}
	}
	list, err := svc.RestClient().ListRunCheckpoints(ctx, tc.RunID())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list.Checkpoints {
		ids = append(ids, c.CheckpointID)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"weights/latest", "weights/step-0010", "weights/step-001000"}) {
		t.Errorf("there are %v", ids)
	}
	if again, err := goOn(ctx, svc, tc.RunID()); err != nil {
		t.Errorf("go on: %v", err)
	} else if run, err := svc.RestClient().GetTrainingRun(ctx, again.RunID()); err != nil || !strings.HasSuffix(run.ResumedFrom, "/weights/step-001000") {
		t.Errorf("it went on from %q (%v)", run.ResumedFrom, err)
	}
	if _, err := goOn(ctx, svc, srv.SeedRun(t, tinkextest.Run{})); err != nil {
		t.Errorf("a run without a checkpoint: %v", err)
	}
}

// Checkpoints and their optimizer state survive the server; so does a model in
// training, if the server was told to stop.
func TestWhatSurvivesARestart(t *testing.T) {
	data := t.TempDir()
	first := tinkextest.NewServerWith(t, tinkextest.Options{DataDir: data})
	path := first.TrainCheckpoint(t, tinkextest.Training{})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := tinkextest.NewServerWith(t, tinkextest.Options{DataDir: data})
	if _, err := resumeExactly(t.Context(), second.ServiceClient(t), path); err != nil {
		t.Error(err)
	}
}
