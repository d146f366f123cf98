package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// Training is exact, so what a checkpoint must hold is known before it is
// saved: what an undisturbed run had at the same step.
const (
	baseModel = "tinkex/tiny"
	variants  = 2
	steps     = 4
)

// progress is how far a variant of the training was.
type progress struct{ variant, step int }

// reference is what undisturbed training saves.
type reference struct {
	training, sampler [variants][steps + 1]content
	files             map[string][]byte // of one training checkpoint, by name
}

func options(variant int) tinkex.LoRAOptions {
	seed := int64(variant + 1)
	return tinkex.LoRAOptions{Rank: 2 + 2*variant, Seed: &seed, SkipUnembed: true}
}

// step trains a little: always the same at the same step.
func step(ctx context.Context, tc *tinkex.TrainingClient, n int) error {
	text := []byte(fmt.Sprintf("step %d: hello", n))
	weights := make([]float32, len(text)-1)
	for i := range weights {
		weights[i] = 1
	}
	pass := tc.ForwardBackward(ctx, []tinkex.Datum{{
		ModelInput:   tinkex.Tokens(text[:len(text)-1]...),
		LossFnInputs: map[string]tinkex.TensorData{"target_tokens": tinkex.Ints(text[1:]), "weights": tinkex.Floats(weights)},
	}}, tinkex.CrossEntropy, nil)
	optim := tc.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-3})
	if _, err := pass.Await(ctx); err != nil {
		return err
	}
	_, err := optim.Await(ctx)
	return err
}

func client(t *testing.T, url, key string) *tinkex.ServiceClient {
	t.Helper()
	svc, err := tinkex.NewServiceClient(tinkex.Options{
		BaseURL: url, APIKey: key, MaxRetries: -1, Timeout: time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

// train makes the reference, and a ledger of its checkpoints.
func train(t *testing.T, url, key string) (*reference, *ledger) {
	t.Helper()
	ctx := t.Context()
	svc := client(t, url, key)
	defer svc.Close()
	rest, l, ref := svc.RestClient(), newLedger(), &reference{files: map[string][]byte{}}
	for v := range variants {
		tc, err := svc.CreateLoRATrainingClient(ctx, baseModel, options(v))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; ; n++ {
			name := fmt.Sprintf("step-%d", n)
			state := tc.SaveState(ctx, name, tinkex.SaveOptions{})
			sampler := tc.SaveWeightsForSampler(ctx, name, tinkex.SaveOptions{})
			for _, f := range []*tinkex.Future[*tinkex.SavedCheckpoint]{state, sampler} {
				saved, err := f.Await(ctx)
				if err != nil {
					t.Fatal(err)
				}
				files, urls, err := manifest(ctx, rest, saved.Path)
				if err == nil {
					_, err = fetch(ctx, files, urls)
				}
				if err != nil {
					t.Fatal(err)
				}
				if f == state {
					ref.training[v][n] = files
					if v == 0 && n == 1 {
						ref.files = read(t, urls)
					}
				} else {
					ref.sampler[v][n] = files
				}
				l.set(saved.Path, &version{content: files})
			}
			if n == steps {
				break
			}
			if err := step(ctx, tc, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[string]bool{}
	for v := range variants {
		for n, files := range ref.training[v] {
			if s := files.String(); seen[s] {
				t.Fatalf("variant %d, step %d: training changed nothing", v, n)
			} else {
				seen[s] = true
			}
		}
	}
	return ref, l
}

func read(t *testing.T, urls map[string]string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, url := range urls {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		files[name], err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// The kinds of operation.
const (
	opCreate, opResume, opStep  = "create model", "resume model", "train step"
	opSaveState, opSaveSampler  = "save state", "save sampler"
	opOverwrite                 = "overwrite by save"
	opImport, opImportOver      = "import", "overwrite by import"
	opCopy                      = "copy"
	opPublish, opUnpublish      = "publish", "unpublish"
	opTTL, opShortTTL, opTTLOff = "set TTL", "set TTL to expire", "remove TTL"
	opDelete                    = "delete"
	longTTL                     = 6 * time.Hour
	most                        = 20 // checkpoints per worker
)

// tally counts operations by kind.
type tally struct {
	mu                        sync.Mutex
	acknowledged, interrupted map[string]int
}

func newTally() *tally {
	return &tally{acknowledged: map[string]int{}, interrupted: map[string]int{}}
}

func (c *tally) add(to map[string]int, op string) {
	c.mu.Lock()
	to[op]++
	c.mu.Unlock()
}

// worker is a client with an owner of its own. It does one thing at a time and
// knows after each what the server must have.
type worker struct {
	*ledger
	name, key string
	rng       *rand.Rand
	ref       *reference
	counts    *tally

	// Of the server that is running.
	svc     *tinkex.ServiceClient
	rest    *tinkex.RestClient
	url     string
	killed  *atomic.Bool
	session int64 // copies into it

	tc   *tinkex.TrainingClient
	at   progress
	next int // in a name

	// run is the last run that was trained, and whether its model has steps
	// that no checkpoint holds: 1 for yes, 0 for no, -1 if one cannot know.
	run     string
	unsaved int
	graves  []grave
}

// grave is a run whose model died with its server, and whether steps died with
// it that no checkpoint holds.
type grave struct {
	run  string
	lost bool
}

// attach points the worker at a server that has just come up.
func (w *worker) attach(t *testing.T, url string, killed *atomic.Bool) {
	w.url, w.killed, w.tc, w.session = url, killed, nil, 1_000_000
	w.svc = client(t, url, w.key)
	w.rest = w.svc.RestClient()
}

// work does one thing after another until the server is killed.
func (w *worker) work(ctx context.Context, t *testing.T) {
	for !w.killed.Load() {
		op, do := w.choose()
		err := do(ctx)
		switch {
		case err == nil:
			w.counts.add(w.counts.acknowledged, op)
		case w.killed.Load():
			w.counts.add(w.counts.interrupted, op)
			return
		default:
			t.Errorf("%s: %s on a healthy server: %v", w.name, op, err)
			return
		}
	}
}

// pick returns a random entry that is known and fulfils a condition.
func (w *worker) pick(ok func(*entry, *version) bool) *entry {
	var fit []*entry
	for _, id := range slices.Sorted(maps.Keys(w.entries)) {
		e := w.entries[id]
		// What is about to expire is left alone: whether it is still there
		// would be a matter of luck.
		if v := e.known(); v != nil && (v.expires == nil || time.Until(v.expires.from) > longTTL/2) && ok(e, v) {
			fit = append(fit, e)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[w.rng.IntN(len(fit))]
}

// choose says what to do next: a kind of operation, and how to do it.
func (w *worker) choose() (string, func(context.Context) error) {
	if w.tc == nil || w.at.step == steps && w.rng.IntN(2) == 0 {
		if from := w.pick(func(_ *entry, v *version) bool { return v.trained != nil && v.trained.step < steps }); from != nil && w.rng.IntN(2) == 0 {
			return opResume, func(ctx context.Context) error { return w.resume(ctx, from) }
		}
		return opCreate, w.create
	}
	if len(w.entries) > most {
		if e := w.pick(func(*entry, *version) bool { return true }); e != nil {
			return opDelete, func(ctx context.Context) error { return w.delete(ctx, e) }
		}
	}
	kind := tinkex.Training
	save := opSaveState
	if w.rng.IntN(2) == 0 {
		kind, save = tinkex.Sampler, opSaveSampler
	}
	change := func(op string, e *entry, do func(context.Context, tinkex.TinkerPath) error, after func(*version)) (string, func(context.Context) error) {
		if e == nil {
			return save, func(ctx context.Context) error { return w.save(ctx, kind, w.fresh()) }
		}
		return op, func(ctx context.Context) error { return w.change(ctx, e, do, after) }
	}
	switch n := w.rng.IntN(20); {
	case n < 3 && w.at.step < steps:
		return opStep, w.step
	case n < 8:
		return save, func(ctx context.Context) error { return w.save(ctx, kind, w.fresh()) }
	case n < 10:
		if e := w.pick(func(e *entry, _ *version) bool { return e.path.RunID == w.run && e.path.Type == kind }); e != nil {
			return opOverwrite, func(ctx context.Context) error { return w.save(ctx, kind, e.path.Name) }
		}
		return opImport, w.importNew
	case n < 12:
		return opImport, w.importNew
	case n < 13:
		if e := w.pick(func(e *entry, v *version) bool { return v.trained == nil }); e != nil {
			return opImportOver, func(ctx context.Context) error { return w.importOver(ctx, e) }
		}
		return opImport, w.importNew
	case n < 15:
		if e := w.pick(func(*entry, *version) bool { return true }); e != nil {
			return opCopy, func(ctx context.Context) error { return w.copy(ctx, e) }
		}
		return opImport, w.importNew
	case n < 16:
		return change(opPublish, w.pick(func(_ *entry, v *version) bool { return !v.public }), w.rest.Publish,
			func(v *version) { v.public = true })
	case n < 17:
		return change(opUnpublish, w.pick(func(_ *entry, v *version) bool { return v.public }), w.rest.Unpublish,
			func(v *version) { v.public = false })
	case n < 18:
		ttl, op := longTTL, opTTL
		if w.rng.IntN(2) == 0 {
			ttl, op = time.Second, opShortTTL
		}
		return change(op, w.pick(func(*entry, *version) bool { return true }),
			func(ctx context.Context, p tinkex.TinkerPath) error { return w.rest.SetTTL(ctx, p, ttl) },
			func(v *version) { v.expires = &window{ttl: ttl} })
	case n < 19:
		return change(opTTLOff, w.pick(func(_ *entry, v *version) bool { return v.expires != nil }), w.rest.RemoveTTL,
			func(v *version) { v.expires = nil })
	}
	if e := w.pick(func(*entry, *version) bool { return true }); e != nil {
		return opDelete, func(ctx context.Context) error { return w.delete(ctx, e) }
	}
	return opImport, w.importNew
}

func (w *worker) fresh() string {
	w.next++
	return fmt.Sprintf("c%d", w.next)
}

func (w *worker) create(ctx context.Context) error {
	w.tc = nil
	v := w.rng.IntN(variants)
	tc, err := w.svc.CreateLoRATrainingClient(ctx, baseModel, options(v))
	if err == nil {
		w.tc, w.at, w.run, w.unsaved = tc, progress{v, 0}, tc.RunID(), 0
	}
	return err
}

// resume goes on from a checkpoint: what is saved from then on must be what
// training that was never interrupted saves.
func (w *worker) resume(ctx context.Context, from *entry) error {
	w.tc = nil
	at := *from.known().trained
	tc, err := w.svc.CreateTrainingClientFromStateWithOptimizer(ctx, from.path, tinkex.StateOptions{})
	if err == nil {
		w.tc, w.at, w.run, w.unsaved = tc, at, tc.RunID(), 0
	}
	return err
}

func (w *worker) step(ctx context.Context) error {
	if w.unsaved != 1 {
		w.unsaved = -1
	}
	err := step(ctx, w.tc, w.at.step)
	if err == nil {
		w.at.step++
		w.unsaved = 1
	}
	return err
}

// doubtful carries out what turns one version into another: from before it is
// sent until it is answered, either may be found.
func (w *worker) doubtful(path tinkex.TinkerPath, before, after *version, do func() error) error {
	w.set(path, before, after)
	if after != nil {
		after.expires.sent()
	}
	err := do()
	if after != nil {
		after.expires.answered()
	}
	if err == nil {
		w.set(path, after)
	}
	return err
}

func (w *worker) save(ctx context.Context, kind tinkex.CheckpointType, name string) error {
	path := tinkex.TinkerPath{RunID: w.run, Type: kind, Name: name}
	at := w.at
	opts := tinkex.SaveOptions{Overwrite: true}
	after := &version{content: w.ref.sampler[at.variant][at.step]}
	do := w.tc.SaveWeightsForSampler
	if kind == tinkex.Training {
		after.content, after.trained, do = w.ref.training[at.variant][at.step], &at, w.tc.SaveState
	}
	var before *version
	if e := w.entries[path.String()]; e != nil {
		before = e.known()
	} else if opts.Overwrite = w.rng.IntN(4) == 0; w.rng.IntN(4) == 0 {
		opts.TTL = longTTL
		after.expires = &window{ttl: longTTL}
	}
	if kind == tinkex.Training && w.unsaved == 1 {
		w.unsaved = -1
	}
	err := w.doubtful(path, before, after, func() error {
		saved, err := do(ctx, name, opts).Await(ctx)
		if err == nil && saved.Path != path {
			err = fmt.Errorf("it was saved as %s", saved.Path)
		}
		return err
	})
	if err == nil && kind == tinkex.Training {
		w.unsaved = 0
	}
	return err
}

func (w *worker) change(ctx context.Context, e *entry, do func(context.Context, tinkex.TinkerPath) error, change func(*version)) error {
	before := e.known()
	return w.doubtful(e.path, before, before.with(change), func() error { return do(ctx, e.path) })
}

func (w *worker) delete(ctx context.Context, e *entry) error {
	return w.doubtful(e.path, e.known(), nil, func() error { return w.rest.DeleteCheckpoint(ctx, e.path) })
}

// adapter makes an adapter that nobody has yet, sends its bytes, some in
// parts, and returns how it is imported and what becomes of it.
func (w *worker) adapter(ctx context.Context, name string, kinds []tinkex.CheckpointType) (tinkex.ImportRequest, map[tinkex.CheckpointType]content, error) {
	notes := make([]byte, 1+w.rng.IntN(200_000))
	for i := range notes {
		notes[i] = byte(w.rng.Uint32())
	}
	files := maps.Clone(w.ref.files)
	files["notes.bin"] = notes
	delete(files, registry.CompleteFile)
	req := tinkex.ImportRequest{Name: name, BaseModel: baseModel, Types: kinds}
	all := content{registry.CompleteFile: blobOf(nil)}
	var send [][]byte
	for _, file := range slices.Sorted(maps.Keys(files)) {
		body := files[file]
		f := tinkex.ImportFile{Name: file, Blob: blobOf(body)}
		all[file] = f.Blob
		if half := len(body) / 2; file == "notes.bin" && half > 0 && w.rng.IntN(2) == 0 {
			f.Parts = []tinkex.Blob{blobOf(body[:half]), blobOf(body[half:])}
			send = append(send, body[:half], body[half:])
		} else {
			send = append(send, body)
		}
		req.Files = append(req.Files, f)
	}
	becomes := map[tinkex.CheckpointType]content{}
	for _, kind := range kinds {
		becomes[kind] = maps.Clone(all)
		if kind == tinkex.Sampler {
			delete(becomes[kind], engine.OptimizerFile)
		}
	}
	asked := make([]tinkex.Blob, len(send))
	for i, body := range send {
		asked[i] = blobOf(body)
	}
	missing, err := w.rest.MissingBlobs(ctx, asked)
	if err != nil {
		return req, nil, err
	}
	for i, body := range send {
		if !slices.Contains(missing.Missing, asked[i].SHA256) {
			continue
		}
		if err := w.rest.UploadBlob(ctx, asked[i], bytes.NewReader(body)); err != nil {
			return req, nil, err
		}
	}
	return req, becomes, nil
}

func blobOf(b []byte) tinkex.Blob {
	sum := sha256.Sum256(b)
	return tinkex.Blob{SHA256: hex.EncodeToString(sum[:]), SizeBytes: int64(len(b))}
}

func (w *worker) importNew(ctx context.Context) error {
	kinds := [][]tinkex.CheckpointType{{tinkex.Training}, {tinkex.Sampler}, {tinkex.Training, tinkex.Sampler}}[w.rng.IntN(3)]
	req, becomes, err := w.adapter(ctx, w.fresh(), kinds)
	if err != nil {
		return err
	}
	w.doubt = &creation{name: req.Name, kinds: map[tinkex.CheckpointType]*version{}}
	for kind, files := range becomes {
		w.doubt.kinds[kind] = &version{content: files}
	}
	res, err := w.rest.ImportCheckpoint(ctx, req)
	if err != nil {
		return err
	}
	made := w.doubt
	w.doubt = nil
	for _, k := range res.Checkpoints {
		path, err := k.Path()
		if err != nil {
			return err
		}
		w.set(path, made.kinds[path.Type])
		delete(made.kinds, path.Type)
	}
	if len(made.kinds) > 0 {
		return fmt.Errorf("an import of %v answered %v", kinds, res.Checkpoints)
	}
	return nil
}

// importOver replaces what an import or a copy of one made.
func (w *worker) importOver(ctx context.Context, e *entry) error {
	info, err := w.rest.WeightsInfo(ctx, e.path)
	if err != nil {
		return err
	}
	if info.LoRARank == nil || *info.LoRARank != options(0).Rank {
		return w.importNew(ctx) // the run has another rank than the adapter
	}
	req, becomes, err := w.adapter(ctx, e.path.Name, []tinkex.CheckpointType{e.path.Type})
	if err != nil {
		return err
	}
	req.RunID, req.Overwrite = e.path.RunID, true
	return w.doubtful(e.path, e.known(), &version{content: becomes[e.path.Type]}, func() error {
		_, err := w.rest.ImportCheckpoint(ctx, req)
		return err
	})
}

// copy copies into a session of the worker's or into one of the copy's own.
func (w *worker) copy(ctx context.Context, e *entry) error {
	src := e.known()
	after := src.with(func(v *version) { v.public, v.expires = false, nil })
	session := ""
	if w.rng.IntN(2) == 0 {
		var err error
		if session, err = w.svc.SessionID(ctx); err != nil {
			return err
		}
	}
	if session == "" {
		w.doubt = &creation{name: e.path.Name, kinds: map[tinkex.CheckpointType]*version{e.path.Type: after}}
		path, err := w.copyWeights(ctx, wire.CopyWeightsRequest{SourcePath: e.path.String(), DestinationProjectID: "crash"})
		if err == nil {
			w.doubt = nil
			w.set(path, after)
		}
		return err
	}
	w.session++
	n := w.session
	to := tinkex.TinkerPath{RunID: fmt.Sprintf("%s:train:%d", session, n), Type: e.path.Type, Name: e.path.Name}
	return w.doubtful(to, nil, after, func() error {
		path, err := w.copyWeights(ctx, wire.CopyWeightsRequest{SourcePath: e.path.String(), SessionID: session, ModelSeqID: &n})
		if err == nil && path != to {
			err = fmt.Errorf("the copy is at %s, want %s", path, to)
		}
		return err
	})
}

func (w *worker) copyWeights(ctx context.Context, body wire.CopyWeightsRequest) (path tinkex.TinkerPath, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return path, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+wire.APIPrefix+"/copy_weights", bytes.NewReader(b))
	if err != nil {
		return path, err
	}
	req.Header.Set(wire.HeaderAPIKey, w.key)
	req.Header.Set("Content-Type", wire.ContentTypeJSON)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return path, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return path, err
	}
	var out wire.CopyWeightsResponse
	if resp.StatusCode != http.StatusOK {
		return path, fmt.Errorf("copy_weights: %s: %s", resp.Status, text)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return path, err
	}
	return tinkex.ParseTinkerPath(out.TinkerPath)
}

// bury remembers the run whose model has just died.
func (w *worker) bury() {
	if w.run != "" && w.unsaved >= 0 {
		w.graves = append(w.graves, grave{w.run, w.unsaved == 1})
	}
	w.run = ""
}

// checkGraves checks that runs say whether steps were lost with their models. A
// server that shares its database says so once the dead one's lease is over.
func (w *worker) checkGraves(ctx context.Context, t *testing.T, rest *tinkex.RestClient) {
	for _, g := range w.graves {
		for {
			run, err := rest.GetTrainingRun(ctx, g.run)
			if err == nil && run.Corrupted == g.lost {
				break
			}
			if err != nil || run.Corrupted || ctx.Err() != nil {
				t.Errorf("%s: %s is corrupted=%v; steps that no checkpoint holds: %v; error %v", w.name, g.run, run.Corrupted, g.lost, err)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}
