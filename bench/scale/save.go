//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/safetensors"
	"github.com/tinkex/tinkex/internal/seed"
)

const (
	saveRounds = 7
	// minSpeed is what a save must have of the speed of cp and fsync.
	minSpeed = 0.5
	// maxAdded is what saved weights may take once more, as a part of their size.
	maxAdded = 0.01

	saveModel = "bench/wide"
	saveRank  = 512
)

// writeModel writes a base model of few weights whose adapters are large: of
// rank 512 they have 103 MB, and a training checkpoint 308.
func writeModel(dir string) (err error) {
	const hidden, inter, vocab = 64, 16384, 256
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "hidden_size": hidden, "intermediate_size": inter,
		"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": vocab, "max_position_embeddings": 128,
		"hidden_act": "silu", "tie_word_embeddings": true, "eos_token_id": 0,
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
	}
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(7, 8))
	tensor := func(name string, shape ...int) safetensors.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]float32, n)
		for i := range data {
			if data[i] = 1; len(shape) > 1 {
				data[i] = (random.Float32() - 0.5) / 8
			}
		}
		return safetensors.Tensor{Name: name, Shape: shape, F32: data}
	}
	tensors := []safetensors.Tensor{tensor("model.embed_tokens.weight", vocab, hidden), tensor("model.norm.weight", hidden)}
	const layer = "model.layers.0."
	for _, norm := range []string{"input_layernorm", "post_attention_layernorm"} {
		tensors = append(tensors, tensor(layer+norm+".weight", hidden))
	}
	for _, m := range []string{"q", "k", "v", "o"} {
		tensors = append(tensors, tensor(layer+"self_attn."+m+"_proj.weight", hidden, hidden))
	}
	tensors = append(tensors, tensor(layer+"mlp.gate_proj.weight", inter, hidden),
		tensor(layer+"mlp.up_proj.weight", inter, hidden), tensor(layer+"mlp.down_proj.weight", hidden, inter))
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	return errors.Join(safetensors.Write(f, tensors, nil), f.Close())
}

// trainer changes weights on a server and saves them.
type trainer struct {
	svc   *tinkex.ServiceClient
	model *tinkex.TrainingClient
}

func newTrainer(ctx context.Context, srv *harness.Server) (*trainer, error) {
	svc, err := tinkex.NewServiceClient(tinkex.Options{BaseURL: srv.URL, APIKey: "tml-bench"})
	if err != nil {
		return nil, err
	}
	model, err := svc.CreateLoRATrainingClient(ctx, saveModel, tinkex.LoRAOptions{Rank: saveRank})
	if err != nil {
		return nil, errors.Join(err, svc.Close())
	}
	return &trainer{svc, model}, nil
}

// step changes every weight, so that a save finds none of its bytes stored.
func (t *trainer) step(ctx context.Context) error {
	tokens := []int{1, 2, 3, 4}
	data := []tinkex.Datum{{ModelInput: tinkex.Tokens(tokens...), LossFnInputs: map[string]tinkex.TensorData{
		"target_tokens": tinkex.Ints([]int{2, 3, 4, 5}), "weights": tinkex.Floats([]float32{1, 1, 1, 1}),
	}}}
	pass := t.model.ForwardBackward(ctx, data, tinkex.CrossEntropy, nil)
	step := t.model.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-4})
	if _, err := pass.Await(ctx); err != nil {
		return err
	}
	_, err := step.Await(ctx)
	return err
}

// save returns how long a training checkpoint takes to be saved, and its size.
func (t *trainer) save(ctx context.Context, name string) (time.Duration, int64, error) {
	began := time.Now()
	saved, err := t.model.SaveState(ctx, name, tinkex.SaveOptions{}).Await(ctx)
	took := time.Since(began)
	if err != nil {
		return 0, 0, err
	}
	size, err := t.size(ctx, saved)
	return took, size, err
}

func (t *trainer) size(ctx context.Context, saved *tinkex.SavedCheckpoint) (int64, error) {
	c, err := t.svc.RestClient().GetCheckpoint(ctx, saved.Path)
	if err != nil || c.SizeBytes == nil {
		return 0, fmt.Errorf("the size of %s: %w", saved.Path, err)
	}
	return *c.SizeBytes, nil
}

func save(ctx context.Context, b *bencher) (_ []*harness.Section, err error) {
	modelDir, dataDir := filepath.Join(b.dir, "model"), filepath.Join(b.dir, "data")
	if err := writeModel(modelDir); err != nil {
		return nil, err
	}
	srv, err := harness.Serve(b.binary, dataDir, "--model", saveModel+"="+modelDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	t, err := newTrainer(ctx, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.svc.Close()) }()

	var (
		size             int64
		saves, copies    []time.Duration
		ratios           []float64
		original, copied = filepath.Join(b.dir, "original"), filepath.Join(b.dir, "copy")
	)
	for round := range saveRounds + 1 { // one warms up
		if err := t.step(ctx); err != nil {
			return nil, err
		}
		syscall.Sync()
		took, n, err := t.save(ctx, fmt.Sprintf("%04d", round))
		if err != nil {
			return nil, err
		}
		if size = n; round == 0 {
			if err := writeRandom(original, size); err != nil {
				return nil, err
			}
		}
		syscall.Sync()
		copying, err := copyAndSync(ctx, original, copied)
		if err != nil {
			return nil, err
		}
		b.say("saved in %v, copied in %v", took.Round(time.Millisecond), copying.Round(time.Millisecond))
		if round > 0 {
			saves, copies = append(saves, took), append(copies, copying)
			ratios = append(ratios, float64(copying)/float64(took))
		}
	}
	s := &harness.Section{
		Name: "save", Title: fmt.Sprintf("Saving %s", humanize.Bytes(uint64(size))),
		Columns: []string{"", "median", "rate", "speed"}, Data: map[string]any{"save_ns": saves, "copy_ns": copies},
	}
	row := func(name string, d time.Duration, speed string) {
		s.Row(name, fmt.Sprintf("%.2f s", d.Seconds()), humanize.Bytes(uint64(float64(size)/d.Seconds()))+"/s", speed)
	}
	speed := harness.Median(ratios)
	row("a training checkpoint, from Go", harness.Median(saves), fmt.Sprintf("%.2fx", speed))
	row("cp, then sync of the copy", harness.Median(copies), "1.00x")
	s.Note("%d rounds, after one to warm up, each with both, the disk at rest before each; the speed is the median over the rounds. Every save is of weights that have changed.", saveRounds)
	b.target(s, speed >= minSpeed, "a save of %s has %.2f times the speed of cp and fsync, of at least %.1f", humanize.Bytes(uint64(size)), speed, minSpeed)

	syscall.Sync()
	before, err := onDisk(dataDir)
	if err != nil {
		return nil, err
	}
	saved, err := t.model.SaveWeightsForSampler(ctx, "same", tinkex.SaveOptions{}).Await(ctx)
	if err != nil {
		return nil, err
	}
	if size, err = t.size(ctx, saved); err != nil {
		return nil, err
	}
	syscall.Sync()
	after, err := onDisk(dataDir)
	if err != nil {
		return nil, err
	}
	added := float64(after-before) / float64(size)
	b.target(s, added < maxAdded, "a sampler checkpoint of %s, of the weights just saved, takes %s on the disk, %.3f %% of its size, of less than 1 %%",
		humanize.Bytes(uint64(size)), humanize.IBytes(uint64(max(after-before, 0))), 100*added)
	return []*harness.Section{s}, nil
}

func writeRandom(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, seed.Safetensors(size, 1))
	return errors.Join(err, f.Close())
}

// copyAndSync copies with the system's commands and removes the copy.
func copyAndSync(ctx context.Context, from, to string) (time.Duration, error) {
	began := time.Now()
	for _, cmd := range []*exec.Cmd{exec.CommandContext(ctx, "cp", from, to), exec.CommandContext(ctx, "sync", to)} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
	}
	return time.Since(began), os.Remove(to)
}

// onDisk is how many bytes a directory's files take.
func onDisk(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		}
		return nil
	})
	return n, err
}
