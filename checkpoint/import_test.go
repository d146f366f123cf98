package checkpoint_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/tinkextest"
)

// client is a service client of a key's.
func client(t *testing.T, srv *tinkextest.Server, key string) *tinkex.ServiceClient {
	t.Helper()
	opts := srv.Options()
	opts.APIKey, opts.MaxRetries = key, -1
	svc, err := tinkex.NewServiceClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	return svc
}

// step trains one step and returns the loss before it.
func step(t *testing.T, tc *tinkex.TrainingClient) float64 {
	t.Helper()
	text := []byte("imported, and none the worse for it")
	weights := make([]float32, len(text)-1)
	for i := range weights {
		weights[i] = 1
	}
	data := []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(text[:len(text)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints(text[1:]), "weights": tinkex.Floats(weights)},
	}}
	pass := tc.ForwardBackward(t.Context(), data, tinkex.CrossEntropy, nil)
	opt := tc.OptimStep(t.Context(), tinkex.AdamParams{LearningRate: 5e-3})
	out, err := pass.Await(t.Context())
	if err == nil {
		_, err = opt.Await(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Metrics["loss:sum"]
}

// resume goes on from a training checkpoint for some steps.
func resume(t *testing.T, svc *tinkex.ServiceClient, path tinkex.TinkerPath, optimizer bool) []float64 {
	t.Helper()
	from := svc.CreateTrainingClientFromState
	if optimizer {
		from = svc.CreateTrainingClientFromStateWithOptimizer
	}
	tc, err := from(t.Context(), path, tinkex.StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return []float64{step(t, tc), step(t, tc), step(t, tc)}
}

// sample goes on from a prompt with a sampler checkpoint.
func sample(t *testing.T, svc *tinkex.ServiceClient, path tinkex.TinkerPath) any {
	t.Helper()
	sc, err := svc.CreateSamplingClient(t.Context(), tinkex.SamplerOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	out, err := sc.Sample(t.Context(), tinkex.Tokens([]byte("imported")...), tinkex.SampleOptions{
		NumSamples: 2, Params: tinkex.SamplingParams{MaxTokens: 12, Seed: ptr(int64(3))},
	}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var drawn [][]float32
	for _, s := range out.Sequences {
		for _, token := range s.Tokens {
			s.Logprobs = append(s.Logprobs, float32(token))
		}
		drawn = append(drawn, s.Logprobs)
	}
	return drawn
}

func ptr[T any](v T) *T { return &v }

// byType finds the path of an imported checkpoint.
func byType(t *testing.T, d checkpoint.Imported, typ tinkex.CheckpointType) tinkex.TinkerPath {
	t.Helper()
	for _, c := range d.Checkpoints {
		if c.CheckpointType == typ {
			p, err := c.Path()
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatalf("no %s checkpoint among %+v", typ, d.Checkpoints)
	return tinkex.TinkerPath{}
}

// trained is a run of a few steps with a checkpoint of both kinds, and the
// training one on disk.
func trained(t *testing.T, svc *tinkex.ServiceClient) (dir string, training, sampler tinkex.TinkerPath) {
	t.Helper()
	tc, err := svc.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 4, Seed: ptr(int64(1)), SkipMLP: true})
	if err != nil {
		t.Fatal(err)
	}
	step(t, tc)
	step(t, tc)
	a, err := tc.SaveState(t.Context(), "a", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := tc.SaveWeightsForSampler(t.Context(), "a", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := checkpoint.Download(t.Context(), svc.RestClient(), a.Path, checkpoint.DownloadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d.Dir, a.Path, b.Path
}

// wire is a client that cuts files into small parts, counts what goes over it
// and fails when it is told to.
type wire struct {
	checkpoint.ImportClient
	part int64

	mu      sync.Mutex
	uploads int
	bytes   int64
	// fail makes the uploads after that many fail, if it is not negative.
	fail int
	// before is called before an upload.
	before func()
	noEnd  bool
	asked  int // for the import
}

func newWire(c checkpoint.ImportClient) *wire { return &wire{ImportClient: c, part: 20_000, fail: -1} }

var errCut = errors.New("the line was cut")

func (w *wire) MissingBlobs(ctx context.Context, blobs []tinkex.Blob) (tinkex.MissingBlobs, error) {
	m, err := w.ImportClient.MissingBlobs(ctx, blobs)
	m.PartBytes = w.part
	return m, err
}

func (w *wire) UploadBlob(ctx context.Context, blob tinkex.Blob, r io.ReaderAt) error {
	w.mu.Lock()
	if w.before != nil {
		w.before()
	}
	failed := w.fail >= 0 && w.uploads >= w.fail
	if !failed {
		w.uploads++
		w.bytes += blob.SizeBytes
	}
	w.mu.Unlock()
	if failed {
		return errCut
	}
	return w.ImportClient.UploadBlob(ctx, blob, r)
}

func (w *wire) ImportCheckpoint(ctx context.Context, req tinkex.ImportRequest) (tinkex.ImportResult, error) {
	w.asked++
	if w.noEnd {
		return tinkex.ImportResult{}, errCut
	}
	return w.ImportClient.ImportCheckpoint(ctx, req)
}

func listed(t *testing.T, svc *tinkex.ServiceClient) int {
	t.Helper()
	list, err := svc.RestClient().ListCheckpoints(t.Context(), tinkex.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Checkpoints)
}

// What is downloaded from one owner and imported by another goes on as the
// original does, to the last bit.
func TestImportRoundTrip(t *testing.T) {
	srv := tinkextest.NewServer(t)
	alice, bob := client(t, srv, "tml-alice"), client(t, srv, "tml-bob")
	dir, training, sampler := trained(t, alice)
	var last checkpoint.ImportProgress
	w := newWire(bob.RestClient())
	d, err := checkpoint.Import(t.Context(), w, dir, checkpoint.ImportOptions{
		Name: "b", TTL: time.Hour, UserMetadata: map[string]string{"from": "alice"},
		Progress: func(p checkpoint.ImportProgress) {
			if p.Hashed < last.Hashed || p.Sent < last.Sent {
				t.Errorf("progress went from %+v to %+v", last, p)
			}
			last = p
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.uploads < 5 || w.bytes != d.SentBytes || last.Sent != w.bytes || last.ToSend != w.bytes || last.Hashed != last.Total || len(d.Ignored) != 0 || len(d.Files) != 3 {
		t.Errorf("%d uploads of %d bytes, progress ended at %+v, imported %+v", w.uploads, w.bytes, last, d)
	}
	ours, theirs := byType(t, d, tinkex.Training), byType(t, d, tinkex.Sampler)
	if ours.RunID != d.TrainingRunID || theirs.RunID != d.TrainingRunID || ours.Name != "b" {
		t.Errorf("imported as %s and %s", ours, theirs)
	}
	c, err := bob.RestClient().GetCheckpoint(t.Context(), ours)
	if err != nil || c.ExpiresAt == nil || c.UserMetadata["from"] != "alice" || c.BaseModel != tinkextest.BaseModel {
		t.Errorf("listed as %+v, %v", c, err)
	}
	info, err := bob.RestClient().WeightsInfo(t.Context(), ours)
	if err != nil || *info.LoRARank != 4 || !*info.TrainAttn || *info.TrainMLP || !*info.TrainUnembed {
		t.Errorf("described as %+v, %v", info, err)
	}
	run, err := bob.RestClient().GetTrainingRun(t.Context(), d.TrainingRunID)
	if err != nil || run.Corrupted || run.UserMetadata["imported"] != "true" {
		t.Errorf("run %+v, %v", run, err)
	}
	for _, optimizer := range []bool{true, false} {
		if got, want := resume(t, bob, ours, optimizer), resume(t, alice, training, optimizer); !slices.Equal(got, want) {
			t.Errorf("resumed, with optimizer %v: %v, the original %v", optimizer, got, want)
		}
	}
	if got, want := sample(t, bob, theirs), sample(t, alice, sampler); !reflect.DeepEqual(got, want) {
		t.Errorf("sampled %+v, from the original %+v", got, want)
	}
	// Downloaded again, it is the same directory.
	again, err := checkpoint.Download(t.Context(), bob.RestClient(), ours, checkpoint.DownloadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range again.Files {
		a, err := os.ReadFile(filepath.Join(dir, f.Name))
		b, err2 := os.ReadFile(filepath.Join(again.Dir, f.Name))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", f.Name, err, err2)
		}
	}
	if len(again.Files) != 4 {
		t.Errorf("downloaded %+v", again.Files)
	}
}

func TestImportSendsOnlyWhatIsMissing(t *testing.T) {
	srv := tinkextest.NewServer(t)
	alice, bob := client(t, srv, "tml-alice"), client(t, srv, "tml-bob")
	dir, training, _ := trained(t, alice)
	send := func(svc *tinkex.ServiceClient) int64 {
		t.Helper()
		w := newWire(svc.RestClient())
		d, err := checkpoint.Import(t.Context(), w, dir, checkpoint.ImportOptions{Name: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if w.bytes != d.SentBytes {
			t.Errorf("sent %d bytes, said %d", w.bytes, d.SentBytes)
		}
		return w.bytes
	}
	var whole int64
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors", "optimizer_state.safetensors"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		whole += info.Size()
	}
	// What one's own checkpoint has need not be sent.
	if n := send(alice); n != 0 {
		t.Errorf("the owner of the original sent %d bytes", n)
	}
	// What somebody else has makes no difference.
	if n := send(bob); n != whole {
		t.Errorf("a stranger sent %d of %d bytes", n, whole)
	}
	if n := send(bob); n != 0 {
		t.Errorf("the second import sent %d bytes", n)
	}
	// What everybody may read need not be sent.
	if err := alice.RestClient().Publish(t.Context(), training); err != nil {
		t.Fatal(err)
	}
	if n := send(client(t, srv, "tml-carol")); n != 0 {
		t.Errorf("a reader of the published original sent %d bytes", n)
	}
}

func TestImportGoesOnWhereItWasCut(t *testing.T) {
	srv := tinkextest.NewServer(t)
	dir, _, _ := trained(t, client(t, srv, "tml-alice"))
	bob := client(t, srv, "tml-bob")
	opts := checkpoint.ImportOptions{Name: "x", Jobs: 1}
	first := newWire(bob.RestClient())
	first.fail = 4
	if _, err := checkpoint.Import(t.Context(), first, dir, opts); !errors.Is(err, errCut) || !strings.Contains(err.Error(), "part ") {
		t.Fatalf("cut: %v", err)
	}
	second := newWire(bob.RestClient())
	second.noEnd = true
	if _, err := checkpoint.Import(t.Context(), second, dir, opts); !errors.Is(err, errCut) {
		t.Fatalf("cut before the end: %v", err)
	}
	if n := listed(t, bob); n != 0 {
		t.Fatalf("%d checkpoints are listed of an import that was cut", n)
	}
	third := newWire(bob.RestClient())
	if _, err := checkpoint.Import(t.Context(), third, dir, opts); err != nil {
		t.Fatal(err)
	}
	whole := newWire(client(t, srv, "tml-carol").RestClient())
	if _, err := checkpoint.Import(t.Context(), whole, dir, opts); err != nil {
		t.Fatal(err)
	}
	if first.uploads != 4 || third.bytes != 0 || first.bytes+second.bytes != whole.bytes {
		t.Errorf("sent %d, then %d, then %d bytes of %d", first.bytes, second.bytes, third.bytes, whole.bytes)
	}
}

// An interrupted import leaves nothing running and nothing visible.
func TestImportGivenUp(t *testing.T) {
	srv := tinkextest.NewServer(t)
	dir, _, _ := trained(t, client(t, srv, "tml-alice"))
	bob := client(t, srv, "tml-bob")
	ctx, cancel := context.WithCancel(t.Context())
	w := newWire(bob.RestClient())
	w.before = cancel
	if _, err := checkpoint.Import(ctx, w, dir, checkpoint.ImportOptions{Name: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if n := listed(t, bob); n != 0 {
		t.Errorf("%d checkpoints are listed", n)
	}
}

func TestImportOfAFileThatChanges(t *testing.T) {
	srv := tinkextest.NewServer(t)
	bob := client(t, srv, "tml-bob")
	for name, change := range map[string]func(t *testing.T, file string){
		"grows": func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, _ = f.Write([]byte{0})
		},
		"shrinks": func(t *testing.T, file string) {
			if err := os.Truncate(file, 1000); err != nil {
				t.Fatal(err)
			}
		},
		"changes unseen": func(t *testing.T, file string) {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, info.Size())
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(file, time.Time{}, info.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := adapter(t, "F32", nil)
			w := newWire(bob.RestClient())
			var once sync.Once
			w.before = func() { once.Do(func() { change(t, filepath.Join(dir, "adapter_model.safetensors")) }) }
			_, err := checkpoint.Import(t.Context(), w, dir, checkpoint.ImportOptions{Name: "x", Jobs: 1})
			if err == nil || !strings.Contains(err.Error(), "adapter_model.safetensors changed while it was read") {
				t.Errorf("error %v", err)
			}
		})
	}
	if n := listed(t, bob); n != 0 {
		t.Errorf("%d checkpoints are listed", n)
	}
}

// The shape of tinkextest.BaseModel.
const (
	tinyHidden, tinyLayers = 128, 4
	tinyQ, tinyKV          = 128, 64
)

// adapter writes an adapter as PEFT would: rank 4, alpha 8, of the query and
// value projections only.
func adapter(t *testing.T, dtype string, edit func(map[string]any)) string {
	t.Helper()
	config := map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": tinkextest.BaseModel, "r": 4, "lora_alpha": 8,
		"target_modules": []string{"q_proj", "v_proj"}, "bias": "none", "peft_version": "0.99.0", "modules_to_save": nil,
	}
	if edit != nil {
		edit(config)
	}
	dir := t.TempDir()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	add := func(name string, rows, cols int) {
		begin := len(data)
		for i := range rows * cols {
			v := float32(math.Sin(float64(len(name)+i))) / 16
			switch dtype {
			case "F32":
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			case "BF16":
				data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(v)>>16))
			case "F16": // of a normal number that loses precision only
				b := math.Float32bits(v)
				data = binary.LittleEndian.AppendUint16(data, uint16(b>>16&0x8000|((b>>23&0xff)-112)<<10&0x7c00|b>>13&0x3ff))
			}
		}
		header[name] = map[string]any{"dtype": dtype, "shape": []int{rows, cols}, "data_offsets": []int{begin, len(data)}}
	}
	for layer := range tinyLayers {
		for module, out := range map[string]int{"q_proj": tinyQ, "v_proj": tinyKV} {
			prefix := "base_model.model.model.layers." + string(rune('0'+layer)) + ".self_attn." + module
			add(prefix+".lora_A.weight", 4, tinyHidden)
			add(prefix+".lora_B.weight", out, 4)
		}
	}
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	weights := append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...)
	for name, b := range map[string][]byte{"adapter_config.json": raw, "adapter_model.safetensors": append(weights, data...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImportOfForeignAdapters(t *testing.T) {
	srv := tinkextest.NewServer(t)
	bob := client(t, srv, "tml-bob")
	losses := map[string]float64{}
	for name, tc := range map[string]struct {
		dtype string
		edit  func(map[string]any)
		base  string
	}{
		"F32":       {dtype: "F32"},
		"BF16":      {dtype: "BF16"},
		"F16":       {dtype: "F16"},
		"alpha 64":  {dtype: "F32", edit: func(c map[string]any) { c["lora_alpha"] = 64 }},
		"no base":   {dtype: "F32", edit: func(c map[string]any) { delete(c, "base_model_name_or_path") }, base: tinkextest.BaseModel},
		"same base": {dtype: "F32", base: tinkextest.BaseModel},
	} {
		dir := adapter(t, tc.dtype, tc.edit)
		for _, ignored := range []string{"README.md", "tokenizer.json", ".hidden", "checkpoint_complete"} {
			if err := os.WriteFile(filepath.Join(dir, ignored), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := checkpoint.Import(t.Context(), bob.RestClient(), dir, checkpoint.ImportOptions{Name: "x", BaseModel: tc.base})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(d.Ignored, []string{"README.md", "tokenizer.json"}) {
			t.Errorf("%s: ignored %q", name, d.Ignored)
		}
		path := byType(t, d, tinkex.Training)
		l := resume(t, bob, path, false)
		if !(l[2] < l[0]) {
			t.Errorf("%s: losses %v", name, l)
		}
		losses[name] = l[0]
		sample(t, bob, byType(t, d, tinkex.Sampler))
		if _, err := bob.CreateTrainingClientFromStateWithOptimizer(t.Context(), path, tinkex.StateOptions{}); !errors.Is(err, tinkex.ErrInvalid) {
			t.Errorf("%s: with an optimizer it never had: %v", name, err)
		}
	}
	near := func(a, b string) bool { return math.Abs(losses[a]-losses[b]) < 0.05*losses[a] }
	if losses["F32"] != losses["no base"] || losses["F32"] == losses["alpha 64"] || losses["F32"] == losses["BF16"] || !near("F32", "BF16") || !near("F32", "F16") {
		t.Errorf("losses %v", losses)
	}
}

func TestImportInto(t *testing.T) {
	srv := tinkextest.NewServer(t)
	bob := client(t, srv, "tml-bob")
	dir := adapter(t, "F32", nil)
	into := func(opts checkpoint.ImportOptions) (checkpoint.Imported, error) {
		return checkpoint.Import(t.Context(), bob.RestClient(), dir, opts)
	}
	first, err := into(checkpoint.ImportOptions{Name: "x", Types: []tinkex.CheckpointType{tinkex.Sampler}})
	if err != nil || len(first.Checkpoints) != 1 || first.Checkpoints[0].CheckpointType != tinkex.Sampler {
		t.Fatalf("%+v, %v", first, err)
	}
	run := first.TrainingRunID
	if _, err := into(checkpoint.ImportOptions{Name: "x", RunID: run}); !errors.Is(err, tinkex.ErrConflict) || !strings.Contains(err.Error(), "sampler_weights/x already exists") {
		t.Errorf("onto a taken name: %v", err)
	}
	if n := listed(t, bob); n != 1 {
		t.Errorf("%d checkpoints are listed: one of two was imported", n)
	}
	again, err := into(checkpoint.ImportOptions{Name: "x", RunID: run, Overwrite: true})
	if err != nil || again.TrainingRunID != run || listed(t, bob) != 2 {
		t.Errorf("overwriting: %+v, %v", again, err)
	}
	for _, id := range []string{"none", run} {
		alice := client(t, srv, "tml-alice")
		if _, err := checkpoint.Import(t.Context(), alice.RestClient(), dir, checkpoint.ImportOptions{Name: "y", RunID: id}); !errors.Is(err, tinkex.ErrNotFound) || !strings.Contains(err.Error(), "run_id") {
			t.Errorf("into run %s of nobody's or somebody else's: %v", id, err)
		}
	}
	tc, err := bob.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 8})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := into(checkpoint.ImportOptions{Name: "y", RunID: tc.RunID()}); !errors.Is(err, tinkex.ErrInvalid) || !strings.Contains(err.Error(), "rank 8") {
		t.Errorf("into a run of another rank: %v", err)
	}
}

func TestImportRefuses(t *testing.T) {
	srv := tinkextest.NewServer(t)
	bob := client(t, srv, "tml-bob")
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	edit := func(key string, v any) func(map[string]any) { return func(c map[string]any) { c[key] = v } }
	// An optimizer's state that is sound, but of nothing.
	const stray = "\x3e\x00\x00\x00\x00\x00\x00\x00" + `{"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}      ` + "\x00\x00\x00\x00\x00\x00\x00\x00"
	for name, tc := range map[string]struct {
		config func(map[string]any)
		files  func(*testing.T, string)
		opts   checkpoint.ImportOptions
		is     error
		says   string
	}{
		"no configuration": {files: remove("adapter_config.json"), is: tinkex.ErrInvalid, says: "there is no adapter_config.json"},
		"no weights":       {files: remove("adapter_model.safetensors"), is: tinkex.ErrInvalid, says: "there is no adapter_model.safetensors"},
		"a pickle": {files: func(t *testing.T, dir string) {
			remove("adapter_model.safetensors")(t, dir)
			write("adapter_model.bin", "x")(t, dir)
		}, is: tinkex.ErrInvalid, says: "convert it"},
		"configuration no JSON": {files: write("adapter_config.json", "{"), is: tinkex.ErrInvalid, says: "adapter_config.json: "},
		"another method":        {config: edit("peft_type", "IA3"), is: tinkex.ErrInvalid, says: `peft_type is "IA3"`},
		"a directory":           {files: func(t *testing.T, dir string) { _ = os.Mkdir(filepath.Join(dir, "optimizer_state.safetensors"), 0o755) }, is: tinkex.ErrInvalid, says: "optimizer_state.safetensors is no file"},
		"weights cut off":       {files: func(t *testing.T, dir string) { _ = os.Truncate(filepath.Join(dir, "adapter_model.safetensors"), 5000) }, is: tinkex.ErrInvalid, says: "adapter_model.safetensors: invalid safetensors"},
		"weights empty":         {files: write("adapter_model.safetensors", ""), is: tinkex.ErrInvalid, says: "adapter_model.safetensors: "},
		"bad name":              {opts: checkpoint.ImportOptions{Name: "../x"}, is: tinkex.ErrInvalidPath, says: "checkpoint name"},
		"no name":               {opts: checkpoint.ImportOptions{Name: ""}, is: tinkex.ErrInvalidPath, says: "empty"},
		"external":              {opts: checkpoint.ImportOptions{Name: "x", Types: []tinkex.CheckpointType{tinkex.External}}, is: nil, says: "external"},
		"negative TTL":          {opts: checkpoint.ImportOptions{Name: "x", TTL: -1}, is: nil, says: "negative"},
		// What the server finds.
		"unknown base":      {config: edit("base_model_name_or_path", "a/b"), is: tinkex.ErrInvalid, says: `base_model_name_or_path: unknown base model "a/b": this server offers ` + tinkextest.BaseModel},
		"another base":      {opts: checkpoint.ImportOptions{Name: "x", BaseModel: "a/b"}, is: tinkex.ErrInvalid, says: `base_model: unknown base model "a/b"`},
		"bases disagree":    {config: edit("base_model_name_or_path", "a/b"), opts: checkpoint.ImportOptions{Name: "x", BaseModel: tinkextest.BaseModel}, is: tinkex.ErrInvalid, says: `the adapter is for base model "a/b"`},
		"no base":           {config: edit("base_model_name_or_path", nil), is: tinkex.ErrInvalid, says: "base_model_name_or_path is missing"},
		"another rank":      {config: edit("r", 8), is: tinkex.ErrInvalid, says: "adapter_model.safetensors: "},
		"rank 0":            {config: edit("r", 0), is: tinkex.ErrInvalid, says: "r is 0"},
		"unknown module":    {config: edit("target_modules", []string{"embed_tokens"}), is: tinkex.ErrInvalid, says: "embed_tokens"},
		"module without":    {config: edit("target_modules", []string{"q_proj", "v_proj", "up_proj"}), is: tinkex.ErrInvalid, says: "up_proj"},
		"DoRA":              {config: edit("use_dora", true), is: tinkex.ErrInvalid, says: "use_dora"},
		"stray optimizer":   {files: write("optimizer_state.safetensors", stray[:len(stray)-1]+"\x01"), is: tinkex.ErrInvalid, says: "optimizer_state.safetensors: "},
		"alpha of the void": {config: edit("lora_alpha", nil), is: tinkex.ErrInvalid, says: "lora_alpha"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := adapter(t, "F32", tc.config)
			if tc.files != nil {
				tc.files(t, dir)
			}
			opts := tc.opts
			if reflect.DeepEqual(opts, checkpoint.ImportOptions{}) && name != "no name" {
				opts.Name = "x"
			}
			_, err := checkpoint.Import(t.Context(), bob.RestClient(), dir, opts)
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want %v that says %q", err, tc.is, tc.says)
			}
		})
	}
	if _, err := checkpoint.Import(t.Context(), bob.RestClient(), filepath.Join(t.TempDir(), "none"), checkpoint.ImportOptions{Name: "x"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if n := listed(t, bob); n != 0 {
		t.Errorf("%d checkpoints are listed", n)
	}
}

// What the configuration is enough to refuse is refused before the rest is sent;
// where the server cannot be asked so early, or fails, the import goes on.
func TestImportAsksBeforeMuchIsSent(t *testing.T) {
	bob := client(t, tinkextest.NewServer(t), "tml-bob")
	dir := adapter(t, "F32", func(c map[string]any) { c["base_model_name_or_path"] = "a/b" })
	w := newWire(bob.RestClient())
	_, err := checkpoint.Import(t.Context(), w, dir, checkpoint.ImportOptions{Name: "x"})
	if !errors.Is(err, tinkex.ErrInvalid) || !strings.Contains(err.Error(), `unknown base model "a/b"`) {
		t.Errorf("error %v", err)
	}
	if w.uploads != 1 || w.bytes > 1000 {
		t.Errorf("%d bytes were sent in %d uploads before it was refused", w.bytes, w.uploads)
	}
	dir = adapter(t, "F32", nil)
	var last checkpoint.ImportProgress
	opts := checkpoint.ImportOptions{Name: "x", Progress: func(p checkpoint.ImportProgress) { last = p }}
	w = newWire(bob.RestClient())
	d, err := checkpoint.Import(t.Context(), w, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if w.asked != 2 || last.Sent != w.bytes || last.ToSend != w.bytes || d.SentBytes != w.bytes || len(d.Checkpoints) != 2 {
		t.Errorf("asked %d times, %d bytes, progress ended at %+v, imported %+v", w.asked, w.bytes, last, d)
	}
	// With everything there, and with little to send, one asks once.
	for _, tc := range []struct {
		dir           string
		part          int64
		uploads, most int
	}{{dir, w.part, 0, 0}, {adapter(t, "F16", func(c map[string]any) { c["lora_alpha"] = 16 }), 16 << 20, 1, 2}} {
		again := newWire(bob.RestClient())
		again.part = tc.part
		if _, err := checkpoint.Import(t.Context(), again, tc.dir, checkpoint.ImportOptions{Name: "y"}); err != nil {
			t.Fatal(err)
		}
		if again.asked != 1 || again.uploads < tc.uploads || again.uploads > tc.most {
			t.Errorf("asked %d times, %d uploads", again.asked, again.uploads)
		}
	}
}

// Caches of model hubs are made of links.
func TestImportFollowsLinks(t *testing.T) {
	bob := client(t, tinkextest.NewServer(t), "tml-bob")
	blobs, dir := adapter(t, "F32", nil), t.TempDir()
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		if err := os.Symlink(filepath.Join(blobs, name), filepath.Join(dir, name)); err != nil {
			t.Skip("no links here:", err)
		}
	}
	if _, err := checkpoint.Import(t.Context(), bob.RestClient(), dir, checkpoint.ImportOptions{Name: "x"}); err != nil {
		t.Error(err)
	}
}

// To know a digest is not to have the bytes.
func TestDigestsOfOthersAreWorthNothing(t *testing.T) {
	srv := tinkextest.NewServer(t)
	alice, bob := client(t, srv, "tml-alice"), client(t, srv, "tml-bob")
	dir := adapter(t, "F32", nil)
	var req tinkex.ImportRequest
	var blobs []tinkex.Blob
	spy := &spying{ImportClient: alice.RestClient(), req: &req}
	if _, err := checkpoint.Import(t.Context(), spy, dir, checkpoint.ImportOptions{Name: "secret"}); err != nil {
		t.Fatal(err)
	}
	unknown := map[string]bool{}
	for i, f := range req.Files {
		blobs = append(blobs, f.Blob)
		unknown[f.Blob.SHA256] = true
		nobodys := tinkex.Blob{SHA256: strings.Repeat(string(rune('a'+i)), 64), SizeBytes: 5}
		blobs = append(blobs, nobodys)
		unknown[nobodys.SHA256] = true
	}
	m, err := bob.RestClient().MissingBlobs(t.Context(), blobs)
	got := map[string]bool{}
	for _, d := range m.Missing {
		got[d] = true
	}
	if err != nil || !maps.Equal(got, unknown) {
		t.Errorf("missing %v, %v: others' blobs are told from nobody's", m.Missing, err)
	}
	_, err = bob.RestClient().ImportCheckpoint(t.Context(), req)
	if !errors.Is(err, tinkex.ErrConflict) || !strings.Contains(err.Error(), "has not been sent") {
		t.Errorf("import by digest: %v", err)
	}
	if n := listed(t, bob); n != 0 {
		t.Errorf("%d checkpoints are listed", n)
	}
}

// spying remembers the request that ends an import.
type spying struct {
	checkpoint.ImportClient
	req *tinkex.ImportRequest
}

func (s *spying) ImportCheckpoint(ctx context.Context, req tinkex.ImportRequest) (tinkex.ImportResult, error) {
	*s.req = req
	return s.ImportClient.ImportCheckpoint(ctx, req)
}

// The parts of a large file are the server's own size.
func TestImportOfALargeAdapter(t *testing.T) {
	if testing.Short() {
		t.Skip("moves tens of megabytes")
	}
	srv := tinkextest.NewServer(t)
	alice, bob := client(t, srv, "tml-alice"), client(t, srv, "tml-bob")
	tc, err := alice.CreateLoRATrainingClient(t.Context(), tinkextest.BaseModel, tinkex.LoRAOptions{Rank: 512})
	if err != nil {
		t.Fatal(err)
	}
	step(t, tc)
	saved, err := tc.SaveState(t.Context(), "large", tinkex.SaveOptions{}).Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	down, err := checkpoint.Download(t.Context(), alice.RestClient(), saved.Path, checkpoint.DownloadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var req tinkex.ImportRequest
	d, err := checkpoint.Import(t.Context(), &spying{ImportClient: bob.RestClient(), req: &req}, down.Dir, checkpoint.ImportOptions{Name: "large"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range req.Files {
		if want := int((f.Blob.SizeBytes + 16<<20 - 1) >> 24); len(f.Parts) != want && want > 1 {
			t.Errorf("%s of %d bytes was sent in %d parts", f.Name, f.Blob.SizeBytes, len(f.Parts))
		}
	}
	if d.SentBytes < 3*16<<20 || d.SentBytes != down.SizeBytes {
		t.Errorf("sent %d of %d bytes", d.SentBytes, down.SizeBytes)
	}
	c, err := bob.RestClient().GetCheckpoint(t.Context(), byType(t, d, tinkex.Training))
	if err != nil || *c.SizeBytes != down.SizeBytes {
		t.Errorf("%+v, %v", c, err)
	}
}
