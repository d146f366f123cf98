package server

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// FuzzImportRequest: whatever is accepted can be stored under its names
// anywhere, and its parts add up.
func FuzzImportRequest(f *testing.F) {
	const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	const config = `{"name":"adapter_config.json","size_bytes":9,"sha256":"` + digest + `"}`
	const weights = `{"name":"adapter_model.safetensors","size_bytes":3,"sha256":"` + digest + `","parts":[{"sha256":"` + digest + `","size_bytes":3}]}`
	for _, more := range []string{"", `,{"name":"../x"}`, `,{"name":"README.md","size_bytes":1,"sha256":"` + digest + `"}`, `,{"name":"CON","size_bytes":-1}`} {
		f.Add([]byte(`{"name":"a","types":["weights"],"ttl_seconds":5,"files":[` + config + "," + weights + more + "]}"))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b wire.ImportRequest
		if json.Unmarshal(raw, &b) != nil {
			return
		}
		req, err := importRequest(b)
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		if len(req.Kinds) == 0 || req.TTL != nil && *req.TTL <= 0 {
			t.Errorf("accepted %+v", req)
		}
		var seen []string
		for _, file := range req.Files {
			name := strings.ToLower(file.Name)
			if name == "" || strings.ContainsAny(name, "/\\:\x00") || strings.HasPrefix(name, ".") || slices.Contains(seen, name) || file.Size < 0 {
				t.Errorf("accepted file %q of %d bytes after %q", file.Name, file.Size, seen)
			}
			seen = append(seen, name)
			sum := int64(0)
			for _, p := range file.Parts {
				if p.Size < 1 || p.Size > registry.PartBytes {
					t.Errorf("accepted a part of %d bytes", p.Size)
				}
				sum += p.Size
			}
			if file.Parts != nil && sum != file.Size {
				t.Errorf("accepted parts of %d bytes for %d", sum, file.Size)
			}
		}
		for _, needed := range []string{"adapter_config.json", "adapter_model.safetensors"} {
			if !slices.Contains(seen, needed) {
				t.Errorf("accepted without %s: %q", needed, seen)
			}
		}
	})
}

// FuzzRestoreRequest: whatever is accepted has an origin, an adapter's rank and
// files that can be stored under their names anywhere.
func FuzzRestoreRequest(f *testing.F) {
	const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, more := range []string{"", `,{"name":"../x"}`, `,{"name":".x","size_bytes":1,"sha256":"` + digest + `"}`, `,{"name":"F"}`} {
		f.Add([]byte(`{"origin":"tinker://r:train:0/weights/a","base_model":"m","lora_rank":8,"time":"2025-03-01T10:00:00Z","ttl_seconds":9,` +
			`"files":[{"name":"f","size_bytes":3,"sha256":"` + digest + `","parts":[{"sha256":"` + digest + `","size_bytes":3}]}` + more + `]}`))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b wire.RestoreRequest
		if json.Unmarshal(raw, &b) != nil {
			return
		}
		req, err := restoreRequest(b)
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		if req.Origin.RunID == "" || req.Origin.Kind == "" || req.Origin.Name == "" || req.LoRA.BaseModel == "" || req.LoRA.Rank < 1 ||
			req.TTL != nil && *req.TTL <= 0 || len(req.Files) == 0 {
			t.Errorf("accepted %+v", req)
		}
		var seen []string
		for _, file := range req.Files {
			name := strings.ToLower(file.Name)
			if name == "" || strings.ContainsAny(name, "/\\:\x00") || strings.HasPrefix(name, ".") || slices.Contains(seen, name) || file.Size < 0 {
				t.Errorf("accepted file %q of %d bytes after %q", file.Name, file.Size, seen)
			}
			seen = append(seen, name)
		}
	})
}
