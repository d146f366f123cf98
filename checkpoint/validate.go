package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/tinkex/tinkex"
)

// Why a checkpoint does not fit; test with errors.Is.
var (
	ErrRankMismatch      = errors.New("LoRA rank mismatch")
	ErrNotLoRA           = errors.New("not a LoRA checkpoint")
	ErrBaseModelMismatch = errors.New("base model mismatch")
)

// Requirements say what a checkpoint must be. Zero fields require nothing,
// except that it always has to be a LoRA checkpoint.
type Requirements struct {
	Rank      int
	BaseModel string
}

// MismatchError says which requirement a checkpoint does not meet.
type MismatchError struct {
	Path      tinkex.TinkerPath
	Want, Got string
	Err       error // one of the sentinels
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s does not fit: %v: expected %s, it has %s", e.Path.CheckpointID(), e.Err, e.Want, e.Got)
}

// Unwrap returns the sentinel.
func (e *MismatchError) Unwrap() error { return e.Err }

// WeightsInfoClient is what ValidateCompatibility needs of a
// *tinkex.RestClient.
type WeightsInfoClient interface {
	WeightsInfo(ctx context.Context, path tinkex.TinkerPath) (tinkex.WeightsInfo, error)
}

// ValidateCompatibility reports whether a checkpoint meets the requirements,
// before anything is loaded or downloaded, and returns what is known of it.
// A checkpoint that does not is a *MismatchError, which wraps ErrNotLoRA,
// ErrRankMismatch or ErrBaseModelMismatch.
func ValidateCompatibility(ctx context.Context, client WeightsInfoClient, path tinkex.TinkerPath, want Requirements) (tinkex.WeightsInfo, error) {
	info, err := client.WeightsInfo(ctx, path)
	if err != nil {
		return info, err
	}
	mismatch := func(err error, want, got string) error {
		return &MismatchError{Path: path, Want: want, Got: got, Err: err}
	}
	switch {
	case !info.IsLoRA:
		return info, mismatch(ErrNotLoRA, "a LoRA adapter", "full weights")
	case want.Rank != 0 && info.LoRARank == nil:
		return info, mismatch(ErrRankMismatch, fmt.Sprintf("rank %d", want.Rank), "a rank the server does not tell")
	case want.Rank != 0 && *info.LoRARank != want.Rank:
		return info, mismatch(ErrRankMismatch, fmt.Sprintf("rank %d", want.Rank), fmt.Sprintf("rank %d", *info.LoRARank))
	case want.BaseModel != "" && info.BaseModel != want.BaseModel:
		return info, mismatch(ErrBaseModelMismatch, want.BaseModel, info.BaseModel)
	}
	return info, nil
}
