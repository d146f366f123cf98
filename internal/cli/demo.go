package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/engine/cpu"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/telemetry"
)

// What the demo teaches the model to say, and how.
const (
	demoSentence = "Checkpoints outlive the program that made them. "
	demoPrompt   = "Checkpoints "
	demoRank     = 8
	demoSteps    = 20
	demoSaveAt   = 10 // step after which the first checkpoint is saved
	demoRate     = 4e-3
	demoKey      = "tml-demo"
)

func (a *app) demoCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole life of a checkpoint, on this machine alone",
		Long: `Run the whole life of a checkpoint against an embedded server: train, save, list,
inspect, validate, download, publish, expire, resume, sample and delete. It takes
seconds and needs no account, no network and no other service. The model that it
trains is a small one of random weights.

With --dir the downloaded checkpoint stays there; without, nothing is left.
` + exitStatusHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "keep the downloaded checkpoint in this directory")
	return cmd
}

// story is the demo's state and its voice.
type story struct {
	*app
	ctx     context.Context
	chapter int
	url     string
	svc     *tinkex.ServiceClient
	rest    *tinkex.RestClient
	tc      *tinkex.TrainingClient
	dir     string

	losses    []float64 // per token, before each step of the uninterrupted run
	mid, last tinkex.TinkerPath
	sampler   tinkex.TinkerPath
	err       error // of writing
}

func (s *story) heading(title string) {
	s.chapter++
	line := fmt.Sprintf("%2d  %s", s.chapter, title)
	if s.colours() {
		line = text.Bold.Sprint(line)
	}
	if err := s.print("\n%s\n\n", line); err != nil && s.err == nil {
		s.err = err
	}
}

// tell writes a line of the story.
func (s *story) tell(format string, args ...any) {
	line := strings.TrimRight("    "+fmt.Sprintf(format, args...), " ")
	if err := s.print("%s\n", line); err != nil && s.err == nil {
		s.err = err
	}
}

// command shows how the same is done from a shell.
func (s *story) command(format string, args ...any) {
	line := "$ tinkex " + fmt.Sprintf(format, args...)
	if s.colours() {
		line = text.Faint.Sprint(line)
	}
	s.tell("%s", line)
}

func (a *app) demo(ctx context.Context, dir string) (err error) {
	s := &story{app: a, ctx: ctx, dir: dir}
	if s.dir == "" {
		tmp, err := os.MkdirTemp("", "tinkex-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		s.dir = tmp
	}
	began := time.Now()
	if err := s.print("Tinkex: the whole life of a checkpoint, on this machine alone.\n"); err != nil {
		return err
	}
	stop, err := s.startServer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, chapter := range []func() error{
		s.train, s.list, s.validate, s.download, s.share, s.expire, s.resume, s.sample, s.remove,
	} {
		if err := chapter(); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
	}
	return s.whatNext(time.Since(began), dir != "")
}

func (s *story) startServer() (stop func() error, err error) {
	s.heading("A server of your own")
	data, err := os.MkdirTemp("", "tinkex-demo-data-")
	if err != nil {
		return nil, err
	}
	opts := node.Options{Stores: node.Stores{DataDir: data}, Version: tinkex.Version, Logger: s.logger()}
	if s.tracing != nil {
		opts.Telemetry = telemetry.New(telemetry.Options{Version: tinkex.Version, TracerProvider: s.tracing})
	}
	n, err := node.Open(s.ctx, opts)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	closeNode := func() error {
		return errors.Join(n.Close(context.WithoutCancel(s.ctx)), os.RemoveAll(data))
	}
	l, err := new(net.ListenConfig).Listen(s.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, closeNode())
	}
	srv := &http.Server{Handler: n, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }() // ends with Close
	s.url = "http://" + l.Addr().String()
	s.svc, err = tinkex.NewServiceClient(tinkex.Options{
		BaseURL: s.url, APIKey: demoKey, Logger: s.logger(), TracerProvider: s.tracing, DisplayName: "tinkex demo",
		UserMetadata: map[string]string{"made_by": "tinkex demo"},
	})
	if err != nil {
		return nil, errors.Join(err, srv.Close(), closeNode())
	}
	s.rest = s.svc.RestClient()
	caps, err := s.svc.ServerCapabilities(s.ctx)
	if err != nil {
		return nil, errors.Join(err, s.svc.Close(), srv.Close(), closeNode())
	}
	s.command("serve")
	s.tell("Listening on %s. Its one base model is %s: about a million", s.url, caps.SupportedModels[0].ModelName)
	s.tell("random weights that read and write bytes. The training below is real.")
	return func() error { return errors.Join(s.svc.Close(), srv.Close(), closeNode()) }, nil
}

// demoBatch is one sentence a few times over, every byte predicted from those
// before it.
func demoBatch() ([]tinkex.Datum, float64) {
	b := []byte(demoSentence + demoSentence)
	weights := make([]float32, len(b)-1)
	for i := range weights {
		weights[i] = 1
	}
	d := tinkex.Datum{
		ModelInput: tinkex.Tokens(b[:len(b)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{
			"target_tokens": tinkex.Ints(b[1:]),
			"weights":       tinkex.Floats(weights),
		},
	}
	return slices.Repeat([]tinkex.Datum{d}, 4), float64(4 * len(weights))
}

// step trains one step and returns the loss per token before it. Both requests
// are on their way before either is awaited.
func (s *story) step(tc *tinkex.TrainingClient) (float64, error) {
	data, tokens := demoBatch()
	fb := tc.ForwardBackward(s.ctx, data, tinkex.CrossEntropy, nil)
	opt := tc.OptimStep(s.ctx, tinkex.AdamParams{LearningRate: demoRate})
	out, err := fb.Await(s.ctx)
	if err != nil {
		return 0, err
	}
	_, err = opt.Await(s.ctx)
	return out.Metrics["loss:sum"] / tokens, err
}

func (s *story) train() error {
	s.heading("Train, and save on the way")
	seed := int64(1)
	tc, err := s.svc.CreateLoRATrainingClient(s.ctx, cpu.TinyModel, tinkex.LoRAOptions{Rank: demoRank, Seed: &seed})
	if err != nil {
		return err
	}
	s.tc = tc
	s.tell("A LoRA adapter of rank %d learns to say %q", demoRank, strings.TrimSpace(demoSentence))
	s.tell("")
	for i := 1; i <= demoSteps; i++ {
		loss, err := s.step(tc)
		if err != nil {
			return err
		}
		s.losses = append(s.losses, loss)
		if i == 1 || i%2 == 0 {
			bar := strings.Repeat(s.sign("█", "#"), int(math.Round(loss*7)))
			s.tell("step %2d   loss %6.3f  %s", i, loss, bar)
		}
		if i == demoSaveAt || i == demoSteps {
			saved, err := tc.SaveState(s.ctx, fmt.Sprintf("step-%02d", i), tinkex.SaveOptions{}).Await(s.ctx)
			if err != nil {
				return err
			}
			s.mid, s.last = s.last, saved.Path
			s.tell("saved %s", saved.Path)
		}
	}
	saved, err := tc.SaveWeightsForSampler(s.ctx, "final", tinkex.SaveOptions{}).Await(s.ctx)
	if err != nil {
		return err
	}
	s.sampler = saved.Path
	s.tell("saved %s, to sample from", saved.Path)
	return nil
}

func (s *story) list() error {
	s.heading("List and inspect")
	s.command("checkpoint list")
	page, err := s.rest.ListCheckpoints(s.ctx, tinkex.ListOptions{})
	if err != nil {
		return err
	}
	for _, c := range page.Checkpoints {
		s.tell("%-24s %10s   saved %s", c.CheckpointID, sizeOf(c.SizeBytes), ago(c.Time))
	}
	run, err := s.rest.GetTrainingRunByPath(s.ctx, s.last)
	if err != nil {
		return err
	}
	s.tell("")
	s.command("run info %s", run.TrainingRunID)
	s.tell("%s, LoRA %s, last checkpoint %s", run.BaseModel, rankOf(run), run.LastCheckpoint.CheckpointID)
	return nil
}

func (s *story) validate() error {
	s.heading("Check that one fits, before anything is loaded")
	info, err := checkpoint.ValidateCompatibility(s.ctx, s.rest, s.last, checkpoint.Requirements{Rank: demoRank})
	if err != nil {
		return err
	}
	s.tell("Wanted rank %d: it fits (%s).", demoRank, loraOf(info))
	_, err = checkpoint.ValidateCompatibility(s.ctx, s.rest, s.last, checkpoint.Requirements{Rank: 2 * demoRank})
	if !errors.Is(err, checkpoint.ErrRankMismatch) {
		return fmt.Errorf("a checkpoint of rank %d passed for one of rank %d: %w", demoRank, 2*demoRank, err)
	}
	s.tell("Wanted rank %d: refused. %v", 2*demoRank, err)
	return nil
}

func (s *story) download() error {
	s.heading("Download")
	s.command("checkpoint download %s", s.last)
	bars := s.bars(s.ctx)
	bar := bars.add("    ")
	d, err := checkpoint.Download(s.ctx, s.rest, s.last, checkpoint.DownloadOptions{
		Dir: s.dir, Force: true,
		Progress: func(p checkpoint.Progress) { bar.set(p.Bytes, p.Total, p.Resumed) },
	})
	bar.end(err == nil)
	bars.wait()
	if err != nil {
		return err
	}
	for _, f := range d.Files {
		s.tell("%-30s %10s   sha256 %s", f.Name, size(f.Size), f.SHA256[:16])
	}
	s.tell("in %s", filepath.Clean(d.Dir))
	return nil
}

func (s *story) share() error {
	s.heading("Publish, and take it back")
	s.command("checkpoint publish %s", s.last)
	if err := s.rest.Publish(s.ctx, s.last); err != nil {
		return err
	}
	other, err := tinkex.NewRestClient(tinkex.Options{BaseURL: s.url, APIKey: "tml-somebody-else", Logger: s.logger()})
	if err != nil {
		return err
	}
	defer other.Close()
	if _, err := other.WeightsInfo(s.ctx, s.last); err != nil {
		return err
	}
	s.tell("Somebody with another key can read it now.")
	s.command("checkpoint unpublish %s", s.last)
	if err := s.rest.Unpublish(s.ctx, s.last); err != nil {
		return err
	}
	if _, err := other.WeightsInfo(s.ctx, s.last); !errors.Is(err, tinkex.ErrNotFound) {
		return fmt.Errorf("an unpublished checkpoint is still readable by others: %w", err)
	}
	s.tell("And now no longer: to them it does not exist.")
	return nil
}

func (s *story) expire() error {
	s.heading("Let one expire")
	s.command("checkpoint set-ttl %s --ttl 24h", s.mid)
	if err := s.rest.SetTTL(s.ctx, s.mid, 24*time.Hour); err != nil {
		return err
	}
	c, err := s.rest.GetCheckpoint(s.ctx, s.mid)
	if err != nil {
		return err
	}
	s.tell("It is gone at %s: hidden that instant, its bytes removed soon after.", c.ExpiresAt.Local().Format(time.DateTime))
	return nil
}

func (s *story) resume() error {
	s.heading("Resume")
	const compared = 3
	s.tell("From step %d on, the run that was never interrupted had these losses:", demoSaveAt+1)
	want := s.losses[demoSaveAt : demoSaveAt+compared]
	s.tell("  uninterrupted          %s", exact(want))
	run := func(label string, create func(context.Context, tinkex.TinkerPath, tinkex.StateOptions) (*tinkex.TrainingClient, error)) ([]float64, error) {
		tc, err := create(s.ctx, s.mid, tinkex.StateOptions{})
		if err != nil {
			return nil, err
		}
		var got []float64
		for range compared {
			loss, err := s.step(tc)
			if err != nil {
				return nil, err
			}
			got = append(got, loss)
		}
		s.tell("  %-22s %s", label, exact(got))
		_, err = tc.Unload(s.ctx).Await(s.ctx)
		return got, err
	}
	with, err := run("with the optimizer", s.svc.CreateTrainingClientFromStateWithOptimizer)
	if err != nil {
		return err
	}
	without, err := run("without", s.svc.CreateTrainingClientFromState)
	if err != nil {
		return err
	}
	if !slices.Equal(with, want) {
		return errors.New("resuming with the optimizer was not exact")
	}
	if slices.Equal(without, want) {
		return errors.New("resuming without the optimizer made no difference")
	}
	s.tell("With its optimizer, training goes on bit for bit as if nothing had happened.")
	s.tell("Without, it starts from the same weights and goes its own way.")
	return nil
}

func exact(losses []float64) string {
	var parts []string
	for _, l := range losses {
		parts = append(parts, fmt.Sprintf("%.15f", l))
	}
	return strings.Join(parts, "  ")
}

func (s *story) sample() error {
	s.heading("Sample")
	greedy := 0.0
	opts := tinkex.SampleOptions{Params: tinkex.SamplingParams{MaxTokens: len(demoSentence) - len(demoPrompt) - 1, Temperature: &greedy}}
	for _, from := range []struct {
		label string
		opts  tinkex.SamplerOptions
	}{
		{"the base model", tinkex.SamplerOptions{BaseModel: cpu.TinyModel}},
		{"the checkpoint", tinkex.SamplerOptions{Path: s.sampler}},
	} {
		sc, err := s.svc.CreateSamplingClient(s.ctx, from.opts)
		if err != nil {
			return err
		}
		out, err := sc.Sample(s.ctx, tinkex.Tokens([]byte(demoPrompt)...), opts).Await(s.ctx)
		if err != nil {
			return err
		}
		s.tell("%s goes on from %q:  %s", from.label, demoPrompt, printable(out.Sequences[0].Tokens, s.sign("·", ".")))
	}
	return nil
}

// sign is a sign, or what stands for it on terminals that do not have it.
func (s *story) sign(sign, ascii string) string {
	if s.StdoutTerminal && s.NotUTF8 {
		return ascii
	}
	return sign
}

// printable shows byte tokens, and a dot for what is not one.
func printable(tokens []int32, dot string) string {
	var b strings.Builder
	for _, t := range tokens {
		if t < ' ' || t > '~' {
			b.WriteString(dot)
		} else {
			b.WriteRune(t)
		}
	}
	return b.String()
}

func (s *story) remove() error {
	s.heading("Delete")
	s.command("checkpoint delete --run-id %s", s.last.RunID)
	for _, p := range []tinkex.TinkerPath{s.mid, s.last, s.sampler} {
		if err := s.rest.DeleteCheckpoint(s.ctx, p); err != nil {
			return err
		}
	}
	page, err := s.rest.ListCheckpoints(s.ctx, tinkex.ListOptions{})
	if err != nil {
		return err
	}
	s.tell("Three deleted, %d left.", len(page.Checkpoints))
	return nil
}

func (s *story) whatNext(took time.Duration, kept bool) error {
	if kept {
		s.tell("The downloaded one stays in %s.", filepath.Clean(s.dir))
	}
	s.tell("")
	s.tell("That took %.1f seconds. Now with your own:", took.Seconds())
	s.tell("")
	s.tell("$ tinkex serve                                       keep checkpoints here")
	s.tell("$ export TINKER_BASE_URL=http://127.0.0.1:8484 TINKER_API_KEY=tml-me")
	s.tell("$ python train.py                                    any program that uses tinker")
	s.tell("$ tinkex checkpoint list                             and see what it saved")
	return s.err
}
