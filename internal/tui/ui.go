// Package tui is the browser of checkpoints that tinkex ui shows: runs,
// checkpoints, their details and sizes, and what can be done with many of them
// at once. It draws and asks; what it does is done by the SDK and by package
// checkpoint.
//
// Model is the whole of it and needs no terminal. Nothing in its Update waits:
// what the server answers arrives as messages, and long lists are filtered and
// sorted beside it.
package tui

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/tinkex/tinkex"
)

// Client is what the browser needs of a *tinkex.RestClient.
type Client interface {
	ListCheckpoints(ctx context.Context, opts tinkex.ListOptions) (tinkex.CheckpointList, error)
	AllCheckpoints(ctx context.Context, opts tinkex.PageOptions) iter.Seq2[tinkex.Checkpoint, error]
	ListRunCheckpoints(ctx context.Context, runID string) (tinkex.CheckpointList, error)
	AllTrainingRuns(ctx context.Context, opts tinkex.PageOptions) iter.Seq2[tinkex.TrainingRun, error]
	DeleteCheckpoint(ctx context.Context, path tinkex.TinkerPath) error
	Publish(ctx context.Context, path tinkex.TinkerPath) error
	Unpublish(ctx context.Context, path tinkex.TinkerPath) error
	SetTTL(ctx context.Context, path tinkex.TinkerPath, ttl time.Duration) error
	RemoveTTL(ctx context.Context, path tinkex.TinkerPath) error
	Manifest(ctx context.Context, path tinkex.TinkerPath) (tinkex.Manifest, error)
	ArchiveURL(ctx context.Context, path tinkex.TinkerPath) (tinkex.ArchiveURL, error)
}

// Description is what is told about one checkpoint.
type Description struct {
	// Properties are names and values in turn.
	Properties []string
	// Files are empty where the server does not tell them.
	Files []DescribedFile
}

// DescribedFile is one of a checkpoint's files.
type DescribedFile struct{ Name, Size, SHA256 string }

// Options configures the browser. Client, Describe and ParseTTL are needed.
type Options struct {
	Client Client
	// Describe reads all there is to know about a checkpoint.
	Describe func(ctx context.Context, path tinkex.TinkerPath) (Description, error)
	// ParseTTL reads a time to live as people write it.
	ParseTTL func(s string) (time.Duration, error)
	// Text makes what a server says safe for the terminal. Nil leaves it as it
	// is.
	Text func(s string) string
	// Server is what the server is called in the title.
	Server string
	// Dir is the directory that downloads are offered to go to.
	Dir string
	// Color allows colours and other attributes.
	Color bool
	// ASCII keeps to ASCII.
	ASCII bool
	// Dumb is for terminals that cannot move their cursor: each screen is
	// printed below the last one.
	Dumb bool
	// Logger hears of retries of downloads. Nil discards.
	Logger *slog.Logger
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
}

// Run shows the browser until it is quit or ctx ends, which is an error. What
// is under way then is stopped, and has stopped when Run returns.
func Run(ctx context.Context, opts Options, in io.Reader, out io.Writer) error {
	m := New(ctx, opts)
	defer m.stop()
	programOptions := []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler(),
	}
	var model tea.Model = m
	if opts.Dumb {
		d := &dumb{Model: m, out: out}
		restore, err := d.prepare(in)
		if err != nil {
			return err
		}
		defer restore()
		model = d
		programOptions = append(programOptions, tea.WithoutRenderer())
	}
	_, err := tea.NewProgram(model, programOptions...).Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}
