package cpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// Prefixes of the tensors in engine.OptimizerFile; the adapter tensor's name
// follows.
const (
	firstMoment  = "exp_avg."
	secondMoment = "exp_avg_sq."
	gradient     = "grad."

	stepTensor = "step" // I64 scalar
)

// tensorA and tensorB are the names PEFT gives a module's matrices.
func (s *slot) tensorA() string { return tensorPrefix + s.mod.path(s.layer) + ".lora_A.weight" }
func (s *slot) tensorB() string { return tensorPrefix + s.mod.path(s.layer) + ".lora_B.weight" }

const tensorPrefix = "base_model.model."

// tensors lists the matrices of vec, a vector of this layout, with prefix
// before their names. They share vec's memory.
func (l *layout) tensors(prefix string, vec []float32) []safetensors.Tensor {
	ts := make([]safetensors.Tensor, 0, 2*len(l.slots))
	for i := range l.slots {
		s := &l.slots[i]
		ts = append(ts,
			safetensors.Tensor{Name: prefix + s.tensorA(), Shape: []int{l.rank, s.in}, F32: l.matrixA(s, vec).Data},
			safetensors.Tensor{Name: prefix + s.tensorB(), Shape: []int{s.out, l.rank}, F32: l.matrixB(s, vec).Data})
	}
	return ts
}

// Save implements engine.Model.
func (m *Model) Save(ctx context.Context, dst engine.FileWriter, optimizer bool) error {
	if m.ad == nil {
		return errClosed
	}
	cfg, err := encodePEFT(m.ad, m.base.info.Name)
	if err != nil {
		return err
	}
	if err := writeFile(ctx, dst, engine.AdapterConfigFile, func(w io.Writer) error {
		_, err := w.Write(cfg)
		return err
	}); err != nil {
		return err
	}
	if err := writeFile(ctx, dst, engine.AdapterWeightsFile, func(w io.Writer) error {
		return safetensors.Write(w, m.ad.tensors("", m.ad.params), map[string]string{"format": "pt"})
	}); err != nil {
		return err
	}
	if !optimizer {
		return nil
	}
	return writeFile(ctx, dst, engine.OptimizerFile, func(w io.Writer) error {
		ts := []safetensors.Tensor{{Name: stepTensor, I64: []int64{m.opt.step}}}
		if m.opt.m != nil {
			ts = append(ts, m.ad.tensors(firstMoment, m.opt.m)...)
			ts = append(ts, m.ad.tensors(secondMoment, m.opt.v)...)
		}
		if m.grad != nil {
			ts = append(ts, m.ad.tensors(gradient, m.grad)...)
		}
		return safetensors.Write(w, ts, map[string]string{"format": "pt", "optimizer": "adamw"})
	})
}

func writeFile(ctx context.Context, dst engine.FileWriter, name string, write func(io.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w, err := dst.Create(name)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if err := write(w); err != nil {
		w.Close()
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	return nil
}

// Load implements engine.Model.
func (m *Model) Load(ctx context.Context, files fs.FS, optimizer bool) error {
	if m.ad == nil {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ad, err := readAdapter(files, m.base)
	if err != nil {
		return err
	}
	if err := m.checkFits(ad); err != nil {
		return err
	}
	var opt adamW
	var grad []float32
	if optimizer {
		if opt, grad, err = readOptimizer(files, ad.layout); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.ad, m.opt, m.grad = ad, opt, grad
	return nil
}

// checkFits compares a checkpoint's adapter with what this model was created
// for. Its modules need not be all of those that the flags stand for: PEFT's
// default for many models is a part of the attention.
func (m *Model) checkFits(ad *adapter) error {
	if ad.rank != m.cfg.Rank {
		return incompatible("the checkpoint has rank %d, the model %d", ad.rank, m.cfg.Rank)
	}
	var got engine.ModelConfig
	for i := range ad.slots {
		train(&got, ad.slots[i].mod)
	}
	if got.TrainAttn != m.cfg.TrainAttn || got.TrainMLP != m.cfg.TrainMLP || got.TrainUnembed != m.cfg.TrainUnembed {
		return incompatible("the checkpoint trains %s, the model %s", flagNames(&got), flagNames(&m.cfg))
	}
	return nil
}

// flagNames says what the flags of cfg stand for.
func flagNames(cfg *engine.ModelConfig) string {
	var names []string
	for _, f := range []struct {
		on   bool
		name string
	}{{cfg.TrainAttn, "attention"}, {cfg.TrainMLP, "MLP"}, {cfg.TrainUnembed, "unembedding"}} {
		if f.on {
			names = append(names, f.name)
		}
	}
	if names == nil {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

func incompatible(format string, args ...any) error {
	return fmt.Errorf("%w: %s", engine.ErrIncompatible, fmt.Sprintf(format, args...))
}

// readOptimizer reads engine.OptimizerFile for an adapter of layout l.
func readOptimizer(files fs.FS, l *layout) (opt adamW, grad []float32, err error) {
	f, err := safetensors.OpenFS(files, engine.OptimizerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return opt, nil, fmt.Errorf("%w: there is no %s", engine.ErrNoOptimizer, engine.OptimizerFile)
	}
	if err != nil {
		return opt, nil, asIncompatible(err)
	}
	defer f.Close()
	step, err := f.Int64(stepTensor)
	if err != nil || len(step) != 1 || step[0] < 0 {
		return opt, nil, incompatible("%s: %q must be one I64, 0 or greater: got %v, %v", engine.OptimizerFile, stepTensor, step, err)
	}
	opt.step = step[0]
	read := 1
	for _, part := range []struct {
		prefix string
		vec    *[]float32
	}{{firstMoment, &opt.m}, {secondMoment, &opt.v}, {gradient, &grad}} {
		if len(l.slots) > 0 {
			if _, ok := f.Info(part.prefix + l.slots[0].tensorA()); !ok {
				continue // absent as a whole; a part of it would not add up below
			}
		}
		*part.vec = make([]float32, l.size)
		if err := readVector(f, l, part.prefix, *part.vec, true); err != nil {
			return opt, nil, fmt.Errorf("%s: %w", engine.OptimizerFile, err)
		}
		read += 2 * len(l.slots)
	}
	if (opt.m == nil) != (opt.v == nil) || opt.m == nil && opt.step > 0 {
		return opt, nil, incompatible("%s: the moments are missing", engine.OptimizerFile)
	}
	if n := len(f.Tensors()); n != read {
		return opt, nil, incompatible("%s holds %d tensors, the model %d", engine.OptimizerFile, n, read)
	}
	return opt, grad, nil
}

// readVector reads a vector of layout l from tensors with prefix before their
// names. With exact, only F32 will do.
func readVector(f *safetensors.File, l *layout, prefix string, vec []float32, exact bool) error {
	for _, t := range l.tensors(prefix, vec) {
		info, ok := f.Info(t.Name)
		if !ok {
			return incompatible("tensor %q is missing", t.Name)
		}
		if !slices.Equal(info.Shape, t.Shape) {
			return incompatible("tensor %q has shape %v, expected %v", t.Name, info.Shape, t.Shape)
		}
		if exact && info.DType != safetensors.F32 {
			return incompatible("tensor %q is %s, expected F32", t.Name, info.DType)
		}
		if err := f.ReadFloat32(t.Name, t.F32); err != nil {
			return asIncompatible(err)
		}
		for i, v := range t.F32 {
			if v-v != 0 {
				return incompatible("tensor %q holds %v at index %s", t.Name, v, strconv.Itoa(i))
			}
		}
	}
	return nil
}

// asIncompatible marks errors about a file's contents, but not those about
// reading it: the first are the checkpoint's fault for ever.
func asIncompatible(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return err
	}
	return fmt.Errorf("%w: %w", engine.ErrIncompatible, err)
}
