package cpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/safetensors"
)

// peftConfig is adapter_config.json as PEFT writes it for LoRA, in PEFT's
// (alphabetical) order.
type peftConfig struct {
	AlphaPattern      map[string]float64 `json:"alpha_pattern"`
	AutoMapping       json.RawMessage    `json:"auto_mapping"`
	BaseModel         string             `json:"base_model_name_or_path"`
	Bias              string             `json:"bias"`
	FanInFanOut       bool               `json:"fan_in_fan_out"`
	InferenceMode     bool               `json:"inference_mode"`
	InitLoraWeights   any                `json:"init_lora_weights"`
	LayersPattern     json.RawMessage    `json:"layers_pattern"`
	LayersToTransform json.RawMessage    `json:"layers_to_transform"`
	LoraAlpha         float64            `json:"lora_alpha"`
	LoraDropout       float64            `json:"lora_dropout"`
	ModulesToSave     []string           `json:"modules_to_save"`
	PeftType          string             `json:"peft_type"`
	Rank              int                `json:"r"`
	RankPattern       map[string]int     `json:"rank_pattern"`
	Revision          *string            `json:"revision"`
	TargetModules     targetModules      `json:"target_modules"`
	TaskType          string             `json:"task_type"`
	UseDora           bool               `json:"use_dora"`
	UseRslora         bool               `json:"use_rslora"`
}

// targetModules is a list of module names or, as PEFT has it, one string: a
// pattern that a module's whole path must match, or "all-linear".
type targetModules struct {
	names   []string
	pattern string
}

func (t targetModules) MarshalJSON() ([]byte, error) { return json.Marshal(t.names) }

func (t *targetModules) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, &t.pattern) == nil {
		return nil
	}
	if err := json.Unmarshal(raw, &t.names); err != nil {
		return errors.New("target_modules must be a list of names or a string")
	}
	return nil
}

// modules lists the modules the adapter may cover, in their own order.
func (t targetModules) modules() ([]module, error) {
	if t.pattern == "all-linear" {
		// PEFT's word for every linear layer but the output.
		return []module{qProj, kProj, vProj, oProj, gateProj, upProj, downProj}, nil
	}
	var mods []module
	if t.pattern != "" {
		re, err := regexp.Compile("^(?:" + t.pattern + ")$")
		if err != nil {
			return nil, incompatible("target_modules: %v", err)
		}
		for m := range lmHead + 1 {
			if re.MatchString(m.path(0)) || re.MatchString(m.path(1)) {
				mods = append(mods, m)
			}
		}
		return mods, nil
	}
	for _, name := range t.names {
		last := name[strings.LastIndexByte(name, '.')+1:]
		i := slices.Index(moduleNames[:], last)
		if i < 0 {
			return nil, incompatible("target_modules has %q, which this engine cannot adapt; it can %s", name, strings.Join(moduleNames[:], ", "))
		}
		mods = append(mods, module(i))
	}
	slices.Sort(mods)
	return slices.Compact(mods), nil
}

// moduleList names the kinds of modules in the layout, sorted.
func (l *layout) moduleList() []string {
	set := map[string]bool{}
	for i := range l.slots {
		set[l.slots[i].mod.String()] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func encodePEFT(ad *adapter, baseModel string) ([]byte, error) {
	raw, err := json.MarshalIndent(peftConfig{
		AlphaPattern:    map[string]float64{},
		BaseModel:       baseModel,
		Bias:            "none",
		InferenceMode:   true,
		InitLoraWeights: true,
		LoraAlpha:       ad.alpha,
		PeftType:        "LORA",
		Rank:            ad.rank,
		RankPattern:     map[string]int{},
		TargetModules:   targetModules{names: ad.moduleList()},
		TaskType:        "CAUSAL_LM",
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", engine.AdapterConfigFile, err)
	}
	return append(raw, '\n'), nil
}

// readPEFT reads and checks adapter_config.json. The alpha it returns is the
// one to divide by the rank, whatever the file's scaling rule.
func readPEFT(files fs.FS) (*peftConfig, []module, error) {
	raw, err := fs.ReadFile(files, engine.AdapterConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, incompatible("there is no %s", engine.AdapterConfigFile)
	}
	if err != nil {
		return nil, nil, err
	}
	c := &peftConfig{LoraAlpha: math.NaN(), Bias: "none"}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, nil, incompatible("%s: %v", engine.AdapterConfigFile, err)
	}
	mods, err := c.TargetModules.modules()
	if err == nil {
		err = c.check(mods)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", engine.AdapterConfigFile, err)
	}
	if c.UseRslora {
		c.LoraAlpha *= math.Sqrt(float64(c.Rank))
	}
	return c, mods, nil
}

// check refuses what would be computed differently here than by PEFT.
func (c *peftConfig) check(mods []module) error {
	switch {
	case !strings.EqualFold(c.PeftType, "LORA"):
		return incompatible("peft_type is %q, expected LORA", c.PeftType)
	case c.Rank < 1 || c.Rank > maxRank:
		return incompatible("r is %d, expected between 1 and %d", c.Rank, maxRank)
	case math.IsNaN(c.LoraAlpha):
		return incompatible("lora_alpha is missing")
	case !(c.LoraAlpha > 0):
		return incompatible("lora_alpha is %v, expected a positive number", c.LoraAlpha)
	case c.Bias != "none":
		return incompatible("bias %q is not supported", c.Bias)
	case c.UseDora:
		return incompatible("use_dora is not supported")
	case len(c.RankPattern) > 0 || len(c.AlphaPattern) > 0:
		return incompatible("rank_pattern and alpha_pattern are not supported")
	case len(c.ModulesToSave) > 0:
		return incompatible("modules_to_save %q is not supported", c.ModulesToSave)
	case len(mods) == 0:
		return incompatible("target_modules names none of %s", strings.Join(moduleNames[:], ", "))
	}
	return nil
}

// ReadModelConfig tells from a checkpoint's adapter_config.json what the model
// it was saved from was created with. A flag is set if any of its modules is
// adapted. The seed is not recorded. Files that are no LoRA adapter this
// engine can run are engine.ErrIncompatible.
func ReadModelConfig(files fs.FS) (engine.ModelConfig, error) {
	c, mods, err := readPEFT(files)
	if err != nil {
		return engine.ModelConfig{}, err
	}
	cfg := engine.ModelConfig{BaseModel: c.BaseModel, Rank: c.Rank}
	for _, m := range mods {
		train(&cfg, m)
	}
	return cfg, nil
}

// Describe implements engine.Engine. A base model goes by its name here and,
// if it has one, by that in its config.json.
func (e *Engine) Describe(files fs.FS, baseModel string) (engine.ModelConfig, error) {
	cfg, err := ReadModelConfig(files)
	if err != nil {
		return cfg, err
	}
	field, name := engine.AdapterConfigFile+": base_model_name_or_path", cfg.BaseModel
	if baseModel != "" {
		field, name = "base_model", baseModel
	}
	switch {
	case name == "":
		return engine.ModelConfig{}, incompatible("%s is missing; say which base model the adapter is for", field)
	case baseModel == "" && isPath(name) && e.byName[name] == nil:
		return engine.ModelConfig{}, incompatible("%s is %q, a directory where it was trained; say which base model the adapter is for", field, name)
	}
	i := slices.IndexFunc(e.bases, func(b *base) bool { return b.alias == name })
	if e.byName[name] != nil || i < 0 {
		b, err := e.base(name)
		if err != nil {
			return engine.ModelConfig{}, fmt.Errorf("%s: %w", field, err)
		}
		i = slices.Index(e.bases, b)
	}
	b := e.bases[i]
	if err := b.checkName(cfg.BaseModel); err != nil {
		return engine.ModelConfig{}, fmt.Errorf("%s: %w", engine.AdapterConfigFile, err)
	}
	cfg.BaseModel = b.info.Name
	return cfg, nil
}

// checkName checks that an adapter which calls its base model name is for b.
// One that does not say, or names a directory of some machine, is taken at its
// tensors' shapes.
func (b *base) checkName(name string) error {
	if name == "" || name == b.info.Name || name == b.alias && b.alias != "" || isPath(name) {
		return nil
	}
	return incompatible("the adapter is for base model %q, not %q", name, b.info.Name)
}

// isPath reports whether what PEFT calls a base model is a directory on any
// system, rather than the name of a model: adapters trained over such a copy name
// it. One that could be either is a name.
func isPath(name string) bool {
	return strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~") || strings.HasPrefix(name, ".") ||
		strings.Contains(name, `\`) || strings.HasSuffix(name, "/") || len(name) > 1 && name[1] == ':'
}

// readAdapter reads an adapter over b: adapter_config.json and
// adapter_model.safetensors.
func readAdapter(files fs.FS, b *base) (*adapter, error) {
	c, mods, err := readPEFT(files)
	if err != nil {
		return nil, err
	}
	if err := b.checkName(c.BaseModel); err != nil {
		return nil, fmt.Errorf("%s: %w", engine.AdapterConfigFile, err)
	}
	f, err := safetensors.OpenFS(files, engine.AdapterWeightsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, incompatible("there is no %s", engine.AdapterWeightsFile)
	}
	if err != nil {
		return nil, asIncompatible(err)
	}
	defer f.Close()
	// PEFT can leave out layers (layers_to_transform), so the tensors decide
	// which of the named modules are adapted.
	l := newLayout(&b.cfg, c.Rank, func(layer int, m module) bool {
		s := slot{layer: layer, mod: m}
		_, a := f.Info(s.tensorA())
		_, b := f.Info(s.tensorB())
		return a || b
	})
	ad := &adapter{layout: l, alpha: c.LoraAlpha, params: make([]float32, l.size)}
	if err := checkTensorSet(f, l, mods, b); err != nil {
		return nil, fmt.Errorf("%s: %w", engine.AdapterWeightsFile, err)
	}
	if err := readVector(f, l, "", ad.params, false); err != nil {
		return nil, fmt.Errorf("%s: %w", engine.AdapterWeightsFile, err)
	}
	return ad, nil
}

// checkTensorSet requires that a file's tensors are those of l and nothing
// else but copies of weights of b, and that they are of the modules in mods,
// each of which has some.
func checkTensorSet(f *safetensors.File, l *layout, mods []module, b *base) error {
	known := make(map[string]bool, 2*len(l.slots))
	found := map[module]bool{}
	for i := range l.slots {
		s := &l.slots[i]
		known[s.tensorA()], known[s.tensorB()] = true, true
		found[s.mod] = true
	}
	for _, t := range f.Tensors() {
		if known[t.Name] {
			continue
		}
		if err := checkCopy(f, t, b); err != nil {
			return err
		}
	}
	for m := range lmHead + 1 {
		if listed := slices.Contains(mods, m); listed != found[m] {
			if listed {
				return incompatible("target_modules names %s, but there are no tensors for it", m)
			}
			return incompatible("there are tensors for %s, which target_modules does not name", m)
		}
	}
	return nil
}

// baseLayer is what PEFT puts into the path of a module that it has adapted.
const baseLayer = ".base_layer.weight"

// checkCopy requires that a tensor which is no adapter's is a copy of the
// base model's weight of that name, whatever it was rounded to. PEFT saves one
// of the unembedding with every adapter of it (save_embedding_layers).
func checkCopy(f *safetensors.File, t safetensors.TensorInfo, b *base) error {
	name, ok := strings.CutPrefix(t.Name, tensorPrefix)
	if module, adapted := strings.CutSuffix(name, baseLayer); adapted {
		name = module + ".weight"
	}
	specs := b.cfg.specs()
	i := slices.IndexFunc(specs, func(s tensorSpec) bool { return s.name == name })
	if i < 0 && b.cfg.tied && name == lmHead.path(0)+".weight" {
		i = 0 // the embedding
	}
	switch {
	case !ok || i < 0:
		return incompatible("tensor %q does not belong to an adapter of the base model", t.Name)
	case !slices.Equal(t.Shape, specs[i].shape):
		return incompatible("tensor %q has shape %v, the base model's weight %v", t.Name, t.Shape, specs[i].shape)
	}
	w, err := b.load()
	if err != nil {
		return err
	}
	want, same := w.slices(&b.cfg)[i], true
	err = f.EachFloat32(t.Name, func(values []float32, at int) {
		for j, v := range values {
			same = same && isRounded(v, want[at+j], t.DType)
		}
	})
	if err != nil {
		return asIncompatible(err)
	}
	if !same {
		return incompatible("tensor %q differs from the base model's weight: what was trained besides the adapter cannot be used", t.Name)
	}
	return nil
}

// isRounded reports whether v is want, or what becomes of it as a number of the
// given type.
func isRounded(v, want float32, d safetensors.DType) bool {
	if v == want || want == 0 {
		return v == want
	}
	var digits, least int // in binary; the exponent of the smallest normal number
	switch d {
	case safetensors.BF16:
		digits, least = 8, -126
	case safetensors.F16:
		digits, least = 11, -14
	default:
		return false
	}
	_, exp := math.Frexp(float64(want)) // want is at least half of 2^exp
	half := math.Ldexp(1, max(exp-1, least)-digits)
	return math.Abs(float64(v)-float64(want)) <= half
}
