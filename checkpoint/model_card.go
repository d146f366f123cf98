package checkpoint

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// hubModel is how a model on the Hub is called. The Hub takes no other as a
// card's base model.
var hubModel = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)

// tinkerPathIn finds the checkpoint that a card is of, as the official CLI does
// too. So nothing in a card may touch the path but spaces and backquotes.
var tinkerPathIn = regexp.MustCompile("tinker://[^\\s`]+")

// card is the model card of the adapter, in a repository or, without one, in a
// directory.
func (a *adapter) card(repo string) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	base := a.info.BaseModel
	known := hubModel.MatchString(base)

	line("---")
	if known {
		line("base_model: %s", yamlText(base))
	}
	line("library_name: peft")
	line("tags:")
	line("- tinker")
	line("- peft")
	line("- lora")
	if known {
		line("- base_model:adapter:%s", base)
	}
	line("tinker_path: %s", a.path)
	line("---")
	line("")
	line("# LoRA adapter trained with Tinker")
	line("")
	if base != "" {
		line("Low-rank weights to be put on top of %s.", codeSpan(base))
	} else {
		line("Low-rank weights to be put on top of the model that `%s` names.", adapterConfig)
	}
	line("")
	line("| | |")
	line("|---|---|")
	if base != "" {
		line("| Base model | %s |", codeSpan(base))
	}
	if r := a.info.LoRARank; r != nil {
		line("| Rank | %d |", *r)
	}
	if parts := a.trained(); parts != "" {
		line("| Trained parts | %s |", parts)
	}
	line("| Checkpoint | `%s` |", a.path)
	line("")
	line("## Load it")
	line("")
	line("```python")
	line("from peft import AutoPeftModelForCausalLM")
	if base != "" {
		line("from transformers import AutoTokenizer")
	}
	line("")
	if repo == "" {
		repo = "path/to/this/directory"
	}
	line("model = AutoPeftModelForCausalLM.from_pretrained(%s)", strconv.QuoteToASCII(repo))
	if base != "" {
		line("tokenizer = AutoTokenizer.from_pretrained(%s)", strconv.QuoteToASCII(base))
	}
	line("```")
	return []byte(b.String())
}

// trained lists what the adapter changes, as far as the server says.
func (a *adapter) trained() string {
	var parts []string
	for _, p := range []struct {
		name string
		on   *bool
	}{{"attention", a.info.TrainAttn}, {"MLP", a.info.TrainMLP}, {"unembedding", a.info.TrainUnembed}} {
		if p.on != nil && *p.on {
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, ", ")
}

// yamlText quotes what YAML would take for a number or a truth value.
func yamlText(s string) string {
	if strings.Contains(s, "/") {
		return s
	}
	return strconv.Quote(s)
}

// codeSpan is Markdown's for any text, on one line.
func codeSpan(s string) string {
	s = strings.NewReplacer("`", "'", "\n", " ", "\r", " ", "|", "\\|").Replace(s)
	return "`" + s + "`"
}
