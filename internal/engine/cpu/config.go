package cpu

// Architectures, as engine.BaseModel.Arch spells them.
const (
	archLlama = "llama"
	archQwen3 = "qwen3"
)

// config is a transformer's shape.
type config struct {
	arch    string
	hidden  int // width of the residual stream
	inter   int // width of the MLP
	layers  int
	heads   int // query heads
	kvHeads int // key and value heads; divides heads
	headDim int // even
	vocab   int
	context int // longest sequence, in tokens

	normEps float64
	qkNorm  bool // RMSNorm on each query and key head, as Qwen3 does
	tied    bool // the unembedding is the embedding
	rope    ropeConfig
	eos     []int32 // tokens that end a text
}

// qDim and kvDim are the widths of all query heads and all key heads together.
func (c *config) qDim() int  { return c.heads * c.headDim }
func (c *config) kvDim() int { return c.kvHeads * c.headDim }

// module is a linear layer that can carry a LoRA adapter.
type module int

const (
	qProj module = iota
	kProj
	vProj
	oProj
	gateProj
	upProj
	downProj
	lmHead

	// layerModules is the number of modules in each transformer layer, which
	// come before lmHead.
	layerModules = int(lmHead)
)

// moduleNames are the last components of the modules' paths, which is how PEFT
// lists them in target_modules.
var moduleNames = [...]string{
	qProj: "q_proj", kProj: "k_proj", vProj: "v_proj", oProj: "o_proj",
	gateProj: "gate_proj", upProj: "up_proj", downProj: "down_proj",
	lmHead: "lm_head",
}

func (m module) String() string { return moduleNames[m] }

func (m module) attention() bool { return m <= oProj }
func (m module) mlp() bool       { return m >= gateProj && m <= downProj }

// path is the module's path in a Hugging Face model, without ".weight".
func (m module) path(layer int) string {
	switch {
	case m.attention():
		return layerPath(layer) + ".self_attn." + m.String()
	case m.mlp():
		return layerPath(layer) + ".mlp." + m.String()
	}
	return m.String()
}

// dims are the module's output and input widths: its weight is [out, in].
func (c *config) dims(m module) (out, in int) {
	switch m {
	case qProj:
		return c.qDim(), c.hidden
	case kProj, vProj:
		return c.kvDim(), c.hidden
	case oProj:
		return c.hidden, c.qDim()
	case gateProj, upProj:
		return c.inter, c.hidden
	case downProj:
		return c.hidden, c.inter
	}
	return c.vocab, c.hidden
}
