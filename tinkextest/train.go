package tinkextest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tinkex/tinkex"
)

// Training is a checkpoint to be made by training. The zero value is a training
// checkpoint "trained" after one step of a new run of Key's, of rank 4.
type Training struct {
	// Key is its owner's. Empty is the Key of this package.
	Key  string
	Rank int // 0: 4
	// Steps is how many optimizer steps are taken. 0 is one.
	Steps int
	// Text is what the model learns. Empty is a short sentence.
	Text         string
	Type         tinkex.CheckpointType // empty: tinkex.Training; or tinkex.Sampler
	Name         string                // empty: "trained"
	TTL          time.Duration         // from now; 0 is for ever
	Public       bool
	UserMetadata map[string]string // the run's and the checkpoint's
}

// TrainCheckpoint trains a new adapter over BaseModel, saves it and returns the
// checkpoint's path: one that programs can resume and sample from, and that peft
// loads. It takes a few dozen milliseconds and a few more for each step. The
// session is ended. Equal Rank, Steps and Text give equal weights.
func (s *Server) TrainCheckpoint(t TB, tr Training) tinkex.TinkerPath {
	t.Helper()
	path, err := s.train(context.Background(), tr)
	if err != nil {
		t.Fatalf("tinkextest: train a checkpoint: %v", err)
	}
	return path
}

func (s *Server) train(ctx context.Context, tr Training) (path tinkex.TinkerPath, err error) {
	switch {
	case s.closed.Load():
		return path, errClosed
	case tr.Steps < 0:
		return path, fmt.Errorf("the Steps is %d; expected a positive number, or 0 for one", tr.Steps)
	case tr.Text != "" && len(tr.Text) < 2:
		return path, fmt.Errorf("the Text is %q; expected at least two bytes", tr.Text)
	case tr.Type != "" && tr.Type != tinkex.Training && tr.Type != tinkex.Sampler:
		return path, fmt.Errorf("the Type is %q; expected tinkex.Training or tinkex.Sampler", tr.Type)
	}
	tr = tr.withDefaults()
	svc, err := tinkex.NewServiceClient(s.OptionsFor(tr.Key))
	if err != nil {
		return path, err
	}
	defer func() { err = errors.Join(err, svc.Close()) }()
	initial := int64(1)
	tc, err := svc.CreateLoRATrainingClient(ctx, BaseModel, tinkex.LoRAOptions{Rank: tr.Rank, Seed: &initial, UserMetadata: tr.UserMetadata})
	if err != nil {
		return path, err
	}
	data := learn(tr.Text)
	for range tr.Steps {
		pass := tc.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
		step := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-3})
		if _, err := pass.Await(ctx); err != nil {
			return path, err
		}
		if _, err := step.Await(ctx); err != nil {
			return path, err
		}
	}
	save := tc.SaveState
	if tr.Type == tinkex.Sampler {
		save = tc.SaveWeightsForSampler
	}
	saved, err := save(ctx, tr.Name, tinkex.SaveOptions{TTL: tr.TTL, UserMetadata: tr.UserMetadata}).Await(ctx)
	if err != nil {
		return path, err
	}
	if tr.Public {
		if err := svc.RestClient().Publish(ctx, saved.Path); err != nil {
			return path, err
		}
	}
	return saved.Path, nil
}

func (tr Training) withDefaults() Training {
	if tr.Key == "" {
		tr.Key = Key
	}
	if tr.Rank == 0 {
		tr.Rank = 4
	}
	if tr.Steps == 0 {
		tr.Steps = 1
	}
	if tr.Text == "" {
		tr.Text = "Tests should not have to wait."
	}
	if tr.Name == "" {
		tr.Name = "trained"
	}
	return tr
}

// learn is a batch of one text, every byte predicted from those before it.
func learn(text string) []tinkex.Datum {
	b := []byte(text)
	weights := make([]float32, len(b)-1)
	for i := range weights {
		weights[i] = 1
	}
	return []tinkex.Datum{{
		ModelInput: tinkex.Tokens(b[:len(b)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints(b[1:]),
			"weights":       tinkex.Floats(weights),
		},
	}}
}
