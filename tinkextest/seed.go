package tinkextest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/seed"
)

// Run is a training run to be seeded. The zero value is one of Key's, of rank 8
// over BaseModel, made now and no longer in training.
type Run struct {
	// ID is "<session-id>:train:<n>"; the session is made if it is not there.
	// Empty makes up a session of its own.
	ID string
	// Key is its owner's. Empty is the Key of this package.
	Key       string
	BaseModel string // empty: BaseModel
	Rank      int    // 0: 8
	// What the adapter leaves as it is; not all three.
	SkipAttn, SkipMLP, SkipUnembed bool
	Created                        time.Time // zero: the server's now
	UserMetadata                   map[string]string
	// ResumedFrom is the checkpoint that it began with.
	ResumedFrom tinkex.TinkerPath
	// Corrupted: it lost steps that no checkpoint holds.
	Corrupted bool
}

// Checkpoint is a checkpoint to be seeded. The zero value is a small training
// checkpoint of a run of its own, saved now, private, that never expires.
type Checkpoint struct {
	// RunID is the id of a run that is there. Empty seeds one, of Key's.
	RunID string
	// Key is the owner's of the run that is seeded. Empty is the Key of this
	// package. With a RunID the checkpoint is that run's owner's.
	Key  string
	Type tinkex.CheckpointType // empty: tinkex.Training
	Name string                // empty: "seeded-0001" and so on
	// Files are its files' contents, by name. Nil is an adapter as a server
	// writes it, of SizeBytes in all, whose tensors hold random bits.
	Files map[string][]byte
	// SizeBytes is how large the files that are made up are, together and
	// about; at least 10 kB. 0 is as small as that.
	SizeBytes int64
	Created   time.Time // zero: the server's now
	// TTL is how long it lives from Created on. 0 is for ever. One that has
	// passed makes a checkpoint that has expired.
	TTL          time.Duration
	Public       bool
	UserMetadata map[string]string
}

// SeedRun makes a training run and returns its id. The run is as one whose
// session has ended: it can be listed and looked at and has checkpoints, but
// does not train.
func (s *Server) SeedRun(t TB, r Run) string {
	t.Helper()
	id, err := s.seedRun(r)
	if err != nil {
		t.Fatalf("tinkextest: seed a run: %v", err)
	}
	return id
}

// SeedCheckpoint makes a checkpoint without training it and returns its path. It
// can be listed, inspected, downloaded, verified, shared and deleted as any
// other. To resume or sample from one, see TrainCheckpoint: the tensors of a
// seeded one are not those of a model.
func (s *Server) SeedCheckpoint(t TB, c Checkpoint) tinkex.TinkerPath {
	t.Helper()
	path, err := s.seedCheckpoint(c)
	if err != nil {
		t.Fatalf("tinkextest: seed a checkpoint: %v", err)
	}
	return path
}

var errClosed = errors.New("the server is closed")

func (s *Server) seedRun(r Run) (string, error) {
	if s.closed.Load() {
		return "", errClosed
	}
	madeUp := r.ID == ""
	if madeUp {
		r.ID = fmt.Sprintf("00000000-0000-4000-8000-%012x:train:0", s.made.Add(1))
	}
	if r.Rank < 0 {
		return "", fmt.Errorf("the Rank is %d; expected a positive number, or 0 for 8", r.Rank)
	}
	if r.SkipAttn && r.SkipMLP && r.SkipUnembed {
		return "", errors.New("all of SkipAttn, SkipMLP and SkipUnembed leave nothing to train")
	}
	path, err := tinkex.NewTinkerPath(r.ID, tinkex.Training, "0001")
	if err != nil {
		return "", fmt.Errorf("the ID: %w", err)
	}
	owner, err := s.owner(r.Key)
	if err != nil {
		return "", err
	}
	run := metastore.Run{
		ID: path.RunID, Owner: owner, CreatedAt: r.Created.UTC(), State: metastore.RunEnded,
		LoRA: metastore.LoRA{
			BaseModel: r.BaseModel, Rank: r.Rank,
			TrainAttn: !r.SkipAttn, TrainMLP: !r.SkipMLP, TrainUnembed: !r.SkipUnembed,
		},
	}
	if r.BaseModel == "" {
		run.LoRA.BaseModel = BaseModel
	}
	if r.Rank == 0 {
		run.LoRA.Rank = 8
	}
	if r.Created.IsZero() {
		run.CreatedAt = s.now().UTC()
	}
	run.LastRequestAt = run.CreatedAt
	if r.Corrupted {
		run.State = metastore.RunCorrupted
	}
	if r.ResumedFrom != (tinkex.TinkerPath{}) {
		if err := r.ResumedFrom.Validate(); err != nil {
			return "", fmt.Errorf("the path it was resumed from: %w", err)
		}
		run.ResumedFrom = r.ResumedFrom.String()
	}
	for k, v := range r.UserMetadata {
		if run.UserMetadata == nil {
			run.UserMetadata = map[string]any{}
		}
		run.UserMetadata[k] = v
	}
	err = s.stores.Run(context.Background(), run)
	if errors.Is(err, metastore.ErrExists) && madeUp { // by an earlier Server on the DataDir
		r.ID = ""
		return s.seedRun(r)
	}
	if errors.Is(err, metastore.ErrExists) {
		return "", fmt.Errorf("there is a run %s already", r.ID)
	}
	return r.ID, err
}

// owner is the owner that a key stands for.
func (s *Server) owner(key string) (string, error) {
	if key == "" {
		key = Key
	}
	owner, err := s.node.Owner(context.Background(), key)
	if err != nil {
		return "", fmt.Errorf("key %q: %w", key, err)
	}
	return owner, nil
}

// Kinds of checkpoints as the stores have them.
var kinds = map[tinkex.CheckpointType]metastore.Kind{
	tinkex.Training: metastore.KindTraining,
	tinkex.Sampler:  metastore.KindSampler,
	tinkex.External: metastore.KindExternal,
}

func (s *Server) seedCheckpoint(c Checkpoint) (tinkex.TinkerPath, error) {
	none := tinkex.TinkerPath{}
	if s.closed.Load() {
		return none, errClosed
	}
	if c.Type == "" {
		c.Type = tinkex.Training
	}
	madeUp := c.Name == ""
	if madeUp {
		c.Name = fmt.Sprintf("seeded-%04d", s.made.Add(1))
	}
	kind, ok := kinds[c.Type]
	switch {
	case !ok:
		return none, fmt.Errorf("the Type is %q; expected tinkex.Training, tinkex.Sampler or tinkex.External", c.Type)
	case c.Files != nil && c.SizeBytes != 0:
		return none, errors.New("both Files and SizeBytes are given; give one")
	case c.Files != nil && len(c.Files) == 0:
		return none, errors.New("the Files are empty; nil makes files up")
	case c.SizeBytes < 0:
		return none, fmt.Errorf("the SizeBytes is %d, which is negative", c.SizeBytes)
	case c.TTL < 0:
		return none, fmt.Errorf("the TTL is %v, which is negative; Created in the past makes a checkpoint that has expired", c.TTL)
	case c.RunID != "" && c.Key != "":
		return none, errors.New("both RunID and Key are given; the checkpoint is the run's owner's")
	}
	for name := range c.Files {
		if name == "" || strings.ContainsAny(name, "/\\") || name == "." || name == ".." {
			return none, fmt.Errorf("%q among the Files is not the name of a file", name)
		}
	}
	if c.Created.IsZero() {
		c.Created = s.now()
	}
	if err := tinkex.ValidateName(c.Name); err != nil {
		return none, fmt.Errorf("the Name: %w", err)
	}
	if c.RunID == "" {
		id, err := s.seedRun(Run{Key: c.Key, Created: c.Created})
		if err != nil {
			return none, err
		}
		c.RunID = id
	}
	path, err := tinkex.NewTinkerPath(c.RunID, c.Type, c.Name)
	if err != nil {
		return none, fmt.Errorf("the RunID: %w", err)
	}
	ctx := context.Background()
	run, err := s.stores.Meta.Run(ctx, c.RunID)
	if err != nil {
		return none, fmt.Errorf("there is no run %q; SeedRun makes one", c.RunID)
	}
	m := metastore.Checkpoint{
		RunID: c.RunID, Kind: kind, Name: c.Name, Owner: run.Owner, LoRA: run.LoRA, Public: c.Public,
		CreatedAt: c.Created.UTC(), UserMetadata: c.UserMetadata,
	}
	if c.TTL > 0 {
		at := c.Created.Add(c.TTL).UTC()
		m.ExpiresAt = &at
	}
	files, err := c.files(path, run.LoRA)
	if err != nil {
		return none, err
	}
	_, err = s.stores.Checkpoint(ctx, m, files...)
	if errors.Is(err, metastore.ErrExists) && madeUp { // by an earlier Server on the DataDir
		c.Key, c.Name = "", ""
		return s.seedCheckpoint(c)
	}
	if errors.Is(err, metastore.ErrExists) {
		return none, fmt.Errorf("there is a checkpoint %s already", path)
	}
	return path, err
}

// Sizes of what is made up: of what is neither of the adapter's tensors nor of
// the optimizer's, and the least that is large enough for both.
const (
	smallFiles = 4_000
	leastSize  = 10_000
)

// files are a checkpoint's, in the order of their names if they were given.
func (c *Checkpoint) files(path tinkex.TinkerPath, lora metastore.LoRA) ([]seed.File, error) {
	var files []seed.File
	if c.Files != nil {
		for _, name := range slices.Sorted(maps.Keys(c.Files)) {
			files = append(files, seed.File{Name: name, Body: bytes.NewReader(c.Files[name])})
		}
		return files, nil
	}
	config, err := json.Marshal(map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": lora.BaseModel,
		"r": lora.Rank, "lora_alpha": 32, "target_modules": []string{"q_proj"},
	})
	if err != nil {
		return nil, err
	}
	size := max(c.SizeBytes, leastSize) - smallFiles
	adapter, optimizer := size, int64(0)
	if c.Type == tinkex.Training {
		adapter = size / 3
		optimizer = size - adapter
	}
	// The same path gets the same bytes, another one others.
	h := fnv.New64a()
	_, _ = h.Write([]byte(path.String())) // never fails
	files = append(files,
		seed.File{Name: engine.AdapterConfigFile, Body: bytes.NewReader(config)},
		seed.File{Name: engine.AdapterWeightsFile, Body: seed.Safetensors(adapter, h.Sum64())})
	if optimizer > 0 {
		files = append(files, seed.File{Name: engine.OptimizerFile, Body: seed.Safetensors(optimizer, h.Sum64()+1)})
	}
	return append(files, seed.File{Name: registry.CompleteFile, Body: bytes.NewReader(nil)}), nil
}
