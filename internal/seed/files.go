package seed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
	"github.com/tinkex/tinkex/internal/registry"
)

// tensorsPerFile is how many tensors share the bytes of a Safetensors file.
const tensorsPerFile = 16

// TrainingFiles are the files of a training checkpoint, an adapter with its
// optimizer state, whose sizes are close to those given in bytes. The tensors
// hold random bits, the same ones for the same seed.
func TrainingFiles(adapter, optimizer int64, seed uint64) []File {
	config := `{"base_model_name_or_path": "tinkex/tiny", "lora_alpha": 32, "peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}`
	return []File{
		{engine.AdapterConfigFile, strings.NewReader(config)},
		{engine.AdapterWeightsFile, Safetensors(adapter, seed)},
		{engine.OptimizerFile, Safetensors(optimizer, seed+1)},
		{registry.CompleteFile, strings.NewReader("")},
	}
}

// Safetensors reads as a valid file of float32 tensors of random bits, the
// same ones for the same seed. It is a header longer than size, which is
// rounded down to whole tensors of equal shape.
func Safetensors(size int64, seed uint64) io.Reader {
	each := size / 4 / tensorsPerFile
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   [1]int64 `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	tensors := map[string]entry{}
	for i := range int64(tensorsPerFile) {
		name := fmt.Sprintf("base_model.model.model.layers.%d.self_attn.q_proj.lora_A.weight", i)
		tensors[name] = entry{"F32", [1]int64{each}, [2]int64{4 * each * i, 4 * each * (i + 1)}}
	}
	head, err := json.Marshal(tensors)
	if err != nil {
		panic(err) // of integers and plain names
	}
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	head = append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.MultiReader(strings.NewReader(string(head)), io.LimitReader(rand.NewChaCha8(key), 4*each*tensorsPerFile))
}
