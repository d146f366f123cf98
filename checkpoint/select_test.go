package checkpoint_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

func TestSelectionMatch(t *testing.T) {
	c := described("run", "step-100", time.Hour)
	c.ExpiresAt, c.BaseModel, c.UserMetadata = ptr(noon.Add(time.Hour)), "Qwen/Qwen3-0.6B", map[string]string{"a": "1"}
	unknown := described("run", "x", time.Hour)
	unknown.SizeBytes = nil
	for name, tc := range map[string]struct {
		s    checkpoint.Selection
		c    tinkex.Checkpoint
		want bool
	}{
		"everything":       {checkpoint.Selection{}, c, true},
		"run":              {checkpoint.Selection{RunID: "run"}, c, true},
		"another run":      {checkpoint.Selection{RunID: "ru"}, c, false},
		"type":             {checkpoint.Selection{Types: []tinkex.CheckpointType{tinkex.Sampler, tinkex.Training}}, c, true},
		"another type":     {checkpoint.Selection{Types: []tinkex.CheckpointType{tinkex.Sampler}}, c, false},
		"before":           {checkpoint.Selection{Before: noon}, c, true},
		"before, edge":     {checkpoint.Selection{Before: noon.Add(-time.Hour)}, c, false},
		"after":            {checkpoint.Selection{After: noon.Add(-2 * time.Hour)}, c, true},
		"after, edge":      {checkpoint.Selection{After: noon.Add(-time.Hour)}, c, false},
		"size":             {checkpoint.Selection{MinSize: 100, MaxSize: 100}, c, true},
		"too small":        {checkpoint.Selection{MinSize: 101}, c, false},
		"too large":        {checkpoint.Selection{MaxSize: 99}, c, false},
		"size unknown":     {checkpoint.Selection{MaxSize: 99}, unknown, false},
		"size not asked":   {checkpoint.Selection{Name: "x"}, unknown, true},
		"public":           {checkpoint.Selection{Public: ptr(true)}, c, false},
		"private":          {checkpoint.Selection{Public: ptr(false)}, c, true},
		"expiring":         {checkpoint.Selection{ExpiresBefore: noon.Add(2 * time.Hour)}, c, true},
		"expiring later":   {checkpoint.Selection{ExpiresBefore: noon.Add(time.Hour)}, c, false},
		"never expiring":   {checkpoint.Selection{ExpiresBefore: noon.Add(time.Hour)}, unknown, false},
		"name":             {checkpoint.Selection{Name: "step-?00"}, c, true},
		"part of a name":   {checkpoint.Selection{Name: "step"}, c, false},
		"id":               {checkpoint.Selection{Name: "weights/*"}, c, true},
		"another id":       {checkpoint.Selection{Name: "sampler_weights/*"}, c, false},
		"base model":       {checkpoint.Selection{BaseModel: "Qwen/*"}, c, true},
		"base model, *":    {checkpoint.Selection{BaseModel: "*0.6B"}, c, true},
		"part of a base":   {checkpoint.Selection{BaseModel: "Qwen*"}, c, true},
		"another base":     {checkpoint.Selection{BaseModel: "Qwen"}, c, false},
		"base model, [":    {checkpoint.Selection{BaseModel: "[P-Q]wen/Qwen[0-9]?0.6B"}, c, true},
		"metadata":         {checkpoint.Selection{Metadata: map[string]string{"a": "1"}}, c, true},
		"other value":      {checkpoint.Selection{Metadata: map[string]string{"a": "2"}}, c, false},
		"no such metadata": {checkpoint.Selection{Metadata: map[string]string{"b": ""}}, c, false},
		"one of two":       {checkpoint.Selection{Name: "step-*", MinSize: 101}, c, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.s.Match(tc.c); got != tc.want {
				t.Errorf("%+v: %t", tc.s, got)
			}
			if err := tc.s.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// lists is a ListClient with a list.
type lists struct {
	list   []tinkex.Checkpoint
	models map[string]string // of runs
	asked  int               // for runs
	err    error             // ends the list
}

func (l *lists) AllCheckpoints(context.Context, tinkex.PageOptions) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		for _, c := range l.list {
			if !yield(c, nil) {
				return
			}
		}
		if l.err != nil {
			yield(tinkex.Checkpoint{}, l.err)
		}
	}
}

func (l *lists) ListRunCheckpoints(_ context.Context, run string) (tinkex.CheckpointList, error) {
	var out tinkex.CheckpointList
	for _, c := range l.list {
		if strings.HasPrefix(c.TinkerPath, "tinker://"+run+"/") {
			out.Checkpoints = append(out.Checkpoints, c)
		}
	}
	return out, l.err
}

func (l *lists) GetTrainingRun(_ context.Context, run string) (tinkex.TrainingRun, error) {
	l.asked++
	model, ok := l.models[run]
	if !ok {
		return tinkex.TrainingRun{}, tinkex.ErrNotFound
	}
	return tinkex.TrainingRun{BaseModel: model}, nil
}

func selected(t *testing.T, s checkpoint.Selection, client checkpoint.ListClient) (string, error) {
	t.Helper()
	var out []string
	for c, err := range s.All(t.Context(), client) {
		if err != nil {
			return strings.Join(out, " "), err
		}
		out = append(out, strings.TrimPrefix(c.TinkerPath, "tinker://"))
	}
	return strings.Join(out, " "), nil
}

func TestSelectionAll(t *testing.T) {
	client := &lists{
		list:   []tinkex.Checkpoint{described("a", "1", 0), described("b", "1", 1), described("a", "2", 2)},
		models: map[string]string{"a": "small", "b": "large"},
	}
	for want, s := range map[string]checkpoint.Selection{
		"a/weights/1 b/weights/1 a/weights/2": {},
		"a/weights/1 a/weights/2":             {RunID: "a"},
		"b/weights/1":                         {BaseModel: "l*"},
	} {
		if got, err := selected(t, s, client); got != want || err != nil {
			t.Errorf("%+v selects %q (%v), want %q", s, got, err, want)
		}
	}
	if client.asked != 2 {
		t.Errorf("the two runs were asked %d times", client.asked)
	}
	client.err = errors.New("cut")
	for _, s := range []checkpoint.Selection{{}, {RunID: "a"}} {
		if _, err := selected(t, s, client); !errors.Is(err, client.err) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	delete(client.models, "b")
	if got, err := selected(t, checkpoint.Selection{BaseModel: "small"}, client); got != "a/weights/1" || !errors.Is(err, tinkex.ErrNotFound) {
		t.Errorf("selected %q, %v", got, err)
	}
	for says, s := range map[string]checkpoint.Selection{
		"negative":       {MinSize: -1},
		"at least 2":     {MinSize: 2, MaxSize: 1},
		"nothing was":    {Before: noon, After: noon},
		"not a pattern":  {Name: "[a"},
		`"[b" is not a `: {BaseModel: "[b"},
	} {
		if _, err := selected(t, s, client); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestSort(t *testing.T) {
	a, b, c := described("run", "step-9", 3*time.Hour), described("run", "step-10", 2*time.Hour), described("run", "best", time.Hour)
	a.SizeBytes, b.SizeBytes, c.SizeBytes = ptr(int64(2)), ptr(int64(3)), nil
	a.ExpiresAt, c.ExpiresAt = ptr(noon.Add(2*time.Hour)), ptr(noon.Add(time.Hour))
	tie := described("run", "step-011", 3*time.Hour)
	tie.SizeBytes = ptr(int64(2))
	for by, want := range map[checkpoint.Order]string{
		checkpoint.ByCreated: "best step-10 step-011 step-9",
		checkpoint.BySize:    "step-10 step-011 step-9 best",
		checkpoint.ByName:    "best step-9 step-10 step-011",
		checkpoint.ByExpiry:  "best step-9 step-10 step-011",
	} {
		for seed := range uint64(20) {
			list := []tinkex.Checkpoint{a, b, c, tie}
			rand.New(rand.NewPCG(seed, 2)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			order := func() string {
				var out []string
				for _, c := range list {
					out = append(out, strings.TrimPrefix(c.TinkerPath, "tinker://run/weights/"))
				}
				return strings.Join(out, " ")
			}
			checkpoint.Sort(list, by, false)
			if got := order(); got != want {
				t.Fatalf("by %s: %s, want %s", by, got, want)
			}
			checkpoint.Sort(list, by, true)
			slices.Reverse(list)
			if got := order(); got != want {
				t.Fatalf("by %s, reversed: %s, want %s", by, got, want)
			}
		}
	}
}
